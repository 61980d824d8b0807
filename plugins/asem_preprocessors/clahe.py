"""CLAHE in 3D: contrast-limited adaptive histogram equalization of a whole volume, block by block."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from asem_core.abilities import PartOfPreparation, RecognisedByName
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Changes, Fitted, Preprocessor
from asem_core.volume import Box, Outside, Spec, Volume, Zyx, as_zyx
from asem_preprocessors._greys import Greys, find_padding, finite, grey_histogram, grey_range, require_contrast
from asem_preprocessors._scratch import own_scratch

if TYPE_CHECKING:
    from asem_core.blocks import Run

NUM_LEVELS = 1 << 14  # grey levels that mappings work in, as in scikit-image
FILLED = 1 / 16  # of a tile's voxels: below, they say too little of the contrast around
SMALLEST_PASS = 128  # edge in voxels of the blocks that histograms are gathered in, for kernels smaller than it


@attrs.frozen
class Clahe(Preprocessor, PartOfPreparation, RecognisedByName):
    """Equalize contrast locally, with limited amplification (Zuiderveld 1994; Gallusser et al. 2022).

    Two passes: the histogram of each tile of the volume becomes a mapping of grey values; then each voxel is mapped by
    the eight tiles around it, weighted by distance. The tile grid begins at the volume's first voxel,
    so the result does not depend on blocks. It equals `skimage.exposure.equalize_adapthist` of the whole volume.

    Parameters
    ----------
    kernel_vx
        Edge of a tile in voxels, one number or three (z, y, x). A volume smaller than a tile is mirrored to fill it.
    clip_limit
        Largest fraction of a tile's voxels in one bin before it is clipped; larger gives more contrast, 0 is no limit.
    num_bins
        Number of histogram bins.
    dtype
        "uint8" or "uint16"; the result uses its whole range.
    ignore
        Grey values that are ignored and stay black. None ignores the padding of 8 and 16-bit images: the darkest or brightest
        value, if far more voxels have it than any other (the zeros around a tilted region); [] ignores nothing, as published.
    """

    name: ClassVar[str] = "clahe"
    changes: ClassVar[Changes] = "greys"
    usual: ClassVar[tuple[int, str]] = (3, "clahe")
    name_words: ClassVar[Sequence[str]] = ("equalized", "equalised", "clahe")

    kernel_vx: int | tuple[int, int, int] = 128
    clip_limit: float = 0.02
    num_bins: int = 256
    dtype: str = "uint8"
    ignore: tuple[float, ...] | None = None

    def __attrs_post_init__(self) -> None:
        if min(as_zyx(self.kernel_vx)) < 2:
            raise BadInput(f"clahe: kernel_vx must be at least 2 voxels, got {self.kernel_vx}.")
        if not 0 <= self.clip_limit <= 1:
            raise BadInput(f"clahe: clip_limit must lie between 0 and 1, got {self.clip_limit}.")
        if not 2 <= self.num_bins <= NUM_LEVELS:
            raise BadInput(f"clahe: num_bins must lie between 2 and {NUM_LEVELS}, got {self.num_bins}.")
        if self.dtype not in ("uint8", "uint16"):
            raise BadInput(f"clahe: dtype must be 'uint8' or 'uint16', got '{self.dtype}'.")

    @classmethod
    def options_in_name(cls, after: str) -> Mapping[str, Any]:
        """Read the clip limit of the authors' names: `raw_equalized_0.02`."""
        return {"clip_limit": float(after)} if re.fullmatch(r"0?\.\d+", after) else {}

    def fit(self, volume: Volume, run: Run) -> FittedClahe:
        """Make the mappings of all tiles, and find the range of the result.

        Raises
        ------
        BadInput
            The image is constant, or holds NaN or infinite values.
        """
        from asem_preprocessors._clahe_kernels import mappings

        run = own_scratch(run, self, volume)
        kernel = as_zyx(self.kernel_vx)
        bins, counts = self._tile_counts(volume, kernel, run)
        tiles, num_bins = as_zyx(counts.shape[:3]), counts.shape[3]
        in_tile = counts.reshape(-1, num_bins).sum(axis=1)
        limits = np.maximum(1, (self.clip_limit * in_tile).astype(np.int64)) if self.clip_limit else in_tile
        maps = mappings(counts.reshape(-1, num_bins), limits, NUM_LEVELS).reshape(*tiles, num_bins)
        maps = _with_ignored(_nearest_filled(maps, in_tile.reshape(tiles), int(np.prod(kernel))), bins)
        levels = np.arange(NUM_LEVELS, dtype=np.uint16)
        raw = FittedClahe(attrs.evolve(volume.spec, dtype=np.uint16), bins, maps, kernel, levels)
        low, high = _result_range(raw, volume, counts)
        greatest = np.iinfo(self.dtype).max
        finish = np.rint((np.clip(levels, low, high) - low) / max(1.0, high - low) * greatest).astype(self.dtype)
        return attrs.evolve(raw, output=attrs.evolve(volume.spec, dtype=self.dtype), finish=finish)

    def _tile_counts(self, volume: Volume, kernel: Zyx, run: Run) -> tuple[_Bins, np.ndarray]:
        """Count the voxels of each bin in each tile: (z, y, x, bin)."""
        if volume.dtype == np.uint8:  # all values can be counted, so one pass gives the range too
            every = np.arange(256, dtype=np.uint16)
            counts = _gather(volume, _Bins(every), kernel, run)
            ignored = self._ignored(np.arange(256.0), counts.sum(axis=(0, 1, 2)))
            counts[..., list(ignored)] = 0
            used = np.flatnonzero(counts.any(axis=(0, 1, 2)))
            low, high = (used[0], used[-1]) if used.size else (0, 0)
            require_contrast(volume, low, high, "clahe")
            bins = _Bins.between(low, high, volume.dtype, self.num_bins, ignored)
            binned = np.zeros((*counts.shape[:3], self.num_bins + 1), np.int64)
            np.add.at(binned, (..., bins.lut), counts)
            return bins, binned[..., : self.num_bins]
        ignored = set()
        if volume.dtype == np.uint16:
            greys = grey_histogram(volume, run, "clahe", self.ignore)
            ignored = {int(v) for v in greys.ignored}
            low, high = int(greys.values[0]), int(greys.values[-1])
        else:
            low, high = grey_range(volume, run, "clahe")
        bins = _Bins.between(low, high, volume.dtype, self.num_bins, ignored)
        return bins, _gather(volume, bins, kernel, run, self.num_bins + 1)[..., : self.num_bins]

    def _ignored(self, values: np.ndarray, counts: np.ndarray) -> set[int]:
        """Say which grey values take no part."""
        if self.ignore is not None:
            return {int(v) for v in self.ignore if 0 <= v < values.size}
        used = counts > 0
        padding = find_padding(Greys(values[used], counts[used])) if used.any() else None
        return set() if padding is None else {int(padding)}


@attrs.frozen(eq=False)
class _Bins:
    """Grey values to bins. 8 and 16 bit images go straight through `lut`, others become levels first."""

    lut: np.ndarray
    low: float = 0
    high: float = 0
    ignored: tuple[int, ...] = ()  # grey values of the bin behind the last

    @classmethod
    def between(cls, low: Any, high: Any, dtype: np.dtype[Any], num_bins: int, ignored: Collection[int] = ()) -> _Bins:
        bin_size = 1 + NUM_LEVELS // num_bins
        if dtype in (np.uint8, np.uint16):
            values = np.clip(np.arange(np.iinfo(dtype).max + 1), low, high)
            lut = (_levels(values, low, high) // bin_size).astype(np.uint16)
            lut[list(ignored)] = num_bins
            return cls(lut, ignored=tuple(sorted(ignored)))
        return cls((np.arange(NUM_LEVELS) // bin_size).astype(np.uint16), low, high)

    def prepare(self, block: np.ndarray) -> np.ndarray:
        if block.dtype in (np.uint8, np.uint16):
            return np.ascontiguousarray(block, block.dtype.newbyteorder("="))
        return _levels(block, self.low, self.high).astype(np.uint16)


def _nearest_filled(maps: np.ndarray, in_tile: np.ndarray, num_voxels: int) -> np.ndarray:
    """Give tiles that are nearly all padding the mapping of the nearest that is not."""
    from scipy import ndimage

    empty = in_tile < FILLED * num_voxels
    if not empty.any() or empty.all():
        return maps
    at = ndimage.distance_transform_edt(empty, return_distances=False, return_indices=True)
    return np.asarray(maps[tuple(at)])


def _with_ignored(maps: np.ndarray, bins: _Bins) -> np.ndarray:
    """Add the bin of what takes no part, which stays black."""
    if not bins.ignored:
        return maps
    return np.concatenate([maps, np.zeros((*maps.shape[:3], 1), maps.dtype)], axis=3)


def _levels(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return np.rint((values.astype(np.float64) - low) / (float(high) - float(low)) * (NUM_LEVELS - 1)).astype(np.int64)


@attrs.frozen(eq=False)
class FittedClahe(Fitted):
    """The mappings of all tiles of one volume."""

    output: Spec
    bins: _Bins
    maps: np.ndarray  # uint16, (tile z, tile y, tile x, bin) -> level
    kernel: Zyx
    finish: np.ndarray  # level -> result
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return box

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        from asem_preprocessors._clahe_kernels import interpolate

        result = np.empty(block.shape, self.finish.dtype)
        prepared = self.bins.prepare(finite(block, box, "clahe"))
        interpolate(prepared, box.begin, self.bins.lut, self.maps, self.kernel, self.finish, result)
        return result


def _gather(volume: Volume, bins: _Bins, kernel: Zyx, run: Run, num_bins: int = 256) -> np.ndarray:
    """Histogram every tile of the grid, whole tiles at a time."""
    from asem_core.blocks import map_blocks

    block = as_zyx([k * -(-SMALLEST_PASS // k) for k in kernel])
    tiles = as_zyx([-(-n // k) for n, k in zip(volume.shape, kernel, strict=True)])
    counts = np.zeros((*tiles, num_bins), np.int64)
    load = functools.partial(_load_counter, volume, bins, kernel, num_bins)
    for box, found in map_blocks(load, volume.box, block, run, name="clahe-histograms"):
        at = [b // k for b, k in zip(box.begin, kernel, strict=True)]
        counts[tuple(slice(a, a + n) for a, n in zip(at, found.shape[:3], strict=True))] = found
    return counts


def _load_counter(volume: Volume, bins: _Bins, kernel: Zyx, num_bins: int) -> Callable[[Box], np.ndarray]:
    from asem_preprocessors._clahe_kernels import tile_histograms

    def count(box: Box) -> np.ndarray:
        end = [-(-e // k) * k for e, k in zip(box.end, kernel, strict=True)]
        block = bins.prepare(volume.read(Box(box.begin, as_zyx(end)), "reflect"))
        return np.asarray(tile_histograms(block, bins.lut, kernel, num_bins).astype(np.uint32))

    return count


def _result_range(fitted: FittedClahe, volume: Volume, counts: np.ndarray) -> tuple[int, int]:
    """Find the least and greatest level that the volume maps to, which the result stretches to its whole range.

    Mappings ascend, so a tile's extremes lie where its darkest and its brightest bin would: bounded by the mappings
    around it. Tiles are computed in order of promise, until none can beat the best found: a few of them, as a rule.
    """
    dark = counts.astype(bool).argmax(axis=3)
    bright = counts.shape[3] - 1 - counts[..., ::-1].astype(bool).argmax(axis=3)
    least, greatest = NUM_LEVELS, -1
    empty = ~counts.any(axis=3)  # nothing but padding
    lower = np.where(empty, np.inf, _at_corners(fitted, dark).min(axis=(0, 1, 2)) - 1)  # one level for rounding
    for tile in _in_order(lower):
        if lower[tile] >= least or least == 0:
            break
        least = min(least, int(_tile_result(fitted, volume, tile).min(initial=NUM_LEVELS - 1)))
    upper = np.where(empty, -np.inf, _at_corners(fitted, bright).max(axis=(0, 1, 2)) + 1)
    for tile in _in_order(-upper):
        if upper[tile] <= greatest or greatest == NUM_LEVELS - 1:
            break
        greatest = max(greatest, int(_tile_result(fitted, volume, tile).max(initial=0)))
    return least, greatest


def _at_corners(fitted: FittedClahe, bins: np.ndarray) -> np.ndarray:
    """Map one bin of each tile at its begin, centre and end on each axis: (3, 3, 3, tile z, tile y, tile x).

    Between these 27 points the interpolation is linear along each axis, so it goes nowhere beyond them.
    """
    around = np.empty((3, 3, 3, *bins.shape))
    grid = np.indices(bins.shape)
    for step in np.ndindex(3, 3, 3):
        z, y, x = (np.clip(g + s - 1, 0, n - 1) for g, s, n in zip(grid, step, bins.shape, strict=True))
        around[step] = fitted.maps[z, y, x, bins]
    z, y, x = (
        np.array([[1 - k // 2 / k, k // 2 / k, 0], [0, 1, 0], [0, 1 - (k // 2 - 1) / k, (k // 2 - 1) / k]])
        for k in fitted.kernel
    )
    return np.einsum("ap,bq,cr,pqr...->abc...", z, y, x, around)


def _in_order(keys: np.ndarray) -> list[tuple[int, ...]]:
    return [tuple(map(int, np.unravel_index(i, keys.shape))) for i in np.argsort(keys, axis=None, kind="stable")]


def _tile_result(fitted: FittedClahe, volume: Volume, tile: tuple[int, ...]) -> np.ndarray:
    begin = as_zyx([t * k for t, k in zip(tile, fitted.kernel, strict=True)])
    box = Box(begin, as_zyx([b + k for b, k in zip(begin, fitted.kernel, strict=True)])) & volume.box
    block = volume.read(box)
    result = fitted(block, box)
    return result[~np.isin(block, fitted.bins.ignored)] if fitted.bins.ignored else result


@hookimpl
def register_preprocessors() -> list[type[Clahe]]:
    return [Clahe]
