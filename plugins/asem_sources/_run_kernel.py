"""Runs of bytes, unpacked at the speed of C."""

import numba
import numpy as np


@numba.njit(cache=True)
def decode_runs(packed: np.ndarray, values: np.ndarray) -> int:
    """Unpack Amira's runs into `values` (both uint8); returns how many bytes were written."""
    at, to = 0, 0
    while at + 1 < len(packed) and to < len(values):
        count = packed[at] & 127
        if packed[at] & 128:
            count = min(count, len(packed) - at - 1, len(values) - to)
            values[to : to + count] = packed[at + 1 : at + 1 + count]
            at += 1 + count
        else:
            count = min(count, len(values) - to)
            values[to : to + count] = packed[at + 1]
            at += 2
        to += count
    return to
