"""Which probabilities count as foreground: one rule for maps of every type."""

from __future__ import annotations

import numpy as np

LEVELS = np.arange(256) / 255
"""The probabilities that a uint8 map can hold."""


def at_least(probability: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which values of a map reach a threshold; uint8 values are 255ths.

    A threshold is taken as the map's type holds it: 0.9 stored as float16, which is a little less, reaches 0.9.
    """
    if probability.dtype == np.uint8:
        return np.asarray(probability >= np.count_nonzero(~reach(LEVELS, threshold)))
    return np.asarray(probability >= as_stored(threshold, probability.dtype))


def reach(levels: np.ndarray, threshold: float) -> np.ndarray:
    """Tell which levels (float64) reach a threshold; one of k / 255 is k, whatever the rounding."""
    return np.asarray(levels >= threshold - 1e-9)


def as_stored(levels: float | np.ndarray, dtype: np.dtype[np.generic]) -> np.ndarray:
    """Round levels to what a map of type `dtype` holds."""
    return np.asarray(levels, dtype if dtype.kind == "f" else float)
