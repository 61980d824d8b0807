"""Where a stack is empty: the grey values of padding, and of resin around the cell, found from its histogram."""

from __future__ import annotations

import functools
import math
from typing import TYPE_CHECKING

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.volume import Box, Volume, as_zyx
from asem_preprocessors._greys import PASS_BLOCK, Greys, grey_histogram, not_finite

if TYPE_CHECKING:
    from asem_core.blocks import Run

BINS = 256
LEAST_SHARE = 0.005  # of the cubes that are resin, or tissue; less is no mode of its own
LEAST_CUBES = 50
DEEPEST_VALLEY = (
    0.5  # of the lower of two modes: less and they are two. Tissue has 0.6 and more, tissue in resin 0.02 to 0.33
)
FLATTEST = 0.8  # of the tissue's texture: resin has 0.44 to 0.76
PADDING_SHARE = 0.001  # of the voxels that have one value at an end of the range
CLUSTERED = 0.5  # of the voxels of padding that lie among such; a rim of 6 voxels has 0.67


@attrs.frozen
class Limits:
    """The grey values that the cell lies between, both excluded; `of_means` if resin was told from tissue by means of voxels."""

    darkest: float = -math.inf
    brightest: float = math.inf
    of_means: bool = False

    @property
    def exist(self) -> bool:
        return bool(np.isfinite([self.darkest, self.brightest]).any())


@attrs.define(eq=False)
class Cubes:
    """The greys of cubes of voxels: how many have which mean, and how uneven these are inside. Padding has no part in it.

    Resin is a mode of its own at one end of this histogram, and flatter than tissue; a single voxel's grey tells little, since
    bright cytoplasm is as bright.
    """

    low: float
    high: float
    padding: Limits
    counts: np.ndarray = attrs.field(factory=lambda: np.zeros(BINS, np.int64))
    unevenness: np.ndarray = attrs.field(factory=lambda: np.zeros(BINS))

    @classmethod
    def of(cls, volume: Volume, run: Run, what: str) -> Cubes:
        """Find the range and the padding of a volume; cubes are added block by block.

        Raises
        ------
        BadInput
            The image has one grey value, or NaN or infinite ones.
        """
        greys = grey_histogram(volume, run, what, ignore=())
        return cls(float(greys.values[0]), float(greys.values[-1]), _padding(volume, greys, run, what))

    def add(self, means: np.ndarray, spreads: np.ndarray) -> None:
        """Count cubes by their means and standard deviations, any shape; NaN is left out."""
        kept = np.isfinite(spreads)
        share = (means[kept] - self.low) / (self.high - self.low)
        at = np.rint(np.clip(share, 0, 1) * (BINS - 1)).astype(np.intp)
        self.counts += np.bincount(at, minlength=BINS)
        self.unevenness += np.bincount(at, spreads[kept], BINS)

    def limits(self) -> Limits:
        """Find what the cell lies between; nothing where all is tissue."""
        from scipy import ndimage

        num = max(int(self.counts.sum()), 1)
        share = np.cumsum(self.counts) / num
        # As wide as Silverman (1986) smooths a sample of this size: the fewer cubes, the wider.
        quartiles = np.searchsorted(share, (0.25, 0.75))
        width = 0.9 * (quartiles[1] - quartiles[0]) / 1.34 * num**-0.2
        fine, smooth = (
            ndimage.gaussian_filter1d(self.counts.astype(float), w, mode="constant") for w in (2, max(width, 2))
        )
        least = max(LEAST_SHARE, LEAST_CUBES / num)
        found: list[tuple[float, int]] = [
            (smooth[t] / min(smooth[:t].max(), smooth[t + 1 :].max()), t)
            for t in range(1, BINS - 1)
            if share[t - 1] >= least and 1 - share[t] >= least
        ]
        depth, valley = min(found, default=(1.0, 0))
        if depth >= DEEPEST_VALLEY:
            return self.padding
        dark, bright = _Mode.of(self, smooth, range(valley)), _Mode.of(self, smooth, range(valley + 1, BINS))
        step = (self.high - self.low) / (BINS - 1)
        if bright.unevenness <= FLATTEST * dark.unevenness:
            grey = self.low + step * max(valley, bright.foot(fine, valley) - bright.unevenness / step)
            return attrs.evolve(self.padding, brightest=min(grey, self.padding.brightest), of_means=True)
        if dark.unevenness <= FLATTEST * bright.unevenness:
            grey = self.low + step * min(valley, dark.foot(fine, valley) + dark.unevenness / step)
            return attrs.evolve(self.padding, darkest=max(grey, self.padding.darkest), of_means=True)
        return self.padding


@attrs.frozen
class _Mode:
    """One mode of the histogram of cubes: its most frequent bin, and how uneven cubes of means about as frequent are."""

    peak: int
    unevenness: float

    @classmethod
    def of(cls, cubes: Cubes, smooth: np.ndarray, bins: range) -> _Mode:
        part = slice(bins.start, bins.stop)
        often = smooth[part] >= smooth[part].max() / 2
        uneven = cubes.unevenness[part][often].sum() / max(cubes.counts[part][often].sum(), 1)
        return cls(bins[int(smooth[part].argmax())], float(uneven))

    def foot(self, fine: np.ndarray, valley: int) -> int:
        """Find the bin on the side of the valley where the mode has nearly ended: resin is narrow, the valley may be wide."""
        side = np.arange(self.peak, valley, 1 if valley > self.peak else -1)
        top = int(fine[side].argmax())
        ended = fine[side] <= fine[valley] + 0.1 * (fine[side[top]] - fine[valley])
        ended[:top] = False
        return int(side[ended.argmax()]) if ended.any() else valley


def cube_greys(volume: Volume, box: Box, *, edge: int, padding: Limits) -> np.ndarray:
    """Return the mean and the standard deviation of each cube of a block: float32 (2, z, y, x); the last may be cut.

    The standard deviation is NaN where padding is in the cube.

    Raises
    ------
    BadInput
        A voxel is NaN or infinite.
    """
    from asem_core.voxels.average import average

    block = volume.read(box).astype(np.float32)
    size = as_zyx(edge)
    means = average(block, size, np.float32)
    if not np.isfinite(means).all():
        raise not_finite(volume, box, "the cell cannot be distinguished from what is outside")
    is_padding = (block <= padding.darkest) | (block >= padding.brightest)
    middle = np.float32(block.mean())
    block -= middle  # squares of large values would lose their last digits
    spreads = np.sqrt(np.maximum(average(block * block, size, np.float32) - (means - middle) ** 2, 0))
    return np.stack([means, np.where(average(is_padding.astype(np.float32), size, np.float32) > 0, np.nan, spreads)])


def find_limits(volume: Volume, run: Run, what: str, edge: int = 8) -> Limits:
    """Find the grey values that the cell lies between, from padding and from the means of cubes of voxels."""
    from asem_core.blocks import map_blocks

    cubes = Cubes.of(volume, run, what)
    work = functools.partial(cube_greys, edge=edge, padding=cubes.padding)
    load = functools.partial(functools.partial, work, volume)
    for _, (means, spreads) in map_blocks(load, volume.box, PASS_BLOCK, run, name=f"{what}-cubes"):
        cubes.add(means, spreads)
    return cubes.limits()


def given_limits(volume: Volume, darkest: float | None, brightest: float | None, what: str) -> Limits:
    """Take the limits that a user gave; one that is left out does not limit.

    Raises
    ------
    BadInput
        They are the wrong way round.
    """
    limits = Limits(-np.inf if darkest is None else darkest, np.inf if brightest is None else brightest)
    if not limits.darkest < limits.brightest:
        raise BadInput(f"{what}: darkest ({darkest:g}) must be less than brightest ({brightest:g}).")
    return limits


def _padding(volume: Volume, greys: Greys, run: Run, what: str) -> Limits:
    """Find values at the ends of the range that fill what was not imaged: more frequent than those beside them, and in one piece.

    Bright ones are the greatest of their type. What interpolation leaves beside padding, within a hundredth of the range, counts
    as padding. Saturated voxels are no padding: they are scattered.
    """
    from asem_core.blocks import map_blocks

    values, counts = greys.values, greys.counts
    rim = (values[-1] - values[0]) / 100

    def is_frequent(end: int) -> bool:
        near = (np.abs(values - values[end]) <= max(5 * rim, 1)) & (values != values[end])
        others = counts[near].max() if near.any() else 0
        return bool(counts[end] >= PADDING_SHARE * counts.sum() and counts[end] > 5 * others)

    greatest = volume.dtype.kind == "f" or values[-1] == np.iinfo(volume.dtype).max
    limits = Limits(
        values[0] + rim if is_frequent(0) else -np.inf, values[-1] - rim if greatest and is_frequent(-1) else np.inf
    )
    if not limits.exist:
        return limits
    work = functools.partial(functools.partial, functools.partial(_clustered, limits=limits), volume)
    found = np.sum([n for _, n in map_blocks(work, volume.box, PASS_BLOCK, run, name=f"{what}-padding")], axis=0)
    dark, bright = found[:, 1] > CLUSTERED * found[:, 0]
    return Limits(limits.darkest if dark else -np.inf, limits.brightest if bright else np.inf)


def _clustered(volume: Volume, box: Box, *, limits: Limits) -> np.ndarray:
    """Count the voxels of a block beyond each limit, and those of them whose four neighbours in the plane are, too: (2, 2)."""
    block = volume.read(box)

    def count(beyond: np.ndarray) -> list[int]:
        grown = np.pad(beyond, ((0, 0), (1, 1), (1, 1)), constant_values=True)
        around = grown[:, :-2, 1:-1] & grown[:, 2:, 1:-1] & grown[:, 1:-1, :-2] & grown[:, 1:-1, 2:]
        return [np.count_nonzero(beyond), np.count_nonzero(beyond & around)]

    return np.array([count(block <= limits.darkest), count(block >= limits.brightest)])
