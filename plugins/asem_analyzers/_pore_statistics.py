"""Is it one size? The statistics of pore diameters (Gallusser et al. 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np

NUM_SIMULATED = 999
NEIGHBOURS = 6
FEWEST = 8
"""Pores from which on tests say something."""


def describe(
    diameters_nm: np.ndarray, positions_nm: np.ndarray, error_nm: float, single_nm: float | None
) -> dict[str, Any]:
    """Summarise diameters (n,) of pores at positions (n, 3), and test them.

    Shapiro-Wilk tests for a normal distribution, Kolmogorov-Smirnov for a single size seen with the error of the
    measurement, Moran's I for neighbours being alike.
    """
    from scipy import stats

    n = len(diameters_nm)
    numbers: dict[str, Any] = {"pores measured": n}
    if n:
        low, median, high = np.percentile(diameters_nm, [10, 50, 90])
        numbers |= {
            "median diameter, nm": float(median),
            "10th and 90th percentile, nm": [float(low), float(high)],
            "mean diameter, nm": float(diameters_nm.mean()),
        }
    if n < FEWEST:
        return numbers
    numbers["standard deviation, nm"] = float(diameters_nm.std(ddof=1))
    shapiro = stats.shapiro(diameters_nm)
    distance, p_single, size = single_size_test(diameters_nm, error_nm, single_nm)
    moran, p_moran = morans_i(diameters_nm, positions_nm)
    return numbers | {
        "Shapiro-Wilk W": float(shapiro.statistic),
        "Shapiro-Wilk P (normal distribution)": float(shapiro.pvalue),
        "single size tested, nm": size,
        "Kolmogorov-Smirnov D": distance,
        "Kolmogorov-Smirnov P (a single size)": p_single,
        "Moran's I": moran,
        "Moran's I P (no similarity of neighbours)": p_moran,
    }


def single_size_test(diameters_nm: np.ndarray, error_nm: float, single_nm: float | None) -> tuple[float, float, float]:
    """Test by Kolmogorov-Smirnov whether all diameters may be one size, measured with an error of at most `error_nm`.

    The diameters are compared with a Gaussian around the single size (their median, unless given), as wide as the
    error, or as the diameters where they spread less. P comes from simulated populations of one size that are treated
    in the same way, since a size and a width taken from the data make the textbook P too large.

    Returns
    -------
    distance D, P, the single size in nm
    """
    rng = np.random.default_rng(0)  # the same report from the same data

    def distance(values: np.ndarray) -> np.ndarray:
        """D of each row."""
        from scipy.special import ndtr

        size = np.median(values, axis=1, keepdims=True) if single_nm is None else np.array(single_nm)
        width = np.minimum(values.std(axis=1, ddof=1, keepdims=True), error_nm)
        expected = ndtr((np.sort(values, axis=1) - size) / np.maximum(width, 1e-9))
        n = values.shape[1]
        steps = np.arange(n + 1) / n
        return np.asarray(np.maximum(steps[1:] - expected, expected - steps[:-1]).max(axis=1))

    size = float(np.median(diameters_nm)) if single_nm is None else single_nm
    width = min(float(diameters_nm.std(ddof=1)), error_nm)
    found = float(distance(diameters_nm[None])[0])
    simulated = distance(rng.normal(size, max(width, 1e-9), (NUM_SIMULATED, len(diameters_nm))))
    return found, float((1 + (simulated >= found).sum()) / (NUM_SIMULATED + 1)), size


def morans_i(values: np.ndarray, positions_nm: np.ndarray) -> tuple[float, float]:
    """Correlate each value with the mean of its six nearest neighbours (Moran's I, two-sided permutation P)."""
    from scipy.spatial import cKDTree

    rng = np.random.default_rng(0)
    centred = values - values.mean()
    power = float((centred**2).sum())
    if power == 0:
        return 0.0, 1.0
    _, near = cKDTree(positions_nm).query(positions_nm, min(NEIGHBOURS, len(values) - 1) + 1)
    near = near[:, 1:]

    def statistic(x: np.ndarray) -> float:
        return float((x * x[near].mean(axis=1)).sum() / power)

    found = statistic(centred)
    shuffled = np.array([statistic(rng.permutation(centred)) for _ in range(NUM_SIMULATED)])
    expected = -1 / (len(values) - 1)
    extreme = np.abs(shuffled - expected) >= abs(found - expected)
    return found, float((1 + extreme.sum()) / (NUM_SIMULATED + 1))
