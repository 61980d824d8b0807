"""Compiled loops over voxels, for the annotators. Imported only when one runs: numba takes a second to load.

All arrays are zyx and C-contiguous. Loops over planes take `begin, end`, so that `in_slabs` can share them out.
"""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)


@_jit
def ridge(smooth, spacing, out, begin, end):
    """Write the largest eigenvalue of the Hessian, at least 0: how much a voxel lies on a dark sheet.

    `smooth` is float32, mirrored by repeating its border voxels; `spacing` the voxel size in units of the finest
    edge. Eigenvalues of symmetric 3 x 3 matrices in closed form (Smith 1961).
    """
    depth, height, width = smooth.shape
    a, b, c = spacing
    for z in range(begin, end):
        z0, z1 = max(z - 1, 0), min(z + 1, depth - 1)
        for y in range(height):
            y0, y1 = max(y - 1, 0), min(y + 1, height - 1)
            for x in range(width):
                x0, x1 = max(x - 1, 0), min(x + 1, width - 1)
                here = 2 * smooth[z, y, x]
                zz = (smooth[z0, y, x] + smooth[z1, y, x] - here) / (a * a)
                yy = (smooth[z, y0, x] + smooth[z, y1, x] - here) / (b * b)
                xx = (smooth[z, y, x0] + smooth[z, y, x1] - here) / (c * c)
                zy = (smooth[z1, y1, x] - smooth[z1, y0, x] - smooth[z0, y1, x] + smooth[z0, y0, x]) / (4 * a * b)
                zx = (smooth[z1, y, x1] - smooth[z1, y, x0] - smooth[z0, y, x1] + smooth[z0, y, x0]) / (4 * a * c)
                yx = (smooth[z, y1, x1] - smooth[z, y1, x0] - smooth[z, y0, x1] + smooth[z, y0, x0]) / (4 * b * c)
                mean = (zz + yy + xx) / 3
                dz, dy, dx = zz - mean, yy - mean, xx - mean
                p = np.sqrt((dz * dz + dy * dy + dx * dx + 2 * (zy * zy + zx * zx + yx * yx)) / 6)
                if p < 1e-6:
                    out[z, y, x] = max(mean, 0)
                    continue
                det = dz * (dy * dx - yx * yx) - zy * (zy * dx - yx * zx) + zx * (zy * yx - dy * zx)
                r = min(1.0, max(-1.0, det / (2 * p * p * p)))
                out[z, y, x] = max(0.0, mean + 2 * p * np.cos(np.arccos(r) / 3))


@_jit
def point_downhill(height_map, parent, begin, end):
    """Write, for each voxel, the index of the lowest of itself and its 26 neighbours (ties: the smallest index)."""
    depth, height, width = height_map.shape
    for z in range(begin, end):
        for y in range(height):
            for x in range(width):
                best = height_map[z, y, x]
                lowest = (z * height + y) * width + x
                for w in range(max(z - 1, 0), min(z + 2, depth)):
                    for v in range(max(y - 1, 0), min(y + 2, height)):
                        for u in range(max(x - 1, 0), min(x + 2, width)):
                            value = height_map[w, v, u]
                            index = (w * height + v) * width + u
                            if value < best or (value == best and index < lowest):
                                best, lowest = value, index
                parent[z, y, x] = lowest


@_jit
def follow(parent):
    """Replace, in place, each pointer of a flat array by the number of the basin it ends in; return how many there are."""
    count = 0
    for i in range(parent.size):
        root = i
        while parent[root] >= 0 and parent[root] != root:
            root = parent[root]
        if parent[root] >= 0:
            parent[root] = -1 - count
            count += 1
        label = parent[root]
        j = i
        while parent[j] >= 0:
            following = parent[j]
            parent[j] = label
            j = following
    for i in range(parent.size):
        parent[i] = -1 - parent[i]
    return count


@_jit
def faces(labels, count, dark, face_area):
    """Find every pair of labels 0..count-1 that share a voxel face.

    Returns the pairs (first < second, sorted by first), the area they share (`face_area` per axis), and over the faces
    the least, the largest and the area-weighted sum of darkness. A face's darkness is the larger `dark` (uint8) of its
    two voxels.
    """
    depth, height, width = labels.shape
    begin = np.zeros(count + 1, np.int64)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                here = labels[z, y, x]
                if z + 1 < depth and labels[z + 1, y, x] != here:
                    begin[min(here, labels[z + 1, y, x]) + 1] += 1
                if y + 1 < height and labels[z, y + 1, x] != here:
                    begin[min(here, labels[z, y + 1, x]) + 1] += 1
                if x + 1 < width and labels[z, y, x + 1] != here:
                    begin[min(here, labels[z, y, x + 1]) + 1] += 1
    for i in range(count):
        begin[i + 1] += begin[i]
    place = begin[:-1].copy()
    other = np.empty(begin[count], np.int32)
    value = np.empty(begin[count], np.uint8)
    facing = np.empty(begin[count], np.uint8)
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                here = labels[z, y, x]
                for axis in range(3):
                    w, v, u = z + (axis == 0), y + (axis == 1), x + (axis == 2)
                    if w < depth and v < height and u < width and labels[w, v, u] != here:
                        there = labels[w, v, u]
                        low = min(here, there)
                        other[place[low]] = max(here, there)
                        value[place[low]] = max(dark[z, y, x], dark[w, v, u])
                        facing[place[low]] = axis
                        place[low] += 1
    slot = np.full(count, -1, np.int64)
    pairs = 0
    for i in range(count):
        for k in range(begin[i], begin[i + 1]):
            if slot[other[k]] != i:
                slot[other[k]] = i
                pairs += 1
    first = np.empty(pairs, np.int32)
    second = np.empty(pairs, np.int32)
    area = np.zeros(pairs, np.float64)
    least = np.full(pairs, 255, np.uint8)
    largest = np.zeros(pairs, np.uint8)
    total = np.zeros(pairs, np.float64)
    slot[:] = -1
    pairs = 0
    for i in range(count):
        start = pairs
        for k in range(begin[i], begin[i + 1]):
            pair = slot[other[k]]
            if pair < start:
                pair = pairs
                slot[other[k]] = pair
                first[pair], second[pair] = i, other[k]
                pairs += 1
            area[pair] += face_area[facing[k]]
            least[pair] = min(least[pair], value[k])
            largest[pair] = max(largest[pair], value[k])
            total[pair] += face_area[facing[k]] * value[k]
    return first, second, area, least, largest, total


@_jit
def sums(labels, image, bins, lowest, highest, count):
    """Gather, for each label, its voxels, the sums of their greys and coordinates, and its grey histogram."""
    depth, height, width = labels.shape
    size = np.zeros(count, np.int64)
    grey = np.zeros(count, np.float64)
    centre = np.zeros((count, 3), np.float64)
    histogram = np.zeros((count, bins), np.int32)
    scale = bins / (highest - lowest) if highest > lowest else 0.0
    for z in range(depth):
        for y in range(height):
            for x in range(width):
                label = labels[z, y, x]
                value = image[z, y, x]
                size[label] += 1
                grey[label] += value
                centre[label, 0] += z
                centre[label, 1] += y
                centre[label, 2] += x
                histogram[label, min(bins - 1, int((value - lowest) * scale))] += 1
    return size, grey, centre, histogram


@_jit
def sum_over(labels, values, count):
    """Sum `values` over the voxels of each label."""
    total = np.zeros(count, np.float64)
    flat, flat_values = labels.ravel(), values.ravel()
    for i in range(flat.size):
        total[flat[i]] += flat_values[i]
    return total


@_jit
def paint(values, labels):
    """Give each voxel the value of its label: `values[labels]`, three times as fast."""
    out = np.empty(labels.shape, values.dtype)
    flat, flat_out = labels.reshape(-1), out.reshape(-1)
    for i in range(flat.size):
        flat_out[i] = values[flat[i]]
    return out


@_jit
def assign(image, centres, greys, window, weight, labels, begin, end):
    """One assignment of SLIC (Achanta et al. 2012): each voxel to the nearest centre whose window it lies in.

    Distance squared is grey difference squared plus `weight` (per axis) times the offset squared; `window` is the
    half-edge, in voxels, of the box that a centre reaches.
    """
    _, height, width = image.shape
    nearest = np.full((end - begin, height, width), np.inf, np.float32)
    for k in range(len(greys)):
        cz, cy, cx = centres[k]
        for z in range(max(begin, int(cz - window[0])), min(end, int(cz + window[0]) + 1)):
            far_z = weight[0] * (z - cz) ** 2
            for y in range(max(0, int(cy - window[1])), min(height, int(cy + window[1]) + 1)):
                far_y = far_z + weight[1] * (y - cy) ** 2
                for x in range(max(0, int(cx - window[2])), min(width, int(cx + window[2]) + 1)):
                    grey = image[z, y, x] - greys[k]
                    distance = grey * grey + far_y + weight[2] * (x - cx) ** 2
                    if distance < nearest[z - begin, y, x]:
                        nearest[z - begin, y, x] = distance
                        labels[z, y, x] = k
