"""The grey values of a whole volume: their range and histogram, gathered block by block."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.volume import Box, Volume

if TYPE_CHECKING:
    from asem_core.blocks import Run

log = logging.getLogger("asem_core")

PASS_BLOCK = 256  # edge in voxels; not `run.block`: what is gathered must not depend on it
NUM_FLOAT_BINS = 1 << 16
PADDING_SHARE = 0.1  # of the voxels, from which on a value at the end of the range may be padding
HISTOGRAM_DTYPES = ("bool", "uint8", "int8", "uint16", "int16")


@attrs.frozen(eq=False)
class Greys:
    """The histogram of a volume: ascending grey values, how many voxels have each, and which were left out.

    Whole numbers of up to 16 bits are counted exactly; others in 65,536 bins over their range, named by their centres.
    """

    values: np.ndarray
    counts: np.ndarray
    ignored: tuple[float, ...] = ()

    @property
    def mean(self) -> float:
        return float((self.values * self.counts).sum() / self.counts.sum())

    @property
    def std(self) -> float:
        return float(np.sqrt(((self.values - self.mean) ** 2 * self.counts).sum() / self.counts.sum()))

    def percentile(self, percent: float) -> float:
        """Return the smallest grey value that at least `percent` of the voxels do not exceed."""
        cumulated = np.cumsum(self.counts)
        at = np.searchsorted(cumulated, percent / 100 * cumulated[-1] * (1 - 1e-12))
        return float(self.values[min(int(at), self.values.size - 1)])


def grey_range(volume: Volume, run: Run, what: str) -> tuple[Any, Any]:
    """Return the least and greatest grey value.

    Raises
    ------
    BadInput
        A voxel is NaN or infinite, or all voxels are alike; says where, and that `what` cannot be done.
    """
    from asem_core.blocks import map_blocks

    lowest, highest = [], []
    for box, (low, high) in map_blocks(
        _loader(_block_range, volume), volume.box, PASS_BLOCK, run, name=f"{what}-range"
    ):
        if not (np.isfinite(low) and np.isfinite(high)):
            raise not_finite(volume, box, what)
        lowest.append(low)
        highest.append(high)
    low, high = min(lowest), max(highest)
    require_contrast(volume, low, high, what)
    return low, high


def not_finite(volume: Volume, box: Box, what: str) -> BadInput:
    """Return the error that says where NaN or infinite values are."""
    return BadInput(
        f"{volume.path} holds NaN or infinite values in box {box}, so {what} cannot use it. "
        "Replace them (for example by 0) where the image was exported, and import it again."
    )


def require_contrast(volume: Volume, low: Any, high: Any, what: str) -> None:
    """Refuse an image of one grey value.

    Raises
    ------
    BadInput
    """
    if low == high:
        raise BadInput(
            f"Every voxel of {volume.path} has the value {low}, so {what} has nothing to work on. "
            "Was the image imported, or cropped, at the right place?"
        )


def grey_histogram(volume: Volume, run: Run, what: str, ignore: Sequence[float] | None = None) -> Greys:
    """Count the grey values of a volume, leaving out those in `ignore`; None leaves out padding (see `find_padding`).

    Raises
    ------
    BadInput
        A voxel is NaN or infinite; all voxels are alike, or all are ignored.
    """
    from asem_core.blocks import map_blocks

    if volume.dtype.name in HISTOGRAM_DTYPES:
        kind = "u1" if volume.dtype == bool else volume.dtype
        info = np.iinfo(kind)
        low, high, bins = info.min, info.max, int(info.max) - int(info.min) + 1
        values = np.arange(bins, dtype=np.float64) + low
    else:
        low, high = (float(v) for v in grey_range(volume, run, what))
        bins = NUM_FLOAT_BINS
        values = low + (np.arange(bins) + 0.5) * ((high - low) / bins)
    work = functools.partial(_block_histogram, low=low, high=high, bins=bins, ignore=tuple(ignore or ()))
    counts = np.zeros(bins, np.int64)
    for _, found in map_blocks(_loader(work, volume), volume.box, PASS_BLOCK, run, name=f"{what}-histogram"):
        counts += found
    used = counts > 0
    if not used.any():
        raise BadInput(f"Every voxel of {volume.path} is among the ignored grey values {list(ignore or ())}.")
    require_contrast(volume, values[used].min(), values[used].max(), what)
    greys = Greys(values[used], counts[used])
    padding = find_padding(greys) if ignore is None else None
    if padding is None:
        return attrs.evolve(greys, ignored=tuple(ignore or ()))
    log.info("%s: the value %g is taken as padding and left out of %s.", volume.path, padding, what)
    kept = greys.values != padding
    return Greys(greys.values[kept], greys.counts[kept], (padding,))


def find_padding(greys: Greys) -> float | None:
    """Find the value that fills what was not imaged: darkest or brightest, far more than a tenth, and far more than any other.

    Such are the zeros around a tilted region of interest. None if there is no such value.
    """
    if greys.values.size < 4:
        return None
    at = int(greys.counts.argmax())
    others = np.delete(greys.counts, at)
    is_end = at in (0, greys.values.size - 1)
    if is_end and greys.counts[at] > PADDING_SHARE * greys.counts.sum() and greys.counts[at] > 5 * others.max():
        return float(greys.values[at])
    return None


def finite(block: np.ndarray, box: Box, what: str) -> np.ndarray:
    """Return the block as it is, or refuse it.

    Raises
    ------
    BadInput
        A voxel is NaN or infinite.
    """
    if block.dtype.kind == "f" and not np.isfinite(block).all():
        raise BadInput(f"NaN or infinite values near box {box}, so {what} cannot go on. Replace them in the source.")
    return block


def changed(change: Callable[[np.ndarray], np.ndarray], block: np.ndarray, box: Box, what: str) -> np.ndarray:
    """Change each grey value by itself; those of unsigned whole numbers of up to 16 bits are few, and worked out once each.

    Raises
    ------
    BadInput
        A voxel is NaN or infinite.
    """
    if block.dtype in (np.uint8, np.uint16):
        return change(np.arange(np.iinfo(block.dtype).max + 1))[block]
    return change(finite(block, box, what))


def _loader(work: Callable[..., np.ndarray], volume: Volume) -> Callable[[], Callable[[Box], np.ndarray]]:
    return functools.partial(functools.partial, work, volume)


def _block_range(volume: Volume, box: Box) -> np.ndarray:
    block = volume.read(box)
    return np.array([block.min(), block.max()])


def _block_histogram(
    volume: Volume, box: Box, *, low: float, high: float, bins: int, ignore: Sequence[float]
) -> np.ndarray:
    counts = np.zeros(bins, np.int64)
    for plane in volume.read(box):
        kept = plane.ravel()
        if ignore:
            kept = kept[~np.isin(kept, ignore)]
        if plane.dtype.name in HISTOGRAM_DTYPES:
            index = kept.astype(np.intp) - int(low)
        else:
            index = np.minimum(((kept - low) * (bins / (high - low))).astype(np.intp), bins - 1)
        counts += np.bincount(index, minlength=bins)
    return counts
