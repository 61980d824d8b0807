"""How much of its type's range an image uses: a network sees grey values relative to white, the type's largest."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np

from asem_core.errors import Option
from asem_core.volume import Box, Volume, full_range

LEAST_SHARE = 1 / 8
"""An image that uses less of its type's range is questioned: 12 bits in 16 are a sixteenth."""

PERCENTILES = (1, 5, 25, 50, 75, 95, 99)
"""Those of the grey values behind weights that are kept with them."""

LEAST_COMMON = 1 / 2
"""The part of the range behind weights that an image must use, and one and a half times that of the reverse."""

_EDGE = 32  # voxels, of each box that is looked at


def sample_boxes(volume: Volume) -> Iterator[Box]:
    """Choose 27 small boxes all over a volume."""
    corners = [sorted({0, (n - _EDGE) // 2, n - _EDGE} if n > _EDGE else {0}) for n in volume.shape]
    for corner in product(*corners):
        yield Box(corner, [c + _EDGE for c in corner]) & volume.box


def greys_used(volume: Volume) -> tuple[float, float]:
    """Look at 27 small boxes all over an image: between which grey values 99 % of their voxels lie."""
    values = _sample(volume)
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 0.0)
    return float(low), float(high)


def grey_percentiles(volumes: Sequence[Volume]) -> tuple[float, ...]:
    """Sum up images by `PERCENTILES` of their grey values, as parts of white (see `full_range`).

    Looks at 27 small boxes all over each; black and white voxels, which may be padding, are left out. Empty where nothing else is.
    """
    parts = [_sample(volume) / full_range(volume.dtype) for volume in volumes]
    values = np.concatenate([part[(part > 0) & (part < 1)] for part in parts])
    return tuple(round(float(v), 4) for v in np.percentile(values, PERCENTILES)) if values.size else ()


def _sample(volume: Volume) -> np.ndarray:
    values = np.concatenate([volume.read(box).ravel() for box in sample_boxes(volume)])
    finite: np.ndarray = values[np.isfinite(values)]
    return finite


def question_other_greys(name: str, found: Sequence[float], expected: Sequence[float], title: str) -> str | None:
    """Say so where the grey values of an image are far from those of the images behind weights.

    Parameters
    ----------
    found, expected : see `grey_percentiles`; nothing is said where one is not known
    title : of the weights
    """
    if len(found) != len(PERCENTILES) or len(expected) != len(PERCENTILES):
        return None
    low, high = found[0], found[-1]
    seen = _common((expected[1], expected[-2]), (low, high))
    known = _common((found[1], found[-2]), (expected[0], expected[-1]))
    if seen >= LEAST_COMMON and known >= LEAST_COMMON / 1.5:
        return None
    return (
        f"{name}: grey values lie between {low:.1%} and {high:.1%} of white, those of the training images of {title} between "
        f"{expected[0]:.1%} and {expected[-1]:.1%}: a prediction of this image means little. Rescale or match them first: "
        "asem preprocess CELL --use normalize (or match-histogram); or was the image imported with the wrong grey_range?"
    )


def _common(interval: tuple[float, float], other: tuple[float, float]) -> float:
    """Say which part of an interval another covers."""
    low, high = interval
    return (
        (min(high, other[1]) - max(low, other[0])) / (high - low) if high > low else float(other[0] <= low <= other[1])
    )


def question_greys(name: str, low: float, high: float, dtype: np.dtype[np.generic]) -> str | None:
    """Say so where grey values from `low` to `high` are little of what their type holds, and what to do."""
    share = (high - low) / full_range(dtype)
    if low == high or share >= LEAST_SHARE:
        return None
    return (
        f"{name}: grey values lie between {low:.5g} and {high:.5g}, {share:.1%} of the range of {dtype}, as with 12-bit "
        "data in 16 bits or a constant offset. Networks use grey values relative to the whole range, so to most of them this image has hardly any contrast. "
        f"Rescale it when it is imported, {Option('grey_range', [float(np.floor(low)), float(np.ceil(high))], of_plugin=True)}, or by the step 'normalize'."
    )
