"""A model of bioimage.io: a network in ONNX that another program trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import attrs

from asem_core.abilities import CutsByThreshold, FindsObjects
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Fitted, Model, Preprocessor
from asem_core.paths import FilePath
from asem_core.volume import Volume

if TYPE_CHECKING:
    import torch

    from asem_core.blocks import Run
    from asem_models._onnx_network import Operation

Triple = tuple[int, int, int]


@attrs.frozen(kw_only=True)
class BioimageIo(Model, FindsObjects, CutsByThreshold):
    """A network of another program, from a package of bioimage.io (extra `bioimageio`); it predicts, and is not trained here.

    `asem models add PACKAGE` fills these options in from the package's description.

    Parameters
    ----------
    onnx
        The network's file; a named model has it as its weights.
    size_bytes
        Size of that file.
    tile
        Voxels of the network's input, zyx.
    halo
        Voxels at each side of a tile that belong to no result; larger ones make seams less visible.
    lost
        Of these, how many the network itself leaves out.
    operations
        What is done to grey values between -1 and 1 before the network sees them: ["linear", gain, offset],
        ["clip", least, greatest] or ["binarize", threshold, 0].
    axes_in, axes_out
        Order of the axes of its input and output.
    channel
        Of the output.
    activation
        Turns the output into probabilities.
    threshold
        A voxel with at least this probability belongs to the organelle.
    objects
        Whether `segment` numbers connected objects (True) or writes a binary map.
    connectivity
        Voxels of one object share a face (6), or also an edge (18), or also a corner (26).
    smallest_segment_vx
        Segmented objects smaller than this are removed.
    """

    name: ClassVar[str] = "bioimage-io"

    onnx: FilePath | None = None
    size_bytes: int = 0
    tile: Triple = (96, 96, 96)
    halo: Triple = (16, 16, 16)
    lost: Triple = (0, 0, 0)
    operations: tuple[tuple[Literal["linear", "clip", "binarize"], float, float], ...] = ()
    axes_in: str = "bczyx"
    axes_out: str = "bczyx"
    channel: int = 0
    activation: Literal["sigmoid", "softmax", "none"] = "sigmoid"
    threshold: float = 0.5
    objects: bool = True
    connectivity: Literal[6, 18, 26] = 26
    smallest_segment_vx: int = 0

    def network(self) -> torch.nn.Module:
        """Make the network; its weights are the ONNX file."""
        from asem_models._onnx_network import OnnxNetwork

        data = None if self.onnx is None else Path(self.onnx).read_bytes()
        operations: tuple[Operation, ...] = self.operations
        return OnnxNetwork(
            data, self.size_bytes, self.tile, self.halo, self.lost, operations, self.axes_in, self.axes_out, self.channel, self.activation
        )  # fmt: skip

    def label_steps(self) -> list[Preprocessor]:
        """Labels are not prepared: it is not trained here."""
        return []

    def exclusion_zone(self) -> Preprocessor | None:
        """None is known; an evaluation can be given one."""
        return None

    def segment(self, probability: Volume, run: Run) -> Fitted:
        """Threshold a probability map, and number its objects if `objects` is set."""
        from asem_core import threshold_objects

        return threshold_objects(
            probability,
            run,
            threshold=self.threshold,
            objects=self.objects,
            smallest_vx=self.smallest_segment_vx,
            connectivity=self.connectivity,
        )


@hookimpl
def register_models() -> list[type[BioimageIo]]:
    return [BioimageIo]
