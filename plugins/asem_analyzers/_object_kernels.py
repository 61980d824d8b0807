"""The compiled loops over voxels that list and read objects; imported only when one runs, because numba takes a second to load."""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)


@_jit
def stretches(block):  # type: ignore[no-untyped-def]
    """List the stretches of one id along x: their ids, and int64 (n, 4), their z, y, and where along x they begin and end."""
    nz, ny, nx = block.shape
    in_row = np.empty((nz, ny), np.int64)
    for z in range(nz):
        for y in range(ny):
            in_row[z, y] = _num_stretches(block[z, y])
    ids, place = np.empty(in_row.sum(), block.dtype), np.empty((in_row.sum(), 4), np.int64)
    num = 0
    for z in range(nz):
        for y in range(ny):
            x = 0 if in_row[z, y] else nx
            while x < nx:
                here, begin = block[z, y, x], x
                while x < nx and block[z, y, x] == here:
                    x += 1
                if here != 0:
                    ids[num] = here
                    place[num, 0], place[num, 1], place[num, 2], place[num, 3] = z, y, begin, x
                    num += 1
    return ids, place


@_jit
def _num_stretches(row):  # type: ignore[no-untyped-def]
    num = np.int64(row[0] != 0)
    later, before = row[1:], row[:-1]
    for k in range(later.size):
        num += (later[k] != before[k]) & (later[k] != 0)
    return num


@_jit
def gather(rows, row_of, place, offset):  # type: ignore[no-untyped-def]
    """Add stretches to the rows of their ids: see `_objects.NUM_STATISTICS`; `offset` is added to their places."""
    for k in range(row_of.size):
        row = rows[row_of[k]]
        z, y = place[k, 0] + offset[0], place[k, 1] + offset[1]
        first, end = place[k, 2] + offset[2], place[k, 3] + offset[2]
        n = end - first
        sum_x = (first + end - 1) * n // 2
        row[1] += n
        row[2], row[3], row[4] = min(row[2], z), min(row[3], y), min(row[4], first)
        row[5], row[6], row[7] = max(row[5], z + 1), max(row[6], y + 1), max(row[7], end)
        row[8] += z * n
        row[9] += y * n
        row[10] += sum_x
        row[11] += z * z * n
        row[12] += z * y * n
        row[13] += z * sum_x
        row[14] += y * y * n
        row[15] += y * sum_x
        row[16] += _squares(end) - _squares(first)


@_jit
def _squares(n):  # type: ignore[no-untyped-def]
    """Sum the squares of 0, 1, ..., n - 1."""
    return (n - 1) * n * (2 * n - 1) // 6


@_jit
def half_set(mask, factors):  # type: ignore[no-untyped-def]
    """Coarsen a mask by whole factors: a voxel is set if at least half of those it stands for are."""
    fz, fy, fx = factors
    nz, ny, nx = mask.shape[0] // fz, mask.shape[1] // fy, mask.shape[2] // fx
    result = np.empty((nz, ny, nx), np.bool_)
    count = np.empty(nx, np.int64)
    for z in range(nz):
        for y in range(ny):
            count[:] = 0
            for w in range(z * fz, (z + 1) * fz):
                for v in range(y * fy, (y + 1) * fy):
                    for x in range(nx):
                        for u in range(x * fx, (x + 1) * fx):
                            count[x] += mask[w, v, u]
            for x in range(nx):
                result[z, y, x] = 2 * count[x] >= fz * fy * fx
    return result
