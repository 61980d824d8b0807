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
    bool zyx; bool (z,), the planes that hold a corner of the cubes whose last corners these voxels are; and where such corners
    begin and end, int64 (3,) each
    """
    nz, ny, nx = mask.shape
    rz, ry, rx = reach
    plane, row, line = np.empty((ny, nx), np.uint8), np.empty(nx + 2 * rx, np.uint8), np.empty(nx, np.uint8)
    near = np.zeros(mask.shape, np.bool_)
    planes = np.zeros(nz, np.bool_)
    low, high = np.array(mask.shape), np.zeros(3, np.int64)
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
                out = near[z, y, first[2] + begin : first[2] + last]
                for k in range(out.size):
                    out[k] = seen[begin + k] == BOTH
                planes[z - 1 : z + 1] = True
                low[0], low[1], low[2] = min(low[0], z - 1), min(low[1], y - 1), min(low[2], first[2] + begin - 1)
                high[0], high[1], high[2] = z + 1, max(high[1], y + 1), max(high[2], first[2] + last)
    return near, planes, low, high


@_jit
def smoothed(mask, planes, first, end, narrow, wide, reach):  # type: ignore[no-untyped-def]
    """Smooth a mask where `near_surface` found corners; 0 elsewhere. Beyond its border, the mask goes on.

    Sums are taken in the order, and rounded where, `scipy.ndimage.gaussian_filter` does.

    Parameters
    ----------
    narrow, wide : float64 (3, 1 + the largest reach), weights of voxels 0, 1, ... away along each axis; the result is 2 narrow - wide
    reach : along each axis, in voxels, of both

    Returns
    -------
    float32 zyx, and its least and largest value there
    """
    field = np.zeros(mask.shape, np.float32)
    least, largest = np.float32(np.inf), np.float32(-np.inf)
    if not planes.any():
        return field, least, largest
    rz, ry, rx = reach
    around = _around(mask, first, end, reach)
    # A plane is one line in memory, so each axis is a distance along it. What ends of rows so get from the next row is left out.
    height, width = around.shape[1:]
    lines = around.reshape(-1)
    along_z = np.empty((2, height * width), np.float32)
    along_y = np.empty((2, (height - 2 * ry) * width), np.float32)
    along_x = np.empty((2, along_y.shape[1] - 2 * rx), np.float32)
    total = np.empty(height * width)
    for z in range(first[0], end[0]):
        if not planes[z]:
            continue
        column = lines[(z - first[0]) * height * width : (z - first[0] + 2 * rz + 1) * height * width]
        for which in range(2):
            weights = narrow if which == 0 else wide
            _filter(along_z[which], total, column, weights[0], rz, height * width)
            _filter(along_y[which], total, along_z[which], weights[1], ry, width)
            _filter(along_x[which], total, along_y[which], weights[2], rx, 1)
        for y in range(first[1], end[1]):
            out = field[z, y, first[2] : end[2]]
            begin = (y - first[1]) * width
            _combine(out, along_x[0, begin : begin + out.size], along_x[1, begin : begin + out.size])
            for value in out:
                least, largest = min(least, value), max(largest, value)
    return field, least, largest


@_jit
def _around(mask, first, end, reach):  # type: ignore[no-untyped-def]
    """Copy a box with its surroundings; beyond the border, the outermost voxels are repeated."""
    nz, ny, nx = mask.shape
    rz, ry, rx = reach
    result = np.empty((end[0] - first[0] + 2 * rz, end[1] - first[1] + 2 * ry, end[2] - first[2] + 2 * rx), np.uint8)
    for z in range(result.shape[0]):
        for y in range(result.shape[1]):
            row = mask[min(max(first[0] - rz + z, 0), nz - 1), min(max(first[1] - ry + y, 0), ny - 1)]
            for x in range(result.shape[2]):
                result[z, y, x] = row[min(max(first[2] - rx + x, 0), nx - 1)]
    return result


@_jit
def _filter(out, total, values, weights, reach, step):  # type: ignore[no-untyped-def]
    """Filter along an axis on which neighbours are `step` apart; `out` begins `reach` of them after `values`."""
    part = total[: out.size]
    _begin(part, values[reach * step : reach * step + out.size], weights[0])
    for j in range(reach, 0, -1):
        if weights[j] > 0:
            before, after = (reach - j) * step, (reach + j) * step
            _add(part, values[before : before + out.size], values[after : after + out.size], weights[j])
    _round(out, part)


# Loops from 0 over slices: of other ranges, numba asks at each step whether an index counts from the end.


@_jit
def _join(seen, mask):  # type: ignore[no-untyped-def]
    for k in range(seen.size):
        seen[k] |= 1 + mask[k]


@_jit
def _unite(seen, other):  # type: ignore[no-untyped-def]
    for k in range(seen.size):
        seen[k] |= other[k]


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
def _combine(out, narrow, wide):  # type: ignore[no-untyped-def]
    for k in range(out.size):
        out[k] = np.float32(2) * narrow[k] - wide[k]


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
