"""Signed distances, in nm, to the shapes that a phantom is made of; negative inside.

Each shape is one row of a float64 array, so that thousands of them travel into compiled code. All points are zyx in nm.
Distances are exact for tubes and flat discs and first-order accurate (exact on the surface) for the others, which is
what a membrane a few nm thick needs.
"""

from __future__ import annotations

import math

import numba
import numpy as np

jit = numba.njit(cache=True, nogil=True)
inline = numba.njit(cache=True, nogil=True, inline="always")

NUM_BUMPS = 4
NUM_HOLES = 6
FAR = 1e6

# Row of a body (the cell, the nucleus): kind, centre zyx, semi-axes zyx (or the normal of a plane), then per bump
# amplitude in nm, wave vector zyx in rad/nm and phase.
NO_BODY, ELLIPSOID, PLANE = 0, 1, 2
BODY_LENGTH = 7 + 5 * NUM_BUMPS


@jit
def body_distance(body, z, y, x):
    """Distance to a bumpy ellipsoid or plane and the outward unit normal there: (distance, nz, ny, nx)."""
    dz, dy, dx = z - body[1], y - body[2], x - body[3]
    if body[0] == PLANE:
        f = dz * body[4] + dy * body[5] + dx * body[6]
        gz, gy, gx = body[4], body[5], body[6]
    else:
        uz, uy, ux = dz / body[4], dy / body[5], dx / body[6]
        k = math.sqrt(uz * uz + uy * uy + ux * ux) + 1e-9
        scale = (body[4] + body[5] + body[6]) / 3.0
        f = (k - 1.0) * scale
        gz, gy, gx = uz / body[4] / k * scale, uy / body[5] / k * scale, ux / body[6] / k * scale
    for j in range(NUM_BUMPS):
        at = 7 + 5 * j
        amplitude = body[at]
        if amplitude != 0.0:
            phase = z * body[at + 1] + y * body[at + 2] + x * body[at + 3] + body[at + 4]
            f += amplitude * math.sin(phase)
            slope = amplitude * math.cos(phase)
            gz += slope * body[at + 1]
            gy += slope * body[at + 2]
            gx += slope * body[at + 3]
    norm = math.sqrt(gz * gz + gy * gy + gx * gx) + 1e-9
    return f / norm, gz / norm, gy / norm, gx / norm


@jit
def body_distances(body, points):
    """Distances of many points (n, 3) to one body, and the normals (n, 3)."""
    distance = np.empty(len(points))
    normal = np.empty((len(points), 3))
    for i in range(len(points)):
        distance[i], normal[i, 0], normal[i, 1], normal[i, 2] = body_distance(
            body, points[i, 0], points[i, 1], points[i, 2]
        )
    return distance, normal


@inline
def tube_distance(a, z, y, x):
    """Distance to a round cone: row = end a zyx, end b zyx, radius at a, radius at b, ...; gives (distance, fraction)."""
    bz, by, bx = a[3] - a[0], a[4] - a[1], a[5] - a[2]
    pz, py, px = z - a[0], y - a[1], x - a[2]
    t = (pz * bz + py * by + px * bx) / (bz * bz + by * by + bx * bx)
    t = min(1.0, max(0.0, t))
    qz, qy, qx = pz - t * bz, py - t * by, px - t * bx
    return math.sqrt(qz * qz + qy * qy + qx * qx) - (a[6] + t * (a[7] - a[6])), t


@inline
def ball_distance(b, z, y, x):
    """Distance to an ellipsoid: row = centre zyx, three unit axes zyx, three semi-axes, ..."""
    pz, py, px = z - b[0], y - b[1], x - b[2]
    k0 = 0.0
    k1 = 0.0
    for i in range(3):
        u = (pz * b[3 + 3 * i] + py * b[4 + 3 * i] + px * b[5 + 3 * i]) / b[12 + i]
        k0 += u * u
        u /= b[12 + i]
        k1 += u * u
    if k1 < 1e-18:
        return -min(b[12], b[13], b[14])
    k0 = math.sqrt(k0)
    return k0 * (k0 - 1.0) / math.sqrt(k1)


@inline
def disc_distance(d, holes, z, y, x):
    """Distance to a bowl-shaped disc with rounded rim and round holes (ER sheet, Golgi cisterna).

    Row = centre zyx, three unit axes zyx (the last one is the normal), radius, half thickness, curvature 1/nm, ...;
    a hole = place along the first two axes and radius, all nm, radius 0 = none.
    """
    pz, py, px = z - d[0], y - d[1], x - d[2]
    u = pz * d[3] + py * d[4] + px * d[5]
    v = pz * d[6] + py * d[7] + px * d[8]
    w = pz * d[9] + py * d[10] + px * d[11]
    radius, half, bend = d[12], d[13], d[14]
    rho = math.sqrt(u * u + v * v)
    reach = min(rho, radius + half)
    slope = bend * reach
    w = (w - 0.5 * bend * reach * reach) / math.sqrt(1.0 + slope * slope)
    distance = abs(w) - half if rho < radius else math.sqrt((rho - radius) * (rho - radius) + w * w) - half
    for i in range(NUM_HOLES):
        hole = holes[i, 2]
        if hole > 0.0:
            du, dv = u - holes[i, 0], v - holes[i, 1]
            edge = hole + half - math.sqrt(du * du + dv * dv)
            if edge > 0.0:
                distance = max(distance, math.sqrt(edge * edge + w * w) - half)
    return distance


@inline
def rim_distance(diameter, half, rho, axial):
    """Distance to a double membrane (a cisterna of half thickness `half`) that a pore of `diameter` pierces.

    `rho` is the distance from the pore's axis and `axial` the distance from the cisterna's mid-surface. The rim is
    half a torus, so that the membrane's centre is `diameter` apart in the mid-surface.
    """
    edge = 0.5 * diameter + half - rho
    if edge <= 0.0:
        return abs(axial) - half
    return math.sqrt(edge * edge + axial * axial) - half


@jit
def flask_distance(profile, rho, depth):
    """Distance to a surface of revolution given by its meridian, and the index of the nearest piece of it.

    profile : (n, 2) of (radius, depth into the cell) in nm, from the flat membrane down to the bottom on the axis.
    Positive on the side of the flat membrane's outside, as for the cell: (distance, piece).
    """
    best = 1e18
    piece = 0
    crossings = 0
    for i in range(len(profile) - 1):
        r0, w0 = profile[i, 0], profile[i, 1]
        r1, w1 = profile[i + 1, 0], profile[i + 1, 1]
        dr, dw = r1 - r0, w1 - w0
        t = ((rho - r0) * dr + (depth - w0) * dw) / (dr * dr + dw * dw + 1e-12)
        t = min(1.0, max(0.0, t))
        er, ew = rho - r0 - t * dr, depth - w0 - t * dw
        e = er * er + ew * ew
        if e < best:
            best = e
            piece = i
        if (w0 > depth) != (w1 > depth) and rho < r0 + (depth - w0) / dw * dr:
            crossings += 1
    distance = math.sqrt(best)
    if depth < 0.0 or crossings % 2 == 1:
        return distance, piece
    return -distance, piece


def flask_profile(height: float, width: float, neck: float, lip: float, bottom: float, reach: float) -> np.ndarray:
    """Draw the meridian of an invagination: (n, 2) of radius and depth in nm.

    The membrane bends inwards over a lip of radius `lip`, is narrowest (`neck`) at that depth, widest (`width`) at
    `height - bottom`, and ends at `height`; below the widest place it is an ellipse. All three are exact on the
    membrane's centre. The flat part begins at the radius `reach`.
    """
    rn, a = 0.5 * neck, 0.5 * width
    equator = height - bottom
    turn = np.linspace(0.0, np.pi / 2, 9)
    lip_part = np.stack([rn + lip - lip * np.sin(turn), lip - lip * np.cos(turn)], 1)
    t = np.linspace(0.0, 1.0, 13)[1:, None]
    k = equator - lip
    p = np.array([[rn, lip], [rn, lip + 0.25 * k], [a, equator - 0.6 * k], [a, equator]])
    neck_part = (1 - t) ** 3 * p[0] + 3 * (1 - t) ** 2 * t * p[1] + 3 * (1 - t) * t**2 * p[2] + t**3 * p[3]
    turn = np.linspace(0.0, np.pi / 2, 15)[1:]
    bottom_part = np.stack([a * np.cos(turn), equator + bottom * np.sin(turn)], 1)
    return np.concatenate([[[reach, 0.0]], lip_part, neck_part, bottom_part])


FLASK_POINTS = 36
LIP_PIECES = 9
"""Pieces of a flask's profile that are not yet invaginated: the flat part and the lip above the neck."""
