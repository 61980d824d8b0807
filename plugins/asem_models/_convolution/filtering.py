"""Convolutions by minimal filtering, for a CPU: a quarter of the multiplications, or fewer.

Winograd's F(m, r) computes m neighbouring results of a filter of r taps from m + r - 1 values with as many multiplications,
instead of r m: transform the values, transform the taps, multiply point by point, transform back. Applied along each axis of
a tile (Lavin and Gray 2016, "Fast algorithms for convolutional neural networks"), the products of all tiles and channels at
one point are a product of two matrices. Here a tile has 2 x 4 x 4 results (1 x 4 x 4 for flat filters): 4.5 instead of 27
multiplications a result for 3x3x3 taps, 2.3 instead of 8 for 2x2x2. Its gradients are made of the same three transforms and
their adjoints.

Rounding: about 1e-5 of the largest result in float32, ten times that of adding up directly.

Maps are laid out with the channels last. Some tiles are worked on at a time, and of their points those of one point along z,
so that all that a thread needs stays in its cache; the kernels emit vector instructions for the channels through LLVM, which
numba compiles and keeps on disk.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import attrs
import numba
import numpy as np
import torch

from asem_models._convolution.maps import layout, share
from asem_models._convolution.vectors import (
    EDGE,
    LANES,
    PRODUCTS,
    ROWS,
    TAPS,
    VALUES,
    VECTOR_BYTES,
    copy_vector,
    finish_vector,
    multiply,
    panel_of,
    product,
    transforms,
)

PANEL = 16
"""Results have a multiple of so many channels."""

_WEIGHT_ROWS = LANES // 2  # of the gradient of the weights: a divisor of PANEL
_TILES = 24  # at a time: a multiple of ROWS
_FEW_TILES = 12  # where the taps of a plane of points fit the cache, too

_ALONG_Z = {1: 1, 2: 2, 3: 2}
"""Results of a tile along z, by the filters' taps."""


@attrs.frozen
class _Tiling:
    """How tiles are made for filters of `taps`, zyx: their results, and the values that these are made of, zyx."""

    taps: tuple[int, ...]
    results: tuple[int, ...]

    @property
    def reach(self) -> tuple[int, ...]:
        return tuple(m + r - 1 for m, r in zip(self.results, self.taps, strict=True))

    @property
    def points(self) -> tuple[int, int]:
        """Points along z, and in a plane."""
        return self.reach[0], self.reach[1] * self.reach[2]

    @property
    def of_image(self) -> np.ndarray:
        return _two_planes(VALUES[self.results[0], self.taps[0]])

    @property
    def of_gradient(self) -> np.ndarray:
        return _two_planes(PRODUCTS[self.results[0], self.taps[0]].T)

    @property
    def to_result(self) -> np.ndarray:
        """For each point along z, how its plane gets into the planes of the result: see `transforms`."""
        matrix = PRODUCTS[self.results[0], self.taps[0]]
        how = np.zeros((matrix.shape[1], 2), np.int64)
        for row, factors in enumerate(matrix):
            first = np.flatnonzero(factors)[0]
            how[factors > 0, row], how[factors < 0, row], how[first, row] = 2, 3, 1
        return how

    def spread_taps(self, weight: torch.Tensor, panel: int) -> torch.Tensor:
        """Transform filters (k, c, z, y, x) to their values at the points: (point, k / panel, c, panel)."""
        taps = weight.flatten(2).unflatten(0, (-1, panel)).permute(3, 0, 2, 1)
        return (_taps_matrix(self) @ taps.flatten(1)).unflatten(1, taps.shape[1:])

    def gather_taps(self, sums: torch.Tensor) -> torch.Tensor:
        """The adjoint of `spread_taps`, for panels of PANEL."""
        taps = (_taps_matrix(self).T @ sums.flatten(1)).unflatten(1, sums.shape[1:])
        return taps.permute(1, 3, 2, 0).flatten(0, 1).unflatten(2, self.taps)


@cache
def _taps_matrix(tiling: _Tiling) -> torch.Tensor:
    """The values at all points from all taps, float32 (points, taps)."""
    z, y, x = (TAPS[m, r] for m, r in zip(tiling.results, tiling.taps, strict=True))
    return torch.from_numpy(np.kron(np.kron(z, y), x)).float()


def _two_planes(matrix: np.ndarray) -> np.ndarray:
    """Say, for each row of a matrix, two columns and what they are multiplied by: (column, factor, column, factor)."""
    rows = []
    for factors in matrix:
        columns = np.flatnonzero(factors)
        one, other = columns[0], columns[-1]
        rows.append((one, factors[one], other, factors[other] if len(columns) == 2 else 0))
    return np.array(rows, np.float32)


def _tiling(taps: Sequence[int]) -> _Tiling:
    return _Tiling(tuple(taps), (_ALONG_Z[taps[0]], EDGE, EDGE))


def convolve(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, full: bool = False, relu: bool = False
) -> torch.Tensor:
    """Convolve maps (n, c, z, y, x) with filters (k, c, z, y, x) of taps that are possible, as `torch.nn.functional.conv3d` does.

    Parameters
    ----------
    image : float32, channels last; `c` must be a multiple of `LANES`
    weight : float32; `k` must be a multiple of `PANEL`
    bias : float32 (k,), or None
    full : also the results that see only a part of the image: it is surrounded with zeros
    relu : results below 0 become 0

    Returns
    -------
    float32 (n, k, z', y', x'), channels last
    """
    features, channels = weight.shape[:2]
    tiling = _tiling(weight.shape[2:])
    pad = [n - 1 if full else 0 for n in tiling.taps]
    shape = [n + 2 * p - k + 1 for n, p, k in zip(image.shape[2:], pad, tiling.taps, strict=True)]
    made = torch.empty((len(image), features, *shape), memory_format=torch.channels_last_3d)
    panel = panel_of(features)
    points = tiling.spread_taps(weight.detach(), panel)
    places = 4 * torch.arange(channels)
    bias = torch.zeros(features) if bias is None else bias.detach().contiguous()
    given = (tiling.reach, tiling.points, tiling.of_image, tiling.to_result)
    least = np.float32(0 if relu else -math.inf)
    tiles = _FEW_TILES if channels * features <= 32 * 32 else _TILES
    for one, result in zip(image, made, strict=True):
        source, target = layout(one), layout(result)

        def work(begin: int, end: int, source: Any = source, target: Any = target) -> None:
            spare = _Scratch(tiling, tiles, channels, features)
            _convolve_tiles(
                *given, source, channels, places.data_ptr(), points.data_ptr(), panel, bias.data_ptr(), least, target, features,
                tuple(pad), begin, end, tiles, spare.addresses,
            )  # fmt: skip

        share(work, _count_tiles(shape, tiling), tiles, 4 * torch.get_num_threads())
    return made


def weight_gradient(image: torch.Tensor, gradient: torch.Tensor, kernel: Sequence[int]) -> torch.Tensor:
    """Find the gradient of the filters of `convolve`, (k, c, *kernel), from that of its result.

    Parameters
    ----------
    image : float32 (n, c, z, y, x), channels last; `c` must be a multiple of `LANES`
    gradient : float32 (n, k, z', y', x'), channels last; `k` must be a multiple of `PANEL`
    """
    channels, features = image.shape[1], gradient.shape[1]
    tiling = _tiling(kernel)
    # The sums of all points are read and written once for so many tiles; the wider the maps, the more it costs.
    tiles = _TILES if channels * features <= 64 * 64 else 3 * _TILES
    places = 4 * PANEL * torch.arange(tiles)
    given = (tiling.reach, tiling.results, tiling.points, tiling.of_image, tiling.of_gradient, places.data_ptr())
    parts: list[torch.Tensor] = []
    for one, changes in zip(image, gradient, strict=True):
        source, target = layout(one), layout(changes)

        def work(begin: int, end: int, source: Any = source, target: Any = target) -> torch.Tensor:
            part = torch.zeros(math.prod(tiling.points), features // PANEL, channels, PANEL)
            spare = _Scratch(tiling, tiles, channels, features)
            _add_products(
                *given, source, channels, target, features, part.data_ptr(), begin, end, tiles, spare.addresses
            )
            return part

        parts += share(work, _count_tiles(gradient.shape[2:], tiling), tiles, torch.get_num_threads())
    sums = parts[0]
    for part in parts[1:]:
        sums += part
    return tiling.gather_taps(sums)


class _Scratch:
    """Room for what some tiles need: values and products at the points of a plane, results, and tiles that lie on a border; gone with this object."""

    def __init__(self, tiling: _Tiling, tiles: int, channels: int, features: int) -> None:
        # A little more than a power of two between points: they would push each other out of the cache.
        widths = [tiles * max(c, PANEL) + PANEL for c in (channels, features)]
        self._rooms = [torch.empty(tiling.points[1], width) for width in widths]
        self._rooms.append(torch.empty(tiles, math.prod(tiling.results) * features))
        self._rooms.append(torch.empty(tiles, math.prod(tiling.reach) * max(channels, features)))
        self.addresses = tuple((room.data_ptr(), 4 * room.stride(0)) for room in self._rooms)


def _count_tiles(shape: Sequence[int], tiling: _Tiling) -> int:
    return math.prod(-(-n // m) for n, m in zip(shape, tiling.results, strict=True))


_image_2, _gradient_2, _result_2 = transforms(2)
_image_3, _gradient_3, _result_3 = transforms(3)
_accumulate = product(_WEIGHT_ROWS, PANEL, add=True)


@numba.njit(cache=True, nogil=True)
def _four(row):  # type: ignore[no-untyped-def]
    return int(row[0]), row[1], int(row[2]), row[3]


@numba.njit(cache=True, nogil=True)
def _tile_of(n, shape, results):  # type: ignore[no-untyped-def]
    """Say the place of a tile's first result, zyx."""
    ny, nx = -(-shape[1] // results[1]), -(-shape[2] // results[2])
    return n // (ny * nx) * results[0], n // nx % ny * results[1], n % nx * results[2]


@numba.njit(cache=True, nogil=True)
def _reachable(image, channels, place, size, spare):  # type: ignore[no-untyped-def]
    """Say where a tile can be read whole: in its map, or, if it reaches beyond, in `spare`, with zeros outside.

    Returns
    -------
    address, strides zyx
    """
    start, shape, strides = image
    address = start + place[0] * strides[0] + place[1] * strides[1] + place[2] * strides[2]
    inside = True
    for axis in range(3):
        inside = inside and place[axis] >= 0 and place[axis] + size[axis] <= shape[axis]
    if inside:
        return address, strides
    own = (size[1] * size[2] * channels * 4, size[2] * channels * 4, channels * 4)
    for z in range(size[0]):
        for y in range(size[1]):
            for x in range(size[2]):
                there = 0 <= place[0] + z < shape[0] and 0 <= place[1] + y < shape[1] and 0 <= place[2] + x < shape[2]
                source = address + z * strides[0] + y * strides[1] + x * strides[2]
                target = spare + z * own[0] + y * own[1] + x * own[2]
                for c in range(0, channels * 4, VECTOR_BYTES):
                    copy_vector(source + c if there else 0, target + c)
    return spare, own


@numba.njit(cache=True, nogil=True)
def _finish(image, channels, place, size, sums, bias, least):  # type: ignore[no-untyped-def]
    """Write the sums of a tile, with their bias and not below `least`, as far as they lie inside the map."""
    start, shape, strides = image
    for z in range(min(size[0], shape[0] - place[0])):
        for y in range(min(size[1], shape[1] - place[1])):
            for x in range(min(size[2], shape[2] - place[2])):
                source = sums + ((z * size[1] + y) * size[2] + x) * channels * 4
                target = start + (place[0] + z) * strides[0] + (place[1] + y) * strides[1] + (place[2] + x) * strides[2]
                for c in range(0, channels * 4, VECTOR_BYTES):
                    finish_vector(source + c, bias + c, least, target + c)


@numba.njit(cache=True, nogil=True)
def _convolve_tiles(
    reach, points, of_image, to_result, image, channels, places, weights, panel, bias, least, result, features, pad, begin, end,
    tiles, scratch,
):  # type: ignore[no-untyped-def]  # fmt: skip
    """Make the tiles `begin` to `end` of a result, `tiles` at a time."""
    size = (to_result.shape[1] if points[0] > 1 else 1, EDGE, EDGE)
    (to, step), (made, made_step), (sums, sums_step), (beside, beside_step) = scratch
    where = np.empty((tiles, 4), np.int64)
    plane = EDGE * EDGE * features * 4
    for first in range(begin, end, tiles):
        number = min(tiles, end - first)
        for t in range(number):
            z, y, x = _tile_of(first + t, result[1], size)
            place = (z - pad[0], y - pad[1], x - pad[2])
            where[t, 0], (where[t, 1], where[t, 2], where[t, 3]) = _reachable(
                image, channels, place, reach, beside + t * beside_step
            )
        for point in range(points[0]):
            one, by, other, times = _four(of_image[point])
            for t in range(number):
                source, sz, sy, sx = where[t, 0], where[t, 1], where[t, 2], where[t, 3]
                low, high, target = source + one * sz, source + other * sz, to + t * channels * 4
                for c in range(0, channels * 4, VECTOR_BYTES):
                    if points[1] == 36:
                        _image_3(low + c, by, high + c, times, sy, sx, target + c, step)
                    else:
                        _image_2(low + c, by, high + c, times, sy, sx, target + c, step)
            for p in range(points[1]):
                for k in range(0, features, panel):
                    b = weights + ((point * points[1] + p) * features + k) * channels * 4
                    for t in range(0, number, ROWS):
                        a, c = to + p * step + t * channels * 4, made + p * made_step + (t * features + k) * 4
                        multiply(a, channels * 4, places, b, panel, c, features * 4, channels)
            how, second = to_result[point, 0], to_result[point, 1]
            for t in range(number):
                source, target = made + t * features * 4, sums + t * sums_step
                for k in range(0, features * 4, VECTOR_BYTES):
                    if points[1] == 36:
                        _result_3(source + k, made_step, target + k, features * 4, how, second, plane)
                    else:
                        _result_2(source + k, made_step, target + k, features * 4, how, second, plane)
        for t in range(number):
            place = _tile_of(first + t, result[1], size)
            _finish(result, features, place, size, sums + t * sums_step, bias, least)


@numba.njit(cache=True, nogil=True)
def _add_products(
    reach,
    size,
    points,
    of_image,
    of_gradient,
    places,
    image,
    channels,
    gradient,
    features,
    sums,
    begin,
    end,
    tiles,
    scratch,
):  # type: ignore[no-untyped-def]
    """Add, at each point, the products of all values with all gradients of the tiles `begin` to `end`."""
    panel = tiles * PANEL * 4
    (to, step), (by, by_step), _, (beside, _) = scratch
    for first in range(begin, end, tiles):
        number = min(tiles, end - first)
        for point in range(points[0]):
            for t in range(number):
                place = _tile_of(first + t, gradient[1], size)
                one, factor, other, times = _four(of_image[point])
                source, (sz, sy, sx) = _reachable(image, channels, place, reach, beside)
                low, high = source + one * sz, source + other * sz
                for c in range(0, channels * 4, VECTOR_BYTES):
                    target = to + c // (PANEL * 4) * panel + t * PANEL * 4 + c % (PANEL * 4)
                    if points[1] == 36:
                        _image_3(low + c, factor, high + c, times, sy, sx, target, step)
                    else:
                        _image_2(low + c, factor, high + c, times, sy, sx, target, step)
                one, factor, other, times = _four(of_gradient[point])
                source, (sz, sy, sx) = _reachable(gradient, features, place, size, beside)
                low, high = source + one * sz, source + other * sz
                for k in range(0, features * 4, VECTOR_BYTES):
                    target = by + k // (PANEL * 4) * panel + t * PANEL * 4 + k % (PANEL * 4)
                    if points[1] == 36:
                        _gradient_3(low + k, factor, high + k, times, sy, sx, target, by_step)
                    else:
                        _gradient_2(low + k, factor, high + k, times, sy, sx, target, by_step)
            for p in range(points[1]):
                for k in range(0, features, PANEL):
                    b = by + p * by_step + k // PANEL * panel
                    for c in range(0, channels, _WEIGHT_ROWS):
                        a = to + p * step + c // PANEL * panel + c % PANEL * 4
                        s = sums + (((point * points[1] + p) * features + k) * channels + c * PANEL) * 4
                        _accumulate(a, 4, places, b, PANEL * 4, s, PANEL * 4, number)
