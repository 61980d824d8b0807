"""Random numbers that belong to a place: a counter-based hash of the seed, a stream and three integers."""

from __future__ import annotations

import math

import numpy as np

from asem_sources._phantom.shapes import inline, jit

_STREAM, _Z, _Y, _X = (
    np.uint64(c) for c in (0x9E3779B97F4A7C15, 0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB)
)
_M1, _M2 = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _S11, _S16 = (np.uint64(n) for n in (30, 27, 31, 11, 16))
_LOW16 = np.uint64(0xFFFF)


@inline
def hash64(seed, stream, z, y, x):
    """64 well mixed bits (the finaliser of splitmix64) for a place."""
    h = np.uint64(seed) * _M1 + np.uint64(stream) * _STREAM + np.uint64(z) * _Z + np.uint64(y) * _Y + np.uint64(x) * _X
    h = (h ^ (h >> _S30)) * _M1
    h = (h ^ (h >> _S27)) * _M2
    return h ^ (h >> _S31)


@inline
def hash01(seed, stream, z, y, x):
    """Uniform in [0, 1)."""
    return float(hash64(seed, stream, z, y, x) >> _S11) * (1.0 / 9007199254740992.0)


@inline
def hash_normal(seed, stream, z, y, x):
    """Nearly normal with mean 0 and variance 1: the sum of four uniform numbers from one hash."""
    h = hash64(seed, stream, z, y, x)
    total = (h & _LOW16) + ((h >> _S16) & _LOW16) + ((h >> (_S16 + _S16)) & _LOW16) + (h >> (_S16 + _S16 + _S16))
    return (float(total) / 65536.0 - 2.0) * 1.7320508


@inline
def value_noise(seed, stream, z, y, x, scale):
    """Smooth noise in about [-1, 1]: random values on a grid of `scale` nm, interpolated between."""
    return _value_noise(seed, np.int64(stream), z, y, x, scale)  # a number as it stands would be compiled for itself


@jit
def _value_noise(seed, stream, z, y, x, scale):
    z, y, x = z / scale, y / scale, x / scale
    iz, iy, ix = math.floor(z), math.floor(y), math.floor(x)
    fz, fy, fx = z - iz, y - iy, x - ix
    fz, fy, fx = fz * fz * (3 - 2 * fz), fy * fy * (3 - 2 * fy), fx * fx * (3 - 2 * fx)
    iz, iy, ix = int(iz), int(iy), int(ix)
    c00 = _lerp(hash01(seed, stream, iz, iy, ix), hash01(seed, stream, iz, iy, ix + 1), fx)
    c01 = _lerp(hash01(seed, stream, iz, iy + 1, ix), hash01(seed, stream, iz, iy + 1, ix + 1), fx)
    c10 = _lerp(hash01(seed, stream, iz + 1, iy, ix), hash01(seed, stream, iz + 1, iy, ix + 1), fx)
    c11 = _lerp(hash01(seed, stream, iz + 1, iy + 1, ix), hash01(seed, stream, iz + 1, iy + 1, ix + 1), fx)
    return 2.0 * _lerp(_lerp(c00, c01, fy), _lerp(c10, c11, fy), fz) - 1.0


@inline
def _lerp(a, b, t):
    return a + (b - a) * t
