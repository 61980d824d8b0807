"""The surface of a mask: a mesh whose area is right, not the staircase of the voxels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import attrs
import numpy as np

from asem_analyzers._objects import read_mask
from asem_core.volume import Box, Labels, Zyx, ZyxNm, as_zyx

SIGMA_VX = 0.7
"""Just enough to melt the staircase. Measured: areas within 2.5 % from a radius of 4 voxels upwards."""
LEAST = 0.6
"""Along the shorter edges of voxels that are no cubes, smoothing reaches this much of what it does along the longest:
the stairs are as wide as the planes lie apart. Measured: balls within 3 % from a radius of 3 such edges upwards."""
TILE_VX = 128
"""Objects are meshed in tiles of this edge, so that one giant object needs no more memory than a small one."""


@attrs.frozen(eq=False)
class Facets:
    """Triangles without their connections: where each is and how large."""

    centre_nm: np.ndarray  # float64 (n, 3), from the first voxel of the array
    area_nm2: np.ndarray  # float64 (n,)
    normal: np.ndarray  # float64 (n, 3), of unit length; 0 where a triangle has no area

    def take(self, keep: np.ndarray) -> Facets:
        """Keep some triangles: a bool array, or indices."""
        return Facets(self.centre_nm[keep], self.area_nm2[keep], self.normal[keep])


NO_FACETS = Facets(np.zeros((0, 3)), np.zeros(0), np.zeros((0, 3)))


def smoothing_vx(voxel_size_nm: ZyxNm) -> tuple[float, float, float]:
    """Say by how many voxels a mask is smoothed along each axis before it is meshed."""
    z, y, x = (SIGMA_VX * max(1.0, LEAST * max(voxel_size_nm) / s) for s in voxel_size_nm)
    return z, y, x


def margin_vx(voxel_size_nm: ZyxNm) -> Zyx:
    """Say how many voxels around a box its surface depends on."""
    return as_zyx([math.ceil(4 * 2**0.5 * s) + 2 for s in smoothing_vx(voxel_size_nm)])


def facets(mask: np.ndarray, voxel_size_nm: ZyxNm, inner: Box | None = None) -> Facets:
    """Mesh the surface of a mask by marching cubes and list its triangles.

    Parameters
    ----------
    mask : bool, zyx
        With at least `margin_vx` of surroundings.
    inner
        Triangles are kept whose centre lies in this box of voxels (each voxel reaching half a voxel around its centre),
        so that tiles neither miss nor repeat any.
    """
    if mask.all() or not mask.any():
        return NO_FACETS
    from skimage.measure import marching_cubes

    from asem_analyzers._surface_kernels import near_surface, smoothed, triangles

    # Marching cubes looks only where it can find anything, in cubes that are named by their last corner.
    inside = Box((1, 1, 1), as_zyx(mask.shape))
    cubes = inside if inner is None else Box(inner.begin, as_zyx([e + 1 for e in inner.end])) & inside
    sigma = smoothing_vx(voxel_size_nm)
    reach = as_zyx([math.ceil(2 * s / SIGMA_VX) for s in sigma])
    near, *corners = near_surface(mask.view(np.uint8), reach, cubes.begin, cubes.end)
    field, least, largest = smoothed(mask.view(np.uint8), *corners, *_weights(sigma))
    if not least < 0.5 < largest:
        return NO_FACETS
    vertices, faces, _, _ = marching_cubes(field, 0.5, mask=near)
    begin, end = (-np.inf, np.inf) if inner is None else (np.subtract(inner.begin, 0.5), np.subtract(inner.end, 0.5))
    sides = (np.broadcast_to(np.asarray(side, np.float64), 3) for side in (voxel_size_nm, begin, end))
    return Facets(*triangles(vertices, faces, *sides))


@cache
def _weights(sigma_vx: tuple[float, float, float]) -> tuple[np.ndarray, np.ndarray, Zyx]:
    """Give the weights that smooth a mask so that its level 0.5 is its surface; see `_surface_kernels.smoothed`.

    A Gaussian alone moves a curved surface inwards, by sigma^2 times the mean curvature: 9 % of the area of a sphere of
    five voxels. The difference of two Gaussians used here, 2 G(s) - G(s sqrt 2), has no second moment, so a curved
    surface stays in place to that order.
    """
    sides = [[half_gaussian(factor * s) for s in sigma_vx] for factor in (1.0, 2**0.5)]
    reach = as_zyx([len(side) - 1 for side in sides[1]])
    narrow, wide = (np.stack([np.pad(side, (0, max(reach) + 1 - len(side))) for side in three]) for three in sides)
    return narrow, wide, reach


def half_gaussian(sigma: float) -> np.ndarray:
    """Give the weights of samples 0, 1, ... away in a Gaussian of four standard deviations; those on both sides add up to 1."""
    reach = int(4 * sigma + 0.5)
    bell = np.exp(-0.5 / (sigma * sigma) * np.arange(-reach, reach + 1) ** 2)
    return np.asarray((bell / bell.sum())[reach:])


class Mesh:
    """The facets of one object tile by tile, as often as they are looked at.

    Gives, for each tile, the box read (the tile grown by `margin_vx`) and the facets of the tile, placed from the first voxel of the
    box read. What the border of the volume cuts open is not surface: the object is taken to go on.

    Parameters
    ----------
    most_kept
        Facets that are kept, of the first tiles; those of the others are found again each time.
    """

    def __init__(self, labels: Labels, object_id: int, box: Box, most_kept: int = 0) -> None:
        self._labels, self._object_id = labels, object_id
        self._tiles = list((box.grow(1) & labels.box).blocks(TILE_VX))
        self._kept: list[tuple[Box, Facets]] = []
        self._room = most_kept

    def __iter__(self) -> Iterator[tuple[Box, Facets]]:
        for number, tile in enumerate(self._tiles):
            if number < len(self._kept):
                yield self._kept[number]
                continue
            found = self._found(tile)
            if number == len(self._kept) and len(found[1].area_nm2) <= self._room:
                self._kept.append(found)
                self._room -= len(found[1].area_nm2)
            yield found

    def _found(self, tile: Box) -> tuple[Box, Facets]:
        labels = self._labels
        around = tile.grow(margin_vx(labels.voxel_size_nm))
        mask = continue_outside(read_mask(labels, around, self._object_id), around, labels)
        return around, facets(mask, labels.voxel_size_nm, tile.shift(_minus(around)))


def _minus(box: Box) -> tuple[int, int, int]:
    z, y, x = box.begin
    return (-z, -y, -x)


def continue_outside(mask: np.ndarray, box: Box, labels: Labels) -> np.ndarray:
    """Repeat the volume's outermost voxels beyond its border."""
    inside = (box & labels.box).shift(_minus(box))
    pad = [(b, n - e) for b, e, n in zip(inside.begin, inside.end, box.shape, strict=True)]
    return np.pad(mask[inside.slices], pad, mode="edge") if any(p != (0, 0) for p in pad) else mask
