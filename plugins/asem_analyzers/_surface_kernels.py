"""The compiled loops of `_surface`; imported only when a surface is meshed, because numba takes a second to load."""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)
BOTH = 3
"""1 for background, and 2 for mask."""


@_jit
def near_surface(mask, reach, first, end):  # type: ignore[no-untyped-def]
    """Find the voxels with both mask and background within `reach` voxels along each axis, from `first` to before `end`.

    Returns
    -------
    bool zyx; int64 (z, y), (z, y): where along x the first of them is, and the place past the last
    """
    nz, ny, nx = mask.shape
    rz, ry, rx = reach
    plane, row, line = np.empty((ny, nx), np.uint8), np.empty(nx + 2 * rx, np.uint8), np.empty(nx, np.uint8)
    near = np.zeros(mask.shape, np.bool_)
    low, high = np.full((nz, ny), nx), np.zeros((nz, ny), np.int64)
    for z in range(first[0], end[0]):
        for y in range(max(0, first[1] - ry), min(ny, end[1] + ry)):
            plane[y] = 0
            for w in range(max(0, z - rz), min(nz, z + rz + 1)):
                _join(plane[y], mask[w, y])
        for y in range(first[1], end[1]):
            row[:] = 0
            for v in range(max(0, y - ry), min(ny, y + ry + 1)):
                _unite(row[rx : rx + nx], plane[v])
            seen = line[: end[2] - first[2]]
            seen[:] = 0
            for j in range(2 * rx + 1):
                _unite(seen, row[first[2] + j : first[2] + j + seen.size])
            begin, last = 0, seen.size
            while begin < last and seen[begin] != BOTH:
                begin += 1
            while last > begin and seen[last - 1] != BOTH:
                last -= 1
            if begin < last:
                low[z, y], high[z, y] = first[2] + begin, first[2] + last
                out = near[z, y, first[2] + begin : first[2] + last]
                for k in range(out.size):
                    out[k] = seen[begin + k] == BOTH
    return near, low, high


@_jit
def _join(seen, mask):  # type: ignore[no-untyped-def]
    for k in range(seen.size):
        seen[k] |= 1 + mask[k]


@_jit
def _unite(seen, other):  # type: ignore[no-untyped-def]
    for k in range(seen.size):
        seen[k] |= other[k]


@_jit
def smoothed(mask, low, high, narrow, wide, reach):  # type: ignore[no-untyped-def]
    """Smooth a mask at the corners of the cubes that `near_surface` found, each named by its last corner; 0 elsewhere.

    Sums are taken in the order, and rounded where, `scipy.ndimage.gaussian_filter` does.

    Parameters
    ----------
    narrow, wide : float64 (3, 1 + the largest reach), weights of voxels 0, 1, ... away along each axis
    reach : along each axis, in voxels, with narrow and wide alike: weights may be 0

    Returns
    -------
    float32 zyx, and the least and largest value
    """
    nz, ny, nx = mask.shape
    rz, ry, rx = reach
    field = np.zeros(mask.shape, np.float32)
    along_z = np.zeros((2, ny, nx), np.float32)
    along_y = np.zeros((2, nx + 2 * rx), np.float32)
    both = np.zeros((2, nx), np.float32)
    total = np.empty(nx + 2 * rx)
    begin, end = np.empty(ny, np.int64), np.empty(ny, np.int64)
    least, largest = np.float32(np.inf), np.float32(-np.inf)
    for z in range(nz):
        some = False
        for y in range(ny):
            b, e = nx, 0
            for w in range(z, min(nz, z + 2)):
                for v in range(y, min(ny, y + 2)):
                    b, e = min(b, low[w, v]), max(e, high[w, v])
            begin[y], end[y] = max(0, b - 1), e
            some |= b < e
        if not some:
            continue
        for y in range(ny):
            b, e = nx, 0
            for v in range(max(0, y - ry), min(ny, y + ry + 1)):
                if begin[v] < end[v]:
                    b, e = min(b, begin[v]), max(e, end[v])
            if b >= e:
                continue
            b, e = max(0, b - rx), min(nx, e + rx)
            for which in range(2):
                weight = narrow[0] if which == 0 else wide[0]
                part = total[: e - b]
                _begin(part, mask[z, y, b:e], weight[0])
                for j in range(rz, 0, -1):
                    _add(part, mask[max(0, z - j), y, b:e], mask[min(nz - 1, z + j), y, b:e], weight[j])
                _round(along_z[which, y, b:e], part)
        for y in range(ny):
            if begin[y] >= end[y]:
                continue
            first, last = begin[y], end[y]
            b, e = max(0, first - rx), min(nx, last + rx)
            for which in range(2):
                weight = narrow[1] if which == 0 else wide[1]
                part, line = total[: e - b], along_y[which]
                _begin(part, along_z[which, y, b:e], weight[0])
                for j in range(ry, 0, -1):
                    before, after = along_z[which, max(0, y - j)], along_z[which, min(ny - 1, y + j)]
                    _add(part, before[b:e], after[b:e], weight[j])
                _round(line[b + rx : e + rx], part)
                if b == 0:
                    line[:rx] = line[rx]
                if e == nx:
                    line[nx + rx :] = line[nx + rx - 1]
                weight = narrow[2] if which == 0 else wide[2]
                part, line = total[: last - first], line[first : last + 2 * rx]
                _begin(part, line[rx : rx + part.size], weight[0])
                for j in range(rx, 0, -1):
                    _add(part, line[rx - j : rx - j + part.size], line[rx + j : rx + j + part.size], weight[j])
                _round(both[which, : part.size], part)
            out = field[z, y, first:last]
            for k in range(out.size):
                out[k] = np.float32(2) * both[0, k] - both[1, k]
            for value in out:
                least, largest = min(least, value), max(largest, value)
    return field, least, largest


# Loops from 0 over slices: of other ranges, numba asks at each step whether an index counts from the end.


@_jit
def _begin(total, values, weight):  # type: ignore[no-untyped-def]
    for k in range(total.size):
        total[k] = np.float64(values[k]) * weight


@_jit
def _add(total, before, after, weight):  # type: ignore[no-untyped-def]
    for k in range(total.size):
        total[k] += (np.float64(before[k]) + np.float64(after[k])) * weight


@_jit
def _round(out, total):  # type: ignore[no-untyped-def]
    for k in range(out.size):
        out[k] = total[k]


@_jit
def triangles(vertices, faces, size, begin, end):  # type: ignore[no-untyped-def]
    """List centre and area of triangles, and their normals, of those whose centre is at `begin` or above and below `end`.

    Parameters
    ----------
    vertices : float32 (n, 3), in voxels; faces : int32 (m, 3); size, begin, end : float64 (3,), of a voxel, in voxels
    """
    centre, area, normal = np.empty((len(faces), 3)), np.empty(len(faces)), np.empty((len(faces), 3))
    corner, middle = np.empty((3, 3)), np.empty(3)
    num = 0
    for k in range(len(faces)):
        inside = True
        for axis in range(3):
            for c in range(3):
                corner[c, axis] = vertices[faces[k, c], axis]
            middle[axis] = (corner[0, axis] + corner[1, axis] + corner[2, axis]) / 3
            inside &= middle[axis] >= begin[axis] and middle[axis] < end[axis]
        if not inside:
            continue
        for axis in range(3):
            centre[num, axis] = middle[axis] * size[axis]
            for c in range(3):
                corner[c, axis] *= size[axis]
        az, ay, ax = corner[1, 0] - corner[0, 0], corner[1, 1] - corner[0, 1], corner[1, 2] - corner[0, 2]
        bz, by, bx = corner[2, 0] - corner[0, 0], corner[2, 1] - corner[0, 1], corner[2, 2] - corner[0, 2]
        z, y, x = ay * bx - ax * by, ax * bz - az * bx, az * by - ay * bz
        twice = np.sqrt(z * z + y * y + x * x)
        area[num] = twice / 2
        scale = twice if twice > 0 else 1.0
        normal[num, 0], normal[num, 1], normal[num, 2] = z / scale, y / scale, x / scale
        num += 1
    return centre[:num], area[:num], normal[:num]
