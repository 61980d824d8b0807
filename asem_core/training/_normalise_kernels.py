"""Normalise maps and cut them at 0 in two passes over memory, on a CPU: the compiled inner loops of `asem_core.training.normalise`.

Maps lie with the channels last, as one row of values: float32 as uint32, bfloat16 (the upper half of a float32) as uint16, so that one
loop serves both: `shift` is 0 or 16. Numbers of channels (`centre`, `factor`, ...) are repeated `LANES // channels` times, so that the
loops are wide where channels are few.
"""

from __future__ import annotations

import numba
import numpy as np

LANES = 128
"""About so many values are worked on at a time."""

CHUNK = 64
"""Times as many are added up in float32, before their sums are."""


@numba.njit(cache=True, nogil=True)
def _widen(values, shift, bits):  # type: ignore[no-untyped-def]
    """Read values as the bits of float32."""
    for k in range(len(values)):
        bits[k] = np.uint32(values[k]) << shift


@numba.njit(cache=True, nogil=True)
def _narrow(bits, shift, result):  # type: ignore[no-untyped-def]
    """Write the bits of float32; as bfloat16, rounded to nearest, ties to even."""
    odd, half = (np.uint32(1), np.uint32(0x7FFF)) if shift else (np.uint32(0), np.uint32(0))
    for k in range(len(result)):
        result[k] = np.uint32(bits[k] + half + np.uint32((bits[k] >> shift) & odd)) >> shift


@numba.njit(cache=True, nogil=True)
def add_up(values, shift, centre, first, sums):  # type: ignore[no-untyped-def]
    """Sum `values - centre`, and its square, into `sums`, zeros of float32 (chunks, 2, lanes), of the chunks from `first` on."""
    lanes = len(centre)
    row = np.empty(lanes, np.float32)
    bits = row.view(np.uint32)
    for chunk in range(len(sums)):
        begin = (first + chunk) * CHUNK * lanes
        one, two = sums[chunk, 0], sums[chunk, 1]
        for at in range(begin, min(begin + CHUNK * lanes, len(values)), lanes):
            some = values[at : at + lanes]
            _widen(some, shift, bits)
            for k in range(len(some)):
                value = row[k] - centre[k]
                one[k] += value
                two[k] += value * value


@numba.njit(cache=True, nogil=True)
def scale(values, shift, factor, offset, result):  # type: ignore[no-untyped-def]
    """Write `values * factor + offset`, and 0 where that is less, to `result`."""
    lanes = len(factor)
    row = np.empty(lanes, np.float32)
    bits = row.view(np.uint32)
    for at in range(0, len(values), lanes):
        some, made = values[at : at + lanes], result[at : at + lanes]
        _widen(some, shift, bits)
        for k in range(len(some)):
            row[k] = max(row[k] * factor[k] + offset[k], np.float32(0))
        _narrow(bits, shift, made)


@numba.njit(cache=True, nogil=True)
def add_up_gradient(values, gradient, shift, factor, offset, centre, first, sums):  # type: ignore[no-untyped-def]
    """Sum the gradient where the result is above 0, and its product with `values - centre`, as `add_up` does."""
    lanes = len(centre)
    row, slope = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    bits, slope_bits = row.view(np.uint32), slope.view(np.uint32)
    for chunk in range(len(sums)):
        begin = (first + chunk) * CHUNK * lanes
        one, two = sums[chunk, 0], sums[chunk, 1]
        for at in range(begin, min(begin + CHUNK * lanes, len(values)), lanes):
            some, slopes = values[at : at + lanes], gradient[at : at + lanes]
            _widen(some, shift, bits)
            _widen(slopes, shift, slope_bits)
            for k in range(len(some)):
                passed = slope[k] if row[k] * factor[k] + offset[k] > 0 else np.float32(0)
                one[k] += passed
                two[k] += passed * (row[k] - centre[k])


@numba.njit(cache=True, nogil=True)
def scale_gradient(values, gradient, shift, factor, offset, by_value, constant, result):  # type: ignore[no-untyped-def]
    """Write `factor * gradient` where the result is above 0, plus `by_value * values + constant`, to `result`."""
    lanes = len(factor)
    row, slope = np.empty(lanes, np.float32), np.empty(lanes, np.float32)
    bits, slope_bits = row.view(np.uint32), slope.view(np.uint32)
    for at in range(0, len(values), lanes):
        some, slopes, made = values[at : at + lanes], gradient[at : at + lanes], result[at : at + lanes]
        _widen(some, shift, bits)
        _widen(slopes, shift, slope_bits)
        for k in range(len(some)):
            passed = slope[k] if row[k] * factor[k] + offset[k] > 0 else np.float32(0)
            row[k] = passed * factor[k] + (row[k] * by_value[k] + constant[k])
        _narrow(bits, shift, made)
