"""Clean annotations up: drop crumbs, fill holes."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from asem_core.blocks import map_blocks
from asem_core.components import Components, components
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume, Zyx
from asem_preprocessors._labels import require_labels
from asem_preprocessors._morphology import check_one_unit
from asem_preprocessors._scratch import BlockOf, FittedStored, Stored, own_scratch, store, work_block

if TYPE_CHECKING:
    from asem_core.blocks import Run

UM3_PER_NM3 = 1e-9


@attrs.frozen
class CleanLabels(Preprocessor):
    """Drop objects, and fill holes, that are too small to be meant (Gallusser et al. 2022).

    Published: mitochondria and Golgi, objects of fewer than 27 voxels dropped; endoplasmic reticulum, holes of fewer
    than 20,000 voxels (0.0025 um3) filled; nuclear pores and coated pits, neither. Objects are connected pieces of one
    id, holes connected pieces of background, both by faces, in the whole volume: scikit-image's `remove_small_objects`
    and then `remove_small_holes`. As there, background that runs into the border is a hole if it is small.
    A hole between several ids is left; so ids never spread over each other.

    Parameters
    ----------
    smallest_vx, smallest_um3
        Objects smaller than this are dropped, in voxels or um3; one of the two.
    largest_hole_vx, largest_hole_um3
        Holes smaller than this are filled, likewise.
    """

    name: ClassVar[str] = "clean-labels"

    smallest_vx: int | None = None
    smallest_um3: float | None = None
    largest_hole_vx: int | None = None
    largest_hole_um3: float | None = None

    def __attrs_post_init__(self) -> None:
        check_one_unit(self.name, "smallest", self.smallest_vx, self.smallest_um3, units=("vx", "um3"))
        check_one_unit(self.name, "largest_hole", self.largest_hole_vx, self.largest_hole_um3, units=("vx", "um3"))

    def fit(self, volume: Volume, run: Run) -> Fitted:
        """Clean the whole volume, into the scratch folder.

        Raises
        ------
        BadInput
            The volume does not hold labels.
        """
        require_labels(volume, self.name)
        run = own_scratch(run, self, volume)
        block = work_block(run)
        smallest = _voxels(self.smallest_vx, self.smallest_um3, volume)
        hole = _voxels(self.largest_hole_vx, self.largest_hole_um3, volume)
        labels: BlockOf = volume.read
        stored: Stored | None = None
        if smallest > 1:
            objects = components(labels, volume.box, block, run, 6, name="objects")
            if (objects.voxels < smallest).any():
                kept = objects.select(objects.voxels >= smallest)
                labels = stored = store(_Kept(labels, kept), volume.box, volume.dtype, run, "kept")
        if hole > 1:
            background = components(_Background(labels), volume.box, block, run, 6, name="holes")
            holes = background.select(background.voxels < hole)
            if len(holes):
                fill = _ids_around(labels, holes, block, run)
                labels = stored = store(_Filled(labels, holes, fill), volume.box, volume.dtype, run, "filled")
        if stored is None:
            return FittedUnchanged(volume.spec)
        return FittedStored(volume.spec, stored, {"kind": "labels"})


def _voxels(vx: int | None, um3: float | None, volume: Volume) -> int:
    if um3 is not None:
        return math.ceil(um3 / (math.prod(volume.voxel_size_nm) * UM3_PER_NM3) - 1e-6)
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


@attrs.frozen
class _Background:
    labels: BlockOf

    def __call__(self, box: Box) -> np.ndarray:
        return self.labels(box) == 0


@attrs.frozen
class _Kept:
    labels: BlockOf
    objects: Components

    def __call__(self, box: Box) -> np.ndarray:
        labels = self.labels(box)
        return np.where(self.objects.read(box) > 0, labels, labels.dtype.type(0))


@attrs.frozen(eq=False)
class _Filled:
    labels: BlockOf
    holes: Components
    fill: np.ndarray  # hole id -> what fills it

    def __call__(self, box: Box) -> np.ndarray:
        return self.labels(box) | self.fill[self.holes.read(box)]


def _ids_around(labels: BlockOf, holes: Components, block: Zyx, run: Run) -> np.ndarray:
    """Find what fills each hole: the one id around it, or 0 where there are several (or none)."""
    least = np.full(len(holes) + 1, np.iinfo(np.int64).max)
    greatest = np.zeros(len(holes) + 1, np.int64)
    load = functools.partial(functools.partial, _neighbours, labels, holes)
    for _, found in map_blocks(load, holes.box, block, run, name="around-holes"):
        np.minimum.at(least, found[:, 0], found[:, 1])
        np.maximum.at(greatest, found[:, 0], found[:, 1])
    return np.where(least == greatest, greatest, 0).astype(labels(Box(holes.box.begin, holes.box.begin)).dtype)


def _neighbours(labels: BlockOf, holes: Components, box: Box) -> np.ndarray:
    """List which ids touch which holes of one block, as rows (hole, id)."""
    ids = holes.read(box)
    if not ids.any():
        return np.zeros((0, 2), np.int64)
    have = box.grow(1) & holes.box
    around = labels(have)
    pairs = []
    for axis, step in itertools.product(range(3), (-1, 1)):
        there = box.shift([step if a == axis else 0 for a in range(3)]) & have
        other = around[there.shift([-b for b in have.begin]).slices]
        here = there.shift([-step if a == axis else 0 for a in range(3)]).shift([-b for b in box.begin])
        hole = ids[here.slices]
        touch = (hole > 0) & (other > 0)
        pairs.append(np.unique(np.stack([hole[touch], other[touch]], axis=1).astype(np.int64), axis=0))
    return np.unique(np.concatenate(pairs), axis=0)


@hookimpl
def register_preprocessors() -> list[type[CleanLabels]]:
    return [CleanLabels]
