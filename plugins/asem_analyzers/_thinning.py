"""Thinning of a mask to lines, in order of depth: topology is kept exactly, and lines run in the middle.

Own code, since scikit-image's thinning (Lee 1994) erases tubes of an even width and tears balls into pieces.
Method: distance-ordered homotopic thinning, Pudney, Comput. Vis. Image Underst. 72, 404 (1998); simple points after
Bertrand and Malandain, Pattern Recognit. Lett. 15, 169 (1994).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

SLOPE = 0.5
"""An end that deepens faster than this towards its neighbour is a ridge to a corner of the surface, and is removed."""
TAPER = 0.15
"""The same in the first sweep, where ends are not yet thin: a larger one grows branches on rough surfaces."""


def thin(mask: np.ndarray, depth_nm: np.ndarray, voxel_size_nm: np.ndarray) -> np.ndarray:
    """Thin a mask to lines one voxel wide.

    Parameters
    ----------
    mask : bool, zyx
        Its outermost voxels must be empty.
    depth_nm : float32, zyx
        Distance of each voxel of the mask to the nearest voxel outside.
    """
    left = np.ascontiguousarray(mask).view(np.uint8).copy()
    voxels = np.flatnonzero(mask)
    order = voxels[np.lexsort((_field(voxels, mask.shape), depth_nm.ravel()[voxels]))]
    offsets, near = _neighbourhood(mask.shape)
    step_nm = np.array(
        [np.linalg.norm((np.array(np.unravel_index(n, (3, 3, 3))) - 1) * voxel_size_nm) for n in range(27)]
    )
    _compiled()(left.ravel(), order, depth_nm.ravel(), offsets, near, step_nm, SLOPE, TAPER)
    return left.view(bool)


def _field(voxels: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Sort voxels into eight fields in which no two are neighbours, so that voxels of one depth go from all sides.

    In the order of the array, a tube of an even width along z would be eaten slice by slice from its end.
    """
    z, y, x = np.unravel_index(voxels, shape)
    return np.asarray(z % 2 * 4 + y % 2 * 2 + x % 2)


def _neighbourhood(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Return the flat offset of each of the 27 cells around a voxel, and the 27 x 27 table of their adjacency.

    The table holds 3 for cells that share a face, 2 for an edge, 1 for a corner, 0 for cells apart.
    """
    cells = np.indices((3, 3, 3)).reshape(3, 27).T - 1
    offsets = cells @ np.array([shape[1] * shape[2], shape[2], 1])
    apart = np.abs(cells[:, None] - cells[None])
    near = np.where(apart.max(axis=2) == 1, 4 - apart.sum(axis=2), 0)
    return offsets, near.astype(np.uint8)


@cache
def _compiled() -> Any:
    import numba

    compiled = numba.njit(cache=True)
    simple = compiled(_is_simple)

    @compiled
    def run(left, order, depth, offsets, near, step_nm, slope, taper):  # type: ignore[no-untyped-def]
        cells, touching = np.empty(27, np.uint8), np.empty(27, np.uint8)
        changed, first = True, True
        while changed:
            changed = first
            most, steepest = (4, taper) if first else (1, slope)
            kept = 0
            for k in range(order.size):
                voxel = order[k]
                neighbours = 0
                for n in range(27):
                    cells[n] = left[voxel + offsets[n]]
                    if cells[n] and n != 13:
                        touching[neighbours] = n
                        neighbours += 1
                # The last voxel of a slice has up to four neighbours, in the next slice. It stays while the rest
                # gets thin: a tube that tapers is deeper slice by slice, and would be eaten from its end.
                is_end = neighbours <= most
                for i in range(neighbours if is_end else 0):
                    n = touching[i]
                    is_end &= depth[voxel + offsets[n]] - depth[voxel] < steepest * step_nm[n]
                    for j in range(i):
                        is_end &= near[n, touching[j]] > 0
                if neighbours > 0 and not is_end and simple(cells, near):
                    left[voxel] = 0
                    changed = True
                else:
                    order[kept] = voxel
                    kept += 1
            order = order[:kept]
            first = False

    return run


def _is_simple(cells, near):  # type: ignore[no-untyped-def]
    """Tell if the middle cell can go without joining, splitting or piercing anything.

    That is so if the object around it is one piece (by faces, edges and corners), and the background that shares a
    face with it is one piece (by faces, within the 18 cells that share a face or edge).
    """
    seen = np.zeros(27, np.uint8)
    stack = np.empty(27, np.uint8)
    for value, least, first in ((1, 1, 1), (0, 3, 3)):  # object, then background: adjacency, and what a piece must hold
        pieces = 0
        for start in range(27):
            if start == 13 or (cells[start] != 0) != value or near[13, start] < first or seen[start]:
                continue
            pieces += 1
            if pieces > 1:
                return False
            stack[0], size = start, 1
            seen[start] = 1
            while size:
                size -= 1
                at = stack[size]
                for other in range(27):
                    inside = other != 13 and (cells[other] != 0) == value and (value or near[13, other] >= 2)
                    if inside and not seen[other] and near[at, other] >= least:
                        seen[other] = 1
                        stack[size] = other
                        size += 1
        if pieces != 1:
            return False
    return True
