"""Supervoxels: small pieces that should not be cut. Two ways: SLIC, as published, and basins between membranes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from asem_core.voxels.slabs import in_slabs

FINER = 0.7  # of sigma, for greys: they need no derivatives


def slic(
    image: np.ndarray, spacing: Sequence[float], count: int, compactness: float, iterations: int
) -> tuple[np.ndarray, int]:
    """Cut an image into about `count` compact pieces of similar grey, each connected through faces.

    3D SLIC (Achanta et al. 2012) on greys of 0-255: compactness is the grey difference that weighs as much as one edge
    of the seed grid. Our own loops, since scikit-image takes 12-16 s for 200^3 voxels on one core.

    Returns
    -------
    labels : int32, shape of the image, 0..n-1
    n : int
    """
    from asem_annotators import _kernels

    image = np.ascontiguousarray(image, np.float32)
    spacing_ = np.asarray(spacing, float)
    edge = max(1.0, np.floor((image.size * spacing_.prod() / count) ** (1 / 3) + 1e-9))
    step = np.maximum(1, edge / spacing_)
    cells = [
        np.minimum(np.arange(n) // s, max(1, round(n / s)) - 1).astype(np.int32)
        for n, s in zip(image.shape, step, strict=True)
    ]
    shape = [int(c[-1]) + 1 for c in cells]
    labels = np.ascontiguousarray(
        (cells[0][:, None, None] * shape[1] + cells[1][:, None]) * shape[2] + cells[2], np.int32
    )
    weight = (compactness / edge * spacing_) ** 2
    num = int(np.prod(shape))
    for iteration in range(iterations + 1):
        size, grey, centre, _ = _kernels.sums(labels, image, 1, 0.0, 1.0, num)
        if iteration == iterations:
            break
        used = np.maximum(size, 1)
        centre, grey = (centre / used[:, None]).astype(np.float32), (grey / used).astype(np.float32)
        centre[size == 0] = -1e6  # a piece that lost every voxel reaches none
        in_slabs(lambda a, b: _kernels.assign(image, centre, grey, step, weight, labels, a, b), image.shape[0])  # noqa: B023
    return _connected(labels, smallest=edge**3 / spacing_.prod() / 4)


def basins(height: np.ndarray) -> tuple[np.ndarray, int]:
    """Cut an image into the basins of its local minima, by steepest descent over 26 neighbours.

    Returns
    -------
    labels : int32, shape of `height`, 0..n-1
    n : int
    """
    from asem_annotators import _kernels

    height = np.ascontiguousarray(height, np.float32)
    labels = np.empty(height.shape, np.int32)
    in_slabs(lambda a, b: _kernels.point_downhill(height, labels, a, b), height.shape[0])
    return labels, int(_kernels.follow(labels.reshape(-1)))


def membranes(image: np.ndarray, spacing: Sequence[float], sigma: float) -> np.ndarray:
    """Measure how much each voxel lies on a dark sheet, 0-255: the largest Hessian eigenvalue, scaled to its own range.

    Parameters
    ----------
    image
        Greys, dark membranes.
    spacing
        Voxel size in units of its finest edge.
    sigma
        Of the Gaussian the derivatives are taken at, in finest edges; about half a membrane's thickness.

    Returns
    -------
    float32, shape of the image: 0 is the 2nd percentile and 255 the 99.5th; not rounded.
    """
    from scipy import ndimage

    from asem_annotators import _kernels

    smooth = np.empty(image.shape, np.float32)
    ndimage.gaussian_filter(image, [sigma / s for s in spacing], output=smooth, mode="nearest")
    sheet = np.empty(image.shape, np.float32)
    in_slabs(lambda a, b: _kernels.ridge(smooth, np.asarray(spacing, float), sheet, a, b), image.shape[0])
    return _to_bytes(sheet)


def walls(image: np.ndarray, sheet: np.ndarray, spacing: Sequence[float], sigma: float) -> np.ndarray:
    """Measure how much each voxel is part of a membrane: on a dark sheet and, as much, dark itself.

    Parameters
    ----------
    sheet
        What `membranes` returns for the same image, spacing and sigma.

    Returns
    -------
    uint8, shape of the image
    """
    from scipy import ndimage

    grey = np.empty(image.shape, np.float32)
    ndimage.gaussian_filter(image, [FINER * sigma / s for s in spacing], output=grey, mode="nearest")
    np.negative(grey, out=grey)
    _to_bytes(grey)
    grey += sheet
    grey /= 2
    return grey.astype(np.uint8)


def _to_bytes(values: np.ndarray) -> np.ndarray:
    """Stretch values (float32) in place so that the 2nd percentile is 0 and the 99.5th 255; clip the rest."""
    every = tuple(slice(None, None, max(1, n // m)) for n, m in zip(values.shape, (64, 128, 128), strict=True))
    low, high = np.percentile(values[every], [2, 99.5])
    values -= low
    values *= 255 / max(high - low, 1e-6)
    return np.clip(values, 0, 255, out=values)


def _connected(labels: np.ndarray, smallest: float) -> tuple[np.ndarray, int]:
    """Split pieces into connected ones, and give those under `smallest` voxels to the neighbour they touch most."""
    import cc3d

    from asem_annotators import _kernels

    parts, count = cc3d.connected_components(labels + 1, connectivity=6, return_N=True, out_dtype=np.uint32)
    parts = parts.view(np.int32)
    parts -= 1
    size = np.bincount(parts.ravel(), minlength=count)
    first, second, area, *_ = _kernels.faces(parts, count, np.zeros(labels.shape, np.uint8), np.ones(3))
    owner = np.arange(count)
    order = np.argsort(np.r_[area, area], kind="stable")
    best = np.full(count, -1)
    best[np.r_[first, second][order]] = np.r_[second, first][order]  # the last write, the largest contact, stays
    small = np.flatnonzero(size < smallest)
    for piece in small[np.argsort(size[small], kind="stable")].tolist():
        root, mine = _root(owner, int(best[piece])), _root(owner, piece)
        if best[piece] >= 0 and root != mine:
            owner[mine] = root
    roots = np.array([_root(owner, i) for i in range(count)])
    _, names = np.unique(roots, return_inverse=True)
    return names.astype(np.int32)[parts], int(names.max()) + 1


def _root(owner: np.ndarray, i: int) -> int:
    while owner[i] != i:
        owner[i] = owner[owner[i]]
        i = int(owner[i])
    return i
