"""The compiled loops of `_skeleton`; imported only when a skeleton is traced, because numba takes a second to load."""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)


@_jit
def trace(pairs, at_nm):  # type: ignore[no-untyped-def]
    """Turn the voxels of a skeleton into nodes and branches.

    A node is a clump of voxels with three neighbours or more, or a voxel with one or none, or one voxel of a ring without junctions.

    Parameters
    ----------
    pairs : int64 (m, 2), voxels that touch
    at_nm : float64 (n, 3)

    Returns
    -------
    int64 (n,), the node of each voxel, or -1; float64 (nodes, 3), their centres;
    int64 (branches, 2), the nodes of each branch; int64, the voxels of all, one branch after the other; int64 (branches + 1,), where each begins
    """
    num_voxels = len(at_nm)
    degree, begin, neighbours = _neighbours(pairs, num_voxels)
    node_of, num_nodes = _nodes(pairs, degree)
    most = num_voxels + 2 * len(pairs) + 2
    nodes, path, first_of = np.empty((most, 2), np.int64), np.empty(most, np.int64), np.zeros(most + 1, np.int64)
    num, size = 0, 0
    seen = node_of >= 0
    for start in range(num_voxels):
        if node_of[start] < 0:
            continue
        for first in neighbours[begin[start] : begin[start + 1]]:
            if node_of[first] >= 0:  # two nodes that touch: a branch without voxels of its own
                if node_of[first] == node_of[start] or start > first:
                    continue
            elif seen[first]:
                continue
            size = _walk(start, first, begin, neighbours, node_of, seen, path, size)
            nodes[num, 0], nodes[num, 1] = node_of[start], node_of[path[size - 1]]
            num += 1
            first_of[num] = size
    for start in range(num_voxels):
        if not seen[start]:  # what is left is rings without a junction
            seen[start] = True
            node_of[start] = num_nodes
            size = _walk(start, neighbours[begin[start]], begin, neighbours, node_of, seen, path, size)
            nodes[num] = num_nodes
            num_nodes += 1
            num += 1
            first_of[num] = size
    centre, count = np.zeros((num_nodes, 3)), np.zeros(num_nodes)
    for voxel in range(num_voxels):
        if node_of[voxel] >= 0:
            centre[node_of[voxel]] += at_nm[voxel]
            count[node_of[voxel]] += 1
    for node in range(num_nodes):
        centre[node] /= count[node]
    return node_of, centre, nodes[:num], path[:size], first_of[: num + 1]


@_jit
def _neighbours(pairs, num_voxels):  # type: ignore[no-untyped-def]
    """List the neighbours of each voxel, those of one after those of the other, and where each begins."""
    degree = np.zeros(num_voxels, np.int64)
    for k in range(len(pairs)):
        degree[pairs[k, 0]] += 1
        degree[pairs[k, 1]] += 1
    begin = np.zeros(num_voxels + 1, np.int64)
    begin[1:] = np.cumsum(degree)
    free, neighbours = begin.copy(), np.empty(2 * len(pairs), np.int64)
    for k in range(len(pairs)):
        for one, other in ((0, 1), (1, 0)):
            neighbours[free[pairs[k, one]]] = pairs[k, other]
            free[pairs[k, one]] += 1
    return degree, begin, neighbours


@_jit
def _nodes(pairs, degree):  # type: ignore[no-untyped-def]
    """Number the nodes in order of their first voxel; -1 inside branches."""
    first = np.arange(degree.size)  # of the clump, by way of others of it
    for k in range(len(pairs)):
        a, b = pairs[k]
        if degree[a] > 2 and degree[b] > 2:
            a, b = _first(first, a), _first(first, b)
            first[max(a, b)] = min(a, b)
    node_of = np.full(degree.size, -1)
    num = 0
    for voxel in range(degree.size):
        if degree[voxel] != 2:
            root = _first(first, voxel)
            if root == voxel:
                node_of[voxel] = num
                num += 1
            else:
                node_of[voxel] = node_of[root]
    return node_of, num


@_jit
def _first(first, voxel):  # type: ignore[no-untyped-def]
    while first[voxel] != voxel:
        first[voxel] = first[first[voxel]]
        voxel = first[voxel]
    return voxel


@_jit
def _walk(start, first, begin, neighbours, node_of, seen, path, size):  # type: ignore[no-untyped-def]
    """Follow a branch from a node's voxel to the next node's voxel; say where in `path` it ends."""
    path[size], path[size + 1] = start, first
    size += 2
    while node_of[path[size - 1]] < 0:
        at = path[size - 1]
        seen[at] = True
        a, b = neighbours[begin[at]], neighbours[begin[at] + 1]
        path[size] = b if a == path[size - 2] else a
        size += 1
    return size


@_jit
def smooth_steps(points, closed, narrow, wide):  # type: ignore[no-untyped-def]
    """Measure the steps of a path after smoothing it without pulling its bends inwards; its two ends stay.

    Parameters
    ----------
    points : float64 (n, 3)
    narrow, wide : float64, weights of points 0, 1, ... away; the smooth path is 2 narrow - wide
    """
    num = len(points)
    smooth = points.copy()
    if num > 4:
        if closed:
            longer, margin = points[:-1], 0
        else:  # reflecting through the end points keeps them and the direction there
            margin = min(num - 1, narrow.size - 1)
            longer = np.empty((num + 2 * margin, 3))
            for k in range(margin):
                longer[k] = 2 * points[0] - points[margin - k]
                longer[margin + num + k] = 2 * points[-1] - points[num - 2 - k]
            longer[margin : margin + num] = points
        for k in range(num - closed):
            for axis in range(3):
                smooth[k, axis] = 2 * _weigh(longer, margin + k, axis, narrow, closed) - _weigh(
                    longer, margin + k, axis, wide, closed
                )
        if closed:
            smooth[-1] = smooth[0]
    steps = np.empty(num - 1)
    for k in range(num - 1):
        z, y, x = smooth[k + 1, 0] - smooth[k, 0], smooth[k + 1, 1] - smooth[k, 1], smooth[k + 1, 2] - smooth[k, 2]
        steps[k] = np.sqrt(z * z + y * y + x * x)
    return steps


@_jit
def _weigh(points, at, axis, weights, closed):  # type: ignore[no-untyped-def]
    num = len(points)
    total = points[at, axis] * weights[0]
    for j in range(weights.size - 1, 0, -1):
        if closed:
            before, after = (at - j) % num, (at + j) % num
        else:
            before, after = max(0, at - j), min(num - 1, at + j)
        total += (points[before, axis] + points[after, axis]) * weights[j]
    return total
