"""How much of its type's range an image uses: a network sees grey values relative to white, the type's largest."""

from __future__ import annotations

from itertools import product

import numpy as np

from asem_core.volume import Box, Volume, full_range

LEAST_SHARE = 1 / 8
"""An image that uses less of its type's range is questioned: 12 bits in 16 are a sixteenth."""

_EDGE = 32  # voxels, of each box that is looked at


def greys_used(volume: Volume) -> tuple[float, float]:
    """Look at 27 small boxes all over an image: between which grey values 99 % of their voxels lie."""
    corners = [sorted({0, (n - _EDGE) // 2, n - _EDGE} if n > _EDGE else {0}) for n in volume.shape]
    boxes = [Box(corner, [c + _EDGE for c in corner]) & volume.box for corner in product(*corners)]
    values = np.concatenate([volume.read(box).ravel() for box in boxes])
    values = values[np.isfinite(values)]
    low, high = np.percentile(values, [0.5, 99.5]) if values.size else (0.0, 0.0)
    return float(low), float(high)


def question_greys(name: str, low: float, high: float, dtype: np.dtype[np.generic]) -> str | None:
    """Say so where grey values from `low` to `high` are little of what their type holds, and what to do."""
    share = (high - low) / full_range(dtype)
    if low == high or share >= LEAST_SHARE:
        return None
    return (
        f"{name}: grey values lie between {low:.5g} and {high:.5g}, {share:.1%} of the range of {dtype}, as 12 bits in 16, or a constant "
        "offset, make it. A network sees them relative to the whole range: to one trained on images that fill it, this image is flat. Stretch "
        f"it: asem import ... --set grey_range=[{np.floor(low):.0f},{np.ceil(high):.0f}], or the step 'normalize'."
    )
