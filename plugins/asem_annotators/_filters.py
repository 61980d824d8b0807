"""Multi-scale filters of an image: what a pixel classifier sees of each voxel and its surroundings.

For each scale: the smoothed image, the length of its gradient, its Laplacian, the eigenvalues of its Hessian and those of its
structure tensor, largest first. The Gaussian is separable; everything else of a scale is worked out in one pass over
the smoothed image, by differences of neighbours. Scales are in units of the finest edge of a voxel, so anisotropic
images are filtered as they lie in space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from asem_core.volume import Box, Zyx, as_zyx
from asem_core.voxels.slabs import in_slabs

PER_SCALE = 9
"""Maps of one scale: smoothed, gradient, Laplacian, three eigenvalues each of Hessian and structure tensor."""

_TRUNCATE = 3.0


def num_filters(scales: Sequence[float]) -> int:
    """Count the maps: the image itself, and `PER_SCALE` of each scale."""
    return 1 + PER_SCALE * len(scales)


def reach(scales: Sequence[float], spacing: Sequence[float]) -> Zyx:
    """Say how many voxels around a voxel its filters look at, zyx."""
    largest = max(scales)
    return as_zyx([2 * _radius(largest / s) + 2 for s in spacing])


def filters(image: np.ndarray, spacing: Sequence[float], scales: Sequence[float], inner: Box) -> np.ndarray:
    """Filter a block.

    Parameters
    ----------
    image : float32 (z, y, x), from 0 to 1, with as much around `inner` as there is of `reach`
    spacing : edges of a voxel, in units of the finest
    scales : standard deviations, in the same unit
    inner : the part of the block to return

    Returns
    -------
    float32 (maps, z, y, x)
    """
    from asem_annotators import _filter_kernels as kernels

    found = np.empty((num_filters(scales), *inner.shape), np.float32)
    found[0] = image[inner.slices]
    edges, whole = np.asarray(spacing, np.float64), Box.of_shape(image.shape)
    first = 1
    for scale in scales:
        sigma = [scale / s for s in spacing]
        around = inner.grow([_radius(s) for s in sigma]) & whole  # what the structure tensor is smoothed from
        seen = around.grow(1) & whole  # what its differences, and those of `inner`, look at
        smooth = gaussian(image, sigma, seen)
        maps = found[first : first + 6]
        at = inner.shift([-b for b in seen.begin]).begin
        in_slabs(lambda a, b: kernels.derivatives(smooth, edges, at, maps, a, b), inner.shape[0])  # noqa: B023
        products = np.empty((6, *around.shape), np.float32)
        corner = around.shift([-b for b in seen.begin]).begin
        in_slabs(lambda a, b: kernels.gradient_products(smooth, edges, corner, products, a, b), around.shape[0])  # noqa: B023
        within = inner.shift([-b for b in around.begin])
        tensor = np.stack([gaussian(product, sigma, within) for product in products])
        lines = found[first + 6 : first + PER_SCALE]
        in_slabs(lambda a, b: kernels.tensor_eigenvalues(tensor, lines, a, b), inner.shape[0])  # noqa: B023
        first += PER_SCALE
    return found


def gaussian(image: np.ndarray, sigma_vx: Sequence[float], inner: Box) -> np.ndarray:
    """Smooth the part `inner` of float32 (z, y, x) by a Gaussian, mirrored at the border; an axis with a sigma below 0.2 voxels stays as it is.

    Each axis is smoothed only where the next ones look, so that a plane costs little more than a plane.
    """
    from asem_annotators import _filter_kernels as kernels

    near = inner.grow([_radius(s) for s in sigma_vx]) & Box.of_shape(image.shape)
    image, inner = np.ascontiguousarray(image[near.slices]), inner.shift([-b for b in near.begin])
    for axis, sigma in enumerate(sigma_vx):
        if (radius := _radius(sigma)) == 0:
            continue
        weights = np.exp(-0.5 * (np.arange(radius + 1) / sigma) ** 2)
        weights = (weights / (2 * weights.sum() - weights[0])).astype(np.float32)
        shape, begin = list(image.shape), inner.begin[axis]
        shape[axis] = inner.shape[axis]
        source, image = image, np.empty(shape, np.float32)
        smooth = (kernels.smooth_z, kernels.smooth_y, kernels.smooth_x)[axis]
        in_slabs(lambda a, b: smooth(source, weights, begin, image, a, b), shape[0])  # noqa: B023
    return image


def slabs(shape: Zyx, most_vx: int) -> Iterator[tuple[int, int]]:
    """Cut planes into slabs of at most so many voxels."""
    step = max(1, most_vx // (shape[1] * shape[2]))
    for begin in range(0, shape[0], step):
        yield begin, min(begin + step, shape[0])


def _radius(sigma_vx: float) -> int:
    return max(1, int(_TRUNCATE * sigma_vx + 0.5)) if sigma_vx >= 0.2 else 0
