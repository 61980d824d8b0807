"""The compiled distance transform of masks; imported only when it runs, because numba takes a second to load."""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)


@_jit
def squared_depth(mask):  # type: ignore[no-untyped-def]
    """Square of the distance of each voxel of a mask to the nearest outside, int32 zyx; its outermost voxels are outside.

    Axis by axis (Saito and Toriwaki, Pattern Recognit. 27, 1551 (1994)), a row at a time, where there is any mask.
    """
    nz, ny, nx = mask.shape
    along_x, along_y = np.zeros(mask.shape, np.int32), np.zeros(mask.shape, np.int32)
    begin, end = np.full((nz, ny), nx), np.zeros((nz, ny), np.int64)
    for z in range(nz):
        for y in range(ny):
            row, out = mask[z, y], along_x[z, y]
            away = 0
            for x in range(nx):
                away = away + 1 if row[x] else 0
                out[x] = away
                if away:
                    begin[z, y], end[z, y] = min(begin[z, y], x), x + 1
            away = 0
            for x in range(end[z, y] - 1, begin[z, y] - 1, -1):
                away = away + 1 if row[x] else 0
                out[x] = min(out[x], away) ** 2
    for z in range(nz):
        for y in range(ny):
            b, e = begin[z, y], end[z, y]
            if b < e:
                out = along_y[z, y, b:e]
                largest = _copy(out, along_x[z, y, b:e])
                k = 1
                while k * k < largest:
                    largest = _lower(out, along_x[z, y - k, b:e], along_x[z, y + k, b:e], k * k)
                    k += 1
    for z in range(nz):
        for y in range(ny):
            b, e = begin[z, y], end[z, y]
            if b < e:
                out = along_x[z, y, b:e]  # which is needed no more
                largest = _copy(out, along_y[z, y, b:e])
                k = 1
                while k * k < largest:
                    largest = _lower(out, along_y[z - k, y, b:e], along_y[z + k, y, b:e], k * k)
                    k += 1
    return along_x


@_jit
def _copy(out, values):  # type: ignore[no-untyped-def]
    largest = np.int32(0)
    for k in range(out.size):
        out[k] = values[k]
        largest = max(largest, values[k])
    return largest


@_jit
def _lower(out, before, after, more):  # type: ignore[no-untyped-def]
    """Lower values to those of two rows and `more`; return the largest that is left."""
    largest, more = np.int32(0), np.int32(more)
    for k in range(out.size):
        out[k] = min(out[k], np.int32(min(before[k], after[k]) + more))
        largest = max(largest, out[k])
    return largest
