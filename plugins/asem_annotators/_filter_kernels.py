"""Compiled loops of the filters of `_filters`, and of a forest's decisions. Imported only when one runs.

Arrays are zyx, C-contiguous and float32. Loops over planes take `begin, end`, so that `in_slabs` can share them out.
"""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True, fastmath=True)


@_jit
def _mirror(i, n):
    if n == 1:
        return 0
    period = 2 * n - 2
    i = abs(i) % period
    return i if i < n else period - i


@_jit
def smooth_z(source, weights, first, out, begin, end):
    """Convolve along z by a symmetric kernel, given from its middle on; plane 0 of the result is `first` of the source.

    Writes planes `begin` to `end` of the result.
    """
    depth, height, width = source.shape
    for plane in range(begin, end):
        z = plane + first
        for y in range(height):
            row = out[plane, y]
            row[:] = source[z, y] * weights[0]
            for k in range(1, weights.size):
                one, other = source[_mirror(z - k, depth), y], source[_mirror(z + k, depth), y]
                w = weights[k]
                for x in range(width):
                    row[x] += w * (one[x] + other[x])


@_jit
def smooth_y(source, weights, first, out, begin, end):
    """Convolve along y (see `smooth_z`); row 0 of the result is `first` of the source."""
    _, height, width = source.shape
    for z in range(begin, end):
        for line in range(out.shape[1]):
            y = line + first
            row = out[z, line]
            row[:] = source[z, y] * weights[0]
            for k in range(1, weights.size):
                one, other = source[z, _mirror(y - k, height)], source[z, _mirror(y + k, height)]
                w = weights[k]
                for x in range(width):
                    row[x] += w * (one[x] + other[x])


@_jit
def smooth_x(source, weights, first, out, begin, end):
    """Convolve along x (see `smooth_z`); voxel 0 of a row of the result is `first` of the source."""
    _, height, width = source.shape
    radius = weights.size - 1
    wide = out.shape[2]
    line = np.empty(wide + 2 * radius, np.float32)
    for z in range(begin, end):
        for y in range(height):
            for x in range(wide + 2 * radius):
                line[x] = source[z, y, _mirror(x + first - radius, width)]
            row = out[z, y]
            for x in range(wide):
                row[x] = weights[0] * line[x + radius]
            for k in range(1, weights.size):
                w = weights[k]
                for x in range(wide):
                    row[x] += w * (line[x + radius - k] + line[x + radius + k])


@_jit
def derivatives(smooth, edges, corner, out, begin, end):
    """Write the smoothed image, its gradient's length, its Laplacian and its Hessian's eigenvalues, largest first."""
    depth, height, width = smooth.shape
    a, b, c = np.float32(edges[0]), np.float32(edges[1]), np.float32(edges[2])
    values = np.empty(3, np.float32)
    for plane in range(begin, end):
        z = plane + corner[0]
        z0, z1 = _mirror(z - 1, depth), _mirror(z + 1, depth)
        for line in range(out.shape[2]):
            y = line + corner[1]
            y0, y1 = _mirror(y - 1, height), _mirror(y + 1, height)
            for column in range(out.shape[3]):
                x = column + corner[2]
                x0, x1 = _mirror(x - 1, width), _mirror(x + 1, width)
                here = smooth[z, y, x]
                gz = (smooth[z1, y, x] - smooth[z0, y, x]) / (2 * a)
                gy = (smooth[z, y1, x] - smooth[z, y0, x]) / (2 * b)
                gx = (smooth[z, y, x1] - smooth[z, y, x0]) / (2 * c)
                zz = (smooth[z0, y, x] + smooth[z1, y, x] - 2 * here) / (a * a)
                yy = (smooth[z, y0, x] + smooth[z, y1, x] - 2 * here) / (b * b)
                xx = (smooth[z, y, x0] + smooth[z, y, x1] - 2 * here) / (c * c)
                zy = (smooth[z1, y1, x] - smooth[z1, y0, x] - smooth[z0, y1, x] + smooth[z0, y0, x]) / (4 * a * b)
                zx = (smooth[z1, y, x1] - smooth[z1, y, x0] - smooth[z0, y, x1] + smooth[z0, y, x0]) / (4 * a * c)
                yx = (smooth[z, y1, x1] - smooth[z, y1, x0] - smooth[z, y0, x1] + smooth[z, y0, x0]) / (4 * b * c)
                out[0, plane, line, column] = here
                out[1, plane, line, column] = np.sqrt(gz * gz + gy * gy + gx * gx)
                out[2, plane, line, column] = zz + yy + xx
                _eigenvalues(zz, yy, xx, zy, zx, yx, values)
                for k in range(3):
                    out[3 + k, plane, line, column] = values[k]


@_jit
def gradient_products(smooth, edges, corner, out, begin, end):
    """Write the six products of the gradient's components: zz, yy, xx, zy, zx, yx; `corner` is where the result begins."""
    depth, height, width = smooth.shape
    a, b, c = np.float32(2 * edges[0]), np.float32(2 * edges[1]), np.float32(2 * edges[2])
    for plane in range(begin, end):
        z = plane + corner[0]
        z0, z1 = _mirror(z - 1, depth), _mirror(z + 1, depth)
        for line in range(out.shape[2]):
            y = line + corner[1]
            y0, y1 = _mirror(y - 1, height), _mirror(y + 1, height)
            for column in range(out.shape[3]):
                x = column + corner[2]
                gz = (smooth[z1, y, x] - smooth[z0, y, x]) / a
                gy = (smooth[z, y1, x] - smooth[z, y0, x]) / b
                gx = (smooth[z, y, _mirror(x + 1, width)] - smooth[z, y, _mirror(x - 1, width)]) / c
                at = plane, line, column
                out[0][at], out[1][at], out[2][at] = gz * gz, gy * gy, gx * gx
                out[3][at], out[4][at], out[5][at] = gz * gy, gz * gx, gy * gx


@_jit
def tensor_eigenvalues(tensor, out, begin, end):
    """Write the eigenvalues of the structure tensor, largest first."""
    values = np.empty(3, np.float32)
    for z in range(begin, end):
        for y in range(out.shape[2]):
            for x in range(out.shape[3]):
                _eigenvalues(
                    tensor[0, z, y, x], tensor[1, z, y, x], tensor[2, z, y, x],
                    tensor[3, z, y, x], tensor[4, z, y, x], tensor[5, z, y, x], values,
                )  # fmt: skip
                for k in range(3):
                    out[k, z, y, x] = values[k]


@_jit
def _eigenvalues(zz, yy, xx, zy, zx, yx, out):
    """Eigenvalues of a symmetric 3 x 3 matrix in closed form, largest first (Smith 1961)."""
    mean = (zz + yy + xx) / 3
    dz, dy, dx = zz - mean, yy - mean, xx - mean
    p = np.sqrt((dz * dz + dy * dy + dx * dx + 2 * (zy * zy + zx * zx + yx * yx)) / 6)
    if p < 1e-9:
        out[0] = out[1] = out[2] = mean
        return
    det = dz * (dy * dx - yx * yx) - zy * (zy * dx - yx * zx) + zx * (zy * yx - dy * zx)
    r = min(1.0, max(-1.0, det / (2 * p * p * p)))
    angle = np.arccos(r) / 3
    out[0] = mean + 2 * p * np.cos(angle)
    out[2] = mean + 2 * p * np.cos(angle + 2.0943951023931953)
    out[1] = 3 * mean - out[0] - out[2]


@_jit
def vote(values, roots, feature, threshold, left, right, share, out, begin, end):
    """Average what the trees of a forest say of voxels `begin` to `end`.

    `values` is (voxels, maps); a node is a leaf where `left` is negative; `share` is its fraction of object.
    """
    for voxel in range(begin, end):
        row = values[voxel]
        total = np.float32(0)
        for root in roots:
            node = root
            while left[node] >= 0:
                node = left[node] if row[feature[node]] <= threshold[node] else right[node]
            total += share[node]
        out[voxel] = total / roots.size
