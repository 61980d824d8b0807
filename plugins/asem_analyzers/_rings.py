"""The ring of a nuclear pore in the image: eighteen diameters in the mid-plane of the envelope (Gallusser et al. 2022)."""

from __future__ import annotations

from typing import Literal

import attrs
import numpy as np

from asem_core.volume import Box, Volume, as_zyx

NUM_PROFILES = 18
STEP_DEGREES = 10
STEP_NM = 1.0
"""Distance between samples of a profile."""
DEPTH_NM = 60.0
"""How far above and below the mid-plane the image is looked at, to find the mid-plane between the two membranes."""
ROUNDS = 3
"""How often plane and centre are found anew; each starts from a better place."""
CLEAR_NM = 4.0
"""What the 18 diameters of a clear ring spread by at most; one that spreads more is looked for again."""
BESIDE_NM, TILT_DEGREES = (12.0, 25.0), 25.0
"""Where it is looked for: from six places at each distance in the plane, and along six normals tilted by so much."""
SEARCH_NM = 20.0
"""How far a peak may lie from that of the mean profile."""
RIM_NM = (22.0, 45.0)
"""Distance outside the ring at which the envelope is two flat membranes."""

SETTLED_DEGREES, SETTLED_NM = 5.0, 8.0
"""A plane that still moves by more in the last round was not found."""

BEYOND_IMAGE = "its surroundings reach beyond the image"
NO_RING = "no ring of membrane in the mid-plane"
NO_PLANE = "the mid-plane of the envelope is not clear"
FEW_PEAKS = f"fewer than {NUM_PROFILES // 2} of {NUM_PROFILES} profiles have two membrane peaks"
REASONS = (BEYOND_IMAGE, NO_RING, NO_PLANE, FEW_PEAKS)

Membrane = Literal["dark", "bright"]


@attrs.frozen(eq=False)
class Ring:
    """What was measured of one pore."""

    diameters_nm: np.ndarray  # float64 (18,), NaN where a profile has no two peaks
    centre_nm: np.ndarray  # float64 (3,)
    normal: np.ndarray  # float64 (3,)
    profiles: np.ndarray  # float32 (18, samples), darkness along each diameter, for the gallery
    picture: np.ndarray  # float32 (samples, samples), the image in the mid-plane

    @property
    def diameter_nm(self) -> float:
        return float(np.nanmedian(self.diameters_nm))

    @property
    def spread_nm(self) -> float:
        return float(np.nanstd(self.diameters_nm))

    @property
    def is_clear(self) -> bool:
        return self.spread_nm <= CLEAR_NM


def measure_ring(
    raw: Volume,
    centre_nm: np.ndarray,
    normal: np.ndarray,
    membrane: Membrane,
    largest_nm: float,
    slab_nm: float,
    *,
    again: bool = True,
) -> Ring | str:
    """Measure the diameter of one pore along 18 directions, or say why that cannot be done (one of `REASONS`).

    1. The image is rotated so that `normal` points at the viewer.
    2. The mid-plane is found: outside the ring the envelope is two membranes; a plane is laid midway between them.
    3. In the mid-plane, along each of 18 directions 10 degrees apart, the two membrane peaks on either side are found
       to a fraction of a voxel; the centre of the ring becomes the centre, and they are found again.
    4. Where that is no clear ring, the centroid of the mask may lie beside the pore, or the normal be wrong: the ring is
       looked for from twelve places around it and along six other normals. The first clear one is taken, or else of all
       the one whose diameters spread least.

    Parameters
    ----------
    centre_nm, normal
        zyx; the centre from the volume's first voxel (its origin is not added), the normal of unit length.
    largest_nm
        Largest diameter to look for.
    slab_nm
        Thickness of the slab, centred on the mid-plane, that profiles are averaged over.
    again
        Whether an unclear ring is looked for again (step 4).
    """
    radius = largest_nm / 2 + RIM_NM[1]
    sampler = _Sampler.around(raw, centre_nm, float(np.hypot(radius, DEPTH_NM)) + 2 * SEARCH_NM, membrane)
    if sampler is None:
        return BEYOND_IMAGE
    ring = _settle(sampler, centre_nm, normal, radius, largest_nm, slab_nm)
    if not again or (isinstance(ring, Ring) and ring.is_clear):
        return ring
    around = _directions()[::6] @ _frame(normal)[1:]
    tilt = np.radians(TILT_DEGREES)
    starts = [(centre_nm + far * step, normal) for far in BESIDE_NM for step in around]
    starts += [(centre_nm, np.cos(tilt) * normal + np.sin(tilt) * step) for step in around]
    rings = [ring] if isinstance(ring, Ring) else []
    for start in starts:
        found = _settle(sampler, *start, radius, largest_nm, slab_nm)
        if isinstance(found, Ring) and np.linalg.norm(found.centre_nm - centre_nm) <= 2 * SEARCH_NM:
            rings.append(found)
            if found.is_clear:
                break
    return min(rings, key=lambda found: found.spread_nm) if rings else ring


def _settle(
    sampler: _Sampler, centre_nm: np.ndarray, normal: np.ndarray, radius: float, largest_nm: float, slab_nm: float
) -> Ring | str:
    """Find plane and centre of the ring near a place, and measure it (see `measure_ring`)."""
    frame, ring_nm, moved_nm, turned = _frame(normal), None, 0.0, 0.0
    radii = np.arange(0, radius + STEP_NM / 2, STEP_NM)
    for _ in range(ROUNDS):
        ring_nm = _mean_radius(sampler.profiles(centre_nm, frame, radii, slab_nm), radii, largest_nm)
        if ring_nm is None:
            return NO_RING
        height_nm, tilted = _mid_plane(sampler, centre_nm, frame, ring_nm)
        turned = float(np.degrees(np.arccos(min(1.0, tilted[0] @ frame[0]))))
        centre_nm, frame, moved_nm = centre_nm + height_nm * frame[0], tilted, abs(height_nm)
        shift = _ring_centre(_peaks(sampler.profiles(centre_nm, frame, radii, slab_nm), radii, ring_nm))
        centre_nm = centre_nm + shift @ frame[1:]
    if turned > SETTLED_DEGREES or moved_nm > SETTLED_NM:
        return NO_PLANE
    profiles = sampler.profiles(centre_nm, frame, radii, slab_nm)
    peaks = _peaks(profiles, radii, float(ring_nm or 0))
    diameters = peaks[:NUM_PROFILES] + peaks[NUM_PROFILES:]
    if np.isfinite(diameters).sum() < NUM_PROFILES / 2:
        return FEW_PEAKS
    whole = np.concatenate([profiles[NUM_PROFILES:, :0:-1], profiles[:NUM_PROFILES]], axis=1)
    picture = sampler.picture(centre_nm, frame, radius)
    return Ring(diameters, centre_nm, frame[0], whole.astype(np.float32), picture)


@attrs.frozen(eq=False)
class _Sampler:
    """The image around a pore, darkness of membrane upwards, interpolated by cubic splines."""

    coefficients: np.ndarray
    begin_nm: np.ndarray
    size_nm: np.ndarray

    @classmethod
    def around(cls, raw: Volume, centre_nm: np.ndarray, reach_nm: float, membrane: Membrane) -> _Sampler | None:
        from scipy.ndimage import spline_filter

        size = np.asarray(raw.voxel_size_nm)
        begin = np.floor((centre_nm - reach_nm) / size).astype(int)
        end = np.ceil((centre_nm + reach_nm) / size).astype(int) + 1
        box = Box(as_zyx(begin.tolist()), as_zyx(end.tolist()))
        if not raw.box.contains(box):
            return None
        image = raw.read(box).astype(np.float32)
        return cls(spline_filter(-image if membrane == "dark" else image, output=np.float32), begin * size, size)

    def at(self, points_nm: np.ndarray) -> np.ndarray:
        """Sample at points (..., 3)."""
        from scipy.ndimage import map_coordinates

        where = np.moveaxis((points_nm - self.begin_nm) / self.size_nm, -1, 0)
        return np.asarray(map_coordinates(self.coefficients, where, prefilter=False, mode="nearest"))

    def profiles(self, centre_nm: np.ndarray, frame: np.ndarray, radii: np.ndarray, slab_nm: float) -> np.ndarray:
        """Sample from the centre outwards along 36 directions, averaged over the slab; (36, radii)."""
        heights = _slab(slab_nm, float(self.size_nm.min()))
        return np.asarray(self.cylinder(centre_nm, frame, radii, heights).mean(axis=2))

    def cylinder(self, centre_nm: np.ndarray, frame: np.ndarray, radii: np.ndarray, heights: np.ndarray) -> np.ndarray:
        """Sample at (36 directions, radii, heights)."""
        outwards = _directions() @ frame[1:]
        points = outwards[:, None, None] * radii[:, None, None] + heights[:, None] * frame[0]
        return self.at(centre_nm + points)

    def picture(self, centre_nm: np.ndarray, frame: np.ndarray, half_nm: float) -> np.ndarray:
        """Show the mid-plane as the viewer sees it, 2 nm a pixel; brightness as in a dark-membrane image."""
        at = np.arange(-half_nm, half_nm + 1, 2.0)
        return -self.at(centre_nm + at[:, None, None] * frame[1] + at[:, None] * frame[2]).astype(np.float32)


def _slab(slab_nm: float, step_nm: float) -> np.ndarray:
    num = 1 + 2 * round(slab_nm / step_nm)
    return np.linspace(-slab_nm / 2, slab_nm / 2, num)


def _directions() -> np.ndarray:
    angles = np.deg2rad(STEP_DEGREES) * np.arange(2 * NUM_PROFILES)
    return np.column_stack([np.cos(angles), np.sin(angles)])


def _frame(normal: np.ndarray) -> np.ndarray:
    """Return three unit vectors at right angles, the first along `normal`."""
    first = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    first /= np.linalg.norm(first)
    return np.stack([normal, first, np.cross(normal, first)])


def _mean_radius(profiles: np.ndarray, radii: np.ndarray, largest_nm: float) -> float | None:
    """Find the ring in the mean of all profiles: its highest peak between a quarter of the largest radius and it."""
    mean = _smooth(profiles.mean(axis=0))
    inside = (radii >= largest_nm / 8) & (radii <= largest_nm / 2 + 5)
    candidates = np.flatnonzero(inside[1:-1] & (mean[1:-1] >= mean[:-2]) & (mean[1:-1] >= mean[2:])) + 1
    return None if not len(candidates) else float(radii[candidates[mean[candidates].argmax()]])


def _smooth(profiles: np.ndarray) -> np.ndarray:
    from scipy.ndimage import gaussian_filter1d

    return np.asarray(gaussian_filter1d(profiles, 3.0 / STEP_NM, axis=-1, mode="nearest"))


def _peaks(profiles: np.ndarray, radii: np.ndarray, ring_nm: float) -> np.ndarray:
    """Find the peak of each profile near the ring, to a fraction of a sample; NaN where there is none."""
    smooth = _smooth(profiles)
    left, mid, right = smooth[:, :-2], smooth[:, 1:-1], smooth[:, 2:]
    near = np.abs(radii[1:-1] - ring_nm) <= SEARCH_NM
    height = np.where((mid >= left) & (mid > right) & near, mid, -np.inf)
    rows, best = np.arange(len(smooth)), height.argmax(axis=1)
    left, mid, right = left[rows, best], mid[rows, best], right[rows, best]
    found = np.isfinite(height[rows, best])
    curve = np.where(found, left - 2 * mid + right, -1.0)
    return np.where(found, radii[best + 1] + 0.5 * (left - right) / curve * STEP_NM, np.nan)


def _ring_centre(peaks: np.ndarray) -> np.ndarray:
    """Fit a circle to the peaks: the shift of its centre (2,) in nm; none where they do not lie on one."""
    points = (_directions() * peaks[:, None])[np.isfinite(peaks)]
    for _ in range(3):
        if len(points) < NUM_PROFILES:
            return np.zeros(2)
        design = np.column_stack([2 * points, np.ones(len(points))])
        (y, x, power), *_ = np.linalg.lstsq(design, (points**2).sum(axis=1), rcond=None)
        residual = np.abs(np.linalg.norm(points - (y, x), axis=1) - np.sqrt(max(power + y**2 + x**2, 0)))
        points = points[residual <= max(3 * float(np.median(residual)), 1.0)]
    return np.array([y, x]) if np.hypot(y, x) < SEARCH_NM else np.zeros(2)


def _mid_plane(sampler: _Sampler, centre_nm: np.ndarray, frame: np.ndarray, ring_nm: float) -> tuple[float, np.ndarray]:
    """Lay a plane midway between the two membranes around the ring: its height over the centre, and a frame on it."""
    radii = ring_nm + np.arange(RIM_NM[0], RIM_NM[1] + 1, 4.0)
    heights = np.arange(-DEPTH_NM, DEPTH_NM + 1, 2.0)
    # Sectors of 70 degrees: enough to average the noise away, and narrow enough to see a tilt.
    sectors = sampler.cylinder(centre_nm, frame, radii, heights).mean(axis=1)
    sectors = _smooth(np.mean([np.roll(sectors, k, axis=0) for k in range(-3, 4)], axis=0))
    middles = np.array([_middle_of_two_peaks(row, heights) for row in sectors])
    design = np.column_stack([np.ones(len(middles)), _directions() * radii.mean()])
    good = np.isfinite(middles)
    for _ in range(3):
        if good.sum() < NUM_PROFILES:
            return 0.0, frame
        plane, *_ = np.linalg.lstsq(design[good], middles[good], rcond=None)
        residual = np.abs(middles - design @ plane)
        good = residual <= max(3.0, 2.5 * float(np.nanmedian(residual)))
    tilted = frame[0] - plane[1] * frame[1] - plane[2] * frame[2]
    return float(plane[0]), _frame_like(frame, tilted / np.linalg.norm(tilted))


def _frame_like(frame: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Tilt a frame so that its first vector is `normal`, with as little turn as possible."""
    first = frame[1] - (frame[1] @ normal) * normal
    first /= np.linalg.norm(first)
    return np.stack([normal, first, np.cross(normal, first)])


def _middle_of_two_peaks(row: np.ndarray, heights: np.ndarray) -> float:
    """Find the two membranes in a profile across the envelope: the middle of its two highest peaks, NaN without two."""
    peaks = np.flatnonzero((row[1:-1] >= row[:-2]) & (row[1:-1] > row[2:])) + 1
    if len(peaks) < 2:
        return float("nan")
    top = peaks[np.argsort(row[peaks])[-2:]]
    apart = abs(heights[top[0]] - heights[top[1]])
    return float(heights[top].mean()) if 15 <= apart <= 70 else float("nan")
