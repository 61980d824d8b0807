"""What sits in the membranes of a phantom: pores in the nuclear envelope, coated pits and caveolae in the cell's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from asem_sources._phantom import shapes
from asem_sources._phantom.space import MARGIN_NM, Space, frame_along, unit

if TYPE_CHECKING:
    from asem_sources.phantom import Phantom

HALF_ENVELOPE_NM = 17.0
"""Half the distance between the centres of the outer and the inner nuclear membrane."""
LABELLED_ENVELOPE_NM = 25.0
"""How far the label of a pore follows both membranes beyond its rim (Gallusser et al. 2022: 5 voxels of 5 nm)."""
CHANNEL_BEYOND_NM = 10.0
"""How far the label of a pore's channel, the opening between its rims, reaches beyond the envelope's membranes."""

Table = dict[str, np.ndarray]


def place_pores(options: Phantom, nucleus: np.ndarray, size: np.ndarray) -> tuple[np.ndarray, Table]:
    """Scatter pores over the nuclear envelope, apart enough that their labels do not touch.

    Returns rows (centre zyx, normal zyx, diameter, plug density, id) and the truth table. The diameter is uniform
    within `options.pore_diameters_nm`; it is measured between the membrane's centres in the envelope's mid-surface.
    """
    rng = np.random.default_rng([options.seed, 8])
    low, high = options.pore_diameters_nm
    places, normals = _on_surface(nucleus, size, options.pores_per_um2, rng)
    diameters = rng.uniform(low, high, len(places))
    reach = diameters / 2 + HALF_ENVELOPE_NM + LABELLED_ENVELOPE_NM
    kept = _apart(places, reach + 18.0)
    places, normals, diameters, reach = places[kept], normals[kept], diameters[kept], reach[kept]
    inside = ((places > -reach[:, None]) & (places < size + reach[:, None])).all(1)
    places, normals, diameters, reach = places[inside], normals[inside], diameters[inside], reach[inside]
    number = np.arange(1, len(places) + 1)
    plug = rng.uniform(0.0, 0.25, len(places))
    complete = ((places >= reach[:, None]) & (places <= size - reach[:, None])).all(1)
    rows = np.column_stack([places, normals, diameters, plug, number])
    return rows, {"id": number, **_where(places, normals), "diameter_nm": diameters, "complete": complete}


def place_flasks(options: Phantom, space: Space) -> tuple[np.ndarray, np.ndarray, Table, Table]:
    """Scatter coated pits of all ages and caveolae over the plasma membrane.

    Returns rows (centre zyx, outward normal zyx, radius of the realm, height, coated, id), the meridians
    (n, points, 2), and the truth of pits and of caveolae.
    """
    rng = np.random.default_rng([options.seed, 9])
    per_um2 = options.pits_per_um2 + options.caveolae_per_um2
    places, normals = _on_surface(space.cell, space.size_nm, per_um2, rng)
    coated = rng.random(len(places)) < options.pits_per_um2 / max(per_um2, 1e-9)
    late = rng.random(len(places)) < 0.55
    shape = np.array([_flask_shape(rng, c, w) for c, w in zip(coated, late, strict=True)]).reshape(-1, 5)
    realm = np.maximum(shape[:, 1] / 2, shape[:, 2] / 2 + shape[:, 3]) + 60.0
    kept = _apart(places, realm)
    places, normals, coated, late, shape, realm = (v[kept] for v in (places, normals, coated, late, shape, realm))
    number = np.where(coated, np.cumsum(coated), np.cumsum(~coated))
    profiles = [shapes.flask_profile(*s, reach=r + 80.0) for s, r in zip(shape, realm, strict=True)]
    meridians = np.array(profiles).reshape(len(places), shapes.FLASK_POINTS, 2)
    rows = np.column_stack([places, normals, realm, shape[:, 0], coated, number])
    if len(places):
        middle = places - normals * shape[:, :1] / 2
        space.occupy(middle, shape[:, :2].max(1) / 2 + 45.0)
    sections = np.array([_section(p, n, m) for p, n, m in zip(places, normals, meridians, strict=True)]).reshape(-1, 3)
    inside = ((places - normals * 60 >= 120) & (places - normals * 60 <= space.size_nm - 120)).all(1)
    table = {
        "id": number,
        **_where(places, normals),
        "height_nm": shape[:, 0],
        "width_nm": shape[:, 1],
        "neck_nm": shape[:, 2],
        "late": late,
        "section_axis": sections[:, 0].astype(np.int64),
        "section_major_nm": sections[:, 1],
        "section_minor_nm": sections[:, 2],
        "complete": inside,
    }
    return (
        rows,
        meridians,
        {k: v[coated] for k, v in table.items()},
        {k: v[~coated] for k, v in table.items() if k != "late"},
    )


def _flask_shape(rng: np.random.Generator, coated: bool, late: bool) -> tuple[float, float, float, float, float]:
    """Draw height, width, neck, lip radius and bottom half-axis in nm (ranges of Gallusser et al. 2022)."""
    if not coated:
        height, width = rng.normal(61, 5), rng.normal(81, 6)
        return height, width, rng.uniform(28, 45), 9.0, 0.5 * height
    if late:
        height = rng.uniform(98, 132)
        return height, rng.uniform(84, 120), rng.uniform(16, 40), rng.uniform(9, 14), rng.uniform(0.42, 0.5) * height
    height, neck = rng.uniform(42, 62), rng.uniform(45, 80)
    return height, neck + rng.uniform(6, 30), neck, rng.uniform(7, 9), rng.uniform(0.5, 0.62) * height


def join_coats(pits: Table, vesicles: Table) -> Table:
    """Put coated pits and coated vesicles into one table; what one of them does not have is NaN there.

    `kind` is "pit" or "vesicle"; a vesicle within 400 nm of the plasma membrane is endocytic, the others secretory.
    """
    n_pits, n_vesicles = len(pits["id"]), len(vesicles["id"])
    vesicle_section = _vesicle_sections(vesicles)
    nothing, no_vesicle = np.full(n_pits, np.nan), np.full(n_vesicles, np.nan)
    distance = vesicles["membrane_distance_nm"]
    table = {
        name: np.concatenate([pits[name], vesicles[name]]) for name in ("id", "z_nm", "y_nm", "x_nm", "nz", "ny", "nx")
    }
    stage = np.where(pits["late"], "late", "early") if n_pits else np.zeros(0, "U5")
    table |= {
        "kind": np.array(["pit"] * n_pits + ["vesicle"] * n_vesicles, dtype="U9"),
        "class": np.concatenate(
            [
                np.full(n_pits, "endocytic pit", dtype="U18"),
                np.where(distance <= 400, "endocytic vesicle", "secretory").astype("U18"),
            ]
        ),
        "stage": np.concatenate([stage, np.full(n_vesicles, "", dtype="U5")]),
        "height_nm": np.concatenate([pits["height_nm"], no_vesicle]),
        "width_nm": np.concatenate([pits["width_nm"], no_vesicle]),
        "neck_nm": np.concatenate([pits["neck_nm"], no_vesicle]),
        "major_nm": np.concatenate([nothing, vesicles["major_nm"]]),
        "minor_nm": np.concatenate([nothing, vesicles["minor_nm"]]),
        "section_axis": np.concatenate([pits["section_axis"], vesicle_section[:, 0].astype(np.int64)]),
        "section_major_nm": np.concatenate([pits["section_major_nm"], vesicle_section[:, 1]]),
        "section_minor_nm": np.concatenate([pits["section_minor_nm"], vesicle_section[:, 2]]),
        "membrane_distance_nm": np.concatenate([np.zeros(n_pits), distance]),
        "complete": np.concatenate([pits["complete"], vesicles["complete"]]).astype(bool),
    }
    return table


def _where(places: np.ndarray, normals: np.ndarray) -> Table:
    names = ("z_nm", "y_nm", "x_nm", "nz", "ny", "nx")
    return dict(zip(names, np.column_stack([places, normals]).reshape(-1, 6).T, strict=True))


def _on_surface(
    body: np.ndarray, size: np.ndarray, per_um2: float, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw points evenly over a body's surface, as many as that density asks for, with outward normals; in the image."""
    if body[0] == shapes.NO_BODY or per_um2 <= 0:
        return np.zeros((0, 3)), np.zeros((0, 3))
    if body[0] == shapes.PLANE:
        normal = unit(body[4:7])
        frame = frame_along(normal)
        half = 0.5 * float(np.linalg.norm(size)) + MARGIN_NM
        count = int(per_um2 * (2 * half / 1000) ** 2 + rng.random())
        points = body[1:4] + rng.uniform(-half, half, (count, 2)) @ frame[:2]
    else:
        a, b, c = body[4:7] / 1000
        mean = ((a * b) ** 1.6 + (a * c) ** 1.6 + (b * c) ** 1.6) / 3
        count = int(per_um2 * 4 * np.pi * mean ** (1 / 1.6) + rng.random())
        # A point of the unit sphere is kept in proportion to how much its surroundings are stretched.
        directions = rng.normal(size=(40 * count + 100, 3))
        directions /= np.linalg.norm(directions, axis=1, keepdims=True)
        stretch = np.linalg.norm(directions / body[4:7], axis=1) * body[4:7].min()
        directions = directions[rng.random(len(directions)) < stretch][:count]
        points = body[1:4] + directions * body[4:7]
    for _ in range(8):
        distance, normal_at = shapes.body_distances(body, points)
        points = points - distance[:, None] * normal_at
    inside = ((points > -MARGIN_NM) & (points < size + MARGIN_NM)).all(1)
    points = points[inside]
    return points, shapes.body_distances(body, points)[1]


def _apart(places: np.ndarray, reach: np.ndarray) -> np.ndarray:
    """Keep places in order unless they are nearer to an earlier kept one than the sum of both reaches."""
    from scipy.spatial import cKDTree

    if len(places) == 0:
        return np.zeros(0, int)
    near = cKDTree(places).query_ball_point(places, reach + reach.max())
    dropped = np.zeros(len(places), bool)
    for i in range(len(places)):
        if not dropped[i]:
            for j in near[i]:
                if j > i and np.linalg.norm(places[i] - places[j]) < reach[i] + reach[j]:
                    dropped[j] = True
    return np.flatnonzero(~dropped)


def _section(place: np.ndarray, normal: np.ndarray, meridian: np.ndarray) -> np.ndarray:
    """Cut a flask through its centroid by the three planes of the grid; fit an ellipse to the longest outline.

    Returns (index of the axis normal to that plane, major axis, minor axis in nm).
    """
    outline = meridian[shapes.LIP_PIECES :]
    step = np.hypot(*np.diff(outline, axis=0).T)
    arc = np.concatenate([[0.0], np.cumsum(step)])
    fine = np.linspace(0, arc[-1], 400)
    rho, depth = np.interp(fine, arc, outline[:, 0]), np.interp(fine, arc, outline[:, 1])
    middle = float((rho * depth).sum() / rho.sum())
    frame = frame_along(normal)
    best = np.zeros(3)
    longest = 0
    for axis in range(3):
        along, across = normal[axis], np.hypot(frame[0, axis], frame[1, axis])
        turn = np.arctan2(frame[1, axis], frame[0, axis])
        cosine = (depth - middle) * along / np.maximum(rho * across, 1e-9)
        cut = np.abs(cosine) <= 1
        angles = np.concatenate([turn + np.arccos(cosine[cut]), turn - np.arccos(cosine[cut])])
        ring, low = np.tile(rho[cut], 2), np.tile(depth[cut], 2)
        points = (
            ring[:, None] * (np.cos(angles)[:, None] * frame[0] + np.sin(angles)[:, None] * frame[1])
            - low[:, None] * normal
        )
        if len(points) > longest and len(points) > 20:
            longest = len(points)
            best = np.array([axis, *fit_ellipse(np.delete(points, axis, axis=1))])
    return best


def fit_ellipse(points: np.ndarray) -> tuple[float, float]:
    """Fit an ellipse to points (n, 2) by least squares; the major and the minor axis (not half of them)."""
    from skimage.measure import EllipseModel

    model = EllipseModel.from_estimate(points)
    if not model:
        return np.nan, np.nan
    axes = 2 * np.sort(np.abs(model.axis_lengths))
    return float(axes[1]), float(axes[0])


def _vesicle_sections(vesicles: Table) -> np.ndarray:
    """Cut each vesicle, an ellipsoid of revolution, by the three planes of the grid; the largest section's axes."""
    sections = np.zeros((len(vesicles["id"]), 3))
    for i in range(len(sections)):
        axis = np.array([vesicles[name][i] for name in ("nz", "ny", "nx")])
        a, b = vesicles["major_nm"][i] / 2, vesicles["minor_nm"][i] / 2
        form = np.eye(3) / b**2 + np.outer(axis, axis) * (1 / a**2 - 1 / b**2)
        for k in range(3):
            minor, major = 2 / np.sqrt(np.linalg.eigvalsh(np.delete(np.delete(form, k, 0), k, 1))[::-1])
            if minor * major > sections[i, 1] * sections[i, 2]:
                sections[i] = [k, major, minor]
    return sections
