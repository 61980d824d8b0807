"""The compiled loops of CLAHE; imported only when a volume is equalized, because numba takes a second to load."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def tile_histograms(block, lut, kernel, num_values):
    """Count `lut[voxel]` in each tile of `kernel` voxels; `block` is a whole number of tiles."""
    nz, ny, nx = block.shape[0] // kernel[0], block.shape[1] // kernel[1], block.shape[2] // kernel[2]
    counts = np.zeros((nz, ny, nx, num_values), np.int64)
    for z in range(block.shape[0]):
        for y in range(block.shape[1]):
            for tile in range(nx):
                row = counts[z // kernel[0], y // kernel[1], tile]
                for x in range(tile * kernel[2], (tile + 1) * kernel[2]):
                    row[lut[block[z, y, x]]] += 1
    return counts


@njit(cache=True, nogil=True)
def mappings(histograms, limits, num_levels):
    """Clip each histogram at its limit and turn it into a mapping from bin to 0 .. num_levels - 1.

    What is cut off is shared out evenly; what does not fit into nearly full bins goes round again, one voxel to each
    of evenly spaced bins, as in Zuiderveld's program.
    """
    num_tiles, num_bins = histograms.shape
    result = np.empty((num_tiles, num_bins), np.uint16)
    for tile in range(num_tiles):
        counts = histograms[tile].copy()
        total = max(1, counts.sum())
        _clip(counts, limits[tile])
        scale = (num_levels - 1) / total
        running = 0
        for b in range(num_bins):
            running += counts[b]
            result[tile, b] = np.uint16(min(running * scale, num_levels - 1))
    return result


@njit(cache=True)
def _clip(counts, limit):
    num_bins = counts.size
    excess = 0
    for b in range(num_bins):
        if counts[b] > limit:
            excess += counts[b] - limit
            counts[b] = limit
    share = excess // num_bins
    for b in range(num_bins):
        if counts[b] < limit - share:
            counts[b] += share
            excess -= share
        if limit - share <= counts[b] < limit:
            excess -= limit - counts[b]
            counts[b] = limit
    while excess > 0:
        before = excess
        for first in range(num_bins):
            step = max(1, np.count_nonzero(counts < limit) // excess)
            for b in range(first, num_bins, step):
                if counts[b] < limit:
                    counts[b] += 1
                    excess -= 1
            if excess <= 0:
                break
        if excess == before:
            break


@njit(cache=True, nogil=True)
def interpolate(block, begin, lut, maps, kernel, finish, result):
    """Send each voxel through the mappings of the eight tiles around it, weighted by nearness to their centres.

    The mappings are interpolated instead of their results: along z once for each plane, along y once for each row; so
    a voxel costs two look-ups in place of eight. What a voxel gets depends on its global position only.

    Parameters
    ----------
    block : unsigned integers, shape (z, y, x)
    begin : position of the block in its volume
    lut : voxel value -> bin
    maps : uint16, shape (tile z, tile y, tile x, bin)
    kernel : shape of a tile
    finish : level -> result
    result : written here; shape of the block, dtype of `finish`
    """
    num_bins = maps.shape[3]
    plane = np.empty((2, 2, num_bins), np.float32)  # tile above or below in y, in x
    row = np.empty((num_bins, 2), np.float32)  # value at the left tile, step to the right one
    weights = np.empty(block.shape[2], np.float32)
    for x in range(block.shape[2]):
        weights[x] = np.float32(((begin[2] + x + kernel[2] // 2) % kernel[2]) / kernel[2])
    for z in range(block.shape[0]):
        z0, z1, wz = _between(begin[0] + z, kernel[0], maps.shape[0])
        y = 0
        while y < block.shape[1]:
            y0, y1, _ = _between(begin[1] + y, kernel[1], maps.shape[1])
            y_end = min(block.shape[1], _cell_end(begin[1] + y, kernel[1]) - begin[1])
            x = 0
            while x < block.shape[2]:
                x0, x1, _ = _between(begin[2] + x, kernel[2], maps.shape[2])
                x_end = min(block.shape[2], _cell_end(begin[2] + x, kernel[2]) - begin[2])
                _blend(maps[z0, y0, x0], maps[z1, y0, x0], wz, plane[0, 0])
                _blend(maps[z0, y0, x1], maps[z1, y0, x1], wz, plane[0, 1])
                _blend(maps[z0, y1, x0], maps[z1, y1, x0], wz, plane[1, 0])
                _blend(maps[z0, y1, x1], maps[z1, y1, x1], wz, plane[1, 1])
                for yy in range(y, y_end):
                    _, _, wy = _between(begin[1] + yy, kernel[1], maps.shape[1])
                    for b in range(num_bins):
                        left = plane[0, 0, b] + wy * (plane[1, 0, b] - plane[0, 0, b])
                        right = plane[0, 1, b] + wy * (plane[1, 1, b] - plane[0, 1, b])
                        row[b, 0] = left
                        row[b, 1] = right - left
                    for xx in range(x, x_end):
                        b = lut[block[z, yy, xx]]
                        result[z, yy, xx] = finish[np.int64(row[b, 0] + weights[xx] * row[b, 1])]
                x = x_end
            y = y_end


@njit(cache=True)
def _between(position, kernel, num_tiles):
    """Say which two tiles' centres a position lies between (the same one twice at the border), and how far along."""
    from_first = position + kernel // 2
    cell = from_first // kernel
    return max(cell - 1, 0), min(cell, num_tiles - 1), np.float32((from_first % kernel) / kernel)


@njit(cache=True)
def _cell_end(position, kernel):
    """Say where the next tile's centre lies."""
    return ((position + kernel // 2) // kernel + 1) * kernel - kernel // 2


@njit(cache=True)
def _blend(first, second, weight, result):
    for b in range(first.size):
        a = np.float32(first[b])
        result[b] = a + weight * (np.float32(second[b]) - a)
