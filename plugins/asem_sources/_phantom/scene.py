"""Decide from the seed where everything in a phantom lies: lists of shapes, and the truth about each.

Deciding is global and cheap (no voxel is touched), so that any block can later be drawn alone. Every organelle draws
from its own random stream. Objects keep their distance: each occupies a few spheres, and a new one must stay clear.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import numpy as np

from asem_sources._phantom import shapes, surface
from asem_sources._phantom.space import Space, random_frame, unit

if TYPE_CHECKING:
    from asem_sources.phantom import Phantom

MITOCHONDRION, ER, GOLGI, ENDOSOME, VESICLE, LYSOSOME = range(6)
NUM_CLASSES = 6

Table = dict[str, np.ndarray]


@attrs.frozen(eq=False)
class Scene:
    """Shapes as rows (see `shapes`); the last columns of a row are its class, its id and what its drawing needs.

    pores : centre, normal, diameter, plug density, id
    flasks : centre, outward normal, radius of its realm, height, coated (0/1), id
    tubes : end a, end b, two radii, class, id, arc length at a, crista period, lateral unit vector
    discs : centre, three axes, radius, half thickness, curvature, class, id
    balls : centre, three axes, semi-axes, class, id, coated (0/1)
    """

    cell: np.ndarray
    nucleus: np.ndarray
    half_envelope_nm: float
    pores: np.ndarray
    flasks: np.ndarray
    profiles: np.ndarray
    tubes: np.ndarray
    discs: np.ndarray
    holes: np.ndarray
    balls: np.ndarray
    truth: dict[str, Table]


def build_scene(options: Phantom) -> Scene:
    """Place everything, from the outside in: membranes first, the ER last, in the room that is left."""
    size = np.array(options.size_nm)
    cell, nucleus = _bodies(options, size)
    space = Space(size, cell, nucleus)
    pores, pore_truth = surface.place_pores(options, nucleus, size)
    flasks, profiles, pit_truth, caveola_truth = surface.place_flasks(options, space)
    parts = [
        _place_golgi(options, space),
        _place_mitochondria(options, space),
        _place_endosomes(options, space),
        _place_vesicles(options, space, first_id=len(pit_truth["id"]) + 1),
        _place_er(options, space),
    ]
    tubes, discs, holes, balls = (
        np.concatenate([getattr(p, kind) for p in parts]) for kind in ("tubes", "discs", "holes", "balls")
    )
    truth = {"nuclear-pores": pore_truth, "caveolae": caveola_truth}
    for part in parts:
        truth |= part.truth
    truth["clathrin-coats"] = surface.join_coats(pit_truth, truth.pop("coated-vesicles"))
    return Scene(cell, nucleus, surface.HALF_ENVELOPE_NM, pores, flasks, profiles, tubes, discs, holes, balls, truth)


@attrs.frozen(eq=False)
class _Part:
    """What one organelle adds to the scene."""

    tubes: np.ndarray = attrs.field(factory=lambda: np.zeros((0, 15)))
    discs: np.ndarray = attrs.field(factory=lambda: np.zeros((0, 17)))
    holes: np.ndarray = attrs.field(factory=lambda: np.zeros((0, shapes.NUM_HOLES, 3)))
    balls: np.ndarray = attrs.field(factory=lambda: np.zeros((0, 18)))
    truth: dict[str, Table] = attrs.field(factory=dict)


def _rows(rows: list[np.ndarray], width: int) -> np.ndarray:
    return np.array(rows).reshape(-1, width)


def _body(kind: int, centre: np.ndarray, axes: np.ndarray, rng: np.random.Generator, tilt: float) -> np.ndarray:
    """Make a body whose bumps lean its surface by up to about `tilt` radians each."""
    body = np.zeros(shapes.BODY_LENGTH)
    body[0], body[1:4], body[4:7] = kind, centre, axes
    for j in range(shapes.NUM_BUMPS):
        wave = 2 * np.pi / rng.uniform(900, 2400)
        body[7 + 5 * j : 12 + 5 * j] = [tilt / wave, *(unit(rng.normal(size=3)) * wave), rng.uniform(0, 2 * np.pi)]
    return body


def _bodies(options: Phantom, size: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Make the cell and the nucleus of the chosen scene."""
    rng = np.random.default_rng([options.seed, 1])
    nothing = np.zeros(shapes.BODY_LENGTH)
    if options.scene == "cytoplasm":
        return nothing, nothing
    if options.scene == "nucleus":
        return nothing, _body(shapes.ELLIPSOID, size / 2, np.maximum(size / 2 - 220, size * 0.3), rng, 0.05)
    if options.scene == "membrane":
        return _body(shapes.PLANE, size * [0.5, 0.35, 0.5], np.array([0.0, -1.0, 0.0]), rng, 0.12), nothing
    if options.scene == "corner":
        cell = _body(
            shapes.PLANE, size * [0.5, 0.2, 0.2], unit(np.array([rng.uniform(-0.3, 0.3), -1.0, -1.0])), rng, 0.1
        )
        radius = 0.62 * size[1:].min()
        return cell, _body(shapes.ELLIPSOID, size * [0.5, 1.0, 1.0], np.full(3, radius) * [1.1, 1.0, 1.0], rng, 0.05)
    cell = _body(shapes.ELLIPSOID, size / 2, size / 2 * 0.9, rng, 0.08)
    return cell, _body(shapes.ELLIPSOID, size * rng.uniform(0.46, 0.54, 3), size * 0.24, rng, 0.05)


def _place_golgi(options: Phantom, space: Space) -> _Part:
    """Stacks of 4-6 bowl-shaped cisternae with round holes, and small uncoated vesicles about their rims."""
    rng = np.random.default_rng([options.seed, 3])
    discs, holes, balls, rows = [], [], [], []
    for _ in range(space.count(options.golgi_per_um3, rng)):
        for _try in range(60):
            radius, spacing = rng.uniform(180, 340), rng.uniform(40, 46)
            num = int(rng.integers(4, 7))
            frame, bend = random_frame(rng), rng.uniform(0.3, 1.0) * 0.45 / radius
            centre = space.random_point(rng)
            u, v = np.meshgrid(*[np.linspace(-1, 1, 5)] * 2)
            inside = u**2 + v**2 <= 1.05
            flat = np.stack([u[inside], v[inside]], 1) * radius
            lift = 0.5 * bend * (flat**2).sum(1)
            body = centre + flat @ frame[:2] + lift[:, None] * frame[2]
            reach = 0.5 * num * spacing + 30
            if space.clearance(body).min() > reach + 30:
                break
        else:
            continue
        space.occupy(body, np.full(len(body), max(reach, 0.4 * radius)))
        number = len(rows) + 1
        num_holes = 0
        for i in range(num):
            at = centre + frame[2] * (i - (num - 1) / 2) * spacing
            r = radius * rng.uniform(0.8, 1.0)
            pierced = _holes(rng, r)
            num_holes += int((pierced[:, 2] > 0).sum())
            discs.append(np.concatenate([at, frame.ravel(), [r, 10.0, bend, GOLGI, number]]))
            holes.append(pierced)
        for _ in range(int(rng.integers(6, 14))):
            angle, r = rng.uniform(0, 2 * np.pi), radius + rng.uniform(60, 120)
            side = rng.uniform(-0.5, 0.5) * num * spacing + 0.5 * bend * radius**2
            at = centre + r * (np.cos(angle) * frame[0] + np.sin(angle) * frame[1]) + side * frame[2]
            if space.clearance(at[None], ignore=len(body))[0] > 45:
                space.occupy(at[None], np.array([32.0]))
                balls.append(np.concatenate([at, np.eye(3).ravel(), np.full(3, rng.uniform(22, 30)), [VESICLE, 0, 0]]))
        rows.append([number, *centre, *frame[2], num, radius, spacing, num_holes])
    names = "id z_nm y_nm x_nm nz ny nx num_cisternae radius_nm spacing_nm num_fenestrations"
    return _Part(
        discs=_rows(discs, 17),
        holes=np.array(holes).reshape(-1, shapes.NUM_HOLES, 3),
        balls=_rows(balls, 18),
        truth={"golgi": space.table(names, rows, reach=0.0)},
    )


def _holes(rng: np.random.Generator, radius: float) -> np.ndarray:
    """Scatter round holes over a disc, apart from each other and from the rim."""
    holes = np.zeros((shapes.NUM_HOLES, 3))
    found = 0
    for _ in range(int(rng.integers(2, 12))):
        hole = rng.uniform(18, 45)
        angle, r = rng.uniform(0, 2 * np.pi), radius * np.sqrt(rng.uniform(0.02, 0.75))
        at = np.array([r * np.cos(angle), r * np.sin(angle)])
        apart = np.hypot(*(holes[:found, :2] - at).T) - holes[:found, 2] - hole > 45
        if r + hole + 30 < radius and apart.all() and found < shapes.NUM_HOLES:
            holes[found] = [*at, hole]
            found += 1
    return holes


def _place_mitochondria(options: Phantom, space: Space) -> _Part:
    """Bent tubes of slowly changing width, grown step by step where there is room; some against the one before."""
    rng = np.random.default_rng([options.seed, 4])
    beside = np.random.default_rng(
        [options.seed, 4, 1]
    )  # so that without touching ones all others stay where they were
    last: tuple[np.ndarray, np.ndarray] | None = None
    wanted = options.mitochondria_fraction * space.cytoplasm_um3
    tubes, rows, have, failures = [], [], 0.0, 0
    while have < wanted and failures < 150:
        radius = float(np.clip(rng.lognormal(np.log(options.mitochondrion_radius_nm), 0.2), 70, 320))
        length = float(np.clip(rng.lognormal(np.log(5.5 * radius), 0.6), 0.3 * radius, 6000))
        path, touches = np.zeros((0, 3)), 0
        if last is not None and beside.random() < options.mitochondria_touching:
            path, touches = _grow_beside(beside, space, *last, radius, length), len(rows)
        if len(path) < 2:
            path, touches = _grow(rng, space, radius, length), 0
        if len(path) < 2:
            failures += 1
            continue
        failures = 0
        step = np.linalg.norm(np.diff(path, axis=0), axis=1)
        arc = np.concatenate([[0.0], np.cumsum(step)])
        wave = 1 + 0.12 * np.sin(arc / rng.uniform(100, 250) + rng.uniform(0, 6.3))
        radii = radius * (np.ones_like(wave) if touches else wave)
        space.occupy(path, radii)
        last = path, radii
        number = len(rows) + 1
        period, side = rng.uniform(48, 75), unit(rng.normal(size=3))
        tubes += [
            np.concatenate([path[i], path[i + 1], radii[i : i + 2], [MITOCHONDRION, number, arc[i], period], side])
            for i in range(len(path) - 1)
        ]
        volume = (np.pi * radius**2 * arc[-1] + 4 / 3 * np.pi * radius**3) / 1e9
        have += volume
        middle = path[len(path) // 2]
        rows.append([number, *middle, *unit(path[-1] - path[0]), arc[-1] + 2 * radius, 2 * radius, touches])
    names = "id z_nm y_nm x_nm nz ny nx length_nm diameter_nm touches"
    return _Part(tubes=_rows(tubes, 15), truth={"mitochondria": space.table(names, rows, reach=0.0)})


def _grow(rng: np.random.Generator, space: Space, radius: float, length: float) -> np.ndarray:
    """Walk from a free place in gently turning steps until the length is reached or the way is blocked."""
    gap = radius * 1.12 + 25
    step = min(0.8 * radius, length)
    start = space.random_point(rng)
    if space.clearance(start[None])[0] < gap:
        return start[None]
    path, heading = [start], unit(rng.normal(size=3))
    while (len(path) - 1) * step < length:
        turns = [unit(heading + rng.normal(size=3) * s) for s in (0.15, 0.2, 0.3, 0.45)]
        there = np.array([path[-1] + step * t for t in turns])
        free = np.flatnonzero(space.clearance(there) > gap)
        if len(free) == 0:
            break
        heading = turns[free[0]]
        path.append(there[free[0]])
    return np.array(path)


def _grow_beside(
    rng: np.random.Generator, space: Space, path: np.ndarray, radii: np.ndarray, radius: float, length: float
) -> np.ndarray:
    """Walk along the tube that was placed last, outer membrane against outer membrane, and then on freely."""
    contact = radius + rng.uniform(-2.0, 3.0)
    place = int(rng.integers(len(path)))
    along = unit(path[min(place + 1, len(path) - 1)] - path[max(place - 1, 0)]) * rng.choice([-1.0, 1.0])
    side = unit(np.cross(along, unit(rng.normal(size=3))))
    start = _against(path[place] + side * (radii[place] + contact), path, radii, contact)
    gap, step, num_beside = radius * 1.12 + 25, min(0.8 * radius, length), int(rng.integers(2, 6))
    if space.clearance(start[None], ignore=len(path))[0] < gap or _tube_clearance(start, path, radii)[0] < contact - 1:
        return start[None]
    found, heading = [start], along
    while (len(found) - 1) * step < length:
        turns = [unit(heading + rng.normal(size=3) * s) for s in (0.1, 0.2, 0.3, 0.45)]
        there = [found[-1] + step * t for t in turns]
        if len(found) <= num_beside:
            there = [_against(p, path, radii, contact) for p in there]
        free = [
            p for p in there
            if space.clearance(p[None], ignore=len(path))[0] > gap and _tube_clearance(p, path, radii)[0] >= contact - 1
        ]  # fmt: skip
        if not free:
            break
        heading = unit(free[0] - found[-1])
        found.append(free[0])
    return np.array(found)


def _against(point: np.ndarray, path: np.ndarray, radii: np.ndarray, contact: float) -> np.ndarray:
    """Move a point straight away from a tube, or to it, until it is `contact` nm from its surface."""
    for _ in range(4):  # at a bend, another part of the tube may then be the nearest
        clear, away = _tube_clearance(point, path, radii)
        point = point + away * (contact - clear)
    return point


def _tube_clearance(point: np.ndarray, path: np.ndarray, radii: np.ndarray) -> tuple[float, np.ndarray]:
    """Measure from a point to the surface of a tube, in nm, and say which way leads away from it."""
    begin, end = path[:-1], path[1:]
    span = end - begin
    t = np.clip(((point - begin) * span).sum(1) / (span**2).sum(1), 0, 1)
    offset = point - (begin + t[:, None] * span)
    distance = np.linalg.norm(offset, axis=1)
    clear = distance - (radii[:-1] + t * (radii[1:] - radii[:-1]))
    nearest = int(clear.argmin())
    return float(clear[nearest]), offset[nearest] / (distance[nearest] + 1e-12)


def _place_endosomes(options: Phantom, space: Space) -> _Part:
    """Light endosomes and dark lysosomes, roundish: what a network must not take for mitochondria."""
    rng = np.random.default_rng([options.seed, 5])
    balls, rows = [], []
    for _ in range(space.count(options.endosomes_per_um3, rng)):
        dark = rng.random() < 0.35
        semi = rng.uniform(70, 210) * rng.uniform(0.8, 1.25, 3)
        at = space.free_point(rng, float(semi.max()) + 25)
        if at is None:
            continue
        space.occupy(at[None], semi.max(keepdims=True))
        number = len(rows) + 1
        balls.append(np.concatenate([at, random_frame(rng).ravel(), semi, [LYSOSOME if dark else ENDOSOME, number, 0]]))
        rows.append([number, *at, *np.sort(2 * semi)[::-1], float(dark)])
    names = "id z_nm y_nm x_nm major_nm middle_nm minor_nm dark"
    return _Part(balls=_rows(balls, 18), truth={"endosomes": space.table(names, rows, reach=0.0)})


def _place_vesicles(options: Phantom, space: Space, first_id: int) -> _Part:
    """Coated vesicles: endocytic ones well within 400 nm of the plasma membrane, secretory ones well beyond."""
    rng = np.random.default_rng([options.seed, 6])
    balls, rows = [], []
    for _ in range(space.count(options.vesicles_per_um3, rng)):
        frame = random_frame(rng)
        minor = rng.uniform(35, 50)
        semi = np.array([minor * rng.uniform(1.0, 1.5), minor, minor])
        at = space.free_point(rng, float(semi.max()) + 50, near_membrane=rng.random() < 0.5)
        if at is None:
            continue
        from_membrane = space.depth(at[None])[0]
        if 340 < from_membrane < 480:
            continue
        space.occupy(at[None], semi.max(keepdims=True) + 30)
        number = first_id + len(rows)
        balls.append(np.concatenate([at, frame.ravel(), semi, [VESICLE, number, 1]]))
        rows.append([number, *at, *frame[0], *(2 * semi[:2]), from_membrane])
    names = "id z_nm y_nm x_nm nz ny nx major_nm minor_nm membrane_distance_nm"
    return _Part(balls=_rows(balls, 18), truth={"coated-vesicles": space.table(names, rows, reach=110.0)})


def _place_er(options: Phantom, space: Space) -> _Part:
    """One connected network: nodes where there is room, some widened to sheets, joined by tubules that hit nothing."""
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components, minimum_spanning_tree
    from scipy.spatial import cKDTree

    rng = np.random.default_rng([options.seed, 7])
    count = space.count(options.er_per_um3, rng)
    nodes = space.random_points(rng, 6 * count + 1)
    nodes = nodes[space.clearance(nodes) > 60] if count else nodes[:0]
    nodes = nodes[_thin(nodes, 140.0)][:count]
    if len(nodes) < 3:
        return _Part(truth={"endoplasmic-reticulum": space.table("id length_nm num_sheets", [], reach=0.0)})
    discs = []
    for number in rng.permutation(len(nodes))[: int(options.er_sheets * len(nodes))]:
        frame, radius, bend = random_frame(rng), rng.uniform(140, 420), rng.uniform(-0.6, 0.6)
        while radius > 90:
            if space.clearance(_disc_points(nodes[number], frame, radius, bend / radius)).min() > 55:
                discs.append(np.concatenate([nodes[number], frame.ravel(), [radius, 26.0, bend / radius, ER, 1]]))
                break
            radius *= 0.75
    pairs = np.array(sorted(cKDTree(nodes).query_pairs(650.0)))
    if len(pairs) == 0:
        return _Part(truth={"endoplasmic-reticulum": space.table("id length_nm num_sheets", [], reach=0.0)})
    a, b = nodes[pairs[:, 0]], nodes[pairs[:, 1]]
    length = np.linalg.norm(b - a, axis=1)
    middle = (a + b) / 2 + rng.normal(size=a.shape) * 0.12 * length[:, None]
    t = np.linspace(0, 1, 12)[None, :, None]
    path = (1 - t) ** 2 * a[:, None] + 2 * t * (1 - t) * (2 * middle - (a + b) / 2)[:, None] + t**2 * b[:, None]
    free = space.clearance(path.reshape(-1, 3)).reshape(len(pairs), -1).min(1) > 52
    pairs, path, length = pairs[free], path[free], length[free]
    graph = coo_matrix((length, tuple(pairs.T)), (len(nodes), len(nodes))).tocsr()
    _, group = connected_components(graph, directed=False)
    largest = np.bincount(group).argmax()
    tree = minimum_spanning_tree(graph).tocoo()
    in_tree = set(zip(tree.row.tolist(), tree.col.tolist(), strict=True))
    tubes, total = [], 0.0
    radii = rng.uniform(27, 38, len(nodes))
    for (i, j), way, extra in zip(pairs, path, rng.random(len(pairs)), strict=True):
        if group[i] == largest and ((i, j) in in_tree or (j, i) in in_tree or extra < 0.25):
            r = np.linspace(radii[i], radii[j], len(way))
            tubes += [
                np.concatenate([way[k], way[k + 1], r[k : k + 2], [ER, 1, 0, 0, 0, 0, 0]]) for k in range(len(way) - 1)
            ]
            total += float(np.linalg.norm(np.diff(way, axis=0), axis=1).sum())
    kept = [d for d in discs if group[np.abs(nodes - d[:3]).sum(1).argmin()] == largest]
    table = space.table("id length_nm num_sheets", [[1, total, len(kept)]], reach=0.0)
    return _Part(
        tubes=_rows(tubes, 15),
        discs=_rows(kept, 17),
        holes=np.zeros((len(kept), shapes.NUM_HOLES, 3)),
        truth={"endoplasmic-reticulum": table},
    )


def _disc_points(centre: np.ndarray, frame: np.ndarray, radius: float, bend: float) -> np.ndarray:
    u, v = np.meshgrid(*[np.linspace(-1, 1, 7)] * 2)
    inside = u**2 + v**2 <= 1.1
    flat = np.stack([u[inside], v[inside]], 1) * radius
    return centre + flat @ frame[:2] + (0.5 * bend * (flat**2).sum(1))[:, None] * frame[2]


def _thin(points: np.ndarray, apart: float) -> np.ndarray:
    """Keep points in order unless an earlier kept one is nearer than `apart`; returns their indices."""
    from scipy.spatial import cKDTree

    if len(points) == 0:
        return np.zeros(0, int)
    near = cKDTree(points).query_ball_point(points, apart)
    dropped = np.zeros(len(points), bool)
    for i in range(len(points)):
        if not dropped[i]:
            for j in near[i]:
                if j > i:
                    dropped[j] = True
    return np.flatnonzero(~dropped)
