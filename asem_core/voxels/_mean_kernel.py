"""Average cells of voxels: the compiled inner loop of `asem_core.voxels.average`."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def means(block, factor, result, rounded):  # type: ignore[no-untyped-def]
    """Average each cell of `factor` voxels into `result`; cells at the far border may be cut.

    Rows are added up first, element by element, which the compiler vectorizes.
    """
    row = np.empty(block.shape[2], np.float64)
    for z in range(result.shape[0]):
        z_begin, z_end = z * factor[0], min((z + 1) * factor[0], block.shape[0])
        for y in range(result.shape[1]):
            y_begin, y_end = y * factor[1], min((y + 1) * factor[1], block.shape[1])
            row[:] = 0
            for zz in range(z_begin, z_end):
                for yy in range(y_begin, y_end):
                    for x in range(row.size):
                        row[x] += block[zz, yy, x]
            for x in range(result.shape[2]):
                x_begin, x_end = x * factor[2], min((x + 1) * factor[2], row.size)
                total = 0.0
                for xx in range(x_begin, x_end):
                    total += row[xx]
                mean = total / ((z_end - z_begin) * (y_end - y_begin) * (x_end - x_begin))
                result[z, y, x] = np.rint(mean) if rounded else mean
