"""The nuclear envelope as a triangulation of the pores' centroids (steps 1 and 2 of Gallusser et al. 2022)."""

from __future__ import annotations

import attrs
import numpy as np

NEIGHBOURS = 10
"""Pores around a pore that say where the envelope runs."""
OUTLIER_MADS = 6.0
COARSE = 0.2
"""Part of the distance to its neighbours by which a pore may leave the surface through them."""
LOOSENESS = 1.6
"""Alpha over the smallest that gives every pore but a few its triangle."""


@attrs.frozen(eq=False)
class Envelope:
    """A triangulated surface through the centroids.

    A closed surface has each triangle once; where pores cover only a part of the envelope, it is an open sheet.
    """

    vertices_nm: np.ndarray  # float64 (n, 3)
    triangles: np.ndarray  # int (m, 3)
    triangle_normals: np.ndarray  # float64 (m, 3), unit length, pointing out of the nucleus
    vertex_normals: np.ndarray  # float64 (n, 3), NaN for a pore on no triangle
    alpha_nm: float


def off_surface_nm(centroids_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Say how far each centroid lies from the surface through its neighbours, and how far these are; both (n,).

    That surface is a plane with one curvature, fitted to the nearest neighbours without the pore itself; of the
    residuals the median filter is made in `outliers`. With fewer than six other pores the answer is 0.
    """
    from scipy.spatial import cKDTree

    n = len(centroids_nm)
    off = np.zeros(n)
    if n < 7:
        return off, off
    far, near = cKDTree(centroids_nm).query(centroids_nm, min(NEIGHBOURS, n - 1) + 1)
    for i, neighbours in enumerate(near[:, 1:]):
        around = centroids_nm[neighbours] - centroids_nm[i]
        _, _, axes = np.linalg.svd(around - around.mean(axis=0))
        u, v, height = axes @ around.T
        design = np.column_stack([np.ones_like(u), u, v, u**2 + v**2])
        off[i] = abs(np.linalg.lstsq(design, height, rcond=None)[0][0])
    return off, far[:, 1:].mean(axis=1)


def outliers(centroids_nm: np.ndarray, tolerance_nm: float) -> np.ndarray:
    """Find centroids off the envelope, bool (n,): farther than `tolerance_nm` and than the others usually are.

    The farthest are taken out first, and the rest judged again, so that an outlier does not condemn its neighbours.
    """
    out = np.zeros(len(centroids_nm), bool)
    while True:
        left = np.flatnonzero(~out)
        if not len(left):
            return out
        off, spacing = off_surface_nm(centroids_nm[left])
        usual = np.median(off) + OUTLIER_MADS * 1.4826 * np.median(np.abs(off - np.median(off)))
        # Neighbours far apart see less of how the envelope bends between them.
        beyond = off - np.maximum(np.maximum(tolerance_nm, usual), COARSE * spacing)
        if beyond.max() <= 0:
            return out
        out[left[beyond > 0.7 * beyond.max()]] = True


def triangulate(centroids_nm: np.ndarray, alpha_nm: float | None = None) -> Envelope:
    """Triangulate at least four centroids by their alpha shape.

    Triangles of the Delaunay triangulation whose circle has a radius of at most alpha make the surface. None chooses
    alpha as 1.6 times the smallest that gives 95 % of the pores a triangle.
    """
    triangles = _delaunay_triangles(centroids_nm)
    radius, normal, area = _circles(centroids_nm[triangles])
    if alpha_nm is None:
        first = np.full(len(centroids_nm), np.inf)
        for corner in range(3):
            np.minimum.at(first, triangles[:, corner], radius)
        alpha_nm = LOOSENESS * float(np.quantile(first, 0.95, method="higher"))
    kept = radius <= alpha_nm
    triangles, normal, area = triangles[kept], normal[kept], area[kept]
    normal = _point_outwards(centroids_nm, triangles, normal)
    total = np.zeros_like(centroids_nm)
    for corner in range(3):
        np.add.at(total, triangles[:, corner], normal * area[:, None])
    length = np.linalg.norm(total, axis=1, keepdims=True)
    with np.errstate(invalid="ignore"):
        return Envelope(centroids_nm, triangles, normal, np.where(length > 0, total / length, np.nan), alpha_nm)


def _delaunay_triangles(points: np.ndarray) -> np.ndarray:
    from scipy.spatial import Delaunay

    if len(points) == 4:
        return np.array([[0, 1, 2], [0, 1, 3], [0, 2, 3], [1, 2, 3]])
    tetrahedra = Delaunay(points, qhull_options="Qbb Qc QJ").simplices  # QJ: also where all lie in one plane
    faces = np.concatenate([tetrahedra[:, list(c)] for c in ((0, 1, 2), (0, 1, 3), (0, 2, 3), (1, 2, 3))])
    return np.unique(np.sort(faces, axis=1), axis=0)


def _circles(corners: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the radius of the circle through each triangle's corners, its unit normal and its area."""
    a, b, c = (corners[:, (i + 1) % 3] - corners[:, i] for i in range(3))
    cross = np.cross(a, b)
    double = np.linalg.norm(cross, axis=1)
    sides = np.prod([np.linalg.norm(v, axis=1) for v in (a, b, c)], axis=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(double > 0, sides / (2 * double), np.inf), cross / double[:, None], double / 2


def _point_outwards(points: np.ndarray, triangles: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Turn normals away from the middle of the best ball through the points; for a flat sheet, all to one side."""
    centre = points.mean(axis=0)
    design = np.column_stack([2 * (points - centre), np.ones(len(points))])
    ball, *_ = np.linalg.lstsq(design, ((points - centre) ** 2).sum(axis=1), rcond=1e-6)
    outwards = points[triangles].mean(axis=1) - (centre + ball[:3])
    side = (normal * outwards).sum(axis=1)
    if np.median(np.abs(side)) < 0.1 * np.median(np.linalg.norm(outwards, axis=1)):
        side = normal @ np.linalg.svd(points - centre)[2][2]
    return np.where(side[:, None] < 0, -normal, normal)
