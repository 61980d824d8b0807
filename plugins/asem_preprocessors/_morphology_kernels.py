"""The compiled loops behind `_morphology`; imported only when labels are thickened, because numba takes a second to load."""

from __future__ import annotations

import numpy as np
from numba import njit

FAR = np.float32(1e30)


@njit(cache=True, nogil=True)
def within(mask, begin, end, margin, squares, limit):
    """Mark each voxel of the box [begin, end) of `mask` whose squared distance to a set voxel is at most `limit`.

    Squared distances separate by axis: nearest along x by two sweeps, then the minimum over a few rows along y, then
    along z. Rows without a set voxel are passed over.
    """
    nz, ny, nx = mask.shape
    along_x = np.empty((nz, ny, nx), np.float32)
    has = np.zeros((nz, ny), np.bool_)
    for z in range(nz):
        for y in range(ny):
            has[z, y] = _sweep(mask[z, y], margin[2], np.float32(squares[2]), along_x[z, y])
    height = end[1] - begin[1]
    along_y = np.empty((nz, height, nx), np.float32)
    has_y = np.zeros((nz, height), np.bool_)
    for z in range(nz):
        for y in range(height):
            row = along_y[z, y]
            for other in range(max(0, begin[1] + y - margin[1]), min(ny, begin[1] + y + margin[1] + 1)):
                if has[z, other]:
                    step = np.float32(squares[1] * (begin[1] + y - other) ** 2)
                    _take_least(row, along_x[z, other], step, not has_y[z, y])
                    has_y[z, y] = True
    result = np.zeros((end[0] - begin[0], height, end[2] - begin[2]), np.uint8)
    row = np.empty(nx, np.float32)
    for z in range(result.shape[0]):
        for y in range(height):
            first = True
            for other in range(max(0, begin[0] + z - margin[0]), min(nz, begin[0] + z + margin[0] + 1)):
                if has_y[other, y]:
                    step = np.float32(squares[0] * (begin[0] + z - other) ** 2)
                    _take_least(row, along_y[other, y], step, first)
                    first = False
            if not first:
                for x in range(result.shape[2]):
                    result[z, y, x] = row[begin[2] + x] <= limit
    return result


@njit(cache=True)
def _sweep(mask, margin, square, result):
    """Squared distance along one row to the nearest set voxel; tells whether there is one."""
    n = mask.size
    last = -n - margin - 1
    found = False
    for x in range(n):
        if mask[x]:
            last = x
            found = True
        result[x] = square * np.float32((x - last) ** 2) if x - last <= margin else FAR
    if found:
        last = 2 * n + margin
        for x in range(n - 1, -1, -1):
            if mask[x]:
                last = x
            if last - x <= margin:
                result[x] = min(result[x], square * np.float32((last - x) ** 2))
    return found


@njit(cache=True)
def _take_least(row, other, step, first):
    if first:
        for x in range(row.size):
            row[x] = other[x] + step
    else:
        for x in range(row.size):
            row[x] = min(row[x], other[x] + step)


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
