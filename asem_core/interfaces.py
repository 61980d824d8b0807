"""The six kinds of plugin, in flow order: Source, Preprocessor, Annotator, Sampler, Model, Analyzer.

A plugin is one frozen attrs class that derives from one of these protocols and has a `name`. Its fields are its
options: a recipe or the command line builds it from them, so every field has a default (except what a user must say)
and a type that TOML can express (bool, int, float, str, lists, tuples, None). Protocols hold no behaviour; shared
code is functions in the core.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import attrs
import numpy as np

from asem_core.volume import Box, Labels, Outside, Spec, Volume, Zyx

if TYPE_CHECKING:
    import torch

    from asem_core.blocks import Run


@runtime_checkable
class Source(Protocol):
    """A path or URL, and options, that opens as lazy volumes."""

    name: ClassVar[str]

    @classmethod
    @abstractmethod
    def can_read(cls, path: str) -> bool:
        """Say cheaply (a name, one small file) whether this source reads `path`; never raises."""

    @abstractmethod
    def layers(self) -> list[str]:
        """List the volumes inside, the image first. A format with one volume returns ["raw"]."""

    @abstractmethod
    def open(self, layer: str | None = None) -> Volume:
        """Open one layer (the first by default), lazily: no voxels are read beyond what is needed to check.

        What a user should know of how it was read is in the volume's `remarks` and `questions`: an import says and records them.

        Raises
        ------
        BadInput
            The path does not exist, or what is there cannot be used; names the file and what to do.
        """


@runtime_checkable
class Fitted(Protocol):
    """A preprocessor fitted to a volume: a function of blocks. It is sent to worker processes, so it must be picklable."""

    @property
    @abstractmethod
    def output(self) -> Spec:
        """Shape, dtype, voxel size and origin of the result."""

    @property
    @abstractmethod
    def outside(self) -> Outside:
        """How to read input outside the volume."""

    @property
    def attributes(self) -> Mapping[str, Any]:
        """Attributes to store with the result, in plain JSON; `kind` says what it contains if that differs from the input."""
        return {}

    @abstractmethod
    def needs(self, box: Box) -> Box:
        """Return the box of input voxels that the block `box` of the result needs: context, crop and scale are defined here."""

    @abstractmethod
    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        """Make the block `box` of the result from the input read at `needs(box)`.

        Returns an array of `box.shape` and `output.dtype`. Must depend only on what `fit` gathered and the
        voxels given, so that the result is the same for any block size and number of workers.
        """


Changes = Literal["greys", "place", "size", "mask", "labels"]
"""What a preprocessor changes.

"greys": the values of an image; every voxel stays where it is. "place": which voxels there are, or where they lie; their size
is unchanged. "size": the voxel size. "mask": a mask (uint8, 0 and 1) is made of an image, which remains the image. "labels": labels
become other labels.
"""


@runtime_checkable
class Preprocessor(Protocol):
    """One step from volume to volume, for images or labels, block by block.

    `changes` says what the step does to a volume. Prediction requires only the steps that change grey values; of the
    geometry it checks the voxel size.
    """

    name: ClassVar[str]
    changes: ClassVar[Changes]

    @abstractmethod
    def fit(self, volume: Volume, run: Run) -> Fitted:
        """Gather what the step must know about the whole volume, block by block, and return the function of blocks.

        May read the volume with `map_blocks(..., run)`; intermediate results go to `run.scratch`.

        Raises
        ------
        BadInput
            The volume cannot be used: constant, not finite, wrong dtype, ...
        NothingToDo
            The volume does not need this step, like a mask for a stack that is entirely inside the cell; the stages continue without it.
        """


@runtime_checkable
class PreparedAnnotator(Protocol):
    """An annotator that has done its seed-independent work on one box."""

    @abstractmethod
    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Label the box from seeds.

        Parameters
        ----------
        seeds : uint8, shape of the box
            0 unknown, 1 object, 2 background.
        previous : uint8, optional
            The last result, to refine.

        Returns
        -------
        uint8, shape of the box: 1 object, 0 background. Seeds always keep their class.
        """


@runtime_checkable
class Annotator(Protocol):
    """Seeds to labels, on one box of a volume; one without `needs_seeds` also labels a box without strokes."""

    name: ClassVar[str]
    needs_seeds: ClassVar[bool] = True
    is_default: ClassVar[bool] = False  # whether it is used where none is chosen

    @abstractmethod
    def prepare(self, volume: Volume, box: Box, run: Run) -> PreparedAnnotator:
        """Do everything that does not depend on the seeds, once; results may be kept in `run.scratch`."""


@attrs.frozen
class Region:
    """One annotated box: image, labels and what to leave out; all on one grid (`labels` may be smaller than `raw`).

    `raw` may reach beyond `labels`: that is context. `mask` (nonzero = annotated) and `exclusion` (nonzero = not
    scored) lie on the grid of `labels`. For a network of several classes, `classes` holds each annotated one as a region of
    its own, and `labels` is nonzero where any of them is.
    """

    name: str
    raw: Volume
    labels: Labels
    mask: Labels | None = None
    exclusion: Labels | None = None
    classes: Mapping[str, Region] = attrs.field(factory=dict)


@runtime_checkable
class Sampler(Protocol):
    """Annotated regions to an endless stream of training boxes."""

    name: ClassVar[str]
    is_default: ClassVar[bool] = False  # whether it is used where none is chosen
    suits: ClassVar[Sequence[Suited]] = ()  # kinds of images and labels for which a plan chooses it

    @abstractmethod
    def boxes(self, regions: Sequence[Region], shape: Zyx, rng: np.random.Generator) -> Iterator[tuple[int, Box]]:
        """Yield (index of the region, box of `shape` in voxels of its labels), without end.

        A box is where the network's output lies; it may stick out of a region smaller than `shape`.
        All randomness comes from `rng`.
        """


@runtime_checkable
class Network(Protocol):
    """What the core must know about a network, a `torch.nn.Module`, besides calling it.

    Called with float (1, 1, z, y, x), grey values scaled to [-1, 1], it returns (1, c, z', y', x'): for c = 2 the logits
    of background and foreground, for c = 1 the log-odds of the foreground, or what its `heads` state (see `asem_core.heads`).
    """

    @property
    @abstractmethod
    def context(self) -> Zyx:
        """Voxels of input before the first voxel of output, zyx; as many lie behind the last."""

    @property
    @abstractmethod
    def alignment(self) -> Zyx:
        """Shifting the input by a multiple of this, zyx, shifts the output exactly."""

    @abstractmethod
    def input_shape(self, output: Sequence[int]) -> Zyx:
        """The smallest input whose output has at least this shape."""

    @abstractmethod
    def output_shape(self, shape: Sequence[int]) -> Zyx:
        """The shape of the output of an input of this shape."""

    def __call__(self, image: torch.Tensor) -> torch.Tensor: ...


@runtime_checkable
class Model(Protocol):
    """One organelle: how its labels are prepared, its network, its weights, and how probabilities become objects."""

    name: ClassVar[str]
    colour: ClassVar[str | None] = None  # "#e69f00"; None lets the viewer choose
    has_thin_truth: ClassVar[bool] = False  # whether its labels are thin, so that a zone may cover most of them

    @abstractmethod
    def network(self) -> torch.nn.Module:
        """Build the untrained network; see `Network` for the properties that it must have."""

    @abstractmethod
    def label_steps(self) -> list[Preprocessor]:
        """Steps that turn raw annotations into training labels: clean-up, then dilation."""

    @abstractmethod
    def exclusion_zone(self) -> Preprocessor | None:
        """The step that makes, from the labels, the zone left out of scoring; or None."""

    @abstractmethod
    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Say how a probability map (uint8, 255 = 1, or float) becomes a binary map or objects: a function of blocks.

        Like `Preprocessor.fit`: what must be known about the whole map (for example, which objects there are) is computed here, block by
        block, and may be kept in `run.scratch`; `asem_core.threshold_objects` does the usual. The result is whole numbers on
        the map's grid. The core writes, locks, records and resumes. `attributes` may say `num_objects`.
        """


Template = Literal["isotropic", "anisotropic", "planes"]
"""Kinds of images: voxels alike along all axes; planes further apart than pixels; planes that are independent of each other."""

Suited = Literal["isotropic", "anisotropic", "planes", "strokes", "instances"]
"""What a sampler may suit: a kind of image, labels of which only strokes are known, or objects that touch and are told apart."""


@attrs.frozen
class Column:
    """One column of a table: values and what they mean. The name ends in its unit (`_nm`, `_um2`, `_vx`, ...)."""

    values: np.ndarray
    about: str


@attrs.frozen
class Analysis:
    """What an analyzer found: tables (name -> columns, one row an object), figures, numbers, and how it was done."""

    tables: Mapping[str, Mapping[str, Column]]
    figures: Mapping[str, Any] = attrs.field(factory=dict)  # name -> matplotlib Figure
    numbers: Mapping[str, Any] = attrs.field(factory=dict)  # summary values for the report
    method: str = ""
    notes: Sequence[str] = ()
    about: Mapping[str, str] = attrs.field(factory=dict)  # a sentence for each number that needs one
    objects: Labels | None = None  # what the table "objects" lists, where that isn't the segmentation: its pieces, say


@runtime_checkable
class Analyzer(Protocol):
    """Segmentation and image to tables and figures."""

    name: ClassVar[str]

    @abstractmethod
    def analyze(self, segmentation: Labels, raw: Volume | None, run: Run) -> Analysis:
        """Measure every object; read only the boxes around objects, never the whole volume.

        An empty segmentation gives empty tables and a note, not an error. An analyzer that needs further volumes
        (a plasma membrane, a cell mask) has fields for their paths.
        """
