"""Draw a box of a phantom: how much heavy metal each voxel holds, or which object it belongs to.

A voxel depends on the seed and its place alone. The box is drawn in bricks; a brick looks only at the shapes near it,
and a shape that far away changes nothing, so how a volume is cut into boxes cannot be seen in it.
"""

from __future__ import annotations

import math

import attrs
import numpy as np

from asem_sources._phantom import shapes
from asem_sources._phantom.noise import hash01, value_noise
from asem_sources._phantom.scene import ENDOSOME, ER, GOLGI, LYSOSOME, MITOCHONDRION, NUM_CLASSES, VESICLE, Scene
from asem_sources._phantom.surface import CHANNEL_BEYOND_NM, LABELLED_ENVELOPE_NM

BRICK = 8
REACH_NM = 42.0
"""Nothing farther than this from its surface shows: coats and membranes end before."""

(
    RAW, MEMBRANE, PLASMA_MEMBRANE, CELL, NUCLEUS, ENVELOPE, PORES, COATS, CAVEOLAE,
    MITOCHONDRIA, RETICULUM, GOLGI_STACKS, ENDOSOMES, CHANNELS,
) = range(14)  # fmt: skip

_WANTED = {
    MITOCHONDRIA: (MITOCHONDRION,),
    RETICULUM: (ER,),
    GOLGI_STACKS: (GOLGI,),
    ENDOSOMES: (ENDOSOME, LYSOSOME),
    COATS: (VESICLE,),
}
_OF_CELL = (RAW, MEMBRANE, PLASMA_MEMBRANE, CELL, COATS, CAVEOLAE)
_OF_NUCLEUS = (RAW, MEMBRANE, NUCLEUS, ENVELOPE, PORES, CHANNELS)
_OBJECTS = (PORES, CHANNELS, COATS, CAVEOLAE, MITOCHONDRIA, RETICULUM, GOLGI_STACKS, ENDOSOMES)
"""Layers of which nothing shows far from every shape."""


@attrs.frozen
class Stain:
    """How strongly each compartment is stained, 0 = resin to 1 = a membrane filled with metal; lengths in nm."""

    membrane: float
    membrane_nm: float
    cytosol: float
    granules: float
    nucleoplasm: float
    chromatin: float
    matrix: float
    er_lumen: float
    golgi_lumen: float
    endosome_lumen: float
    lysosome_lumen: float
    coat: float
    outside: float

    def row(self) -> np.ndarray:
        return np.array(attrs.astuple(self), np.float64)


def draw(scene: Scene, layer: int, begin: tuple[int, int, int], shape: tuple[int, int, int], voxel_size_nm: tuple[float, float, float],
         seed: int, stain: Stain, trace_nm: float) -> np.ndarray:  # fmt: skip
    """Draw the voxels from `begin` on: float32 staining for RAW, uint32 object ids (0 = none) for every other layer."""
    voxel = np.array(voxel_size_nm)
    low = (np.array(begin) - BRICK) * voxel
    high = (np.array(begin) + np.array(shape) + BRICK) * voxel
    every = layer in (RAW, MEMBRANE)
    wanted = _WANTED.get(layer, range(NUM_CLASSES) if every else ())
    nothing = np.zeros(shapes.BODY_LENGTH)
    pores = _near(scene.pores, scene.pores[:, :3], scene.pores[:, 6] / 2 + 130, low, high) & (layer in _OF_NUCLEUS)
    flasks = _near(scene.flasks, scene.flasks[:, :3], scene.flasks[:, 6] + 160, low, high) & (layer in _OF_CELL)
    middle = (scene.tubes[:, :3] + scene.tubes[:, 3:6]) / 2
    tubes = _near(
        scene.tubes,
        middle,
        np.linalg.norm(scene.tubes[:, :3] - middle, axis=1) + scene.tubes[:, 6:8].max(1, initial=0),
        low,
        high,
    )
    tubes &= np.isin(scene.tubes[:, 8], wanted)
    discs = _near(scene.discs, scene.discs[:, :3], scene.discs[:, 12] * 1.2 + 60, low, high) & np.isin(
        scene.discs[:, 15], wanted
    )
    balls = _near(scene.balls, scene.balls[:, :3], scene.balls[:, 12:15].max(1, initial=0), low, high) & np.isin(
        scene.balls[:, 15], wanted
    )
    image, ids = _draw(
        layer, layer in _OBJECTS, np.array(begin, np.int64), np.array(shape, np.int64), voxel, seed, stain.row(), trace_nm,
        scene.cell if layer in _OF_CELL else nothing,
        scene.nucleus if layer in _OF_NUCLEUS else nothing,
        scene.half_envelope_nm, scene.pores[pores], scene.flasks[flasks], scene.profiles[flasks],
        scene.tubes[tubes], scene.discs[discs], scene.holes[discs], scene.balls[balls],
    )  # fmt: skip
    return image if layer == RAW else ids


def _near(rows: np.ndarray, centres: np.ndarray, radii: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    nearest = np.clip(centres, low, high)
    return np.asarray(((centres - nearest) ** 2).sum(1) <= (radii + REACH_NM) ** 2) if len(rows) else np.zeros(0, bool)


@shapes.jit
def _draw(
    layer,
    objects_only,
    begin,
    shape,
    voxel,
    seed,
    stain,
    trace,
    cell,
    nucleus,
    half_envelope,
    pores,
    flasks,
    profiles,
    tubes,
    discs,
    holes,
    balls,
):
    raw = layer == RAW
    image = np.zeros((shape[0], shape[1], shape[2]), np.float32) if raw else np.zeros((1, 1, 1), np.float32)
    ids = np.zeros((1, 1, 1), np.uint32) if raw else np.zeros((shape[0], shape[1], shape[2]), np.uint32)
    pick = (
        np.empty(len(pores), np.int64), np.empty(len(flasks), np.int64), np.empty(len(tubes), np.int64),
        np.empty(len(discs), np.int64), np.empty(len(balls), np.int64),
    )  # fmt: skip
    size = (voxel[0] * voxel[1] * voxel[2]) ** (1.0 / 3.0)
    half = 0.5 * BRICK * math.sqrt(voxel[0] ** 2 + voxel[1] ** 2 + voxel[2] ** 2)
    end = begin + shape
    first, last = begin // BRICK, (end + BRICK - 1) // BRICK
    # Bricks lie on one grid for the whole phantom, never on the box's own.
    for kz in range(first[0], last[0]):
        for ky in range(first[1], last[1]):
            for kx in range(first[2], last[2]):
                cz = (kz * BRICK + 0.5 * (BRICK - 1)) * voxel[0]
                cy = (ky * BRICK + 0.5 * (BRICK - 1)) * voxel[1]
                cx = (kx * BRICK + 0.5 * (BRICK - 1)) * voxel[2]
                reach = half + REACH_NM
                counts = _pick(pick, cz, cy, cx, reach, pores, flasks, tubes, discs, balls)
                if objects_only and counts == (0, 0, 0, 0, 0):
                    continue
                near_cell = near_nucleus = False
                d_cell = -shapes.FAR
                d_nucleus = shapes.FAR
                if cell[0] != 0.0:
                    d_cell = shapes.body_distance(cell, cz, cy, cx)[0]
                    near_cell = abs(d_cell) < 2.0 * (half + 150.0)
                if nucleus[0] != 0.0:
                    d_nucleus = shapes.body_distance(nucleus, cz, cy, cx)[0]
                    near_nucleus = abs(d_nucleus) < 2.0 * (half + 100.0)
                for z in range(max(kz * BRICK, begin[0]), min(kz * BRICK + BRICK, end[0])):
                    for y in range(max(ky * BRICK, begin[1]), min(ky * BRICK + BRICK, end[1])):
                        for x in range(max(kx * BRICK, begin[2]), min(kx * BRICK + BRICK, end[2])):
                            pz, py, px = z * voxel[0], y * voxel[1], x * voxel[2]
                            if near_cell:
                                d_cell = shapes.body_distance(cell, pz, py, px)[0]
                            if near_nucleus:
                                d_nucleus = shapes.body_distance(nucleus, pz, py, px)[0]
                            density, number = _voxel(
                                layer, pz, py, px, size, seed, stain, trace, d_cell, d_nucleus, half_envelope,
                                pick, counts, pores, flasks, profiles, tubes, discs, holes, balls,
                            )  # fmt: skip
                            if raw:
                                image[z - begin[0], y - begin[1], x - begin[2]] = density
                            else:
                                ids[z - begin[0], y - begin[1], x - begin[2]] = number
    return image, ids


@shapes.jit
def _pick(pick, z, y, x, reach, pores, flasks, tubes, discs, balls):
    """List the shapes that show within `reach` nm of a point; returns how many of each."""
    n0 = n1 = n2 = n3 = n4 = 0
    for i in range(len(pores)):
        r = 0.5 * pores[i, 6] + 100.0 + reach
        if (pores[i, 0] - z) ** 2 + (pores[i, 1] - y) ** 2 + (pores[i, 2] - x) ** 2 < r * r:
            pick[0][n0] = i
            n0 += 1
    for i in range(len(flasks)):
        r = flasks[i, 6] + 120.0 + reach
        if (flasks[i, 0] - z) ** 2 + (flasks[i, 1] - y) ** 2 + (flasks[i, 2] - x) ** 2 < r * r:
            pick[1][n1] = i
            n1 += 1
    for i in range(len(tubes)):
        if shapes.tube_distance(tubes[i], z, y, x)[0] < reach:
            pick[2][n2] = i
            n2 += 1
    for i in range(len(discs)):
        r = 1.2 * discs[i, 12] + 60.0 + reach
        if (discs[i, 0] - z) ** 2 + (discs[i, 1] - y) ** 2 + (discs[i, 2] - x) ** 2 < r * r:
            pick[3][n3] = i
            n3 += 1
    for i in range(len(balls)):
        r = max(balls[i, 12], balls[i, 13], balls[i, 14]) + reach
        if (balls[i, 0] - z) ** 2 + (balls[i, 1] - y) ** 2 + (balls[i, 2] - x) ** 2 < r * r:
            pick[4][n4] = i
            n4 += 1
    return n0, n1, n2, n3, n4


@shapes.jit
def _voxel(
    layer,
    z,
    y,
    x,
    size,
    seed,
    stain,
    trace,
    d_cell,
    d_nucleus,
    half_envelope,
    pick,
    counts,
    pores,
    flasks,
    profiles,
    tubes,
    discs,
    holes,
    balls,
):
    """Staining, and id in the asked layer, of the voxel whose centre is (z, y, x) nm."""
    # The plasma membrane, which pits and caveolae push inwards.
    s_cell = d_cell
    flask = -1
    invaginated = False
    for k in range(counts[1]):
        i = pick[1][k]
        dz, dy, dx = z - flasks[i, 0], y - flasks[i, 1], x - flasks[i, 2]
        along = dz * flasks[i, 3] + dy * flasks[i, 4] + dx * flasks[i, 5]
        rho = math.sqrt(max(0.0, dz * dz + dy * dy + dx * dx - along * along))
        if rho < flasks[i, 6] and -d_cell < flasks[i, 7] + REACH_NM and abs(along) < flasks[i, 7] + 80.0:
            s_cell, piece = shapes.flask_distance(profiles[i], rho, -d_cell)
            flask = i
            invaginated = piece >= shapes.LIP_PIECES
            break
    # The nuclear envelope and its pores.
    s_envelope = abs(d_nucleus) - half_envelope
    pore = -1
    rho_pore = 0.0
    if s_envelope < REACH_NM:
        for k in range(counts[0]):
            i = pick[0][k]
            dz, dy, dx = z - pores[i, 0], y - pores[i, 1], x - pores[i, 2]
            along = dz * pores[i, 3] + dy * pores[i, 4] + dx * pores[i, 5]
            rho = math.sqrt(max(0.0, dz * dz + dy * dy + dx * dx - along * along))
            if rho < 0.5 * pores[i, 6] + half_envelope + LABELLED_ENVELOPE_NM and abs(along) < 100.0:
                s_envelope = shapes.rim_distance(pores[i, 6], half_envelope, rho, d_nucleus)
                pore = i
                rho_pore = rho
                break
    # The organelles; the nearest object of each class.
    s_mito = s_er = s_golgi = s_endo = s_lyso = s_vesicle = shapes.FAR
    mito = golgi = endo = vesicle = -1
    fraction = 0.0
    for k in range(counts[2]):
        i = pick[2][k]
        s, t = shapes.tube_distance(tubes[i], z, y, x)
        if tubes[i, 8] == MITOCHONDRION:
            if s < s_mito:
                s_mito, mito, fraction = s, i, t
        else:
            s_er = _blend(s_er, s)
    for k in range(counts[3]):
        i = pick[3][k]
        s = shapes.disc_distance(discs[i], holes[i], z, y, x)
        if discs[i, 15] == GOLGI:
            if s < s_golgi:
                s_golgi, golgi = s, i
        else:
            s_er = _blend(s_er, s)
    for k in range(counts[4]):
        i = pick[4][k]
        s = shapes.ball_distance(balls[i], z, y, x)
        if balls[i, 15] == VESICLE:
            if s < s_vesicle:
                s_vesicle, vesicle = s, i
        elif s < min(s_endo, s_lyso):
            endo = i
            if balls[i, 15] == LYSOSOME:
                s_lyso, s_endo = s, shapes.FAR
            else:
                s_endo, s_lyso = s, shapes.FAR

    if layer != RAW:
        number = 0
        if layer == MITOCHONDRIA:
            number = int(tubes[mito, 9]) if s_mito <= 0.0 else 0
        elif layer == RETICULUM:
            number = 1 if s_er <= 0.0 else 0
        elif layer == GOLGI_STACKS:
            number = int(discs[golgi, 16]) if s_golgi <= 0.0 else 0
        elif layer == ENDOSOMES:
            number = int(balls[endo, 16]) if min(s_endo, s_lyso) <= 0.0 else 0
        elif layer == PORES:
            number = int(pores[pore, 8]) if pore >= 0 and abs(s_envelope) <= trace else 0
        elif layer == CHANNELS:
            inside = pore >= 0 and s_envelope > 0.0 and rho_pore < 0.5 * pores[pore, 6]
            number = 1 if inside and abs(d_nucleus) <= half_envelope + CHANNEL_BEYOND_NM else 0
        elif layer == COATS:
            if vesicle >= 0 and balls[vesicle, 17] != 0.0 and abs(s_vesicle) <= trace:
                number = int(balls[vesicle, 16])
            elif flask >= 0 and invaginated and flasks[flask, 8] != 0.0 and abs(s_cell) <= trace:
                number = int(flasks[flask, 9])
        elif layer == CAVEOLAE:
            number = (
                int(flasks[flask, 9])
                if flask >= 0 and invaginated and flasks[flask, 8] == 0.0 and abs(s_cell) <= trace
                else 0
            )
        elif layer == CELL:
            number = 1 if s_cell <= 0.0 else 0
        elif layer == NUCLEUS:
            number = 1 if d_nucleus <= 0.0 else 0
        elif layer == ENVELOPE:
            number = 1 if s_envelope <= 0.0 else 0
        elif layer == PLASMA_MEMBRANE:
            number = 1 if abs(s_cell) <= trace else 0
        elif layer == MEMBRANE:
            nearest = min(
                abs(s_cell),
                abs(s_envelope),
                abs(s_mito),
                abs(s_er),
                abs(s_golgi),
                abs(s_endo),
                abs(s_lyso),
                abs(s_vesicle),
            )
            number = 1 if nearest <= trace else 0
        return np.float32(0.0), number

    coarse = value_noise(seed, 1, z, y, x, 170.0)
    medium = value_noise(seed, 2, z, y, x, 55.0)
    fine = value_noise(seed, 3, z, y, x, 19.0)
    grain = 0.25 * coarse + 0.35 * medium + 0.7 * fine
    dark = max(0.0, 0.6 * fine + 0.5 * medium - 0.35)
    cytosol = stain[2] + stain[3] * (grain + 1.6 * dark)
    density = cytosol
    thick = stain[1]
    membrane = 0.0
    if s_cell > -REACH_NM:
        density = _mix(cytosol, stain[12] + 0.15 * stain[3] * grain, s_cell, size)
        membrane = _slab(s_cell, thick, size)
        if flask >= 0 and flasks[flask, 8] != 0.0 and invaginated:
            density += stain[11] * _slab(s_cell + 15.0, 15.0, size) * (0.75 + 0.5 * fine)
    if d_nucleus < REACH_NM:
        chromatin = max(0.0, coarse + 0.5 * medium + 0.25 * max(0.0, 1.0 + min(0.0, d_nucleus) / 150.0) - 0.1)
        nucleoplasm = stain[4] + stain[3] * grain + stain[5] * min(0.8, chromatin) * (1.0 if pore < 0 else 0.3)
        density = _mix(nucleoplasm, density, d_nucleus, size)
        if pore >= 0 and s_envelope > 0.0 and abs(d_nucleus) < 60.0:
            plug = math.exp(-((rho_pore / 22.0) ** 2) - (d_nucleus / 28.0) ** 2)
            density = (
                cytosol
                + (density - cytosol) * min(1.0, abs(d_nucleus) / 60.0)
                + pores[pore, 7] * plug * (1.0 + 0.6 * fine)
            )
        density = _mix(stain[7], density, s_envelope, size)
        membrane = max(membrane, _slab(s_envelope, thick, size))
    if s_er < REACH_NM:
        density += stain[3] * 1.5 * max(0.0, fine - 0.1) * _slab(s_er - 16.0, 18.0, size)
        density = _mix(stain[7] + 0.3 * stain[3] * grain, density, s_er, size)
        membrane = max(membrane, _slab(s_er, thick, size))
    if s_golgi < REACH_NM:
        density = _mix(stain[8], density, s_golgi, size)
        membrane = max(membrane, _slab(s_golgi, thick, size))
    if s_endo < REACH_NM:
        shade = 0.2 * (hash01(seed, 8, int(balls[endo, 16]), 0, 0) - 0.3)
        density = _mix(stain[9] + shade + stain[3] * (0.5 * grain + dark), density, s_endo, size)
        membrane = max(membrane, _slab(s_endo, thick, size))
    if s_lyso < REACH_NM:
        shade = 0.2 * (hash01(seed, 8, int(balls[endo, 16]), 0, 0) - 0.5)
        density = _mix(stain[10] + shade + 2.0 * stain[3] * grain, density, s_lyso, size)
        membrane = max(membrane, _slab(s_lyso, thick, size))
    if s_vesicle < REACH_NM:
        if balls[vesicle, 17] != 0.0:
            density += stain[11] * _slab(s_vesicle - 15.0, 15.0, size) * (0.75 + 0.5 * fine)
        density = _mix(stain[9], density, s_vesicle, size)
        membrane = max(membrane, _slab(s_vesicle, thick, size))
    if s_mito < REACH_NM:
        shade = 0.16 * (hash01(seed, 7, int(tubes[mito, 9]), 0, 0) - 0.4)
        density = _mix(stain[6] + shade + stain[3] * (0.5 * coarse + 0.5 * grain), density, s_mito, size)
        inner = s_mito + 17.0
        membrane = max(membrane, _slab(s_mito, thick, size), _slab(inner, thick, size))
        if inner < 0.0:
            lamella, crista_membrane = _cristae(tubes[mito], fraction, inner, z, y, x, size, thick, seed)
            density += (stain[7] - density) * lamella
            membrane = max(membrane, 0.9 * crista_membrane)
    stained = max(density, stain[0] * (1.0 + 0.22 * medium))
    return np.float32(density + (stained - density) * min(1.0, membrane)), 0


@shapes.inline
def _blend(a, b):
    """Join two distances smoothly where they meet, so that tubules run into each other without a crease."""
    h = max(0.0, 24.0 - abs(a - b)) / 24.0
    return min(a, b) - h * h * 6.0


@shapes.inline
def _mix(inside, outside, distance, size):
    """Fill of a voxel that a surface cuts at `distance` nm from its centre."""
    share = min(1.0, max(0.0, 0.5 - distance / size))
    return outside + (inside - outside) * share


@shapes.inline
def _slab(distance, thick, size):
    """Share of a voxel of edge `size` that a slab `thick` nm thick fills, its middle `distance` nm away."""
    overlap = 0.5 * (thick + size) - abs(distance)
    return min(1.0, max(0.0, overlap / size), thick / size) if overlap > 0.0 else 0.0


@shapes.jit
def _cristae(tube, fraction, inner, z, y, x, size, thick, seed):
    """Lamellae across a mitochondrion, each reaching in from one side: (share of lumen, share of membrane)."""
    bz, by, bx = tube[3] - tube[0], tube[4] - tube[1], tube[5] - tube[2]
    length = math.sqrt(bz * bz + by * by + bx * bx)
    pz, py, px = z - tube[0], y - tube[1], x - tube[2]
    # Unclamped along the axis, so that the round ends have lamellae too.
    along = tube[10] + (pz * bz + py * by + px * bx) / length
    side = (pz - fraction * bz) * tube[12] + (py - fraction * by) * tube[13] + (px - fraction * bx) * tube[14]
    radius = tube[6]
    wobble = 20.0 * value_noise(seed, 4, z, y, x, 110.0)
    at = (along + wobble) / tube[11]
    index = math.floor(at)
    off = (at - index - 0.5) * tube[11]
    chance = hash01(seed, 5, int(index), int(tube[9]), 0)
    facing = 1.0 if hash01(seed, 6, int(index), int(tube[9]), 0) < 0.5 else -1.0
    end = radius * (1.7 * chance - 0.9)
    across = max(abs(off) - 8.0, side * facing - end)
    return _mix(1.0, 0.0, across, size), _slab(across, thick, size)
