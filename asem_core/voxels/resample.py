"""See a volume on a finer grid: a prediction made at larger voxels, compared where the truth has smaller ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import attrs
import numpy as np

from asem_core.errors import VoxelSizeMismatch
from asem_core.volume import Box, Labels, Volume, Zyx, as_zyx, as_zyx_nm

AnyVolume = TypeVar("AnyVolume", bound=Volume)


def whole_factors(coarse: Sequence[float], fine: Sequence[float], tolerance: float = 1e-3) -> Zyx | None:
    """Say how many voxels of size `fine` make one of size `coarse`, zyx; None where no whole numbers do."""
    ratio = np.asarray(coarse, dtype=float) / np.asarray(fine, dtype=float)
    factor = np.maximum(1, np.rint(ratio))
    return as_zyx(factor.astype(int).tolist()) if np.abs(ratio / factor - 1).max() <= tolerance else None


def on_grid_of(finer: Volume, volume: AnyVolume) -> AnyVolume:
    """View `volume` with the voxels of `finer`, whole factors smaller; one of equal voxels is returned as it is.

    Images and probabilities are interpolated linearly between voxel centres (and continued beyond the outermost ones);
    labels keep their ids: each voxel is divided. Nothing is stored; the result covers the same space.

    Raises
    ------
    VoxelSizeMismatch
        The voxels of `volume` are no whole multiples of those of `finer`.
    """
    factor = whole_factors(volume.voxel_size_nm, finer.voxel_size_nm)
    if factor is None:
        raise VoxelSizeMismatch(
            f"{volume.path} has voxels of {list(volume.voxel_size_nm)} nm, no whole multiples of the "
            f"{list(finer.voxel_size_nm)} nm of {finer.path}. Resample one of them first, for example with 'downsample'."
        )
    if factor == (1, 1, 1):
        return volume
    size = as_zyx_nm([s / f for s, f in zip(volume.voxel_size_nm, factor, strict=True)])
    origin = [o - (f - 1) / 2 * s for o, f, s in zip(volume.origin_nm, factor, size, strict=True)]
    data = _Finer(volume, factor, isinstance(volume, Labels))
    return attrs.evolve(volume, data=data, voxel_size_nm=size, origin_nm=as_zyx_nm(origin))


def box_covering(volume: Volume, part: Volume) -> Box:
    """Say which voxels of `volume` take up the space of `part`, whose voxels may be of another size, rounded outwards.

    What sticks out of `volume` is left out.
    """
    size = np.array(volume.voxel_size_nm)
    # The origin is the centre of the first voxel: its near face lies half a voxel before.
    near = (np.array(part.origin_nm) - np.array(part.voxel_size_nm) / 2 - volume.origin_nm) / size + 0.5
    far = near + np.array(part.shape) * part.voxel_size_nm / size
    begin = np.floor(near + _SLACK).astype(int)
    end = np.ceil(far - _SLACK).astype(int)
    return Box(as_zyx(begin.tolist()), as_zyx(end.tolist())) & volume.box


_SLACK = 1e-3  # of a voxel: faces that meet but for rounding


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
