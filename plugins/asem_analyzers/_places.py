"""Several segmentations of one cell in one space: of any voxel size and origin, and where they claim the same voxels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.errors import ShapeMismatch
from asem_core.volume import Box, Labels, Spec, Zyx, as_zyx, as_zyx_nm
from asem_core.voxels.resample import on_grid_of, whole_factors

if TYPE_CHECKING:
    from asem_core.blocks import Run

BLOCK = 128
ON_A_FACE = 1e-6
"""Of a voxel: a place that is nearer than this to the face between two voxels is in the second."""


def names_of(paths: Sequence[str]) -> list[str]:
    """Name layers by the end of their address (a prediction by what was predicted), or by all of it where two end alike."""

    def name(path: str) -> str:
        pure = PurePath(path)
        return pure.parent.name if pure.name == "segmentation" and pure.parent.name else pure.name

    names = [name(path) for path in paths]
    return [n if names.count(n) == 1 else path for n, path in zip(names, paths, strict=True)]


def in_place(other: Labels, labels: Labels) -> Labels:
    """Put `other` where it lies beside `labels`; its voxels stay as they are.

    Its origin is read as everywhere (see `on_grid_of`): where it falls between voxels of `labels`, it may be that of a corner.
    Where the voxels of neither are whole multiples of the other's, it is that of the first voxel's centre.

    Raises
    ------
    ShapeMismatch
        They do not share any space.
    """
    if whole_factors(other.voxel_size_nm, labels.voxel_size_nm):
        moved = _by(other, _shift(labels, other))
    elif whole_factors(labels.voxel_size_nm, other.voxel_size_nm):
        moved = _by(other, -_shift(other, labels))
    else:
        moved = other
    if (box_around(moved, *_faces(labels)) & moved.box).is_empty:
        raise ShapeMismatch(
            f"{other.path} and {labels.path} do not share any space: they begin at {list(other.origin_nm)} and "
            f"{list(labels.origin_nm)} nm. Are they of the same cell? If so, correct the origin of one of them."
        )
    return moved


def _shift(finer: Labels, coarser: Labels) -> np.ndarray:
    """Say by how many nm `coarser` is moved to lie on voxels of `finer`."""
    seen = on_grid_of(finer, coarser)
    corner = np.subtract(seen.origin_nm, np.divide(seen.voxel_size_nm, 2))
    return np.asarray(corner + np.divide(coarser.voxel_size_nm, 2) - coarser.origin_nm)


def _by(labels: Labels, shift_nm: np.ndarray) -> Labels:
    return attrs.evolve(labels, origin_nm=as_zyx_nm((labels.origin_nm + shift_nm).tolist()))


def _faces(labels: Labels) -> tuple[np.ndarray, np.ndarray]:
    half = np.divide(labels.voxel_size_nm, 2)
    last = np.multiply(np.subtract(labels.shape, 1), labels.voxel_size_nm)
    return labels.origin_nm - half, labels.origin_nm + last + half


def box_around(labels: Labels, low_nm: np.ndarray, high_nm: np.ndarray) -> Box:
    """Say which voxels hold the places from `low_nm` to `high_nm`; they may lie outside the volume."""
    ends = [voxel_at(labels, places) for places in (low_nm, high_nm)]
    return Box(as_zyx(ends[0].tolist()), as_zyx((ends[1] + 1).tolist()))


def voxel_at(labels: Labels, places_nm: np.ndarray) -> np.ndarray:
    """Say in which voxels places lie: int64, of the same shape (..., 3)."""
    steps = np.subtract(places_nm, labels.origin_nm) / labels.voxel_size_nm
    return np.floor(steps + 0.5 + ON_A_FACE).astype(np.int64)


def read_at(labels: Labels, spec: Spec, box: Box) -> np.ndarray:
    """Read labels at the centres of the voxels of a box of another grid; 0 outside the volume."""
    rows = []
    for axis in range(3):
        centres = spec.origin_nm[axis] + np.arange(box.begin[axis], box.end[axis]) * spec.voxel_size_nm[axis]
        steps = (centres - labels.origin_nm[axis]) / labels.voxel_size_nm[axis]
        rows.append(np.floor(steps + 0.5 + ON_A_FACE).astype(np.int64))
    need = Box(as_zyx([int(r[0]) for r in rows]), as_zyx([int(r[-1]) + 1 for r in rows]))
    if (need & labels.box).is_empty:
        return np.zeros(box.shape, labels.dtype)
    return labels.read(need, outside=0)[np.ix_(*(r - b for r, b in zip(rows, need.begin, strict=True)))]


def giving_way(labels: Labels, above: Sequence[Labels]) -> Labels:
    """View labels without the voxels that belong to any of those `above`, which come first."""
    return attrs.evolve(labels, data=_Changed(labels, partial(_give_way, labels.spec, above))) if above else labels


def _give_way(spec: Spec, above: Sequence[Labels], box: Box, values: np.ndarray) -> np.ndarray:
    taken = np.zeros(box.shape, bool)
    for other in above:
        taken |= read_at(other, spec, box) != 0
    return np.where(taken, 0, values)


def only(labels: Labels, ids: np.ndarray) -> Labels:
    """View labels with some of their ids, which are sorted; the others are background."""
    return attrs.evolve(labels, data=_Changed(labels, partial(_keep, ids)))


def _keep(ids: np.ndarray, _box: Box, values: np.ndarray) -> np.ndarray:
    return np.where(np.isin(values, ids), values, 0)


@attrs.frozen(eq=False)
class _Changed:
    """A lazy array: what a function of a box and its values makes of labels."""

    labels: Labels
    change: Callable[[Box, np.ndarray], np.ndarray]

    @property
    def shape(self) -> Zyx:
        return self.labels.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.labels.dtype

    def __getitem__(self, key: tuple[slice, slice, slice]) -> np.ndarray:
        ends = [k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)]
        box = Box(as_zyx([b for b, _ in ends]), as_zyx([e for _, e in ends]))
        return np.asarray(self.change(box, self.labels.read(box)), self.dtype)


def overlaps_um3(first: Labels, second: Labels, run: Run, *, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Measure how much any object of `first` and any of `second` share, on the grid of the finer voxels.

    Returns
    -------
    ids in `first`, ids in `second`, each (n,), in order; float64 (n,), the volume they share in µm³
    """
    from asem_core.blocks import map_blocks

    fine = first if np.prod(first.voxel_size_nm) <= np.prod(second.voxel_size_nm) else second
    load = partial(_load_shared, first, second, fine.spec)
    found = map_blocks(load, fine.box, run.block or BLOCK, run, name=name)
    rows = np.concatenate([np.zeros((0, 3), np.int64), *(part for _, part in found)])
    pairs, inverse = np.unique(rows[:, :2], axis=0, return_inverse=True)
    num = np.bincount(inverse.ravel(), rows[:, 2], len(pairs))
    a, b = (pairs[:, i].astype(labels.dtype) for i, labels in enumerate((first, second)))
    order = np.lexsort((b, a))  # pairs of ids of 2^63 and more are negative as int64, so not yet in order
    return a[order], b[order], num[order] * float(np.prod(fine.voxel_size_nm)) * 1e-9


def _load_shared(first: Labels, second: Labels, spec: Spec) -> Callable[[Box], np.ndarray]:
    return partial(_shared, first, second, spec)


def _shared(first: Labels, second: Labels, spec: Spec, box: Box) -> np.ndarray:
    """Count the voxels of each pair of ids in a block: int64 (n, 3)."""
    a, b = (read_at(labels, spec, box) for labels in (first, second))
    both = (a != 0) & (b != 0)
    pairs = np.stack([a[both].astype(np.int64), b[both].astype(np.int64)], axis=1)
    pairs, counts = np.unique(pairs, axis=0, return_counts=True)
    return np.column_stack([pairs, counts]).astype(np.int64)
