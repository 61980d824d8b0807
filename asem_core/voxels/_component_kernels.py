"""Describe the labelled objects of a block: the compiled inner loops of `asem_core.voxels.components`."""

from __future__ import annotations

import numba
import numpy as np

NOWHERE = np.iinfo(np.int64).max
REMEMBERED = 4096  # pairs of neighbours seen last; a power of two


@numba.njit(cache=True, nogil=True)
def describe(labels, mask, shape, num):  # type: ignore[no-untyped-def]
    """Measure objects by label, run by run along x; 0 is background.

    Parameters
    ----------
    labels : uint32 (z, y, x), 0 to `num`
    mask : bool or whole numbers, of the same shape: the value that each object holds
    shape : the first so many voxels along each axis are measured; those behind them only tell `value`
    num : largest label

    Returns
    -------
    voxels, value, first : int64 (num + 1,): count, value, and place in scan order of the first voxel
    begin, end : int64 (num + 1, 3): bounding box

    Objects without a voxel within `shape` have 0 voxels, begin and first at `NOWHERE`, and end at 0.
    """
    voxels, value = np.zeros(num + 1, np.int64), np.zeros(num + 1, np.int64)
    first = np.full(num + 1, NOWHERE)
    begin, end = np.full((num + 1, 3), NOWHERE), np.zeros((num + 1, 3), np.int64)
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            inside = z < shape[0] and y < shape[1]
            row = labels[z, y]
            x_end = 0
            while x_end < row.size:
                x = x_end
                k = row[x]
                x_end += 1
                while x_end < row.size and row[x_end] == k:
                    x_end += 1
                if k == 0:
                    continue
                value[k] = mask[z, y, x]
                if not inside or x >= shape[2]:
                    continue
                if voxels[k] == 0:
                    first[k] = (z * shape[1] + y) * shape[2] + x
                    begin[k, 0], begin[k, 1], begin[k, 2] = z, y, x
                last = min(x_end, shape[2])
                voxels[k] += last - x
                end[k, 0] = z + 1
                begin[k, 1], end[k, 1] = min(begin[k, 1], y), max(end[k, 1], y + 1)
                begin[k, 2], end[k, 2] = min(begin[k, 2], x), max(end[k, 2], last)
    return voxels, value, first, begin, end


@numba.njit(cache=True, nogil=True)
def touching(labels):  # type: ignore[no-untyped-def]
    """List pairs of labels that share a face, the lower first: int64 (n, 2). Few are listed twice."""
    seen = np.full((REMEMBERED, 2), -1, np.int64)
    pairs = np.empty((64, 2), np.int64)
    num = 0
    for z in range(labels.shape[0]):
        for y in range(labels.shape[1]):
            row = labels[z, y]
            for axis in range(3):
                if (axis == 0 and z == 0) or (axis == 1 and y == 0):
                    continue
                other = labels[z - 1, y] if axis == 0 else labels[z, y - 1] if axis == 1 else row[:-1]
                here = row[1:] if axis == 2 else row
                if not _differ(here, other):
                    continue
                for x in range(here.size):
                    if here[x] == other[x]:
                        continue
                    low, high = np.int64(min(here[x], other[x])), np.int64(max(here[x], other[x]))
                    slot = (low * 31 + high) & (REMEMBERED - 1)
                    if seen[slot, 0] == low and seen[slot, 1] == high:
                        continue
                    seen[slot, 0], seen[slot, 1] = low, high
                    if num == len(pairs):
                        pairs = np.concatenate((pairs, np.empty_like(pairs)))
                    pairs[num, 0], pairs[num, 1] = low, high
                    num += 1
    return pairs[:num]


@numba.njit(cache=True)
def _differ(a, b):  # type: ignore[no-untyped-def]
    """Tell whether two rows differ anywhere; without leaving early, so that the compiler vectorizes it."""
    found = np.uint32(0)
    for i in range(a.size):
        found |= a[i] ^ b[i]
    return found != 0
