"""The filters of PNG's rows, undone."""

from __future__ import annotations

import numba
import numpy as np

_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)


@numba.njit(nogil=True, cache=True)
def undo_filters(rows: np.ndarray, values: np.ndarray, step: int) -> bool:
    """Undo the filter of each row, which its first byte names; False if one is unknown.

    Parameters
    ----------
    rows
        Bytes (y, 1 + x), as they are packed.
    values
        Bytes (y, x), which are written.
    step
        Bytes of a pixel: as far back lies the byte on the left.
    """
    height, width = values.shape
    above = np.zeros(width, np.uint8)
    for y in range(height):
        kind, row, out = rows[y, 0], rows[y, 1:], values[y]
        if kind == _NONE:
            out[:] = row
        elif kind == _UP:
            for x in range(width):
                out[x] = row[x] + above[x]
        elif kind == _SUB:
            out[:step] = row[:step]
            for x in range(step, width):
                out[x] = row[x] + out[x - step]
        elif kind == _AVERAGE:
            for x in range(width):
                left = np.int32(out[x - step]) if x >= step else np.int32(0)
                out[x] = row[x] + np.uint8((left + np.int32(above[x])) >> 1)
        elif kind == _PAETH:
            for first in range(
                min(step, width)
            ):  # each byte of a pixel by itself, so that its neighbours stay in registers
                left, corner = np.int32(0), np.int32(0)
                for x in range(first, width, step):
                    up = np.int32(above[x])
                    to_left, to_up = up - corner, left - corner
                    to_corner = abs(to_left + to_up)
                    to_left, to_up = abs(to_left), abs(to_up)
                    nearest = corner
                    if to_left <= to_up and to_left <= to_corner:
                        nearest = left
                    elif to_up <= to_corner:
                        nearest = up
                    left, corner = (np.int32(row[x]) + nearest) & 255, up
                    out[x] = left
        else:
            return False
        above = out
    return True
