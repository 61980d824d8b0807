"""The outline of a coated structure in its best plane: Otsu, skeleton, ellipse (Gallusser et al. 2022)."""

from __future__ import annotations

import attrs
import numpy as np

from asem_analyzers._wall import WINDOW_NM, membrane_on_lines
from asem_core.volume import Box, Volume

PLANES = 9
MARGIN_NM = 60.0
NEAR_NM = 15.0
"""How far from the mask, in the plane, dark pixels may belong to the outline."""
REACH_NM = 14.0
"""How far from the fitted ellipse the membrane is looked for, to a fraction of a pixel."""
NUM_RAYS = 72
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

    Planes across the direction `inwards` of a pit are left out: there it is a ring, whatever its shape. Returns the
    axis that the plane is perpendicular to, and its index.
    """
    from skimage.morphology import skeletonize

    centroid = np.argwhere(mask).mean(axis=0).round().astype(int)
    outlines = {}
    for axis in range(3):
        if inwards is not None and abs(inwards[axis]) > ACROSS:
            continue
        first = max(0, int(centroid[axis]) - PLANES // 2)
        for plane in range(first, min(mask.shape[axis], first + PLANES)):
            off_centre = abs(plane - int(centroid[axis]))
            outlines[axis, plane] = (np.count_nonzero(skeletonize(mask.take(plane, axis))), -off_centre)
    return max(outlines, key=lambda at: outlines[at])


def measure_outline(
    raw: Volume, box: Box, mask: np.ndarray, dark: bool, inwards: np.ndarray | None = None
) -> Outline | None:
    """Measure the ellipse of an object from its mask, read at `box` of the image; None where no ellipse fits.

    1. The best of 9 x 3 planes.
    2. Otsu's threshold of the dark pixels near the mask; their skeleton.
    3. An ellipse through the skeleton; then, along rays from its centre, the membrane's own place, to a fraction of a
       pixel, and an ellipse through those. Without this the coat, dark too, draws the skeleton outwards.
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
    points = np.argwhere(lines) * size
    ellipse = fit_ellipse(points)
    if ellipse is None:
        ellipse = fit_ellipse(np.argwhere(flat_mask) * size)
    if ellipse is None:
        return None
    closed, residual = 0.0, np.nan
    for _ in range(3):
        found = _membrane_on_rays(stain, near, ellipse, size)
        refined = fit_ellipse(found)
        if refined is None:
            break
        ellipse = refined
        closed = len(found) / NUM_RAYS
        residual = float(np.median(np.abs(_radial(found, ellipse))))
    begin = np.delete(np.asarray(box.begin), axis) * size
    centre, major, minor, angle = ellipse
    return Outline(axis, box.begin[axis] + plane, centre + begin, major, minor, angle, closed, residual)


def _read_plane(raw: Volume, box: Box, axis: int, plane: int) -> np.ndarray:
    begin, end = list(box.begin), list(box.end)
    begin[axis], end[axis] = box.begin[axis] + plane, box.begin[axis] + plane + 1
    return np.asarray(raw.read(Box(tuple(begin), tuple(end)), outside="reflect").astype(np.float32).take(0, axis))


Ellipse = tuple[np.ndarray, float, float, float]
"""Centre (2,), major and minor axis (whole, not half), angle of the major axis from the second coordinate."""


def fit_ellipse(points: np.ndarray) -> Ellipse | None:
    """Fit an ellipse to points (n, 2) by least squares, without the few that lie off it."""
    from skimage.measure import EllipseModel

    for _ in range(3):
        if len(points) < 8:
            return None
        model = EllipseModel.from_estimate(points[:, ::-1])
        if not model:
            return None
        (x, y), (a, b), theta = model.center, model.axis_lengths, model.theta
        if not np.isfinite([x, y, a, b]).all() or min(a, b) <= 0:
            return None
        if a < b:
            a, b, theta = b, a, theta + np.pi / 2
        ellipse = (np.array([y, x]), 2 * float(a), 2 * float(b), float(theta % np.pi))
        off = np.abs(_radial(points, ellipse))
        keep = off <= max(4.0, 3 * float(np.median(off)))
        if keep.all():
            return ellipse
        points = points[keep]
    return ellipse


def _radial(points: np.ndarray, ellipse: Ellipse) -> np.ndarray:
    """Say how far points lie outside an ellipse, along the ray from its centre."""
    centre, major, minor, angle = ellipse
    y, x = (points - centre).T
    along, across = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
    stretch = np.hypot(along / (major / 2), across / (minor / 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.hypot(along, across) * (1 - 1 / stretch))


def _membrane_on_rays(stain: np.ndarray, near: np.ndarray, ellipse: Ellipse, size: np.ndarray) -> np.ndarray:
    """Find the membrane near the ellipse on each ray that crosses the mask's surroundings; (n, 2) in nm.

    A blurred membrane between a level inside and another outside is fitted: cytosol and coat are darker than the lumen,
    so the darkest point lies outside of the membrane.
    """
    from scipy.ndimage import gaussian_filter1d, map_coordinates

    centre, major, minor, angle = ellipse
    turn = np.linspace(0, 2 * np.pi, NUM_RAYS, endpoint=False)
    along, across = major / 2 * np.cos(turn), minor / 2 * np.sin(turn)
    on = np.column_stack(
        [along * np.sin(angle) + across * np.cos(angle), along * np.cos(angle) - across * np.sin(angle)]
    )
    radius = np.linalg.norm(on, axis=1, keepdims=True)
    steps = np.arange(-WINDOW_NM, WINDOW_NM + 0.5, 1.0)
    rays = centre + (on / radius)[:, None, :] * (radius + steps)[:, :, None]
    where = np.moveaxis(rays / size, -1, 0)
    data = gaussian_filter1d(map_coordinates(stain, where, order=1, mode="nearest"), 1.5, axis=0, mode="wrap")
    offset = membrane_on_lines(data, steps, 0.0, REACH_NM)
    inside = map_coordinates(near.astype(np.float32), (centre + on).T / size[:, None], order=0, mode="constant") > 0.5
    found = inside & np.isfinite(offset)
    return np.asarray((centre + on / radius * (radius + offset[:, None]))[found])
