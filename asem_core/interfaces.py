"""The six kinds of plugin, in flow order: Source, Preprocessor, Annotator, Sampler, Model, Analyzer.

A plugin is one frozen attrs class that derives from one of these protocols and has a `name`. Its fields are its
options: a recipe or the command line builds it from them, so every field has a default (except what a user must say)
and a type that TOML can express (bool, int, float, str, lists, tuples, None). Protocols hold no behaviour; shared
code is functions in the core.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
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
class ReadsByKind(Protocol):
    """A source that reads images and labels differently: an option, which `asem import` sets where it knows which they are."""

    kind: Literal["image", "labels"] | None


@runtime_checkable
class TakesVoxelSize(Protocol):
    """A source that is told the voxel size, which its files may not state: an option, which `--voxel-size` sets."""

    voxel_size_nm: float | tuple[float, float, float] | None
    """None: as the files state it."""


@runtime_checkable
class Checked(Protocol):
    """Optional for the array of a source's volume: check its values before anything is written."""

    @abstractmethod
    def check(self, box: Box) -> None:
        """Check the voxels of a box, if their type alone does not guarantee that they can be used.

        Raises
        ------
        BadInput
            A value cannot be stored.
        """


@runtime_checkable
class TellsChanges(Protocol):
    """Optional for a source: tell whether its data has changed since it was imported."""

    @abstractmethod
    def fingerprint(self, layer: str | None) -> str | None:
        """Return a fingerprint of the layer's files, without reading them; None if that is impossible, as at a remote address."""


@runtime_checkable
class WritesVolumes(Protocol):
    """Optional for a source: write a volume in its format, to the path that it was built with.

    The core does the rest: it chooses the type, keeps other writers out, has the plugin write beside the output, and renames
    the result when it is complete.
    """

    dtypes: ClassVar[Sequence[str]]
    """Voxel types that the format can store, by numpy's names; only these are written."""
    shown_as_greys: ClassVar[bool] = False
    """Whether programs show the values as grey values, so that a binary map should be 0 and 255."""
    part_of: ClassVar[Sequence[str]] = ()
    """Names of the files that mark a container of which an output may be a part (".zgroup"); an output is never inside another container."""

    @classmethod
    @abstractmethod
    def can_write(cls, path: str) -> bool:
        """Tell from its name alone whether a path is of this format (`.mrc`, ...); never raises."""

    @abstractmethod
    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write a volume block by block, with its voxel size and origin if the format stores them.

        What is read back equals what was written. There is nothing at the path, or what an interrupted call left: with the
        same volume, blocks that `run.scratch` notes as done are kept (`run_blocks` does this), or everything is written again.

        Parameters
        ----------
        volume
            Lazy, of one of `dtypes`; `Labels` hold ids. `planes` are the file names of the original stack's planes, for formats with
            one file per plane, and `attributes["made_by"]` is the record of what made it, in plain JSON, for formats that can store it.

        Returns
        -------
        A sentence for each thing that the format does not store: "MRC keeps no names of planes."

        Raises
        ------
        BadInput
            The format cannot hold the volume's size.
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
class LinearInGreys(Protocol):
    """What a preprocessor can do besides: say that, of whole numbers, it only multiplies and adds, the same for every volume."""

    @abstractmethod
    def as_linear(self, white: float) -> tuple[float, float]:
        """Return gain and offset: grey values become `gain * grey + offset`; `white` is the largest value of their type."""


@runtime_checkable
class AveragesVoxels(Protocol):
    """Optional for a preprocessor: make voxels larger by whole factors, wherever the core needs that."""

    @classmethod
    @abstractmethod
    def by_factor(cls, factor: Zyx) -> Preprocessor:
        """Return the step that merges so many voxels into one: the mean of an image, the most frequent value of labels."""


ZoneShape = Literal["diamond", "ball"]


@runtime_checkable
class MakesZones(Protocol):
    """Optional for a preprocessor: make an exclusion zone of given widths, for evaluation."""

    @classmethod
    @abstractmethod
    def of_widths(cls, outwards: float, inwards: float, unit: Literal["vx", "nm"]) -> Preprocessor:
        """Return the step that marks all voxels within these distances of an outline."""

    @abstractmethod
    def of_shape(self, shape: ZoneShape) -> Preprocessor:
        """Return the same step with distances measured along the axes ("diamond") or in a straight line ("ball")."""


@runtime_checkable
class PartOfPreparation(Protocol):
    """A preprocessor that `asem prepare` applies to every cell unless told to skip it. Derive from it."""

    usual: ClassVar[tuple[int, str]]
    """Its position among those steps, and the name that users know: (1, "crop")."""


@runtime_checkable
class RecognisedByName(Protocol):
    """A preprocessor whose result, if another program made it, is recognised by its name: `raw_equalized_0.02`. Derive from it."""

    name_words: ClassVar[Sequence[str]]
    """Words, in lower case, that show in the name of a layer, file or folder that the step was done: ("equalized",)."""

    @classmethod
    def options_in_name(cls, after: str) -> Mapping[str, Any]:
        """Return the options that the next word, `after`, states ("0.02"); all others are assumed to be as expected."""
        return {}


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
class SaysWhatIsKnown(Protocol):
    """Optional for a prepared annotator: say where its labels are known."""

    @property
    def known(self) -> np.ndarray | None:
        """Bool, of the box's shape: False where a voxel is neither object nor background, but unknown. None: known everywhere."""


@runtime_checkable
class VoxelLearner(Protocol):
    """Learns one image repeatedly, from more voxels each time; it may keep what it computed before."""

    @abstractmethod
    def learn(self, labels: Labels, boxes: Sequence[Box]) -> Callable[[Box], np.ndarray]:
        """Learn from labelled voxels, and return a function that says how likely each voxel of a box is object.

        Parameters
        ----------
        labels : on the grid of the image
            It learns from the known voxels: object where not 0.
        boxes
            Where known voxels are.

        Returns
        -------
        function: box in voxels of the image -> uint8 of its shape, 255 = certain

        Raises
        ------
        BadInput
            Known voxels are of one class only.
        """


@runtime_checkable
class LearnsVoxels(Protocol):
    """Optional for an annotator: learn from voxels anywhere in an image of any size, and classify any box of it."""

    @abstractmethod
    def learner(self, volume: Volume) -> VoxelLearner:
        """Make the learner of one image; nothing is read yet."""


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
class ArrangedForInference(Protocol):
    """Optional for a network: give an equivalent one that is faster in prediction."""

    @abstractmethod
    def for_inference(self) -> torch.nn.Module:
        """Return a network with the same results up to rounding, for prediction only."""


@runtime_checkable
class EstimatesMemory(Protocol):
    """Optional for a network: estimate how much memory it takes."""

    @abstractmethod
    def num_values(self, shape: Sequence[int]) -> float:
        """Estimate the largest number of values in memory at once, for an input of this shape."""


@runtime_checkable
class DescribesItself(Protocol):
    """Optional for a network: describe its architecture, for the record."""

    @abstractmethod
    def spec(self) -> dict[str, Any]:
        """Return its options in plain JSON."""


@runtime_checkable
class TravelsAsSource(Protocol):
    """What a network can do besides: give itself as one Python file that needs nothing but torch, for other programs."""

    @abstractmethod
    def plain_source(self) -> tuple[Path, str, Mapping[str, Any]]:
        """Return the file, the name of the class in it, and the arguments (plain JSON) that make a network of the same parameters.

        It takes and gives what the network does, has the same `state_dict`, and can be exported to ONNX.
        """


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


@runtime_checkable
class CutsByThreshold(Protocol):
    """A model whose objects begin at a probability: an option, for which a training may find a better value."""

    threshold: float
    """From 0 to 1."""


@runtime_checkable
class RemovesSmallSegments(Protocol):
    """A model that leaves out small objects of its segmentation: two options, which `asem segment --smallest-um3` and `-vx` set."""

    smallest_segment_um3: float
    smallest_segment_vx: int | None


@runtime_checkable
class FindsObjects(Protocol):
    """Optional for a model: say whether its segmentation numbers objects, which can then be counted."""

    objects: bool


Template = Literal["isotropic", "anisotropic", "planes"]
"""Kinds of images: voxels alike along all axes; planes further apart than pixels; planes that are independent of each other."""

Suited = Literal["isotropic", "anisotropic", "planes", "strokes"]
"""What a sampler may suit: a kind of image, or labels of which only strokes are known."""


@runtime_checkable
class OffersTemplates(Protocol):
    """A model that says which of its options suit an image: an optional ability, which `asem plan` asks for."""

    @classmethod
    @abstractmethod
    def network_options(cls, template: Template, width: int = 1) -> Mapping[str, Any]:
        """Give the options of the model that suit a kind of image, with `width` times the usual number of maps (1, 2 or 4)."""


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
