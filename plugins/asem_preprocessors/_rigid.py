"""How far planes are turned and shifted against each other: rigid motion, found from coarse to fine."""

from __future__ import annotations

import numpy as np

from asem_preprocessors._registration import BLUR_VX, CLEAR, FADING, _whole_shift

COARSE_VX = 256  # edge of the reduced planes that angles are tried on
COARSE_DEGREES = 1.0  # between the angles that are tried; at the rim of a reduced plane 2 voxels
LAST_STEP_VX = 0.005  # of a voxel at the rim: a refinement that moves by less has ended


def find_motion(
    first: np.ndarray, second: np.ndarray, largest_vx: float, largest_degrees: float
) -> tuple[float, float, float, float]:
    """Measure how `second` is turned about the centre, and then shifted, against `first`.

    Of the angles tried on reduced planes, that of the clearest phase correlation is refined together with the shift, so that
    the brightness gradients of most voxels agree (Lucas & Kanade 1981, rigid as by Thévenaz, Ruttimann & Unser 1998; voxels
    far off are weighted down after Geman & McClure 1985), on ever finer planes.

    Returns
    -------
    angle in radians (from y towards x), shift along y and x in voxels, and how clear it is; below `CLEAR` it means nothing.
    """
    factor = max(1, -(-max(first.shape) // COARSE_VX))
    a, b = _reduced(first, factor), _reduced(second, factor)
    num = int(largest_degrees / COARSE_DEGREES)
    angles = np.deg2rad(np.arange(-num, num + 1) * COARSE_DEGREES)
    tried = []
    for angle in angles[np.argsort(np.abs(angles), kind="stable")]:
        turned = moved(b, angle, np.zeros(2)) if angle else b
        shift, clarity = _whole_shift(a, turned, np.zeros(2, int), max(1.0, largest_vx / factor))
        tried.append((clarity, float(angle), shift))
    clarity, angle, found = max(tried, key=lambda t: t[0])
    if clarity < CLEAR:
        return 0.0, 0.0, 0.0, clarity
    # What was found is the shift of the turned plane: second = R(angle) (first + found).
    motion = np.array([angle, *(_turn(angle) @ found)])
    while factor >= 1:
        scale = np.array([1.0, factor, factor])
        motion = _refined(_reduced(first, factor), _reduced(second, factor), motion / scale) * scale
        factor = factor // 2 if factor > 1 else 0
    return float(motion[0]), float(motion[1]), float(motion[2]), clarity


def _turn(angle: float) -> np.ndarray:
    """The matrix that turns (y, x) from y towards x."""
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s], [s, c]])


def turned_by(angles: np.ndarray) -> np.ndarray:
    """The matrices of several angles: (angle, 2, 2)."""
    return np.array([_turn(float(a)) for a in angles])


def _reduced(plane: np.ndarray, factor: int) -> np.ndarray:
    y, x = (n // factor * factor for n in plane.shape)
    blocks = plane[:y, :x].reshape(y // factor, factor, x // factor, factor)
    return np.asarray(blocks.mean(axis=(1, 3), dtype=np.float32))


def moved(plane: np.ndarray, angle: float, shift: np.ndarray, outside: float | None = None) -> np.ndarray:
    """Read a plane at positions turned about its centre and then shifted; beyond its end is its mean, or `outside`."""
    from scipy import ndimage

    centre = (np.array(plane.shape) - 1) / 2
    matrix = _turn(angle)
    offset = centre - matrix @ centre + shift
    beyond = float(plane.mean()) if outside is None else outside
    return np.asarray(ndimage.affine_transform(plane, matrix, offset, order=1, mode="constant", cval=beyond))


def _refined(first: np.ndarray, second: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Refine angle and shift until the brightness of both planes agrees at most voxels."""
    from scipy import ndimage

    a, b = (ndimage.gaussian_filter(p.astype(np.float32), BLUR_VX) for p in (first, second))
    y, x = (i - (n - 1) / 2 for i, n in zip(np.indices(a.shape, np.float32), a.shape, strict=True))
    rim = max(a.shape) / 2
    known = np.zeros(a.shape, bool)
    known[3:-3, 3:-3] = True
    start = motion.copy()
    for _ in range(12):
        angle, shift = motion[0], motion[1:]
        back = moved(b, angle, shift, np.nan)
        slope_y, slope_x = np.gradient((a + back) / 2)
        use = known & np.isfinite(slope_y) & np.isfinite(slope_x) & np.isfinite(back)
        if np.count_nonzero(use) < 1000:
            return start
        # A step of the angle moves the position (y, x) by (-x, y) in the frame of the first plane.
        sy, sx = slope_y[use], slope_x[use]
        design = np.stack([sx * y[use] - sy * x[use], sy, sx, np.ones_like(sy)]).astype(np.float64)
        difference = (back - a)[use].astype(np.float64)
        typical = 1.4826 * float(np.median(np.abs(difference - np.median(difference))))
        if typical == 0:
            break
        weights = 1 / (1 + (difference / (FADING * typical)) ** 2) ** 2
        normal = (design * weights) @ design.T
        scale = np.array([rim, 1.0, 1.0, 1.0])
        if np.linalg.cond(normal / np.outer(scale, scale)) > 1e10:
            break
        change = -np.linalg.solve(normal, (design * weights) @ difference)[:3]
        motion = np.array([angle + change[0], *(shift + _turn(angle) @ change[1:])])
        if max(abs(change[0]) * rim, *np.abs(change[1:])) < LAST_STEP_VX:
            break
    far = np.abs(motion - start) * [rim, 1, 1]
    return motion if far.max() < 8 else start
