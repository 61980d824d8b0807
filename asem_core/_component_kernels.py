"""Describe the labelled objects of a block in one pass: the compiled inner loop of `asem_core.components`."""

from __future__ import annotations

import numba
import numpy as np

NOWHERE = np.iinfo(np.int64).max


@numba.njit(cache=True, nogil=True)
def describe(labels, mask, shape, num):  # type: ignore[no-untyped-def]
    """Measure objects by label; 0 is background.

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
            for x in range(labels.shape[2]):
                k = labels[z, y, x]
                if k == 0:
                    continue
                value[k] = mask[z, y, x]
                if not inside or x >= shape[2]:
                    continue
                if voxels[k] == 0:
                    first[k] = (z * shape[1] + y) * shape[2] + x
                    begin[k, 0], begin[k, 1], begin[k, 2] = z, y, x
                voxels[k] += 1
                end[k, 0] = z + 1
                begin[k, 1], end[k, 1] = min(begin[k, 1], y), max(end[k, 1], y + 1)
                begin[k, 2], end[k, 2] = min(begin[k, 2], x), max(end[k, 2], x + 1)
    return voxels, value, first, begin, end
