"""Clean annotations up: drop crumbs, fill holes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume
from asem_core.voxels.lengths import tell_in_voxels, voxels_in
from asem_preprocessors._labels import require_labels
from asem_preprocessors._morphology import check_one_unit
from asem_preprocessors._scratch import own_scratch, work_block

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.voxels.components import Components


@attrs.frozen
class CleanLabels(Preprocessor):
    """Remove small objects and fill small holes that are annotation errors (Gallusser et al. 2022).

    Published: mitochondria and Golgi, objects of fewer than 27 voxels removed; endoplasmic reticulum, holes of fewer
    than 20,000 voxels (0.0025 µm³) filled; nuclear pores and coated pits, neither. Objects are connected components of one
    id, holes connected components of background, both through faces, in the whole volume: scikit-image's `remove_small_objects`
    and then `remove_small_holes`. As there, background at the border is a hole if it is small.
    A hole between several ids is not filled, so ids never spread over each other.

    Parameters
    ----------
    smallest_vx, smallest_um3
        Objects smaller than this are removed, in voxels or µm³; give one of the two.
    largest_hole_vx, largest_hole_um3
        Holes smaller than this are filled, in voxels or µm³; give one of the two.
    """

    name: ClassVar[str] = "clean-labels"
    changes: ClassVar[Changes] = "labels"

    smallest_vx: int | None = None
    smallest_um3: float | None = None
    largest_hole_vx: int | None = None
    largest_hole_um3: float | None = None

    def __attrs_post_init__(self) -> None:
        check_one_unit(self.name, "smallest", self.smallest_vx, self.smallest_um3, units=("vx", "um3"))
        check_one_unit(self.name, "largest_hole", self.largest_hole_vx, self.largest_hole_um3, units=("vx", "um3"))

    def fit(self, volume: Volume, run: Run) -> Fitted:
        """Find all pieces of the whole volume, background among them, and decide what each becomes.

        Raises
        ------
        BadInput
            The volume does not hold labels.
        """
        from asem_core.voxels.components import components
        from asem_preprocessors._painted import FittedPainted

        require_labels(volume, self.name)
        tell_in_voxels(self, volume.voxel_size_nm)
        smallest = _voxels(self.smallest_vx, self.smallest_um3, volume)
        hole = _voxels(self.largest_hole_vx, self.largest_hole_um3, volume)
        if max(smallest, hole) <= 1:
            return FittedUnchanged(volume.spec)
        run = own_scratch(run, self, volume)
        pieces = components(volume.read, volume.box, work_block(run), run, 6, name="pieces", background=True)
        values = np.where(pieces.voxels < smallest, 0, pieces.value)
        if hole > 1:
            values = _filled(pieces, values, hole)
        if (values == pieces.value).all():
            return FittedUnchanged(volume.spec)
        painted = np.concatenate([[0], values]).astype(volume.dtype)
        return FittedPainted(volume.spec, pieces, painted, {"kind": "labels"})


def _voxels(vx: int | None, um3: float | None, volume: Volume) -> int:
    if um3 is not None:
        return voxels_in(um3, volume.voxel_size_nm)
    return vx or 0


@attrs.frozen
class FittedUnchanged(Fitted):
    """Labels in which there is nothing to clean."""

    output: Spec
    outside: ClassVar[Outside] = "error"
    attributes: ClassVar[Mapping[str, Any]] = {"kind": "labels"}

    def needs(self, box: Box) -> Box:
        return box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return block


def _filled(pieces: Components, values: np.ndarray, smallest: int) -> np.ndarray:
    """Give holes of fewer voxels the one id around them; those between several ids (or none) stay 0."""
    background = values == 0
    hole_of = pieces.groups(background)  # what was dropped becomes one with the background around it
    voxels = np.zeros(len(pieces), np.int64)
    np.add.at(voxels, hole_of, pieces.voxels)
    least, greatest = np.full(len(pieces), np.iinfo(np.int64).max), np.full(len(pieces), np.iinfo(np.int64).min)
    for hole, other in (pieces.neighbours.T, pieces.neighbours[:, ::-1].T):
        touch = background[hole] & ~background[other]
        np.minimum.at(least, hole_of[hole[touch]], values[other[touch]])
        np.maximum.at(greatest, hole_of[hole[touch]], values[other[touch]])
    fill = np.where((least == greatest) & (voxels < smallest), greatest, 0)
    return np.where(background, fill[hole_of], values)


@hookimpl
def register_preprocessors() -> list[type[CleanLabels]]:
    return [CleanLabels]
