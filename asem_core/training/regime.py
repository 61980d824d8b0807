"""Choose checkpoints: the fit regime of Gallusser et al. 2022.

The paper: the first 20,000 consecutive iterations in which the validation loss is stable without major spikes; its
middle is used for prediction, its first iteration as the start of fine-tuning. It leaves "stable" to the eye. Here a
window is stable if no loss in it is further than `SPIKE` from the window's median, and the medians of its halves
differ by at most `DRIFT`.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

SPIKE = 0.25
DRIFT = 0.10


@attrs.frozen
class FitRegime:
    """Iterations (both included) in which the validation loss is stable; `stable` is False for the next best window."""

    first: int
    middle: int
    last: int
    stable: bool


def fit_regime(iterations: Sequence[int], losses: Sequence[float], window: int) -> FitRegime | None:
    """Find the fit regime.

    Parameters
    ----------
    iterations : of the validations, ascending
    losses : validation losses, finite
    window : iterations that the regime lasts; a shorter run is taken as a whole

    Returns
    -------
    The first stable window; if none is, the one closest to it; None without validations.
    """
    at, loss = np.array(iterations), np.array(losses)
    if not len(at):
        return None
    last_start = max(at[0], at[-1] - window)
    spans = [np.flatnonzero((at >= start) & (at <= start + window)) for start in at[at <= last_start]]
    unrest = [_unrest(loss[span]) for span in spans]
    stable = [n for n, value in enumerate(unrest) if value <= 1]
    span = spans[stable[0] if stable else int(np.argmin(unrest))]
    middle = span[np.argmin(np.abs(at[span] - (at[span[0]] + at[span[-1]]) / 2))]
    return FitRegime(int(at[span[0]]), int(at[middle]), int(at[span[-1]]), bool(stable))


def _unrest(losses: np.ndarray) -> float:
    """How far a window is from stable: at most 1 if it is."""
    median = float(np.median(losses))
    if median <= 0:
        return 0.0 if not losses.any() else float("inf")
    half = len(losses) // 2
    spike = float(np.abs(losses - median).max()) / median
    drift = abs(float(np.median(losses[:half])) - float(np.median(losses[half:]))) / median if half else 0.0
    return max(spike / SPIKE, drift / DRIFT)
