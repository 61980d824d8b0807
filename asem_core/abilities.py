"""What a plugin, or an object that it makes, may be able to do in addition to its kind: small protocols to derive from.

The core asks for them by `isinstance`; a plugin without one is used in the plain way. Each says what it changes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from asem_core.volume import Box, Labels, Volume, Zyx

if TYPE_CHECKING:
    import torch

    from asem_core.blocks import Run
    from asem_core.heads import Head
    from asem_core.interfaces import Preprocessor, Template


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
class StatesHeads(Protocol):
    """What a network can do besides: state what its channels mean. One that is arranged for inference may give the log-odds of its
    maps alone, a channel each."""

    @property
    @abstractmethod
    def heads(self) -> Sequence[Head]:
        """The heads in the order of their channels; empty where the number of channels tells it."""


@runtime_checkable
class TravelsAsSource(Protocol):
    """What a network can do besides: give itself as one Python file that needs nothing but torch, for other programs."""

    @abstractmethod
    def plain_source(self) -> tuple[Path, str, Mapping[str, Any]]:
        """Return the file, the name of the class in it, and the arguments (plain JSON) that make a network of the same parameters.

        It takes and gives what the network does, has the same `state_dict`, and can be exported to ONNX.
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


@runtime_checkable
class TellsTouchingApart(Protocol):
    """A model whose network can learn where objects touch, from labels with an id for each: an optional ability, which `asem plan` asks for."""

    @classmethod
    @abstractmethod
    def touching_options(cls, reach_vx: Zyx) -> Mapping[str, Any]:
        """Give the options that make it do so: another object within `reach_vx` voxels (z, y, x) is a contact."""


@runtime_checkable
class MergesFragments(Protocol):
    """A model whose segmentation merges fragments up to a probability: an option, for which a training may find a better value."""

    merge_below: float
    """From 0 to 1."""
    instances_of: str
    """The class whose ids tell what belongs together; "": its own."""

    @abstractmethod
    def merges(self) -> bool:
        """Whether its segmentation does so, as its options are."""


@runtime_checkable
class LearnsBoundaries(Protocol):
    """A model that can learn the boundaries between cells from labels with an id for each: an optional ability, which `asem plan` asks for."""

    @abstractmethod
    def learns_from_cells(self) -> bool:
        """Whether that is what the labels are, as its options are."""

    @classmethod
    @abstractmethod
    def options_for_cells(cls) -> Mapping[str, Any]:
        """Give the options that make it so."""


@runtime_checkable
class SeveralClasses(Protocol):
    """What a model can do besides: tell several organelles apart, with a map each.

    A class that has the name of a model plugin has its labels prepared, is scored and is segmented as that model says, with
    the options of `per_class`; another one as this model says.
    """

    classes: Sequence[str]
    per_class: Mapping[str, Mapping[str, Any]]

    @abstractmethod
    def shared_with(self, name: str) -> Sequence[str]:
        """Name the options of this model that hold for a class's own model, too, where it has them and `per_class` says nothing else."""


@runtime_checkable
class OffersTemplates(Protocol):
    """A model that says which of its options suit an image: an optional ability, which `asem plan` asks for."""

    @classmethod
    def also_shape_network(cls) -> Sequence[str]:
        """Name further options on which the network depends: a plan takes these, too, from weights that it starts from."""
        return ()

    @classmethod
    def usual_thickness_nm(cls) -> float | None:
        """Say how thick thin parts of the object usually are, for where labels do not tell; None keeps the image's own voxels."""
        return None

    @classmethod
    @abstractmethod
    def network_options(cls, template: Template, width: int = 1) -> Mapping[str, Any]:
        """Give the options of the model that suit a kind of image, with `width` times the usual number of maps (1, 2 or 4)."""
