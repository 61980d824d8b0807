"""See a volume on a finer grid: a prediction made at larger voxels, compared where the truth has smaller ones."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from typing import Any, TypeVar

import attrs
import numpy as np

from asem_core.errors import VoxelSizeMismatch
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, annotated_part, as_zyx, as_zyx_nm

log = logging.getLogger("asem_core")

AnyVolume = TypeVar("AnyVolume", bound=Volume)


def whole_factors(coarse: Sequence[float], fine: Sequence[float], tolerance: float = 1e-3) -> Zyx | None:
    """Say how many voxels of size `fine` make one of size `coarse`, zyx; None where no whole numbers do."""
    ratio = np.asarray(coarse, dtype=float) / np.asarray(fine, dtype=float)
    factor = np.maximum(1, np.rint(ratio))
    return as_zyx(factor.astype(int).tolist()) if np.abs(ratio / factor - 1).max() <= tolerance else None


def on_grid_of(finer: Volume, volume: AnyVolume) -> AnyVolume:
    """View `volume` with the voxels of `finer`, whole factors smaller; one on the same grid is returned as it is.

    Images and probabilities are interpolated linearly between voxel centres (and continued beyond the outermost ones);
    labels keep their ids: each voxel is divided. Nothing is stored; the result covers the same space.

    Where the volume lies, on each axis, is what its origin says: the place of its first voxel's centre. Where that is
    between voxels of `finer`, the origins follow other rules, which are told apart, and the choice is said:

    - larger voxels, an even number to each, and a whole offset: origins are those of corners, or of the first of the
      voxels that were averaged or skipped. So, too, for odd numbers where both origins are equal.
    - half a voxel: one of the origins is that of a corner, the other of a centre, so both begin at the same voxel, or whole
      ones further: the origin that is an odd number of half voxels is the centre's.
    - any other fraction: the nearest voxel.

    Raises
    ------
    VoxelSizeMismatch
        The voxels of `volume` are no whole multiples of those of `finer`.
    """
    factor = whole_factors(volume.voxel_size_nm, finer.voxel_size_nm)
    if factor is None:
        raise VoxelSizeMismatch(
            f"{volume.path} has voxels of {list(volume.voxel_size_nm)} nm, which are not whole multiples of the "
            f"{list(finer.voxel_size_nm)} nm of {finer.path}. Resample one of them first, for example with 'downsample'."
        )
    begin, told = _place(finer, volume, factor)
    if told:
        log.warning(
            "%s begins at %s nm, between the voxels of %s, which begins at %s nm: %s. If that is wrong, correct one of the origins.",
            volume.path, _short(volume.origin_nm), finer.path, _short(finer.origin_nm), told,
        )  # fmt: skip
    elif factor == (1, 1, 1):
        return volume
    size = as_zyx_nm([s / f for s, f in zip(volume.voxel_size_nm, factor, strict=True)])
    origin = [o + b * s for o, b, s in zip(finer.origin_nm, begin, finer.voxel_size_nm, strict=True)]
    if factor == (1, 1, 1):
        at = {"origin_nm": as_zyx_nm(origin)}
        known = annotated_part(volume)
        return attrs.evolve(volume, **at, **({} if known is None else {"known": attrs.evolve(known, **at)}))  # type: ignore[arg-type]
    changed: dict[str, Any] = {"voxel_size_nm": size, "origin_nm": as_zyx_nm(origin)}
    if isinstance(volume, Labels):
        known = volume.known and on_grid_of(finer, Labels.of(volume.known))
        return attrs.evolve(volume, data=_Finer(volume, factor, labels=True), known=known, **changed)
    return attrs.evolve(volume, data=_Finer(volume, factor, labels=False), **changed)


def _place(finer: Volume, volume: Volume, factor: Zyx) -> tuple[Zyx, str]:
    """Say where `volume` begins in voxels of `finer`, and, where its origin is not a centre's, how it was read."""
    offset = (np.array(volume.origin_nm) - finer.origin_nm) / finer.voxel_size_nm
    same = all(abs(o) <= _OFF for o, f in zip(offset, factor, strict=True) if f > 1)
    begin, told = [], ""
    for axis, f in enumerate(factor):
        o, centre = float(offset[axis]), float(offset[axis]) - (f - 1) / 2
        if f > 1 and _whole(o) and (same or not _whole(centre)):
            begin.append(round(o))
            told = told or "its origin is taken to be a corner's"
        elif _whole(centre):
            begin.append(round(centre))
        elif _whole(centre - 0.5):
            by_centre = _whole(finer.origin_nm[axis] / finer.voxel_size_nm[axis] - 0.5)  # the origin of `finer`
            below = math.floor(centre)
            begin.append(0 if abs(centre) < 1 else below + 1 if by_centre else below)
            told = told or "one origin is taken to be a voxel's corner, the other a voxel's centre"
        else:
            begin.append(round(centre))
            told = f"it is moved to the nearest voxel, by {abs(centre - round(centre)):.2f} voxels"
    return as_zyx(begin), told


_OFF = 0.05  # of a voxel: what origins may differ by and still be equal


def _whole(value: float) -> bool:
    return abs(value - round(value)) <= _OFF


def _short(values: Sequence[float]) -> list[float]:
    return [round(v, 3) for v in values]


def on_spec(mask: Volume, spec: Spec, share: float = 0.5) -> Volume:
    """View a mask on another grid in the same space, whose voxels are equal or whole factors larger; 0 outside of it.

    A larger voxel is set if at least `share` of the mask's voxels in its place are; those outside the mask count for neither.

    Raises
    ------
    VoxelSizeMismatch
        The voxels of `spec` are no whole multiples of the mask's.
    """
    factor = whole_factors(spec.voxel_size_nm, mask.voxel_size_nm)
    if factor is None:
        raise VoxelSizeMismatch(
            f"Voxels of {list(spec.voxel_size_nm)} nm are not whole multiples of the {list(mask.voxel_size_nm)} nm of {mask.path}."
        )
    near = [
        (o - s / 2 - (p - t / 2)) / t
        for o, s, p, t in zip(spec.origin_nm, spec.voxel_size_nm, mask.origin_nm, mask.voxel_size_nm, strict=True)
    ]
    data = _Share(mask, factor, as_zyx(np.rint(near).astype(int).tolist()), spec.shape, share)
    return Volume(data, spec.voxel_size_nm, spec.origin_nm, mask.path)


@attrs.frozen(eq=False)
class _Share:
    """A lazy array: 1 where at least `share` of the mask's voxels in the place of a larger one are set."""

    mask: Volume
    factor: Zyx
    begin: Zyx  # of the result, in voxels of the mask
    shape: Zyx
    share: float

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        box = Box(*zip(*[k.indices(n)[:2] for k, n in zip(key, self.shape, strict=True)], strict=True))
        fine = Box(*([b * f for b, f in zip(side, self.factor, strict=True)] for side in (box.begin, box.end)))
        fine = fine.shift(self.begin)
        values = self.mask.read(fine, outside=0) != 0
        if self.factor == (1, 1, 1):
            return np.asarray(values, np.uint8)
        there = np.zeros(fine.shape, bool)
        there[(fine & self.mask.box).shift([-b for b in fine.begin]).slices] = True
        parts = [n for pair in zip(box.shape, self.factor, strict=True) for n in pair]
        set_, all_ = (v.reshape(parts).sum(axis=(1, 3, 5)) for v in (values, there))
        result: np.ndarray = ((set_ > 0) & (set_ >= self.share * all_)).astype(np.uint8)
        return result


def box_covering(volume: Volume, part: Volume) -> Box:
    """Say which voxels of `volume` take up the space of `part`, whose voxels may be of another size, rounded outwards.

    What extends beyond `volume` is left out.
    """
    size = np.array(volume.voxel_size_nm)
    # The origin is the centre of the first voxel: its near face lies half a voxel before.
    near = (np.array(part.origin_nm) - np.array(part.voxel_size_nm) / 2 - volume.origin_nm) / size + 0.5
    far = near + np.array(part.shape) * part.voxel_size_nm / size
    begin = np.floor(near + _SLACK).astype(int)
    end = np.ceil(far - _SLACK).astype(int)
    return Box(as_zyx(begin.tolist()), as_zyx(end.tolist())) & volume.box


_SLACK = 1e-3  # of a voxel: faces that meet but for rounding


def box_behind(volume: Volume, finer: Volume, box: Box) -> Box:
    """Say which voxels of `volume` a box of the finer grid of `finer` is interpolated from."""
    return box_covering(volume, finer.crop(box)).grow(1) & volume.box


def read_finer(volume: Volume, finer: Volume, box: Box) -> np.ndarray:
    """Read a box, in voxels of `finer`, of a volume with larger voxels; `box_behind` is all of it that is looked at.

    Where `finer` sticks out of the volume, by less than a larger voxel, the volume goes on as its mirror image.
    """
    seen = on_grid_of(finer, volume)
    return seen.read(box.shift([-b for b in finer.box_of(seen).begin]), outside="reflect")


@attrs.frozen(eq=False)
class _Finer:
    """A lazy array: `volume` with each voxel divided by `factor`."""

    volume: Volume
    factor: Zyx
    labels: bool

    @property
    def shape(self) -> Zyx:
        return as_zyx([n * f for n, f in zip(self.volume.shape, self.factor, strict=True)])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.volume.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        rows = [np.arange(n)[k] for n, k in zip(self.shape, key, strict=True)]
        if 0 in (len(r) for r in rows):
            return np.zeros([len(r) for r in rows], self.dtype)
        # Where each fine voxel's centre lies among the coarse ones, cut off at the outermost centres.
        places = [
            np.clip((r + 0.5) / f - 0.5, 0, n - 1) for r, f, n in zip(rows, self.factor, self.volume.shape, strict=True)
        ]
        need = Box(as_zyx([int(p.min()) for p in places]), as_zyx([int(np.ceil(p.max())) + 1 for p in places]))
        if self.labels:
            nearest = [r // f - b for r, f, b in zip(rows, self.factor, need.begin, strict=True)]
            return self.volume.read(need)[np.ix_(*nearest)]
        values = self.volume.read(need).astype(np.float32)
        for axis, (place, begin) in enumerate(zip(places, need.begin, strict=True)):
            values = _interpolated(values, place - begin, axis)
        return np.rint(values).astype(self.dtype) if self.dtype.kind in "ui" else values.astype(self.dtype)


def _interpolated(values: np.ndarray, places: np.ndarray, axis: int) -> np.ndarray:
    """Interpolate linearly along one axis at `places`, which lie from 0 to the last index."""
    low = places.astype(int)
    high = np.minimum(low + 1, values.shape[axis] - 1)
    weight = (places - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    below, above = values.take(low, axis), values.take(high, axis)
    result: np.ndarray = below + (above - below) * weight
    return result
