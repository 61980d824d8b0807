"""Sample a volume through a coarse lattice of places, on the CPU: the compiled inner loop of `asem_core.training.augment`.

The places of a row of voxels are interpolated where they are used, so the map (three numbers a voxel) never exists in
memory. Planes are sampled apart from each other, so that several threads can share them.
"""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def sample_planes(source, lattice, bases, weights, planes, nearest, begin, result):  # type: ignore[no-untyped-def]
    """Sample `source` at the places that `lattice` stands for; places outside show the border voxel.

    Parameters
    ----------
    source : (z, y, x), any number type
    lattice : float32 (3, gz, gy, gx): places in voxels of `source`
    bases : three int arrays, one an axis: first of the four control points of each voxel
    weights : three float32 arrays (n, 4): their weights
    planes : float32 (3, n_z): added to the places of a plane
    nearest : take the nearest voxel instead of interpolating between eight
    begin : first plane to sample
    result : float32 (n, n_y, n_x): the planes from `begin` on are written here
    """
    gy, gx = lattice.shape[2], lattice.shape[3]
    ends = (source.shape[0] - 1, source.shape[1] - 1, source.shape[2] - 1)
    plane = np.empty((3, gy, gx), np.float32)
    row = np.empty((3, gx), np.float32)
    for n in range(result.shape[0]):
        z = begin + n
        plane[:] = 0
        for k in range(4):
            b, weight = bases[0][z] + k, weights[0][z, k]
            for c in range(3):
                for j in range(gy):
                    for g in range(gx):
                        plane[c, j, g] += weight * lattice[c, b, j, g]
        for y in range(result.shape[1]):
            b, w = bases[1][y], weights[1][y]
            for c in range(3):
                for g in range(gx):
                    p = plane[c, b, g] * w[0] + plane[c, b + 1, g] * w[1]
                    row[c, g] = p + plane[c, b + 2, g] * w[2] + plane[c, b + 3, g] * w[3] + planes[c, z]
            for x in range(result.shape[2]):
                b = bases[2][x]
                w0, w1, w2, w3 = weights[2][x, 0], weights[2][x, 1], weights[2][x, 2], weights[2][x, 3]
                pz = row[0, b] * w0 + row[0, b + 1] * w1 + row[0, b + 2] * w2 + row[0, b + 3] * w3
                py = row[1, b] * w0 + row[1, b + 1] * w1 + row[1, b + 2] * w2 + row[1, b + 3] * w3
                px = row[2, b] * w0 + row[2, b + 1] * w1 + row[2, b + 2] * w2 + row[2, b + 3] * w3
                pz = min(max(pz, np.float32(0)), np.float32(ends[0]))
                py = min(max(py, np.float32(0)), np.float32(ends[1]))
                px = min(max(px, np.float32(0)), np.float32(ends[2]))
                if nearest:
                    half = np.float32(0.5)
                    result[n, y, x] = source[int(pz + half), int(py + half), int(px + half)]
                else:
                    iz, iy, ix = int(pz), int(py), int(px)
                    jz, jy, jx = min(iz + 1, ends[0]), min(iy + 1, ends[1]), min(ix + 1, ends[2])
                    fz, fy, fx = pz - np.float32(iz), py - np.float32(iy), px - np.float32(ix)
                    one = np.float32(1)
                    near = (source[iz, iy, ix] * (one - fx) + source[iz, iy, jx] * fx) * (one - fy)
                    near += (source[iz, jy, ix] * (one - fx) + source[iz, jy, jx] * fx) * fy
                    far = (source[jz, iy, ix] * (one - fx) + source[jz, iy, jx] * fx) * (one - fy)
                    far += (source[jz, jy, ix] * (one - fx) + source[jz, jy, jx] * fx) * fy
                    result[n, y, x] = near * (one - fz) + far * fz
