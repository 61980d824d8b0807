"""Local shape descriptors: what an object looks like around each of its voxels (Sheridan et al. 2022, Nature Methods 20).

In a Gaussian window around a voxel, of the voxels of its own object there: their mean offset from it (3), the variance of their
positions (3), the correlations between the axes (zy, zx, yx), and which part of the window they are. Lengths are in standard
deviations of the window, and everything is scaled into 0 to 1 as in the paper: offsets and correlations to (v + 1) / 2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from asem_core.volume import Zyx

if TYPE_CHECKING:
    import torch

TRUNCATE = 3.0
"""The window ends after so many standard deviations."""

LEAST_VARIANCE = 1e-3
"""Below it (in squared standard deviations) an object is a plane, a line or a point along an axis: correlations count as with it."""


def reach_of(sigma_vx: Sequence[float]) -> Zyx:
    """Say how many voxels around a voxel its descriptors depend on, zyx."""
    z, y, x = (int(TRUNCATE * s + 0.5) for s in sigma_vx)
    return (z, y, x)


def local_shape_descriptors(ids: torch.Tensor, sigma_vx: Sequence[float], margin: Zyx = (0, 0, 0)) -> torch.Tensor:
    """Describe the shape of each object around each of its voxels.

    Parameters
    ----------
    ids : int64 (z, y, x): 0 or less is no object
    sigma_vx : standard deviation of the window, zyx
    margin : voxels at each side that are looked at, but not described; beyond `ids` there is nothing

    Returns
    -------
    float32 (10, z, y, x), on the same device; 0 where there is no object
    """
    import torch

    inner = tuple(slice(m, n - m) for m, n in zip(margin, ids.shape, strict=True))
    own = ids[inner]
    result = torch.zeros((10, *own.shape), dtype=torch.float32, device=ids.device)
    for one in torch.unique(own[own > 0]).tolist():
        mask = ids == one
        there = [torch.nonzero(mask.any(a).any(b))[:, 0] for a, b in ((2, 1), (2, 0), (1, 0))]
        extent = [(int(t[0]), int(t[-1]) + 1) for t in there]
        # Of what is described, only the part around the object; of what is looked at, only the object.
        described = [(max(b, m), min(e, n - m)) for (b, e), m, n in zip(extent, margin, ids.shape, strict=True)]
        windows = [_windows(d, e, s) for d, e, s in zip(described, extent, sigma_vx, strict=True)]
        moments = _moments(mask[tuple(slice(*e) for e in extent)].float(), windows)
        place = tuple(slice(b - m, e - m) for (b, e), m in zip(described, margin, strict=True))
        inside = own[place] == one
        result[(slice(None), *place)] += _described(moments) * inside
    return result


def _windows(described: tuple[int, int], extent: tuple[int, int], sigma: float) -> list[np.ndarray]:
    """Give along an axis, for each voxel described (rows), the window's weights times the offset to the power 0, 1 and 2."""
    offset = np.arange(*extent)[None] - np.arange(*described)[:, None]
    radius = int(TRUNCATE * sigma + 0.5)
    t = np.arange(-radius, radius + 1) / sigma
    total = np.exp(-(t**2) / 2).sum()
    weight = np.where(np.abs(offset) <= radius, np.exp(-((offset / sigma) ** 2) / 2), 0) / total
    return [weight * (offset / sigma) ** k for k in range(3)]


def _moments(mask: torch.Tensor, windows: Sequence[Sequence[np.ndarray]]) -> dict[tuple[int, int, int], torch.Tensor]:
    """Add up the window's weights over an object, times offsets to the powers (z, y, x): ten sums, axis by axis."""
    import torch

    found: dict[tuple[int, ...], torch.Tensor] = {(): mask}
    for axis in range(3):
        kernels = [torch.from_numpy(w.astype(np.float32)).to(mask.device) for w in windows[axis]]
        # Each product consumes the first axis and appends the new one: after three of them, z, y, x again.
        found = {
            (*powers, k): torch.tensordot(values, kernels[k], dims=([0], [1]))
            for powers, values in found.items()
            for k in range(3 - sum(powers))
        }
    return found  # type: ignore[return-value]


def _described(moments: dict[tuple[int, int, int], torch.Tensor]) -> torch.Tensor:
    """Turn sums into the ten descriptors."""
    import torch

    size = moments[0, 0, 0]
    count = size.clamp(min=1e-12)
    z, y, x = (moments[power] / count for power in ((1, 0, 0), (0, 1, 0), (0, 0, 1)))
    variance = [
        moments[power] / count - mean * mean for power, mean in (((2, 0, 0), z), ((0, 2, 0), y), ((0, 0, 2), x))
    ]
    safe = [v.clamp(min=LEAST_VARIANCE) for v in variance]
    correlation = [
        (moments[power] / count - one * other) / (safe[a] * safe[b]).sqrt()
        for power, one, other, a, b in (((1, 1, 0), z, y, 0, 1), ((1, 0, 1), z, x, 0, 2), ((0, 1, 1), y, x, 1, 2))
    ]
    scaled = [(v + 1) / 2 for v in (z, y, x)], variance, [(v + 1) / 2 for v in correlation], [size]
    return torch.stack([v for part in scaled for v in part]).clamp(0, 1)
