"""The outline of a coated structure in its best plane: Otsu, skeleton, ellipse (Gallusser et al. 2022)."""

from __future__ import annotations

import attrs
import numpy as np

from asem_analyzers._wall import TRACE_NM, WINDOW_NM, bends, measure_blur, membrane_on_lines, pull_nm
from asem_core.volume import Box, Volume, as_zyx

PLANES = 9
MARGIN_NM = 60.0
NEAR_NM = 15.0
"""How far from the mask, in the plane, dark pixels may belong to the outline."""
ALONG_NM = 10.0
"""How far from the mask, across the outline, the outline still follows it."""
REACH_NM = 14.0
"""How far from the fitted ellipse the membrane is looked for, to a fraction of a pixel."""
NUM_LINES = 72
ROUNDS = 4
ACROSS = 0.75
"""Cosine of the angle between a pit and the normal of a plane from which on the plane cuts across it."""


@attrs.frozen(eq=False)
class Outline:
    """An ellipse in one plane of the grid; lengths in nm."""

    axis: int  # the plane is perpendicular to this axis
    plane: int  # and this many voxels along it
    centre_nm: np.ndarray  # (2,), along the two other axes, from the volume's first voxel
    major_nm: float
    minor_nm: float
    angle: float  # radians, of the major axis from the second of the two axes
    closed: float  # part of the ellipse that has membrane, 0..1
    residual_nm: float  # median distance of the membrane from the ellipse

    @property
    def eccentricity(self) -> float:
        return self.major_nm / self.minor_nm


def best_plane(mask: np.ndarray, inwards: np.ndarray | None = None) -> tuple[int, int]:
    """Choose, of nine consecutive planes along each axis around the centroid, the one with the largest outline.

    Largest is the outline that encloses most, its gap closed by a straight line. Planes across the direction `inwards` of a
    pit are left out: there it is a ring, whatever its shape. Returns the axis that the plane is perpendicular to, and its index.
    """
    centroid = np.argwhere(mask).mean(axis=0).round().astype(int)
    outlines = {}
    for axis in range(3):
        if inwards is not None and abs(inwards[axis]) > ACROSS:
            continue
        first = max(0, int(centroid[axis]) - PLANES // 2)
        for plane in range(first, min(mask.shape[axis], first + PLANES)):
            off_centre = abs(plane - int(centroid[axis]))
            outlines[axis, plane] = (_enclosed(mask.take(plane, axis)), -off_centre)
    return max(outlines, key=lambda at: outlines[at])


def _enclosed(mask: np.ndarray) -> float:
    """Measure the area of the convex hull of a mask, in pixels; 0 for a line."""
    from scipy.spatial import ConvexHull, QhullError

    try:
        return float(ConvexHull(np.argwhere(mask)).volume)
    except (QhullError, ValueError):
        return 0.0


def measure_outline(
    raw: Volume, box: Box, mask: np.ndarray, dark: bool, inwards: np.ndarray | None = None
) -> Outline | None:
    """Measure the ellipse of an object from its mask, read at `box` of the image; None where no ellipse fits.

    1. The best of 9 x 3 planes.
    2. Otsu's threshold of the dark pixels near the mask; their skeleton.
    3. An ellipse through the skeleton; then, along lines across it, the membrane's own place, to a fraction of a pixel,
       and the ellipse nearest to those. Without this the coat, dark too, draws the skeleton outwards.
    4. The ellipse through the last places, by least squares of its equation: an outline that is no ellipse gives other
       axes by each way to fit one, and this is the usual one.
    """
    from scipy.ndimage import distance_transform_edt
    from skimage.filters import threshold_otsu
    from skimage.morphology import skeletonize

    axis, plane = best_plane(mask, inwards)
    size = np.delete(np.asarray(raw.voxel_size_nm), axis)
    flat_mask = mask.take(plane, axis)
    image = _read_plane(raw, box, axis, plane)
    stain = -image if dark else image
    near = distance_transform_edt(~flat_mask, sampling=size) <= NEAR_NM
    if near.sum() < 10 or np.ptp(stain[near]) == 0:
        return None
    lines = skeletonize((stain > threshold_otsu(stain[near])) & near)
    ellipse = fit_ellipse(np.argwhere(lines) * size) or fit_ellipse(np.argwhere(flat_mask) * size)
    if ellipse is None:
        return None
    thickness = np.ptp(np.nonzero(mask)[axis]) * raw.voxel_size_nm[axis] - 2 * TRACE_NM
    measured, closed, residual = ellipse, 0.0, np.nan
    for _ in range(ROUNDS):
        found = _membrane_near(ellipse, thickness, stain, flat_mask, size)
        start = fit_ellipse(found)
        if start is None:
            break
        ellipse, measured = nearest_ellipse(found, start), start
        closed = len(found) / NUM_LINES
        residual = float(np.median(np.abs(_distance(found, start))))
    begin = np.delete(np.asarray(box.begin), axis) * size
    centre, major, minor, angle = measured
    return Outline(axis, box.begin[axis] + plane, centre + begin, major, minor, angle, closed, residual)


def _read_plane(raw: Volume, box: Box, axis: int, plane: int) -> np.ndarray:
    """Read the mean of a plane and its two neighbours: less noise, and across a best plane little changes."""
    begin, end = list(box.begin), list(box.end)
    begin[axis], end[axis] = box.begin[axis] + plane - 1, box.begin[axis] + plane + 2
    slab = raw.read(Box(as_zyx(begin), as_zyx(end)), outside="reflect")
    return np.asarray(slab.mean(axis=axis, dtype=np.float32))


Ellipse = tuple[np.ndarray, float, float, float]
"""Centre (2,), major and minor axis (whole, not half), angle of the major axis from the second coordinate."""


def fit_ellipse(points: np.ndarray) -> Ellipse | None:
    """Fit an ellipse to points (n, 2) by least squares, without the few that lie off it; None where none fits."""
    from skimage.measure import EllipseModel

    for _ in range(3):
        if len(points) < 8:
            return None
        try:
            with np.errstate(all="ignore"):  # it divides by 0 for the angle of a circle; what is not finite is left out
                model = EllipseModel.from_estimate(points[:, ::-1])
        except TypeError:  # scikit-image finds a complex ellipse, and cannot take the remainder of its angle
            return None
        if not model:
            return None
        (x, y), (a, b), theta = model.center, model.axis_lengths, model.theta
        if not np.isfinite([x, y, a, b]).all() or min(a, b) <= 0:
            return None
        if a < b:
            a, b, theta = b, a, theta + np.pi / 2
        ellipse = (np.array([y, x]), 2 * float(a), 2 * float(b), float(theta % np.pi))
        off = np.abs(_distance(points, ellipse))
        keep = off <= max(4.0, 3 * float(np.median(off)))
        if keep.all():
            return ellipse
        points = points[keep]
    return ellipse


def nearest_ellipse(points: np.ndarray, start: Ellipse) -> Ellipse:
    """Fit the ellipse whose distance from points (n, 2) is least, from one that is near.

    Least squares of the ellipse's equation weigh a point by where it lies on the ellipse, and shrink open arcs.
    """
    from scipy.optimize import least_squares

    centre, major, minor, angle = start

    def distance(parameters: np.ndarray) -> np.ndarray:
        y, x, log_major, log_minor, turn = parameters
        return _distance(points, (np.array([y, x]), float(np.exp(log_major)), float(np.exp(log_minor)), float(turn)))

    first = np.array([*centre, np.log(major), np.log(minor), angle])
    free = np.array([minor, minor, 0.5, 0.5, np.pi])  # an arc that is nearly straight fits endless ellipses
    bounds = (first - free, first + free)
    found = least_squares(distance, first, bounds=bounds, x_scale=free, loss="soft_l1", f_scale=2.0).x
    major, minor, angle = float(np.exp(found[2])), float(np.exp(found[3])), float(found[4])
    if major < minor:
        major, minor, angle = minor, major, angle + np.pi / 2
    return found[:2], major, minor, angle % np.pi


def _distance(points: np.ndarray, ellipse: Ellipse) -> np.ndarray:
    """Measure how far points (n, 2) lie from an ellipse, positive outside; Newton steps to the nearest place on it."""
    x, y = np.abs(_own_frame(points, ellipse))
    a, b = ellipse[1] / 2, ellipse[2] / 2
    turn = np.arctan2(a * y, b * x)
    for _ in range(8):
        cos, sin = np.cos(turn), np.sin(turn)
        slope = (a**2 - b**2) * cos * sin - a * x * sin + b * y * cos
        bend = (a**2 - b**2) * (cos**2 - sin**2) - a * x * cos - b * y * sin
        turn = np.clip(turn - np.clip(slope / np.where(bend < 0, bend, -1), -0.3, 0.3), 0, np.pi / 2)
    outside = np.hypot(x / a, y / b) > 1
    return np.asarray(np.hypot(x - a * np.cos(turn), y - b * np.sin(turn)) * np.where(outside, 1, -1))


def _own_frame(points: np.ndarray, ellipse: Ellipse) -> tuple[np.ndarray, np.ndarray]:
    """Give the places of points along the major and the minor axis of an ellipse."""
    y, x = (points - ellipse[0]).T
    cos, sin = np.cos(ellipse[3]), np.sin(ellipse[3])
    return x * cos + y * sin, y * cos - x * sin


def _membrane_near(
    ellipse: Ellipse, thickness_nm: float, stain: np.ndarray, mask: np.ndarray, size: np.ndarray
) -> np.ndarray:
    """Find the membrane near the ellipse, on lines across it that the mask covers; (n, 2) in nm.

    Near the ends of an open outline there is none: within the width of the blur, what lies beyond is mixed in.

    Parameters
    ----------
    thickness_nm
        Extent of the object across the plane. Where a surface is bent, also out of the plane, its image is not where it is.
    """
    from scipy.ndimage import gaussian_filter1d, map_coordinates

    on, outwards, curvature, spacing = _lines_across(ellipse, thickness_nm)
    steps = np.arange(-WINDOW_NM, WINDOW_NM + 0.5, 1.0)
    where = np.moveaxis((on[:, None] + outwards[:, None] * steps[:, None]) / size, -1, 0)
    close = where[:, :, np.abs(steps) <= ALONG_NM]
    covered = map_coordinates(mask.astype(np.float32), close, order=0, mode="constant").max(axis=1) > 0.5
    if not covered.any():
        return np.zeros((0, 2))
    data = gaussian_filter1d(map_coordinates(stain, where, order=1, mode="nearest"), 1.5, axis=0, mode="wrap")
    blur = measure_blur(data[covered], steps, 0.0, REACH_NM)
    offset = membrane_on_lines(data, steps, 0.0, REACH_NM, blur)
    around = spacing * np.arange(-NUM_LINES, 2 * NUM_LINES)
    bend = bends(around, np.tile(offset, 3))[1][NUM_LINES : 2 * NUM_LINES]
    offset += pull_nm(blur, curvature - bend)
    inner = ~_dilated_ring(~covered, round(blur / spacing))
    found = inner & np.isfinite(offset)
    return np.asarray((on + outwards * offset[:, None])[found])


def _lines_across(ellipse: Ellipse, thickness_nm: float) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
    """Give places (n, 2) evenly along an ellipse, unit normals, and the sum of both curvatures of an ellipsoid there; and the step.

    The ellipsoid's third axis is `thickness_nm`, if that is between the other two.
    """
    centre, major, minor, angle = ellipse
    a, b = major / 2, minor / 2
    fine = np.linspace(0, 2 * np.pi, 10 * NUM_LINES + 1)
    arc = np.concatenate([[0], np.cumsum(np.hypot(np.diff(a * np.cos(fine)), np.diff(b * np.sin(fine))))])
    turn = np.interp(np.linspace(0, arc[-1], NUM_LINES, endpoint=False), arc, fine)
    along, across = a * np.cos(turn), b * np.sin(turn)
    to_tangent = 1 / np.hypot(along / a**2, across / b**2)  # distance of the tangent from the centre
    axes = np.array([[np.sin(angle), np.cos(angle)], [np.cos(angle), -np.sin(angle)]])
    on = centre + np.column_stack([along, across]) @ axes
    outwards = np.column_stack([to_tangent * along / a**2, to_tangent * across / b**2]) @ axes
    curvature = to_tangent**3 / (a * b) ** 2 + to_tangent / np.clip(thickness_nm / 2, b, a) ** 2
    return on, outwards, curvature, float(arc[-1] / NUM_LINES)


def _dilated_ring(flags: np.ndarray, by: int) -> np.ndarray:
    return np.asarray(np.any([np.roll(flags, k) for k in range(-by, by + 1)], axis=0))
