"""The compiled loops behind `_morphology`; imported only when labels are thickened, because numba takes a second to load."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def dilate(words, reach):
    """Dilate a mask of 64 voxels a word; the first voxel along x is the lowest bit.

    Rows are spread along x by shifting. Then each plane of the result unites the planes around it, moved along y and
    each spread as far as the element reaches there.

    Parameters
    ----------
    words : uint64 (z, y, x // 64)
    reach : int64 (z, y), odd: how far the element reaches along x in each of its rows, -1 where it has no voxel
    """
    nz, ny, nx = words.shape
    mz, my = reach.shape[0] // 2, reach.shape[1] // 2
    spread = np.empty((reach.max() + 1, nz, ny * nx), np.uint64)
    spread[0] = words.reshape(nz, ny * nx)
    for far in range(1, len(spread)):
        for z in range(nz):
            _widen(spread[far - 1, z], nx, spread[far, z])
    result = np.zeros((nz, ny * nx), np.uint64)
    for z in range(nz):
        plane = result[z]
        for dz in range(max(-mz, -z), min(mz, nz - 1 - z) + 1):
            for dy in range(max(-my, 1 - ny), min(my, ny - 1) + 1):
                far = reach[mz + dz, my + dy]
                if far >= 0:
                    begin, end = max(0, -dy) * nx, (ny - max(0, dy)) * nx
                    here, there = plane[begin:end], spread[far, z + dz, begin + dy * nx : end + dy * nx]
                    for i in range(here.size):
                        here[i] |= there[i]
    return result.reshape(nz, ny, nx)


@njit(cache=True)
def _widen(plane, nx, result):
    """Make each voxel one voxel wider on both sides, in rows of `nx` words."""
    one, last = np.uint64(1), np.uint64(63)
    for i in range(plane.size):
        result[i] = plane[i] | plane[i] << one | plane[i] >> one
    for begin in range(0, plane.size, nx):
        for i in range(begin, begin + nx - 1):
            result[i] |= plane[i + 1] << last
            result[i + 1] |= plane[i] >> last


@njit(cache=True, nogil=True)
def nearest(labels, near, begin, offsets, shells):
    """Give each voxel that `near` marks the id of the nearest object, searching outwards shell by shell."""
    result = np.zeros(near.shape, labels.dtype)
    for z in range(near.shape[0]):
        for y in range(near.shape[1]):
            for x in range(near.shape[2]):
                if near[z, y, x]:
                    result[z, y, x] = _search(labels, begin[0] + z, begin[1] + y, begin[2] + x, offsets, shells)
    return result


@njit(cache=True)
def _search(labels, z, y, x, offsets, shells):
    found = labels[z, y, x]
    shell = shells[0]
    for i in range(offsets.shape[0]):
        if shells[i] != shell:
            if found != 0:
                return found
            shell = shells[i]
        zz, yy, xx = z + offsets[i, 0], y + offsets[i, 1], x + offsets[i, 2]
        if 0 <= zz < labels.shape[0] and 0 <= yy < labels.shape[1] and 0 <= xx < labels.shape[2]:
            other = labels[zz, yy, xx]
            if other != 0 and (found == 0 or other < found):
                found = other
    return found
