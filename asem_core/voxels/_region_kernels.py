"""Flood a height map, list which regions touch, and merge them: the compiled inner loops of `asem_core.voxels.regions`."""

from __future__ import annotations

import heapq

import numba
import numpy as np

push, pop = heapq.heappush, heapq.heappop
LEVELS = 256
BINS = 16
"""Of equal width, from 0 to 255, in which the heights of an edge's faces are counted."""


@numba.njit(cache=True, nogil=True)
def flood(height, labels, inside):  # type: ignore[no-untyped-def]
    """Grow labels over a height map, lowest voxels first (Meyer 1994); among voxels of one height, first come, first served.

    Parameters
    ----------
    height : uint8 (z, y, x)
    labels : int32 (z, y, x), the seeds; filled in place
    inside : uint8 (z, y, x), where to grow; the outermost voxels must be 0
    """
    h, out, free = height.ravel(), labels.ravel(), inside.ravel()
    steps = np.array([-height.shape[1] * height.shape[2], -height.shape[2], -1, 1, height.shape[2], 0])
    steps[5] = -steps[0]
    # One queue a height: a linked list through all voxels.
    following = np.full(h.size, -1, np.int32)
    first, last = np.full(LEVELS, -1, np.int32), np.full(LEVELS, -1, np.int32)
    for at in range(h.size):
        if out[at] > 0 and free[at]:
            for step in steps:
                if free[at + step] and out[at + step] == 0:
                    level = h[at]
                    if first[level] < 0:
                        first[level] = at
                    else:
                        following[last[level]] = at
                    last[level] = at
                    break
    level = 0
    while level < LEVELS:
        at = first[level]
        if at < 0:
            level += 1
            continue
        first[level] = following[at]
        for step in steps:
            to = at + step
            if free[to] and out[to] == 0:
                out[to] = out[at]
                up = max(level, h[to])
                following[to] = -1
                if first[up] < 0:
                    first[up] = to
                else:
                    following[last[up]] = to
                last[up] = to


@numba.njit(cache=True, nogil=True)
def touching(labels, height):  # type: ignore[no-untyped-def]
    """List the pairs of regions that share faces of voxels, with the larger height at each face added up and counted.

    Returns
    -------
    int64 (n, 4 + BINS): lower label, higher label, sum, number of faces, and of these in each bin of heights; in order of the
    labels' first meeting
    """
    rows = np.zeros((1 << 10, 4 + BINS), np.int64)
    keys, places, _ = _pairs(rows[:, 0], rows[:, 1], rows[:, 3])
    num = 0
    nz, ny, nx = labels.shape
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                a = labels[z, y, x]
                if a == 0:
                    continue
                for axis in range(3):
                    if axis == 0:
                        if z + 1 == nz:
                            continue
                        b, top = labels[z + 1, y, x], height[z + 1, y, x]
                    elif axis == 1:
                        if y + 1 == ny:
                            continue
                        b, top = labels[z, y + 1, x], height[z, y + 1, x]
                    else:
                        if x + 1 == nx:
                            continue
                        b, top = labels[z, y, x + 1], height[z, y, x + 1]
                    if b == a or b == 0:
                        continue
                    low, high = np.int64(min(a, b)), np.int64(max(a, b))
                    key = _key(low, high)
                    slot = _find(keys, key)
                    if keys[slot] < 0:
                        if num == len(rows):
                            rows = np.concatenate((rows, np.zeros_like(rows)))
                        rows[num, 0], rows[num, 1] = low, high
                        keys[slot], places[slot] = key, num
                        num += 1
                    row = places[slot]
                    top = max(height[z, y, x], top)
                    rows[row, 2] += top
                    rows[row, 3] += 1
                    rows[row, 4 + top * BINS // LEVELS] += 1
                    if 2 * num > len(keys):
                        keys, places, _ = _pairs(rows[:num, 0], rows[:num, 1], rows[:num, 3])
    return rows[:num]


@numba.njit(cache=True, nogil=True)
def _key(a, b):  # type: ignore[no-untyped-def]
    return (np.int64(min(a, b)) << 32) | np.int64(max(a, b))


@numba.njit(cache=True, nogil=True)
def _find(keys, key):  # type: ignore[no-untyped-def]
    """Find the slot that holds a key, or the free one where it belongs."""
    last = len(keys) - 1
    slot = ((key * 0x9E3779B97F4A7C1) >> 17) & last
    while keys[slot] >= 0 and keys[slot] != key:
        slot = (slot + 1) & last
    return slot


@numba.njit(cache=True, nogil=True)
def _pairs(left, right, faces):  # type: ignore[no-untyped-def]
    """Make a table from pairs of regions to the edge between them, at most a quarter full, of the edges that have faces."""
    used = 0
    for e in range(len(faces)):
        used += faces[e] > 0
    size = 1 << 12
    while size < 4 * used:
        size *= 2
    keys, places = np.full(size, -1, np.int64), np.zeros(size, np.int64)
    for e in range(len(faces)):
        if faces[e] > 0:
            key = _key(left[e], right[e])
            slot = _find(keys, key)
            keys[slot], places[slot] = key, e
    return keys, places, used


@numba.njit(cache=True, nogil=True)
def _height(total, faces, counts):  # type: ignore[no-untyped-def]
    """Take the lower quartile of the heights that are counted in bins, linear within a bin; the mean if none are."""
    if len(counts) == 0:
        return total / faces
    left = 0.25 * faces
    for b in range(BINS):
        if left <= counts[b]:
            return (b + left / counts[b]) * LEVELS / BINS
        left -= counts[b]
    return float(LEVELS)


@numba.njit(cache=True, nogil=True)
def agglomerate(num, edges):  # type: ignore[no-untyped-def]
    """Merge regions in order of the height between them, which is taken anew after each merger.

    Parameters
    ----------
    num : regions are 0 to num - 1
    edges : int64 (m, 4 + BINS): two regions, sum of heights, number of faces, and of these in each bin: the lower quartile counts.
        Or (m, 4): the mean does. Each pair once

    Returns
    -------
    into, of : int64 (k,): region `of` joined region `into`
    height : float64 (k,): the height between them then
    """
    left, right = edges[:, 0].copy(), edges[:, 1].copy()
    total, faces, counts = edges[:, 2].copy(), edges[:, 3].copy(), edges[:, 4:].astype(np.int32)
    # The edges of a region: a linked list through half edges 2 e (of its left) and 2 e + 1 (of its right region).
    following = np.full(2 * len(edges), -1, np.int64)
    first, last, degree = np.full(num, -1, np.int64), np.full(num, -1, np.int64), np.zeros(num, np.int64)
    heap = [(0.0, np.int64(0), np.int64(0), np.int64(0)) for _ in range(0)]  # empty, but of a known type
    keys, places, used = _pairs(left, right, faces)
    for e in range(len(edges)):
        for half, region in ((2 * e, left[e]), (2 * e + 1, right[e])):
            if first[region] < 0:
                first[region] = half
            else:
                following[last[region]] = half
            last[region] = half
            degree[region] += 1
        heap.append((_height(total[e], faces[e], counts[e]), left[e], right[e], np.int64(e)))
    heapq.heapify(heap)
    into, of, height = np.empty(num, np.int64), np.empty(num, np.int64), np.empty(num, np.float64)
    merged = 0
    while len(heap):
        score, a, b, edge = pop(heap)
        # An edge whose ends or height have changed since was pushed again.
        if faces[edge] == 0 or left[edge] != a or right[edge] != b:
            continue
        if _height(total[edge], faces[edge], counts[edge]) != score:
            continue
        keep, gone = (a, b) if degree[a] > degree[b] or (degree[a] == degree[b] and a < b) else (b, a)
        into[merged], of[merged], height[merged] = keep, gone, score
        merged += 1
        faces[edge] = 0
        degree[keep] -= 1
        # Only the edges of the region with fewer neighbours are gone through: the other's are found by the pair.
        half = first[gone]
        while half >= 0:
            edge, then = half >> 1, following[half]
            if faces[edge] > 0:
                other = right[edge] if left[edge] == gone else left[edge]
                slot = _find(keys, _key(keep, other))
                if keys[slot] >= 0:
                    twin = places[slot]
                    total[twin] += total[edge]
                    faces[twin] += faces[edge]
                    counts[twin] += counts[edge]
                    faces[edge] = 0
                    degree[other] -= 1
                    edge = twin
                else:
                    if left[edge] == gone:
                        left[edge] = keep
                    else:
                        right[edge] = keep
                    following[half] = -1
                    if first[keep] < 0:
                        first[keep] = half
                    else:
                        following[last[keep]] = half
                    last[keep] = half
                    degree[keep] += 1
                    keys[slot], places[slot] = _key(keep, other), edge
                    used += 1
                    if 2 * used > len(keys):
                        keys, places, used = _pairs(left, right, faces)
                push(heap, (_height(total[edge], faces[edge], counts[edge]), left[edge], right[edge], edge))
            half = then
    return into[:merged], of[:merged], height[:merged]


@numba.njit(cache=True, nogil=True)
def joined(num, into, of):  # type: ignore[no-untyped-def]
    """Number the groups that pairs join 0 to num - 1 to, in order of their lowest member: int64 (num,)."""
    parent = np.arange(num)
    for k in range(len(into)):
        a, b = into[k], of[k]
        while parent[a] != a:
            parent[a] = parent[parent[a]]
            a = parent[a]
        while parent[b] != b:
            parent[b] = parent[parent[b]]
            b = parent[b]
        parent[max(a, b)] = min(a, b)
    group = np.empty(num, np.int64)
    next_group = 0
    for a in range(num):
        root = a
        while parent[root] != root:
            root = parent[root]
        if root == a:
            group[a] = next_group
            next_group += 1
        else:
            group[a] = group[root]
    return group
