"""The filters of PNG's rows, undone."""

from __future__ import annotations

import numba
import numpy as np

_NONE, _SUB, _UP, _AVERAGE, _PAETH = range(5)

AT_ONCE = 16
"""Rows that are worked on together: numbers of 16 bits in a vector of 256."""


@numba.njit(inline="always")
def _paeth(left: np.int16, up: np.int16, corner: np.int16) -> np.int16:
    """Predict a byte: of its three neighbours the one nearest to left + up - corner (PNG specification, section 9.4)."""
    to_left, to_up = np.int16(up - corner), np.int16(left - corner)
    to_corner = np.int16(to_left + to_up)
    # Kept to 16 bits, without branches, so that the compiler does many at once.
    left_off, up_off = max(to_left, np.int16(-to_left)), max(to_up, np.int16(-to_up))
    corner_off = max(to_corner, np.int16(-to_corner))
    nearest = up if up_off <= corner_off else corner
    return left if (left_off <= up_off) & (left_off <= corner_off) else nearest


@numba.njit(nogil=True, cache=True)
def _undo_paeth_at_once(rows: np.ndarray, values: np.ndarray, above: np.ndarray) -> None:
    """Undo the filter of `AT_ONCE` rows, each a pixel behind the one above it, so that one instruction works on a pixel of each.

    A pixel waits for the one on its left and for those above it; of rows that are shifted against each other (`shifted`) all
    that a column needs was done one column before.
    """
    num = rows.shape[1]
    shifted = np.zeros((num + AT_ONCE, AT_ONCE), np.uint8)
    for k in range(AT_ONCE):
        for x in range(num):
            shifted[x + k, k] = rows[k, x]
    before, now = np.zeros(AT_ONCE + 1, np.int16), np.zeros(AT_ONCE + 1, np.int16)  # what lies above, then the rows
    corners = np.zeros(AT_ONCE, np.int16)
    for x in range(num + AT_ONCE - 1):
        before[0] = above[x] if x < num else 0
        column = shifted[x]
        for k in range(AT_ONCE):
            left, up = before[k + 1], before[k]
            now[k + 1] = (np.int16(column[k]) + _paeth(left, up, corners[k])) & 255
            column[k] = now[k + 1]
            corners[k] = up
        before, now = now, before
    for k in range(AT_ONCE):
        for x in range(num):
            values[k, x] = shifted[x + k, k]


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
        end = y + AT_ONCE
        if end <= height and (rows[y:end, 0] == _PAETH).all():
            for first in range(min(step, width)):
                _undo_paeth_at_once(rows[y:end, 1 + first :: step], values[y:end, first::step], above[first::step])
            above, done = values[end - 1], end
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
                left = np.int16(out[x - step]) if x >= step else np.int16(0)
                corner = np.int16(above[x - step]) if x >= step else np.int16(0)
                out[x] = (np.int16(row[x]) + _paeth(left, np.int16(above[x]), corner)) & 255
        else:
            return False
        above = out
    return True
