"""Convolutions of 3x3x3 and 1x3x3 by minimal filtering, for training on a CPU: a quarter of the multiplications.

Winograd's F(m, 3) computes m neighbouring results of a three-tap filter from m + 2 values with m + 2 multiplications
instead of 3 m: transform the values, transform the taps, multiply point by point, transform back. Applied along each axis
of a tile (Lavin and Gray 2016, "Fast algorithms for convolutional neural networks"), the products of all tiles and channels
at one point are a product of two matrices. Here a tile has 2 x 4 x 4 results (1 x 4 x 4 for flat filters): 4.5 instead of 27
multiplications a result. Its gradients are made of the same three transforms and their adjoints.

Rounding: about 1e-5 of the largest result in float32, ten times that of adding up directly.

Maps are laid out with the channels last. Some tiles are worked on at a time, so that all that a thread needs stays in its
cache; the kernels emit vector instructions for the channels through LLVM, which numba compiles and keeps on disk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numba
import numpy as np
import torch

from asem_models._vector_code import LANES, TAPS, VECTOR_BYTES, copy_vector, product, transforms

PANEL = 16
"""Channels of a result are worked on so many at a time."""

# Rows of a product of matrices at a time: twelve vectors of sums fit the registers, and hide the latency of adding.
_ROWS = 3 * LANES // 4
_WEIGHT_ROWS = LANES // 2  # of the gradient of the weights: a divisor of PANEL
_TILES = 24  # at a time: a multiple of _ROWS

# Of a tile for solid and for flat filters: its results and the values they are made of, zyx, and its points.
_SOLID = (2, 4, 4), (4, 6, 6), 144
_FLAT = (1, 4, 4), (1, 6, 6), 36


def convolve(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *, full: bool = False
) -> torch.Tensor:
    """Convolve maps (n, c, z, y, x) with filters (k, c, 3 or 1, 3, 3), as `torch.nn.functional.conv3d` does.

    Parameters
    ----------
    image : float32, channels last; `c` must be a multiple of `LANES`
    weight : float32; `k` must be a multiple of `PANEL`
    bias : float32 (k,), or None
    full : also the results that see only a part of the image: it is surrounded with zeros

    Returns
    -------
    float32 (n, k, z', y', x'), channels last
    """
    flat, channels, features = weight.shape[2] == 1, weight.shape[1], weight.shape[0]
    results, _, num_points = _FLAT if flat else _SOLID
    pad = [n - 1 if full else 0 for n in weight.shape[2:]]
    shape = [n + 2 * p - k + 1 for n, p, k in zip(image.shape[2:], pad, weight.shape[2:], strict=True)]
    made = torch.empty((len(image), features, *shape), memory_format=torch.channels_last_3d)
    points = _spread_taps(weight.detach(), results)
    bias = torch.zeros(features) if bias is None else bias.detach()
    num_tiles = _count_tiles(shape, results)
    for one, result in zip(image, made, strict=True):
        source, target = _layout(one), _layout(result)

        def work(begin: int, end: int, source: Any = source, target: Any = target) -> None:
            spare = _Scratch(num_points, _TILES, channels, features)
            _convolve_tiles(
                flat, source, channels, points.data_ptr(), bias.data_ptr(), target, features, tuple(pad), begin, end,
                _TILES, spare.addresses,
            )  # fmt: skip

        _share(work, num_tiles, _TILES, 4 * torch.get_num_threads())
    return made


def weight_gradient(image: torch.Tensor, gradient: torch.Tensor, kernel: Sequence[int]) -> torch.Tensor:
    """Find the gradient of the filters of `convolve`, (k, c, *kernel), from that of its result.

    Parameters
    ----------
    image : float32 (n, c, z, y, x), channels last; `c` must be a multiple of `LANES`
    gradient : float32 (n, k, z', y', x'), channels last; `k` must be a multiple of `PANEL`
    """
    flat, channels, features = kernel[0] == 1, image.shape[1], gradient.shape[1]
    results, _, num_points = _FLAT if flat else _SOLID
    # The sums of all points are read and written once for so many tiles; the wider the maps, the more it costs.
    tiles = _TILES if channels * features <= 64 * 64 else 3 * _TILES
    parts: list[torch.Tensor] = []
    for one, changes in zip(image, gradient, strict=True):
        source, target = _layout(one), _layout(changes)

        def work(begin: int, end: int, source: Any = source, target: Any = target) -> torch.Tensor:
            part = torch.zeros(num_points, features // PANEL, channels, PANEL)
            spare = _Scratch(num_points, tiles, channels, features)
            _add_products(flat, source, channels, target, features, part.data_ptr(), begin, end, tiles, spare.addresses)
            return part

        parts += _share(work, _count_tiles(gradient.shape[2:], results), tiles, torch.get_num_threads())
    sums = parts[0]
    for part in parts[1:]:
        sums += part
    return _gather_taps(sums, results)


class _Scratch:
    """Room for the transformed values of some tiles of two maps, and for one tile; gone with this object."""

    def __init__(self, num_points: int, tiles: int, *channels: int) -> None:
        # A little more than a power of two between points: they would push each other out of the cache.
        widths = [tiles * max(c, PANEL) + PANEL for c in channels]
        self._rooms = [torch.empty(num_points, width) for width in (*widths, max(channels))]
        self.addresses = tuple((room.data_ptr(), 4 * room.stride(0)) for room in self._rooms)


def _layout(image: torch.Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    """Say where a map (c, z, y, x) is: address, shape zyx and strides zyx in bytes."""
    assert image.dtype == torch.float32
    assert image.stride(0) == 1 or image.shape[0] == 1
    return image.data_ptr(), tuple(image.shape[1:]), tuple(4 * s for s in image.stride()[1:])


def _count_tiles(shape: Sequence[int], results: Sequence[int]) -> int:
    return math.prod(-(-n // m) for n, m in zip(shape, results, strict=True))


def _share(work: Callable[[int, int], Any], num_tiles: int, tiles: int, parts: int) -> list[Any]:
    """Let all threads work on parts of the tiles; the results come in order, so that sums are the same each time."""
    size = -(-num_tiles // (parts * tiles)) * tiles
    begins = range(0, num_tiles, size)
    return list(_threads(torch.get_num_threads()).map(work, begins, [min(b + size, num_tiles) for b in begins]))


@cache
def _threads(number: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(number, thread_name_prefix="convolution")


def _spread_taps(weight: torch.Tensor, results: Sequence[int]) -> torch.Tensor:
    """Transform filters (k, c, z, y, x) to their values at the points: (point, k / PANEL, c, PANEL)."""
    taps = weight.flatten(2).unflatten(0, (-1, PANEL)).permute(3, 0, 2, 1)
    return (_taps_matrix(results) @ taps.flatten(1)).unflatten(1, taps.shape[1:])


def _gather_taps(sums: torch.Tensor, results: Sequence[int]) -> torch.Tensor:
    """The adjoint of `_spread_taps`."""
    taps = (_taps_matrix(results).T @ sums.flatten(1)).unflatten(1, sums.shape[1:])
    return taps.permute(1, 3, 2, 0).flatten(0, 1).unflatten(2, [TAPS[m].shape[1] for m in results])


def _taps_matrix(results: Sequence[int]) -> torch.Tensor:
    """The values at all points from all taps, float32 (points, taps)."""
    z, y, x = (TAPS[m] for m in results)
    return torch.from_numpy(np.kron(np.kron(z, y), x)).float()


_image_solid, _gradient_solid, _result_solid = transforms(_SOLID[0])
_image_flat, _gradient_flat, _result_flat = transforms(_FLAT[0])
_multiply = product(_ROWS, PANEL, add=False)
_accumulate = product(_WEIGHT_ROWS, PANEL, add=True)


@numba.njit(cache=True, nogil=True)
def _tile_of(n, shape, results):  # type: ignore[no-untyped-def]
    """Say the place of a tile's first result, zyx."""
    ny, nx = -(-shape[1] // results[1]), -(-shape[2] // results[2])
    return n // (ny * nx) * results[0], n // nx % ny * results[1], n % nx * results[2]


@numba.njit(cache=True, nogil=True)
def _reachable(image, channels, place, size, spare, outgoing):  # type: ignore[no-untyped-def]
    """Say where a tile can be read or written whole: in its map, or, if it reaches beyond, in `spare`.

    Returns
    -------
    address, strides zyx. What is read outside of the map is zero; what is written there must be brought back (`_bring_back`).
    """
    start, shape, strides = image
    address = start + place[0] * strides[0] + place[1] * strides[1] + place[2] * strides[2]
    inside = True
    for axis in range(3):
        inside = inside and place[axis] >= 0 and place[axis] + size[axis] <= shape[axis]
    if inside:
        return address, strides
    own = (size[1] * size[2] * channels * 4, size[2] * channels * 4, channels * 4)
    if not outgoing:
        for z in range(size[0]):
            for y in range(size[1]):
                for x in range(size[2]):
                    there = (
                        0 <= place[0] + z < shape[0] and 0 <= place[1] + y < shape[1] and 0 <= place[2] + x < shape[2]
                    )
                    source = address + z * strides[0] + y * strides[1] + x * strides[2]
                    target = spare + z * own[0] + y * own[1] + x * own[2]
                    for c in range(0, channels * 4, VECTOR_BYTES):
                        copy_vector(source + c if there else 0, target + c)
    return spare, own


@numba.njit(cache=True, nogil=True)
def _bring_back(image, channels, place, size, spare):  # type: ignore[no-untyped-def]
    """Write what lies inside the map of a tile that was made in `spare`."""
    start, shape, strides = image
    for z in range(min(size[0], shape[0] - place[0])):
        for y in range(min(size[1], shape[1] - place[1])):
            for x in range(min(size[2], shape[2] - place[2])):
                source = spare + ((z * size[1] + y) * size[2] + x) * channels * 4
                target = start + (place[0] + z) * strides[0] + (place[1] + y) * strides[1] + (place[2] + x) * strides[2]
                for c in range(0, channels * 4, VECTOR_BYTES):
                    copy_vector(source + c, target + c)


@numba.njit(cache=True, nogil=True)
def _convolve_tiles(flat, image, channels, weights, bias, result, features, pad, begin, end, tiles, scratch):  # type: ignore[no-untyped-def]
    """Make the tiles `begin` to `end` of a result, `tiles` at a time."""
    size, reach, num_points = _FLAT if flat else _SOLID
    (to, step), (made, made_step), (beside, _) = scratch
    for first in range(begin, end, tiles):
        number = min(tiles, end - first)
        for t in range(number):
            z, y, x = _tile_of(first + t, result[1], size)
            place = (z - pad[0], y - pad[1], x - pad[2])
            source, (sz, sy, sx) = _reachable(image, channels, place, reach, beside, False)
            for c in range(0, channels * 4, VECTOR_BYTES):
                if flat:
                    _image_flat(source + c, sz, sy, sx, to + t * channels * 4 + c, step)
                else:
                    _image_solid(source + c, sz, sy, sx, to + t * channels * 4 + c, step)
        for p in range(num_points):
            for k in range(0, features, PANEL):
                panel = weights + (p * features + k) * channels * 4
                for t in range(0, number, _ROWS):
                    a, c = to + p * step + t * channels * 4, made + p * made_step + (t * features + k) * 4
                    _multiply(a, channels * 4, 4, panel, PANEL * 4, c, features * 4, channels)
        for t in range(number):
            place = _tile_of(first + t, result[1], size)
            target, (sz, sy, sx) = _reachable(result, features, place, size, beside, True)
            for k in range(0, features * 4, VECTOR_BYTES):
                if flat:
                    _result_flat(made + t * features * 4 + k, made_step, bias + k, target + k, sz, sy, sx)
                else:
                    _result_solid(made + t * features * 4 + k, made_step, bias + k, target + k, sz, sy, sx)
            if target == beside:
                _bring_back(result, features, place, size, beside)


@numba.njit(cache=True, nogil=True)
def _add_products(flat, image, channels, gradient, features, sums, begin, end, tiles, scratch):  # type: ignore[no-untyped-def]
    """Add, at each point, the products of all values with all gradients of the tiles `begin` to `end`."""
    size, reach, num_points = _FLAT if flat else _SOLID
    panel = tiles * PANEL * 4
    (to, step), (by, by_step), (beside, _) = scratch
    for first in range(begin, end, tiles):
        number = min(tiles, end - first)
        for t in range(number):
            place = _tile_of(first + t, gradient[1], size)
            source, (sz, sy, sx) = _reachable(image, channels, place, reach, beside, False)
            for c in range(0, channels * 4, VECTOR_BYTES):
                target = to + c // (PANEL * 4) * panel + t * PANEL * 4 + c % (PANEL * 4)
                if flat:
                    _image_flat(source + c, sz, sy, sx, target, step)
                else:
                    _image_solid(source + c, sz, sy, sx, target, step)
            source, (sz, sy, sx) = _reachable(gradient, features, place, size, beside, False)
            for k in range(0, features * 4, VECTOR_BYTES):
                target = by + k // (PANEL * 4) * panel + t * PANEL * 4 + k % (PANEL * 4)
                if flat:
                    _gradient_flat(source + k, sz, sy, sx, target, by_step)
                else:
                    _gradient_solid(source + k, sz, sy, sx, target, by_step)
        for p in range(num_points):
            for k in range(0, features, PANEL):
                b = by + p * by_step + k // PANEL * panel
                for c in range(0, channels, _WEIGHT_ROWS):
                    a = to + p * step + c // PANEL * panel + c % PANEL * 4
                    s = sums + ((p * features + k) * channels + c * PANEL) * 4
                    _accumulate(a, 4, PANEL * 4, b, PANEL * 4, s, PANEL * 4, number)
