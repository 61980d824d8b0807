"""Where a membrane lies on a line across it, when what is behind it is darker than what is before."""

from __future__ import annotations

import numpy as np

WINDOW_NM = 20.0
"""How far before and behind the expected place the line is looked at."""
MEMBRANE_NM = 7.0
"""Thickness of a stained membrane."""
TRACE_NM = 5.0
"""Half the thickness of a traced membrane, roughly."""
COAT_NM = (8.0, 23.0)
"""Where a clathrin coat begins and ends behind the middle of its membrane: adaptors come first, then the cage."""
BEND_NM = 12.0
"""How far a curve is followed to both sides to see how it is bent."""
BLURS_NM = np.arange(5.0, 10.1, 0.5)


def measure_blur(lines: np.ndarray, at_nm: np.ndarray, expected_nm: float, reach_nm: float) -> float:
    """Measure how wide the image shows the membrane: the standard deviation, in nm, with which all lines fit best."""
    tried = _places(expected_nm, reach_nm)
    total = [np.median(_misfits(lines, at_nm, tried, expected_nm, blur).min(axis=0)) for blur in BLURS_NM]
    return float(BLURS_NM[int(np.argmin(total))])


def membrane_on_lines(
    lines: np.ndarray, at_nm: np.ndarray, expected_nm: float, reach_nm: float, blur_nm: float
) -> np.ndarray:
    """Fit a blurred membrane between two levels, and a coat behind it, to each line.

    The darkest point would not do: a coat behind the membrane, or the cytosol, draws it outwards.

    Parameters
    ----------
    lines : float, (n, samples)
        Darkness, membrane upwards; from the lumen outwards or, where `at_nm` falls, inwards.
    at_nm
        Where the samples are, evenly spaced; what is behind the membrane, at larger values.
    expected_nm, reach_nm
        Where the membrane should be, and how far from there it may be.
    blur_nm
        How wide the image shows a membrane, see `measure_blur`.

    Returns
    -------
    The places (n,) in nm, NaN where none fits.
    """
    tried = _places(expected_nm, reach_nm)
    return np.array([_lowest(column, tried) for column in _misfits(lines, at_nm, tried, expected_nm, blur_nm).T])


def pull_nm(blur_nm: float, curvature_per_nm: np.ndarray) -> np.ndarray:
    """Say how far a blurred image shows a curved membrane from its place, towards the side it is bent to.

    On that side the blur gathers more of the membrane: to first order by half its variance times the sum of both
    curvatures. The membrane's own thickness is in the width that is seen, but does not move it.
    """
    variance = max(blur_nm**2 - MEMBRANE_NM**2 / 12, 0.0)
    return np.asarray(0.5 * variance * curvature_per_nm)


def bends(at_nm: np.ndarray, offset_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Follow a curve near each of its places by a parabola; slopes, and second derivatives in 1/nm.

    Places without a finite offset are passed over; where fewer than five are near, the curve counts as straight.
    """
    away = (at_nm - at_nm[:, None]) / BEND_NM
    near = np.isfinite(offset_nm) & (np.abs(away) <= 1)
    powers = near * away ** np.arange(5)[:, None, None]
    sums = powers.sum(axis=2).T
    normal = np.stack([sums[:, k : k + 3] for k in range(3)], axis=1)
    right = (powers[:3] @ np.nan_to_num(offset_nm)).T
    few = near.sum(axis=1) < 5
    normal[few], right[few] = np.eye(3), 0.0
    _, slope, square = np.linalg.solve(normal, right[:, :, None])[:, :, 0].T
    return slope / BEND_NM, 2 * square / BEND_NM**2


def coat(behind_nm: np.ndarray, blur_nm: float) -> np.ndarray:
    """Draw a blurred coat: how much of it shows so far behind the middle of its membrane, 0 to 1."""
    from scipy.special import ndtr

    return np.asarray(ndtr((behind_nm - COAT_NM[0]) / blur_nm) - ndtr((behind_nm - COAT_NM[1]) / blur_nm))


def _places(expected_nm: float, reach_nm: float) -> np.ndarray:
    return np.arange(expected_nm - reach_nm, expected_nm + reach_nm + 0.5, 1.0)


def _misfits(
    lines: np.ndarray, at_nm: np.ndarray, tried_nm: np.ndarray, expected_nm: float, blur_nm: float
) -> np.ndarray:
    """Say how badly a membrane at each place fits each line, (places, lines); infinite where it would be light."""
    from scipy.special import ndtr

    window = np.abs(at_nm - expected_nm) <= WINDOW_NM
    data = lines[:, window].T
    off = at_nm[window] - tried_nm[:, None]
    line, step = np.exp(-0.5 * (off / blur_nm) ** 2), ndtr(off / blur_nm)
    design = np.stack([line, np.ones_like(off), step, coat(off, blur_nm)], axis=-1)
    solution = np.linalg.pinv(design) @ data
    misfit = ((design @ solution - data) ** 2).sum(axis=1)
    return np.asarray(np.where(solution[:, 0] > 0, misfit, np.inf))


def _lowest(misfit: np.ndarray, tried: np.ndarray) -> float:
    k = int(misfit.argmin())
    if not 0 < k < len(tried) - 1 or not np.isfinite(misfit[k - 1 : k + 2]).all():
        return float("nan")
    left, low, right = misfit[k - 1 : k + 2]
    curve = left - 2 * low + right
    return float(tried[k] + (0.5 * (left - right) / curve if curve > 0 else 0.0) * (tried[1] - tried[0]))
