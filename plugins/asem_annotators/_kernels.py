"""Compiled loops over voxels, for the annotators. Imported only when one runs: numba takes a second to load.

All arrays are zyx and C-contiguous. Loops over planes take `begin, end`, so that `in_slabs` can share them out.
"""

from __future__ import annotations

import heapq
import itertools

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)
FACES = 6
STEPS = np.array(  # to the 26 neighbours: first those across faces
    sorted((s for s in itertools.product((-1, 0, 1), repeat=3) if any(s)), key=lambda s: np.abs(s).sum()), np.int64
)


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


@_jit
def flood(level, marks, band):
    """Grow marks (uint8, 0 = free) in place over free voxels, lowest `level` (uint8) first: a seeded watershed.

    Faces connect. Equal levels are flooded from all marks at the same pace. `band` holds the flat indices of all free
    voxels; marked ones among them do no harm.
    """
    levels, marked = level.ravel(), marks.reshape(-1)
    ahead = _strides(marks.shape)
    following = np.empty(marked.size, np.int32)  # in its level's queue; -1 ends one, -2 was in none
    head = np.full(256, -1, np.int64)
    tail = np.full(256, -1, np.int64)
    for i in band:
        inside = _is_inside(i, marks.shape)
        for side in range(FACES):
            j = i + ahead[side] if inside else _beside(i, side, marks.shape)
            if j >= 0:
                following[j] = -2
    for i in band:
        if marked[i] == 0:
            inside = _is_inside(i, marks.shape)
            for side in range(FACES):
                j = i + ahead[side] if inside else _beside(i, side, marks.shape)
                if j >= 0 and marked[j] != 0 and following[j] == -2:
                    _append(j, levels[j], head, tail, following)
    now = 0
    while now < 256:
        i = head[now]
        if i < 0:
            now += 1
            continue
        head[now] = following[i]
        inside = _is_inside(i, marks.shape)
        for side in range(FACES):
            j = i + ahead[side] if inside else _beside(i, side, marks.shape)
            if j >= 0 and marked[j] == 0:
                marked[j] = marked[i]
                _append(j, max(now, np.int64(levels[j])), head, tail, following)


@_jit
def _append(i, level, head, tail, following):
    following[i] = -1
    if head[level] < 0:
        head[level] = i
    else:
        following[tail[level]] = i
    tail[level] = i


@_jit
def meet(cost, level, marks, band, spacing):
    """Grow marks (uint8, 0 = free) in place over free voxels: each takes the mark that reaches it at the least cost.

    A step to one of 26 neighbours costs its length (`spacing` is the voxel size) times the mean of both voxels' `cost`,
    a table (float32, 256) over `level` (uint8). Dijkstra's algorithm; `band` as in `flood`.
    """
    levels, marked = level.ravel(), marks.reshape(-1)
    length = np.sqrt(((STEPS * spacing) ** 2).sum(axis=1)) / 2
    ahead = _strides(marks.shape)
    owner = np.empty(marked.size, np.uint8)
    paid = np.empty(marked.size, np.float32)
    for i in band:
        owner[i], paid[i] = 0, np.inf
    queue = [(np.float32(0), np.int64(-1))]  # typed by its first entry, which leads nowhere
    for i in band:
        if marked[i] == 0:
            inside = _is_inside(i, marks.shape)
            for side in range(len(STEPS)):
                j = i + ahead[side] if inside else _beside(i, side, marks.shape)
                if j >= 0 and marked[j] != 0:
                    price = np.float32(length[side] * (cost[levels[i]] + cost[levels[j]]))
                    if price < paid[i]:
                        paid[i], owner[i] = price, marked[j]
            if owner[i] != 0:
                heapq.heappush(queue, (paid[i], np.int64(i)))
    while len(queue) > 0:
        price, i = heapq.heappop(queue)
        if i < 0 or marked[i] != 0:
            continue
        marked[i] = owner[i]
        inside = _is_inside(i, marks.shape)
        for side in range(len(STEPS)):
            j = i + ahead[side] if inside else _beside(i, side, marks.shape)
            if j >= 0 and marked[j] == 0:
                further = np.float32(price + length[side] * (cost[levels[i]] + cost[levels[j]]))
                if further < paid[j]:
                    paid[j], owner[j] = further, owner[i]
                    heapq.heappush(queue, (further, j))


@_jit
def surface(cut, seeds, marks):
    """Write 1 (object) or 2 (background) to `marks`, and free them where `cut` (0, 1 object) changes or a seed disagrees.

    Seeds are 1 (object) and 2 (background). Returns the flat indices of what is free, the front that `widen` starts from.
    """
    depth, height, width = cut.shape
    plane = height * width
    flat, seed, out = cut.reshape(-1), seeds.reshape(-1), marks.reshape(-1)
    for i in range(out.size):
        out[i] = 2 - flat[i]
    found = np.empty(out.size // 16 + 64, np.int64)
    count = 0
    change = np.zeros(width + 8, np.uint8)
    eight = change[: width // 8 * 8 + 8].view(np.uint64)  # most of a row has none: it is passed 8 voxels at a time
    for z in range(depth):
        for y in range(height):
            row = z * plane + y * width
            down, behind = z + 1 < depth, y + 1 < height
            _disagree(flat[row : row + width], seed[row : row + width], change)
            _differ(flat[row : row + width - 1], flat[row + 1 : row + width], change)
            if down:
                _differ(flat[row : row + width], flat[row + plane : row + plane + width], change)
            if behind:
                _differ(flat[row : row + width], flat[row + width : row + 2 * width], change)
            for k in range(len(eight)):
                if eight[k] == 0:
                    continue
                for i in range(row + 8 * k, min(row + 8 * k + 8, row + width)):
                    here = flat[i]
                    if down and flat[i + plane] != here:
                        found, count = _free(i, 1, out[i], found, count, out)
                        found, count = _free(i + plane, 1, out[i + plane], found, count, out)
                    if behind and flat[i + width] != here:
                        found, count = _free(i, 1, out[i], found, count, out)
                        found, count = _free(i + width, 1, out[i + width], found, count, out)
                    if i + 1 < row + width and flat[i + 1] != here:
                        found, count = _free(i, 1, out[i], found, count, out)
                        found, count = _free(i + 1, 1, out[i + 1], found, count, out)
                    if seed[i] != 0 and (seed[i] == 1) != here:
                        found, count = _free(i, 1, 0, found, count, out)
                        out[i] = 3
    return found[:count]


@_jit
def _disagree(cut, seed, change):
    for k in range(len(cut)):
        change[k] = (seed[k] & 1 & ~cut[k]) | (seed[k] >> 1 & cut[k])


@_jit
def _differ(one, other, change):
    for k in range(len(one)):
        change[k] |= one[k] ^ other[k]


@_jit
def surface_among(marks, band):
    """Free those voxels of `band` that touch the other mark through a face; return their flat indices, as `surface` does."""
    out = marks.reshape(-1)
    ahead = _strides(marks.shape)
    found = np.empty_like(band)
    count = 0
    for i in band:
        inside = _is_inside(i, marks.shape)
        for side in range(FACES):
            j = i + ahead[side] if inside else _beside(i, side, marks.shape)
            if j >= 0 and out[j] != out[i]:
                found[count] = i
                count += 1
                break
    for i in found[:count]:
        out[i] += 3
    return found[:count]


@_jit
def widen(front, width, seeds, marks, keep_deepest):
    """Free (0) all within `width` voxels (through faces) of the front; return their flat indices, and of seeds among them.

    Seeds have their class, and what lies deepest in its surroundings keeps its mark: pieces thinner than the band would
    have nothing left to grow from. Not beside what a seed that disagreed has freed: there the mark is in doubt.
    """
    seed, out = seeds.reshape(-1), marks.reshape(-1)
    ahead = _strides(marks.shape)
    band, begin, count = front, 0, front.size
    for step in range(2, width + 1):
        end = count
        for k in range(begin, end):
            i = band[k]
            doubted = out[i] % 3 == 0
            inside = _is_inside(i, marks.shape)
            for side in range(FACES):
                j = i + ahead[side] if inside else _beside(i, side, marks.shape)
                if j >= 0:
                    band, count = _free(j, step, 0 if doubted else out[j], band, count, out)
        begin = end
    deepest = np.empty(count, np.uint8)
    for k in range(count):
        deepest[k] = _deepest(band[k], marks, ahead) if keep_deepest else 0
    for k in range(count):
        i = band[k]
        out[i] = seed[i] if seed[i] != 0 else deepest[k]
    return band[:count]


@_jit
def _free(i, step, mark, band, count, out):
    """Free voxel i unless it is, and put it at the end of `band`, which is made longer if it is full.

    A free voxel remembers its mark (0 is in doubt) and the step it was freed in: 3 * step + mark.
    """
    if out[i] > 2:
        return band, count
    if count == band.size:
        band = np.append(band, np.empty(count + 64, np.int64))
    band[count] = i
    out[i] = 3 * min(step, 84) + mark
    return band, count + 1


@_jit
def _deepest(i, marks, ahead):
    """Return the mark of a free voxel if no neighbour of the same mark was freed later, or is not free; else 0."""
    out = marks.reshape(-1)
    mark = out[i] % 3
    inside = _is_inside(i, marks.shape)
    for side in range(len(STEPS)):
        j = i + ahead[side] if inside else _beside(i, side, marks.shape)
        if j >= 0 and (out[j] % 3 == 0 or (out[j] % 3 == mark and (out[j] < 3 or out[j] > out[i]))):
            return 0
    return mark


@_jit
def _strides(shape):
    """Return what is to be added to the flat index of a voxel inside to get to each of STEPS."""
    return (STEPS[:, 0] * shape[1] + STEPS[:, 1]) * shape[2] + STEPS[:, 2]


@_jit
def _beside(i, side, shape):
    """Return the flat index of the voxel one of STEPS from the i-th, or -1 if that is outside."""
    depth, height, width = shape
    dz, dy, dx = STEPS[side]
    z, y, x = i // (height * width) + dz, i // width % height + dy, i % width + dx
    return (z * height + y) * width + x if 0 <= z < depth and 0 <= y < height and 0 <= x < width else -1


@_jit
def _is_inside(i, shape):
    """Whether all 26 neighbours of a voxel are there, so that they need not be looked for one by one."""
    depth, height, width = shape
    z, y, x = i // (height * width), i // width % height, i % width
    return 0 < z < depth - 1 and 0 < y < height - 1 and 0 < x < width - 1
