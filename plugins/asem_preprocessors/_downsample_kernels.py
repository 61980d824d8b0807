"""The compiled loops that take the mode of cells; imported only when labels are downsampled."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def modes(block, known, factor, begin, result):
    """Take the most frequent value of each cell's known voxels; 0 where there are none.

    Among equally frequent ones the least that is not 0; or 0 if it is one of them, in every second cell: `begin` is the
    place of the first, so that it does not depend on how the work is cut into blocks.
    """
    cell = np.empty(factor[0] * factor[1] * factor[2], block.dtype)
    for z in range(result.shape[0]):
        z1 = min((z + 1) * factor[0], block.shape[0])
        for y in range(result.shape[1]):
            y1 = min((y + 1) * factor[1], block.shape[1])
            for x in range(result.shape[2]):
                x1 = min((x + 1) * factor[2], block.shape[2])
                n = 0
                for zz in range(z * factor[0], z1):
                    for yy in range(y * factor[1], y1):
                        for xx in range(x * factor[2], x1):
                            if known[zz, yy, xx]:
                                cell[n] = block[zz, yy, xx]
                                n += 1
                white = (begin[0] + z + begin[1] + y + begin[2] + x) % 2 == 0
                result[z, y, x] = _mode(cell[:n], white) if n else 0


@njit(cache=True)
def _mode(cell, white):
    same = True
    for value in cell:
        same &= value == cell[0]
    if same:
        return cell[0]
    cell.sort()
    best, most = cell[0], 0
    begin = 0
    for end in range(1, cell.size + 1):
        if end == cell.size or cell[end] != cell[begin]:
            if end - begin > most or (end - begin == most and best == 0 and white):
                best, most = cell[begin], end - begin
            begin = end
    return best
