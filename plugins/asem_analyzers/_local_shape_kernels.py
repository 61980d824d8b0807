"""The compiled loops of `_local_shape`; imported only when an object is judged, because numba takes a second to load."""

from __future__ import annotations

import numba
import numpy as np

_jit = numba.njit(cache=True, nogil=True)
ALL = np.uint64(2**64 - 1)


@_jit
def paint(mask, depth, order, reach, more, flatness, samples):  # type: ignore[no-untyped-def]
    """Give voxels the radius and the class of the largest ball that holds them, in order of depth, deepest first."""
    nz, ny, nx = mask.shape
    radius = np.zeros(mask.shape, np.float32)
    sheet = np.zeros(mask.shape, np.uint8)
    bare = _bits(mask)  # what no ball holds yet
    done = np.zeros(bare.shape, np.uint64)
    counted = np.empty(mask.shape, np.uint16)  # see `_count`
    counted_step = 0
    for k in range(order.size):
        z, y, x = order[k] // (ny * nx), order[k] // nx % ny, order[k] % nx
        if _any(done[z, y], x, x + 1):
            continue
        # The nearest voxel outside is `d` away, the surface somewhere within the last half voxel of that.
        d = depth[z, y, x]
        r = d - 0.25
        n = int(d)
        is_judged, flat = False, False
        for w in range(max(0, z - n), min(nz, z + n + 1)):
            for v in range(max(0, y - n), min(ny, y + n + 1)):
                apart = (w - z) ** 2 + (v - y) ** 2
                m = _half(d * d - apart)
                while m >= 0 and m * m + apart >= d * d:  # the nearest voxel outside is no part of the ball
                    m -= 1
                if m < 0:
                    continue
                b, e = max(0, x - m), min(nx, x + m + 1)
                if _any(bare[w, v], b, e):
                    if not is_judged:
                        far = reach * d + more
                        step = max(1, int(r / samples))
                        if step != counted_step:  # never longer again, for voxels come deepest first
                            _count(mask, counted, step)
                            counted_step = step
                        tube = np.pi * r * r * 2 * far
                        flat = _within(counted, z, y, x, far, step) * step**3 > tube * (far / r) ** flatness
                        is_judged = True
                    for u in range(b, e):
                        if _any(bare[w, v], u, u + 1):
                            radius[w, v, u] = r
                            sheet[w, v, u] = flat
                    _set(bare[w, v], b, e, False)
                m = _half(d * d / 4 - apart)
                if m >= 0:
                    _set(done[w, v], max(0, x - m), min(nx, x + m + 1), True)
    return radius, sheet


@_jit
def _half(rest):  # type: ignore[no-untyped-def]
    """Whole part of a square root; -1 where there is none."""
    return int(np.sqrt(rest)) if rest >= 0 else -1


@_jit
def _bits(mask):  # type: ignore[no-untyped-def]
    """Pack a mask into words of 64 voxels along x, the first one lowest."""
    nz, ny, nx = mask.shape
    words = np.zeros((nz, ny, nx // 64 + 1), np.uint64)
    for z in range(nz):
        for y in range(ny):
            for x in range(nx):
                words[z, y, x >> 6] |= np.uint64(mask[z, y, x]) << np.uint64(x & 63)
    return words


@_jit
def _part(word, begin, end):  # type: ignore[no-untyped-def]
    """Give the bits of a word that lie in the stretch from `begin` to before `end` of its row."""
    low, high = max(0, begin - 64 * word), max(0, 64 * (word + 1) - end)
    return (ALL << np.uint64(low)) & (ALL >> np.uint64(high))


@_jit
def _any(words, begin, end):  # type: ignore[no-untyped-def]
    """Tell if any bit is set in a stretch of a row, which is not empty."""
    found = np.uint64(0)
    for word in range(begin >> 6, ((end - 1) >> 6) + 1):
        found |= words[word] & _part(word, begin, end)
    return found != 0


@_jit
def _set(words, begin, end, value):  # type: ignore[no-untyped-def]
    """Set all bits of a stretch of a row, which is not empty."""
    for word in range(begin >> 6, ((end - 1) >> 6) + 1):
        if value:
            words[word] |= _part(word, begin, end)
        else:
            words[word] &= ~_part(word, begin, end)


@_jit
def _count(mask, counted, step):  # type: ignore[no-untyped-def]
    """Count the mask's voxels along x up to each voxel, every `step`-th; modulo 2^16, since only differences are taken."""
    nz, ny, nx = mask.shape
    for z in range(nz):
        for y in range(ny):
            row, out = mask[z, y], counted[z, y]
            for x in range(min(step, nx)):
                out[x] = row[x]
            for x in range(step, nx):
                out[x] = out[x - step] + row[x]


@_jit
def _within(counted, z, y, x, far, step):  # type: ignore[no-untyped-def]
    """Count the mask's voxels within `far` of a voxel, on a grid of every `step`-th along each axis."""
    nz, ny, nx = counted.shape
    n, most = int(far / step), (nx - 1 - x) // step
    count = 0
    for w in range(z - min(n, z // step) * step, min(nz, z + n * step + 1), step):
        for v in range(y - min(n, y // step) * step, min(ny, y + n * step + 1), step):
            rest = far * far - ((w - z) ** 2 + (v - y) ** 2)
            if rest < 0:
                continue
            m = int(np.sqrt(rest) / step)
            before = x - (m + 1) * step
            count += np.uint16(counted[w, v, x + min(m, most) * step] - (counted[w, v, before] if before >= 0 else 0))
    return count
