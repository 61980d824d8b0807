"""The filters of PNG's rows, undone."""

from __future__ import annotations

import numba
import numpy as np

_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)


@numba.njit(inline="always")
def _paeth(left: int, up: int, corner: int) -> int:
    """Predict a byte: of its three neighbours the one nearest to left + up - corner (PNG specification, section 9.4)."""
    to_left, to_up = abs(up - corner), abs(left - corner)
    to_corner = abs(left + up - 2 * corner)
    nearest = up if to_up <= to_corner else corner
    return left if to_left <= to_up and to_left <= to_corner else nearest


@numba.njit(nogil=True, cache=True)
def _undo_paeth_of_four(rows: np.ndarray, values: np.ndarray, above: np.ndarray) -> None:
    """Undo the filter of four rows at once, each a pixel behind the one above it.

    A pixel waits for the one on its left, so that a row by itself leaves the processor idle most of the time; of four rows, four
    pixels are worked on together. What lies above a pixel is what was last done in the row above.
    """
    num = rows.shape[1]
    zero = np.int32(0)
    left_0 = left_1 = left_2 = left_3 = corner_0 = corner_1 = corner_2 = corner_3 = zero
    for x in range(num + 3):
        if x >= 3:
            up = left_2
            left_3 = (np.int32(rows[3, x - 3]) + _paeth(left_3, up, corner_3)) & 255
            values[3, x - 3], corner_3 = left_3, up
        if 2 <= x < num + 2:
            up = left_1
            left_2 = (np.int32(rows[2, x - 2]) + _paeth(left_2, up, corner_2)) & 255
            values[2, x - 2], corner_2 = left_2, up
        if 1 <= x < num + 1:
            up = left_0
            left_1 = (np.int32(rows[1, x - 1]) + _paeth(left_1, up, corner_1)) & 255
            values[1, x - 1], corner_1 = left_1, up
        if x < num:
            up = np.int32(above[x])
            left_0 = (np.int32(rows[0, x]) + _paeth(left_0, up, corner_0)) & 255
            values[0, x], corner_0 = left_0, up


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
    done = 0
    for y in range(height):
        if y < done:
            continue
        if y + 4 <= height and (rows[y : y + 4, 0] == _PAETH).all():
            for first in range(min(step, width)):
                _undo_paeth_of_four(
                    rows[y : y + 4, 1 + first :: step], values[y : y + 4, first::step], above[first::step]
                )
            above, done = values[y + 3], y + 4
            continue
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
            for x in range(width):
                left = np.int32(out[x - step]) if x >= step else np.int32(0)
                corner = np.int32(above[x - step]) if x >= step else np.int32(0)
                out[x] = row[x] + _paeth(left, np.int32(above[x]), corner)
        else:
            return False
        above = out
    return True
