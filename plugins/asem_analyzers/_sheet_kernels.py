"""The compiled search for ways of `_sheet`; imported only when one is searched, because numba takes a second to load."""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)
NUM_BUCKETS = 8
"""More than the longest step, rounded up: 4.5 voxels outside the core."""


@_jit
def distances(inside, start, offset, length, via, off_core):  # type: ignore[no-untyped-def]
    """Find how long the shortest way from a voxel to every other is; -1 where none leads.

    No step is shorter than 1, so voxels whose distances have the same whole part cannot be on each other's way, and are settled in any order:
    Dial, Commun. ACM 12, 632 (1969).
    """
    cost = np.stack((length, length * off_core, length))  # by what `inside` is where a step ends
    best = np.where(inside > 0, np.inf, -1.0)  # nothing is shorter than where a way is settled, or none leads
    unsettled = inside.copy()
    shorter = np.empty(offset.size, np.int64)
    # The entries of all buckets, chained; those that are done are chained, too, and used again.
    voxel, following = np.empty(1024, np.int64), np.empty(1024, np.int64)
    bucket = np.full(NUM_BUCKETS, -1)
    voxel[0], following[0], bucket[0] = start, -1, 0
    used, free, waiting = 1, -1, 1
    best[start] = 0.0
    k = 0
    while waiting > 0:
        entry = bucket[k % NUM_BUCKETS]
        if entry < 0:
            k += 1
            continue
        at = voxel[entry]
        bucket[k % NUM_BUCKETS] = following[entry]
        following[entry] = free
        free = entry
        waiting -= 1
        if not unsettled[at]:
            continue
        unsettled[at] = 0
        so_far = best[at]
        num = 0
        for n in range(offset.size):  # without a branch, which could not be foreseen
            shorter[num] = n
            num += so_far + length[n] < best[at + offset[n]]
        for n in shorter[:num]:
            to = at + offset[n]
            known, far = best[to], so_far + cost[inside[to], n]
            if far >= known or not inside[at + via[n, 0]] or not inside[at + via[n, 1]]:
                continue
            best[to] = far
            if known < np.inf and int(known) == int(far):  # it waits there
                continue
            if free < 0:
                if used == voxel.size:
                    voxel = np.concatenate((voxel, np.empty(used, np.int64)))
                    following = np.concatenate((following, np.empty(used, np.int64)))
                entry = used
                used += 1
            else:
                entry = free
                free = following[entry]
            voxel[entry] = to
            following[entry] = bucket[int(far) % NUM_BUCKETS]
            bucket[int(far) % NUM_BUCKETS] = entry
            waiting += 1
    for n in range(best.size):
        if unsettled[n] or not inside[n]:
            best[n] = -1.0
    return best


@_jit
def way(inside, distance, end, offset, length, via, off_core):  # type: ignore[no-untyped-def]
    """List the voxels of a shortest way back from one; of voxels from which it is equally far, the nearest to the start, then the first."""
    found = [end]
    at = end
    while distance[at] > 0:
        before = -1
        for n in range(offset.size):
            origin = at - offset[n]
            if not inside[origin] or not inside[origin + via[n, 0]] or not inside[origin + via[n, 1]]:
                continue
            if distance[origin] + length[n] * (1.0 if inside[at] == 2 else off_core) != distance[at]:
                continue
            nearer = distance[origin] < distance[before] or (distance[origin] == distance[before] and origin < before)
            if before < 0 or nearer:
                before = origin
        at = before
        found.append(at)
    return np.array(found)
