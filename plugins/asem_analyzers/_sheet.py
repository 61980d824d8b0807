"""The measures of a sheet: area of its middle surface, and the longest way within it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import numpy as np

from asem_analyzers._surface import Facets

LARGEST_GRID = 1_000_000
"""Cells in which the directions of a surface are gathered."""
NEIGHBOURHOOD = 1.5
"""Standard deviation, in thicknesses, of the part of the surface that tells the direction of a sheet."""
OFF_CORE = 1.5
"""How much longer a step outside the middle of a sheet counts in the search for a way."""


def sheet_area_nm2(
    tiles: Callable[[], Iterator[tuple[np.ndarray, Facets]]], shape_nm: np.ndarray, thickness_nm: float
) -> float:
    """Measure the area of the surface midway between the two faces of a sheet; see `Directions.area_nm2`.

    Parameters
    ----------
    tiles
        Gives the facets of the surface, each part with the place of its zero from the object's first voxel, in nm; called twice.
    shape_nm : float64 (3,), the object's bounding box
    thickness_nm : about how thick the sheet is
    """
    directions = Directions(tiles(), shape_nm, thickness_nm)
    return sum(directions.area_nm2(begin, facets) for begin, facets in tiles())


class Directions:
    """The normal of a sheet at every place: the main direction of the facets of its surface around.

    Parameters are those of `sheet_area_nm2`.
    """

    def __init__(self, tiles: Iterable[tuple[np.ndarray, Facets]], shape_nm: np.ndarray, thickness_nm: float) -> None:
        from scipy.ndimage import gaussian_filter

        self._margin = thickness_nm
        self._cell = max(thickness_nm / 2, float(np.prod(shape_nm + 2 * thickness_nm) / LARGEST_GRID) ** (1 / 3))
        self._shape = tuple(np.ceil((shape_nm + 2 * thickness_nm) / self._cell).astype(int))
        self._tensor = np.zeros((*self._shape, 6))
        for begin, facets in tiles:
            cells, cell_of = self._cells(facets.centre_nm + begin)
            for k, (i, j) in enumerate(_PAIRS):
                weight = facets.area_nm2 * facets.normal[:, i] * facets.normal[:, j]
                self._tensor.reshape(-1, 6)[cells, k] += np.bincount(cell_of, weight, len(cells))
        for k in range(6):
            sigma = NEIGHBOURHOOD * thickness_nm / self._cell
            self._tensor[..., k] = gaussian_filter(self._tensor[..., k], sigma, mode="constant")

    def _cells(self, at_nm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Give the cells in which places lie, each once, by their number in the grid; and for every place which of them it is."""
        at = np.clip((at_nm + self._margin) // self._cell, 0, np.array(self._shape) - 1).astype(np.intp)
        return np.unique(np.ravel_multi_index(tuple(at.T), self._shape), return_inverse=True)

    def area_nm2(self, begin_nm: np.ndarray, facets: Facets) -> float:
        """Measure the area of the middle surface between facets.

        That is half the area of both faces, each facet counted by how much it faces along the sheet's normal there: a rim
        counts nothing, a bulging face as its shadow on the middle surface.
        """
        cells, cell_of = self._cells(facets.centre_nm + begin_nm)
        local = self._tensor.reshape(-1, 6)[cells]
        matrix = np.empty((len(cells), 3, 3))
        for k, (i, j) in enumerate(_PAIRS):
            matrix[:, i, j] = matrix[:, j, i] = local[:, k]
        normal = np.linalg.eigh(matrix)[1][cell_of, :, 2]
        return float((facets.area_nm2 * np.abs((facets.normal * normal).sum(axis=1))).sum()) / 2


_PAIRS = [(i, j) for i in range(3) for j in range(i, 3)]


def extent_vx(mask: np.ndarray, core: np.ndarray) -> float:
    """Find the longest of the shortest ways within a mask of cubic voxels, from surface to surface, in voxels.

    Of an object in several pieces, the largest counts.

    Parameters
    ----------
    core : bool, zyx
        Middle of the sheet. A way keeps to it, so that it does not cut corners along the inner side of a bend.
    """
    import cc3d

    from asem_analyzers._sheet_kernels import distances, way

    piece = np.pad(cc3d.largest_k(mask.view(np.uint8), k=1, connectivity=26).astype(np.uint8), 2)
    piece += piece * np.pad(core, 2)
    voxels = np.flatnonzero(piece)
    if not len(voxels):
        return 0.0
    steps = _steps(piece.shape)
    longest, start, longest_way = 0.0, int(voxels[0]), voxels[:1]
    for _ in range(3):  # to the farthest voxel, from there to the farthest, and once more where that was no end
        distance = distances(piece.ravel(), start, *steps, OFF_CORE)
        farthest = int(voxels[np.argmax(distance[voxels])])
        if distance[farthest] <= longest:
            break
        longest, start = float(distance[farthest]), farthest
        longest_way = way(piece.ravel(), distance, farthest, *steps, OFF_CORE)
    at = np.stack(np.unravel_index(longest_way, piece.shape), axis=1)
    return _straightened(at, piece) + 1


def _straightened(at: np.ndarray, piece: np.ndarray) -> float:
    """Measure a way of voxels with straight shortcuts: steps on a grid are up to 6 % too long.

    Shortcuts stay in the core (2 in `piece`); only the first and the last lead out of it.
    """
    length, k = 0.0, 0
    while k < len(at) - 1:
        low, high = k + 1, len(at) - 1
        while low < high:  # the farthest place in sight, taking it that all before it are
            middle = (low + high + 1) // 2
            low, high = (middle, high) if _in_sight(at[k], at[middle], piece) else (low, middle - 1)
        length += float(np.linalg.norm(at[low] - at[k]))
        k = low
    return length


def _in_sight(a: np.ndarray, b: np.ndarray, piece: np.ndarray) -> bool:
    part = np.linspace(0, 1, 2 * int(np.abs(b - a).max()) + 1)[:, None]
    between = piece[tuple(np.rint(a + part * (b - a)).astype(np.intp).T)]
    return bool(between.min() >= min(piece[tuple(a)], piece[tuple(b)]))


def _steps(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """List the steps to voxels up to two away: flat offset, length, and the flat offsets of two voxels on the way."""
    strides = np.array([shape[1] * shape[2], shape[2], 1])
    moves = np.array([m for m in itertools.product(range(-2, 3), repeat=3) if math.gcd(*m) == 1])
    # The middle of a step lies between two voxels: the roundings of it up and down.
    via = np.stack([np.ceil(moves / 2) @ strides, np.floor(moves / 2) @ strides], axis=1).astype(np.int64)
    via[np.abs(moves).max(axis=1) == 1] = 0
    return moves @ strides, np.linalg.norm(moves, axis=1), via
