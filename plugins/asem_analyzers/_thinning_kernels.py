"""The compiled loops of `_thinning`; imported only when a mask is thinned, because numba takes a second to load.

A neighbourhood is a whole number of 27 bits, one a cell, in C order; the middle is bit 13.
"""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)


def _neighbours(least: int) -> np.ndarray:
    """Give for each of the 27 cells the bits of those that share at least a corner (1), an edge (2) or a face (3) with it."""
    cells = np.indices((3, 3, 3)).reshape(3, 27).T
    apart = np.abs(cells[:, None] - cells[None])
    near = np.where(apart.max(axis=2) == 1, 4 - apart.sum(axis=2), 0) >= least
    near[:, 13] = False
    return (near * (1 << np.arange(27))).sum(axis=1)


TOUCHING, SHARING_FACE = _neighbours(1), _neighbours(3)
FACES, FACES_AND_EDGES = int(_neighbours(3)[13]), int(_neighbours(2)[13])
LOWEST_BIT = np.zeros(32, np.int64)
"""Place of the only bit set, by `bit * DE_BRUIJN >> 27` of 32 bits: Leiserson, Prokop and Randall (1998)."""
DE_BRUIJN = 0x077CB531
LOWEST_BIT[(DE_BRUIJN << np.arange(32) & 0xFFFFFFFF) >> 27] = np.arange(32)


@_jit
def thin(left, order, squared, offsets, length, slope, taper):  # type: ignore[no-untyped-def]
    """Remove simple voxels from `left`, sweep by sweep in the given order, until none goes; ends of lines stay."""
    stale = np.ones(left.size, np.uint8)  # something around has gone since the voxel was looked at
    changed, first = True, True
    while changed:
        changed = first
        most, steepest = (4, taper) if first else (1, slope)
        kept = 0
        for k in range(order.size):
            voxel = order[k]
            if first or stale[voxel]:
                stale[voxel] = first
                around = 0
                for n in range(27):
                    around |= np.int64(left[voxel + offsets[n]]) << n
                around &= ~(1 << 13)
                if _is_simple(around) and not _is_end(around, voxel, squared, offsets, length, most, steepest):
                    left[voxel] = 0
                    changed = True
                    for n in range(27):
                        stale[voxel + offsets[n]] = 1
                    continue
            order[kept] = voxel
            kept += 1
        order = order[:kept]
        first = False


@_jit
def _place(bits):  # type: ignore[no-untyped-def]
    """Find the place of the lowest bit that is set."""
    return LOWEST_BIT[((bits & -bits) * DE_BRUIJN & 0xFFFFFFFF) >> 27]


@_jit
def _is_simple(around):  # type: ignore[no-untyped-def]
    """Tell if the middle cell can go without joining, splitting or piercing anything.

    That is so if the object around it is one piece (by faces, edges and corners), and the background that shares a
    face with it is one piece (by faces, within the 18 cells that share a face or edge).
    """
    background = ~around & FACES_AND_EDGES
    faces = background & FACES
    if around == 0 or faces == 0:
        return False
    return _piece(faces, background, SHARING_FACE) & faces == faces and _piece(around, around, TOUCHING) == around


@_jit
def _piece(start, cells, near):  # type: ignore[no-untyped-def]
    """Find the connected piece of `cells` that holds the first one of `start`."""
    piece = growing = start & -start
    while growing:
        place = _place(growing)
        growing &= growing - 1
        new = near[place] & cells & ~piece
        piece |= new
        growing |= new
    return piece


@_jit
def _is_end(around, voxel, squared, offsets, length, most, steepest):  # type: ignore[no-untyped-def]
    """Tell if a voxel is the end of a line: of few neighbours, which touch each other, and none of them much deeper.

    The last voxel of a slice has up to four neighbours, in the next slice. It stays while the rest gets thin: a tube that tapers
    is deeper slice by slice, and would be eaten from its end.
    """
    num, bits = 0, around
    while bits:
        bits &= bits - 1
        num += 1
    if num > most:
        return False
    bits, depth = around, np.sqrt(np.float32(squared[voxel]))
    while bits:
        n = _place(bits)
        bits &= bits - 1
        deeper = np.sqrt(np.float32(squared[voxel + offsets[n]])) - depth
        if bits & ~TOUCHING[n] or deeper >= steepest * length[n]:
            return False
    return True
