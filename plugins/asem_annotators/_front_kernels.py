"""Compiled loops that assign the voxels near a cut anew. Imported only when one runs: numba takes a second to load.

All arrays are zyx and C-contiguous; voxels are known by their flat index. Marks are 1 (object), 2 (background) and 0 (free).
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
            j = _neighbour(i, side, inside, ahead, marks.shape)
            if j >= 0:
                following[j] = -2
    for i in band:
        if marked[i] == 0:
            inside = _is_inside(i, marks.shape)
            for side in range(FACES):
                j = _neighbour(i, side, inside, ahead, marks.shape)
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
            j = _neighbour(i, side, inside, ahead, marks.shape)
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
                j = _neighbour(i, side, inside, ahead, marks.shape)
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
            j = _neighbour(i, side, inside, ahead, marks.shape)
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
            j = _neighbour(i, side, inside, ahead, marks.shape)
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
                j = _neighbour(i, side, inside, ahead, marks.shape)
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
        j = _neighbour(i, side, inside, ahead, marks.shape)
        if j >= 0 and (out[j] % 3 == 0 or (out[j] % 3 == mark and (out[j] < 3 or out[j] > out[i]))):
            return 0
    return mark


@_jit
def _strides(shape):
    """Return what is to be added to the flat index of a voxel inside to get to each of STEPS."""
    return (STEPS[:, 0] * shape[1] + STEPS[:, 1]) * shape[2] + STEPS[:, 2]


@_jit
def _neighbour(i, side, inside, ahead, shape):
    """Return the flat index of the voxel one of STEPS from the i-th, or -1 if that is outside; most voxels need no division."""
    if inside:
        return i + ahead[side]
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
