"""How far planes are shifted against each other, and where that puts each plane."""

from __future__ import annotations

import itertools

import numpy as np

BLUR_VX = 0.7  # of planes before they are compared: noise of single voxels says nothing of shifts
FADING = 3.0  # times the typical difference; voxels that differ by more count little
CLEAR = 8.0  # standard deviations by which a true peak stands out of the correlation; noise reaches 5
JUMP = 6.0  # standard deviations by which a jump stands out of other shifts
RATE_VX = 0.2  # standard deviation of what structures add to a shift; up to 0.24 in two blocks of neural tissue
SMALLEST_VARIANCE = 0.02**2  # of displacements, voxels squared: as well as shifts are measured
LIKENESS = 0.75  # how much of what structures add to one shift goes on in the next; 0.6 to 0.8 serve neural tissue
CHANGE_VX = RATE_VX * (1 - LIKENESS**2) ** 0.5  # standard deviation of the rest of it
SMALLEST_PLANE = 32


def find_shift(first: np.ndarray, second: np.ndarray, largest: float) -> tuple[float, float, float]:
    """Measure by how many voxels (y, x) the content of `second` lies further along than that of `first`.

    Phase correlation (Kuglin & Hines 1975) gives whole voxels. Then the fraction is the shift that the brightness
    gradients of most voxels agree on (Lucas & Kanade 1981; voxels far off are weighted down after Geman & McClure 1985).

    Parameters
    ----------
    first, second : (y, x), of one shape
    largest : greatest shift looked for, in voxels along each axis

    Returns
    -------
    y, x, and how far the correlation's peak stands out, in standard deviations; below `CLEAR` the shift means nothing.
    """
    shift, clarity = _whole_shift(first, second, np.zeros(2, int), largest)
    if clarity < CLEAR:
        return 0.0, 0.0, clarity
    # Once more on what they share: windowing pulls the first estimate towards no shift.
    a, b = _shared(first, second, shift)
    if min(a.shape) >= SMALLEST_PLANE:
        more, clarity = _whole_shift(a, b, shift, largest)
        shift = shift + more
        a, b = _shared(first, second, shift)
    if min(a.shape) < SMALLEST_PLANE:
        return 0.0, 0.0, 0.0
    fraction = _fraction(a, b)
    return float(shift[0] + fraction[0]), float(shift[1] + fraction[1]), clarity


def _whole_shift(a: np.ndarray, b: np.ndarray, already: np.ndarray, largest: float) -> tuple[np.ndarray, float]:
    from scipy import fft

    if a.std() == 0 or b.std() == 0:
        return np.zeros(2, int), 0.0
    window = np.hanning(a.shape[0])[:, None] * np.hanning(a.shape[1])
    spectra = [fft.rfft2(((p - p.mean()) * window).astype(np.float32)) for p in (a, b)]
    cross = spectra[1] * np.conj(spectra[0])
    cross /= np.abs(cross) + np.float32(1e-9) * np.abs(cross).max()
    along_y, along_x = fft.fftfreq(a.shape[0])[:, None], fft.rfftfreq(a.shape[1])
    surface = fft.irfft2(cross * np.exp(-2 * (np.pi * BLUR_VX) ** 2 * (along_y**2 + along_x**2)), a.shape)
    lags = [np.rint(fft.fftfreq(n, 1 / n)).astype(int) for n in a.shape]
    reach = [np.abs(lag + s) <= largest for lag, s in zip(lags, already, strict=True)]
    allowed = np.where(reach[0][:, None] & reach[1], surface, -np.inf)
    y, x = np.unravel_index(int(allowed.argmax()), a.shape)
    return np.array([lags[0][y], lags[1][x]]), float((surface[y, x] - surface.mean()) / surface.std())


def _shared(first: np.ndarray, second: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut both planes to what they share if `second` is shifted by whole voxels."""
    a = tuple(slice(max(0, -s), n - max(0, s)) for s, n in zip(shift, first.shape, strict=True))
    b = tuple(slice(max(0, s), n - max(0, -s)) for s, n in zip(shift, first.shape, strict=True))
    return first[a], second[b]


def _fraction(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Refine a shift of less than a voxel or so: both planes move half of it towards each other, until they meet."""
    from scipy import ndimage

    a, b = (ndimage.gaussian_filter(p.astype(np.float32), BLUR_VX) for p in (a, b))
    shift = np.zeros(2)
    for _ in range(8):
        moved_a, moved_b = _moved(a, -shift / 2), _moved(b, shift / 2)
        slopes = np.gradient((moved_a + moved_b) / 2)
        difference = (moved_b - moved_a).ravel()
        typical = 1.4826 * float(np.median(np.abs(difference - np.median(difference))))
        if typical == 0:
            break
        weights = 1 / (1 + (difference / (FADING * typical)) ** 2) ** 2
        # The third unknown is a change of brightness.
        design = np.stack([slopes[0].ravel(), slopes[1].ravel(), np.ones_like(difference)])
        normal = (design * weights) @ design.T
        if np.linalg.cond(normal) > 1e10:
            break
        change = np.linalg.solve(normal, (design * weights) @ difference)[:2]
        shift = np.clip(shift - change, -2, 2)
        if np.abs(change).max() < 0.01:
            break
    return shift if np.abs(shift).max() < 2 else np.zeros(2)


def _moved(plane: np.ndarray, shift: np.ndarray) -> np.ndarray:
    """Read a plane at positions `shift` (less than two voxels) away, linearly interpolated, leaving a rim of three off."""
    begin = np.floor(shift).astype(int)
    wy, wx = np.float32(shift[0] - begin[0]), np.float32(shift[1] - begin[1])

    def at(y: int, x: int) -> np.ndarray:
        y, x = 3 + begin[0] + y, 3 + begin[1] + x
        return plane[y : y + plane.shape[0] - 6, x : x + plane.shape[1] - 6]

    return (1 - wy) * ((1 - wx) * at(0, 0) + wx * at(0, 1)) + wy * ((1 - wx) * at(1, 0) + wx * at(1, 1))


def positions(shifts: np.ndarray, gaps: np.ndarray, kept_drift: float) -> np.ndarray:
    """Turn shifts of planes, each against the last, into the position of each plane, in voxels.

    A shift is a true displacement plus what slanted structures move by. The latter changes slowly from plane to plane,
    and is left in the image as far as it does not exceed `kept_drift`. If displacements by fractions are no larger than
    errors of measurement, or whole ones (0 in an aligned stack) explain the shifts better, shifts are rounded but for
    structures: then errors do not add up over the planes.

    Parameters
    ----------
    shifts : (n, 2), plane i + 1 against plane i, along y and x
    gaps : (n,), how many planes apart they lie: 1, or more where planes were passed over
    kept_drift : voxels per plane

    Returns
    -------
    (n + 1, 2), with a median of about 0
    """
    planes = np.concatenate([[0], np.cumsum(gaps)])
    at = np.concatenate([np.zeros((1, 2)), np.cumsum(shifts, axis=0)])
    slow, variance, evidence = _slow_part(at, planes)
    # Fractions explain no shifts worse than evenly spread rests would, whose density is 1.
    if variance <= SMALLEST_VARIANCE or sum(_evidence_of_whole(along, gaps) for along in shifts.T) > max(evidence, 0):
        steps = np.stack([_most_even_rounding(along, gaps) for along in shifts.T], axis=1)
        at = np.concatenate([np.zeros((1, 2)), np.cumsum(steps, axis=0)])
    else:
        rates = np.clip(np.diff(slow, axis=0), -kept_drift, kept_drift)
        at -= np.concatenate([np.zeros((1, 2)), np.cumsum(rates, axis=0)])[planes]
    return at - np.median(np.rint(at), axis=0).round()


def _evidence_of_whole(values: np.ndarray, gaps: np.ndarray) -> float:
    """Say how likely the rests of the values over any whole numbers are as what structures add: the log of the density."""
    from scipy.special import logsumexp

    middle = np.angle(np.exp(2j * np.pi * values / gaps).mean()) / (2 * np.pi)
    rests = (values[:, None] - np.rint(values)[:, None] - np.array([-1, 0, 1])) / gaps[:, None] - middle
    density = -_misfit(rests[0], RATE_VX)
    for last, rest in itertools.pairwise(rests):
        density = logsumexp(density[:, None] - _misfit(rest - LIKENESS * last[:, None], CHANGE_VX), axis=0)
    scale = np.log(RATE_VX) + (len(values) - 1) * np.log(CHANGE_VX) + len(values) / 2 * np.log(2 * np.pi)
    return float(logsumexp(density) - scale)


def _misfit(values: np.ndarray, deviation: float) -> np.ndarray:
    return (values / deviation) ** 2 / 2


def _most_even_rounding(values: np.ndarray, gaps: np.ndarray) -> np.ndarray:
    """Round each value to one of the three nearest whole numbers so that the rests change least from one to the next.

    The rests, by plane, are what structures add: around 0, and alike from plane to plane, which tells 0.6 of a voxel from
    -0.4. How many planes are shifted at all is not known, so it is found along with their shifts: where nearly none is,
    a single odd value is rather what structures add. Starts from half of the planes, and from none.
    """
    found = []
    for share in (0.5, 0.5 / (len(values) + 1)):
        chosen, cost = _rounding(values, gaps, share)
        for _ in range(20):
            before, share = chosen, (np.count_nonzero(chosen) + 0.5) / (len(values) + 1)
            chosen, cost = _rounding(values, gaps, share)
            if (chosen == before).all():
                break
        found.append((cost, chosen))
    return min(found, key=lambda f: f[0])[1]


def _rounding(values: np.ndarray, gaps: np.ndarray, share: float) -> tuple[np.ndarray, float]:
    """Find the most probable whole numbers if `share` of them are not 0, and minus the log of their probability.

    Rests are a first-order autoregression; whole numbers other than 0 are equally likely. By dynamic programming
    (Viterbi 1967).
    """
    near = np.rint(values)
    whole = near[:, None] + np.array([-1, 0, 1])
    rests = (values[:, None] - whole) / gaps[:, None]
    own = np.where(whole == 0, -np.log(1 - share), np.log(2 * np.abs(near).max() + 2) - np.log(share))
    cost = _misfit(rests[0], RATE_VX) + own[0]
    came_from = np.zeros(rests.shape, int)
    for i in range(1, len(values)):
        total = cost[:, None] + _misfit(rests[i] - LIKENESS * rests[i - 1][:, None], CHANGE_VX)
        came_from[i] = total.argmin(axis=0)
        cost = total.min(axis=0) + own[i]
    chosen = np.empty(len(values), int)
    chosen[-1] = cost.argmin()
    for i in range(len(values) - 1, 0, -1):
        chosen[i - 1] = came_from[i, chosen[i]]
    return np.take_along_axis(whole, chosen[:, None], axis=1)[:, 0], float(cost.min())


def _slow_part(at: np.ndarray, planes: np.ndarray) -> tuple[np.ndarray, float, float]:
    """Estimate what structures add to the positions `at` of `planes`: (planes[-1] + 1, 2).

    Displacements are taken to be independent from plane to plane, of any one variance, and structures to move at a rate
    that is a first-order autoregression around a constant. Shifts far from all others (of the stage, say) are jumps of
    unknown size, which are displacements. Given the variance, the estimate is linear (least squares); the variance is
    the most probable one (restricted maximum likelihood, Patterson & Thompson 1971).

    Returns the estimate, the variance, and the log of the density that it gives the differences of `at`.
    """
    from scipy.linalg import cho_solve_banded, cholesky_banded
    from scipy.sparse import diags_array

    num = int(planes[-1]) + 1
    known = np.zeros(num)
    known[planes] = 1
    off = np.abs(np.diff(at, axis=0) - np.median(np.diff(at, axis=0), axis=0))
    jumps = planes[1:][(off > JUMP * (1.4826 * np.median(off, axis=0) + SMALLEST_VARIANCE**0.5)).any(axis=1)]
    plane = np.arange(num)
    columns = np.zeros((num, 3 + len(jumps)))  # positions along y and x; a constant rate, and steps
    columns[planes, :2], columns[:, 2], columns[:, 3:] = at, plane, plane[:, None] >= jumps
    innovation = CHANGE_VX**2
    diagonal = np.full(num - 1, (1 + LIKENESS**2) / innovation)
    diagonal[[0, -1]] = 1 / innovation
    precision = diags_array([diagonal, *[np.full(num - 2, -LIKENESS / innovation)] * 2], offsets=[0, 1, -1])
    step = diags_array([np.full(num - 1, -1.0), np.ones(num - 1)], offsets=[0, 1], shape=(num - 1, num))
    smooth = step.T @ precision @ step
    bands = np.array([np.pad(smooth.diagonal(-k), (0, k)) for k in range(3)])

    # Of all but the variances that are tried: of the rates, and of what is unknown, of any value alike.
    constant = (num - 1) * np.log(innovation) - np.log(1 - LIKENESS**2)
    constant += (len(planes) - 1 - (columns.shape[1] - 2)) * np.log(2 * np.pi)

    least, slow, found = np.inf, np.zeros((num, 2)), SMALLEST_VARIANCE
    for variance in np.geomspace(SMALLEST_VARIANCE, max(2 * SMALLEST_VARIANCE, at.var(axis=0).max()), 40):
        weight = known[:, None] / variance
        factor = cholesky_banded(bands + np.stack([weight[:, 0], *np.zeros((2, num))]), lower=True)
        fitted = cho_solve_banded((factor, True), weight * columns)
        product = columns.T @ (weight * (columns - fitted))
        effects = np.linalg.solve(product[2:, 2:], product[2:, :2])
        misfit = np.trace(product[:2, :2]) - (effects * product[2:, :2]).sum()
        spread = 2 * np.log(factor[0]).sum() + len(planes) * np.log(variance) + np.linalg.slogdet(product[2:, 2:])[1]
        if 2 * spread + misfit < least:
            least, found = 2 * spread + misfit, float(variance)
            slow = fitted[:, :2] - fitted[:, 2:] @ effects + plane[:, None] * effects[0]
    return slow, found, -float(least + 2 * constant) / 2
