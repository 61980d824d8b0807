"""Neck, height and width of an invagination, from its meridian in the image."""

from __future__ import annotations

import attrs
import numpy as np

from asem_analyzers._membrane import Sheet, across
from asem_analyzers._wall import TRACE_NM, bends, measure_blur, membrane_on_lines, pull_nm
from asem_core.volume import Box, Volume, as_zyx

NUM_ANGLES = 36
STEP_NM = 1.5
BELOW_NM = 30.0
REACH_NM = 12.0
"""How far from the mask's own meridian the membrane is looked for."""
SMOOTH_NM = 4.0


@attrs.frozen(eq=False)
class PitShape:
    """An invagination, measured between the centres of its membrane."""

    height_nm: float
    width_nm: float
    neck_nm: float
    confidence: float  # 0..1
    meridian: np.ndarray  # float32 (depth, radius), the image averaged around the axis, darkness of membrane upwards
    depths_nm: np.ndarray  # of the rows found
    radii_nm: np.ndarray  # of the membrane in these rows


def measure_pit(raw: Volume, voxels_nm: np.ndarray, sheet: Sheet, dark: bool) -> PitShape | None:
    """Measure a pit or caveola whose mask traces its membrane; None where its surroundings leave the image.

    The image is averaged around the axis of the pit (the normal of the membrane around it, through the middle of its
    mask) into a meridian: depth below the membrane against radius. The mask says roughly where the membrane runs in it;
    the image says where exactly. Height: from the flat membrane to the bottom on the axis. Width: the largest diameter.
    Neck: the smallest diameter above the widest place.

    Parameters
    ----------
    voxels_nm
        The mask's voxels, (n, 3).
    """
    foot, radius, depth = _cylinder(voxels_nm, sheet)
    deepest = float(np.quantile(depth, 0.98))
    widest = float(np.quantile(radius, 0.98))
    radii = np.arange(0, widest + 60 + STEP_NM, STEP_NM)
    depths = np.arange(-BELOW_NM, deepest + 40 + STEP_NM, STEP_NM)
    meridians = _meridians(raw, foot, sheet, radii, depths, dark)
    if meridians is None:
        return None
    mean = _smooth(meridians.mean(axis=0))
    flat, blur = _flat_membrane(mean, radii, depths, widest)
    rows, inside = _wall(mean, radii, depths, radius, depth, blur)
    if len(rows) < 3:
        return None
    bottom = _bottom(mean, radii, depths, deepest, blur)
    kept = rows < flat + 0.85 * (bottom - flat)
    kept &= rows > flat + 3.0
    if kept.sum() < 3:
        kept = np.ones(len(rows), bool)
    rows, inside = rows[kept], inside[kept]
    inside = inside + _pulled(rows, inside, blur)
    widest_row = int(inside.argmax())
    width = 2 * _top(rows, inside, widest_row)
    above = slice(0, widest_row + 1)
    neck = 2 * float(inside[above].min())
    below = bottom - rows[widest_row]
    bottom += float(pull_nm(blur, 2 * below / (width / 2) ** 2))
    agree = _agreement(meridians, radii, depths, rows, inside)
    return PitShape(
        bottom - flat,
        width,
        min(neck, width),
        agree,
        mean.astype(np.float32),
        np.append(rows, bottom),
        np.append(inside, 0.0),
    )


def _cylinder(voxels_nm: np.ndarray, sheet: Sheet) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the foot of the axis on the sheet, and each voxel's radius and depth."""
    first, second = across(sheet.inwards)
    u, v, depth = ((voxels_nm - sheet.foot_nm) @ axis for axis in (first, second, sheet.inwards))
    # The middle of a ring of voxels, whichever part of it was traced: a circle through the deeper half.
    deep = depth > np.quantile(depth, 0.3)
    middle = np.array([(u[deep].min() + u[deep].max()) / 2, (v[deep].min() + v[deep].max()) / 2])
    middle = 0.5 * middle + 0.5 * np.array([u[deep].mean(), v[deep].mean()])
    foot = sheet.foot_nm + middle[0] * first + middle[1] * second
    return foot, np.hypot(u - middle[0], v - middle[1]), depth


def _meridians(
    raw: Volume, foot_nm: np.ndarray, sheet: Sheet, radii: np.ndarray, depths: np.ndarray, dark: bool
) -> np.ndarray | None:
    """Sample half-planes around the axis: (angles, depths, radii); depth follows the bend of the sheet."""
    from scipy.ndimage import map_coordinates

    first, second = across(sheet.inwards)
    angles = np.linspace(0, 2 * np.pi, NUM_ANGLES, endpoint=False)
    outwards = np.cos(angles)[:, None] * first + np.sin(angles)[:, None] * second
    size = np.asarray(raw.voxel_size_nm)
    height = depths[:, None] + sheet.curvature_per_nm * radii**2
    points = (
        foot_nm + outwards[:, None, None, :] * radii[None, None, :, None] + sheet.inwards * height[None, :, :, None]
    ) / size
    low, high = (
        np.floor(points.min(axis=(0, 1, 2))).astype(int) - 2,
        np.ceil(points.max(axis=(0, 1, 2))).astype(int) + 3,
    )
    box = Box(as_zyx(low.tolist()), as_zyx(high.tolist()))
    inside = box & raw.box
    if inside.size < 0.6 * box.size:
        return None
    image = raw.read(inside).astype(np.float32)
    where = np.moveaxis(points - inside.begin, -1, 0)
    sampled = map_coordinates(-image if dark else image, where, order=1, mode="nearest")
    return np.asarray(sampled)


def _smooth(image: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter

    return np.asarray(gaussian_filter(image, SMOOTH_NM / 2 / STEP_NM, mode="nearest"))


def _flat_membrane(mean: np.ndarray, radii: np.ndarray, depths: np.ndarray, widest: float) -> tuple[float, float]:
    """Find how deep the flat membrane around the pit lies (0, but for the error of its segmentation), and its blur."""
    beside = (radii > widest + 25) & (radii <= widest + 60)
    profile = mean[:, beside].mean(axis=1)
    blur = measure_blur(profile[None], depths, 0.0, REACH_NM)
    depth = float(membrane_on_lines(profile[None], depths, 0.0, REACH_NM, blur)[0])
    return depth if np.isfinite(depth) else 0.0, blur


def _bottom(mean: np.ndarray, radii: np.ndarray, depths: np.ndarray, deepest: float, blur: float) -> float:
    """Find the bottom on the axis; where the image does not show it, the mask's own."""
    near_axis = radii <= 9.0
    weight = radii[near_axis] + STEP_NM / 4
    profile = (mean[:, near_axis] * weight).sum(axis=1) / weight.sum()
    found = float(membrane_on_lines(profile[None], depths, deepest - TRACE_NM, REACH_NM, blur)[0])
    return found if np.isfinite(found) else deepest - TRACE_NM


def _wall(
    mean: np.ndarray,
    radii: np.ndarray,
    depths: np.ndarray,
    mask_radius: np.ndarray,
    mask_depth: np.ndarray,
    blur: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Find the radius of the membrane at each depth that the mask covers; (rows,) depths and radii."""
    templates = _rings(radii, blur)
    rows, found = [], []
    for k in range(len(depths)):
        close = np.abs(mask_depth - depths[k]) <= 4.0
        if close.sum() < 6 or not depths[k] > 0:
            continue
        near = float(np.median(mask_radius[close]))
        rows.append(depths[k])
        found.append(_ring_radius(mean[k], radii, templates, near, blur))
    return np.array(rows), np.array(found)


def _rings(radii: np.ndarray, blur: float) -> np.ndarray:
    """Draw what a thin ring of each radius looks like after the blur, as a function of radius; (rings, radii).

    A narrow ring fills up in the middle: its darkest place is then no longer where its membrane is.
    """
    from scipy.special import ive

    ring, r = radii[:, None], radii[None, :]
    return np.asarray(np.exp(-((r - ring) ** 2) / (2 * blur**2)) * ive(0, r * ring / blur**2))


def _ring_radius(profile: np.ndarray, radii: np.ndarray, templates: np.ndarray, near: float, blur: float) -> float:
    """Fit a ring to a profile for radii around `near`; the best radius, to a fraction of a step.

    Beside the ring there is a level inside and another outside: cytosol, or a coat, is darker than the pit's lumen, and
    would draw the ring outwards.
    """
    from scipy.special import ndtr

    window = (radii >= near - 20) & (radii <= near + 16)
    weight = np.sqrt(radii[window] + STEP_NM)
    data = profile[window] * weight
    tried = np.flatnonzero(np.abs(radii - near) <= REACH_NM)
    misfit = np.empty(len(tried))
    for n, k in enumerate(tried):
        step = ndtr((radii[window] - radii[k]) / blur)
        design = np.column_stack([templates[k, window] * weight, weight, step * weight])
        solution = np.linalg.lstsq(design, data, rcond=None)[0]
        misfit[n] = np.inf if solution[0] <= 0 else ((design @ solution - data) ** 2).sum()
    if not np.isfinite(misfit).any():
        return near
    best = int(misfit.argmin())
    if not 0 < best < len(tried) - 1 or not np.isfinite(misfit[best - 1 : best + 2]).all():
        return float(radii[tried[best]])
    left, low, right = misfit[best - 1 : best + 2]
    return float(radii[tried[best]] + 0.5 * (left - right) / (left - 2 * low + right) * STEP_NM)


def _top(rows: np.ndarray, radius: np.ndarray, at: int) -> float:
    """Take the largest radius from a parabola through the rows around it."""
    near = np.abs(rows - rows[at]) <= 10.0
    if near.sum() < 5:
        return float(radius[at])
    a, b, c = np.polyfit(rows[near] - rows[at], radius[near], 2)
    return float(c - b**2 / (4 * a)) if a < 0 and abs(b / (2 * a)) <= 10 else float(radius[near].max())


def _pulled(rows: np.ndarray, radius: np.ndarray, blur: float) -> np.ndarray:
    """Say how far the bend of the meridian draws its image inwards in each row (at a neck, outwards: less than 0)."""
    slope, bend = bends(rows, radius)
    stretch = np.hypot(1, slope)
    return pull_nm(blur, -bend / stretch**3) * stretch


def _agreement(
    meridians: np.ndarray, radii: np.ndarray, depths: np.ndarray, rows: np.ndarray, radius: np.ndarray
) -> float:
    """Say how far the half-planes agree: the part of all (angle, row) that shows a peak within 10 nm of the mean's."""
    found = 0
    picked = np.searchsorted(depths, rows)[:: max(1, len(rows) // 8)]
    at = dict(zip(np.searchsorted(depths, rows).tolist(), radius.tolist(), strict=True))
    smooth = _smooth_each(meridians[:, picked])
    for n, k in enumerate(picked.tolist()):
        near = np.abs(radii[1:-1] - at[k]) <= 10.0
        peaks = (smooth[:, n, 1:-1] >= smooth[:, n, :-2]) & (smooth[:, n, 1:-1] > smooth[:, n, 2:])
        found += int((peaks & near).any(axis=1).sum())
    return found / (len(picked) * len(meridians))


def _smooth_each(profiles: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(profiles, SMOOTH_NM / STEP_NM, axis=-1, mode="nearest"))
