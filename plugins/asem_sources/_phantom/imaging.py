"""From staining to a microscope's grey values: blur, drift, curtains, line noise, shot noise, and the two looks."""

from __future__ import annotations

import attrs
import numpy as np

from asem_sources._phantom.noise import hash_normal, value_noise
from asem_sources._phantom.render import RAW, Stain, draw
from asem_sources._phantom.scene import Scene
from asem_sources._phantom.shapes import jit


@attrs.frozen
class Look:
    """How a preparation and a microscope make grey values: `grey = bright - contrast * staining`, then noise.

    Lengths in nm, amplitudes in grey values of 0..255. The blur is that of the preparation; a beam of 0.8 voxels
    (standard deviation) comes on top. `inverted` looks are stored with membranes bright.
    """

    stain: Stain
    bright: float
    contrast: float
    blur_nm: float
    shot: float
    line: float
    curtain: float
    drift: float
    inverted: bool


LOOKS = {
    "cf": Look(
        stain=Stain(
            membrane=0.92, membrane_nm=8.0, cytosol=0.30, granules=0.18, nucleoplasm=0.30, chromatin=0.25, matrix=0.52,
            er_lumen=0.20, golgi_lumen=0.22, endosome_lumen=0.16, lysosome_lumen=0.62, coat=0.38, outside=0.05,
        ),
        bright=248.0, contrast=285.0, blur_nm=4.0, shot=9.0, line=1.2, curtain=2.5, drift=3.0, inverted=False,
    ),
    "hpfs": Look(
        stain=Stain(
            membrane=0.78, membrane_nm=7.0, cytosol=0.42, granules=0.15, nucleoplasm=0.40, chromatin=0.16, matrix=0.52,
            er_lumen=0.36, golgi_lumen=0.34, endosome_lumen=0.28, lysosome_lumen=0.60, coat=0.26, outside=0.16,
        ),
        bright=285.0, contrast=315.0, blur_nm=3.0, shot=8.0, line=0.8, curtain=1.5, drift=2.0, inverted=True,
    ),
}  # fmt: skip
"""Chemical fixation: extracted cytosol, strong membranes. High-pressure freezing: dense cytosol, fine membranes; stored
with inverted contrast, as the public cells are."""


def expose(scene: Scene, look: Look, begin: tuple[int, int, int], shape: tuple[int, int, int], voxel_size_nm: tuple[float, float, float],
           seed: int, noise: float, trace_nm: float) -> np.ndarray:  # fmt: skip
    """Make the uint8 image of a box. `noise` scales everything the microscope adds; 0 leaves stain and blur alone."""
    from scipy.ndimage import correlate1d

    kernels = [_gaussian(np.hypot(look.blur_nm, 0.8 * size) / size) for size in voxel_size_nm]
    halo = [len(k) // 2 for k in kernels]
    wide_begin = tuple(b - h for b, h in zip(begin, halo, strict=True))
    wide_shape = tuple(n + 2 * h for n, h in zip(shape, halo, strict=True))
    staining = draw(scene, RAW, wide_begin, wide_shape, voxel_size_nm, seed, look.stain, trace_nm)
    for axis, kernel in enumerate(kernels):
        staining = correlate1d(staining, kernel, axis, mode="nearest")
    inner = tuple(slice(h, h + n) for h, n in zip(halo, shape, strict=True))
    optics = np.array(
        [look.bright, look.contrast, noise * look.shot, noise * look.line, noise * look.curtain, noise * look.drift]
    )
    return _detect(np.ascontiguousarray(staining[inner]), np.array(begin, np.int64), seed, optics, look.inverted)


def _gaussian(sigma: float) -> np.ndarray:
    reach = int(np.ceil(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    return kernel / kernel.sum()


@jit
def _detect(staining, begin, seed, optics, inverted):
    """Turn staining into grey: planes drift, mill curtains run along y, lines flicker, voxels have shot noise."""
    bright, contrast, shot, line, curtain, drift = optics
    nz, ny, nx = staining.shape
    image = np.empty((nz, ny, nx), np.uint8)
    stripes = np.empty(nx)
    for i in range(nz):
        z = begin[0] + i
        slow = value_noise(seed, 20, float(z), 0.0, 0.0, 180.0)
        offset = drift * (1.5 * slow + 0.35 * hash_normal(seed, 21, z, 0, 0))
        gain = contrast * (1.0 + 0.004 * drift * value_noise(seed, 22, float(z), 0.0, 0.0, 240.0))
        for k in range(nx):
            x = float(begin[2] + k)
            stripes[k] = value_noise(seed, 25, z * 0.25, 0.0, x, 5.0) + 0.7 * value_noise(
                seed, 26, z * 0.08, 0.0, x, 17.0
            )
        for j in range(ny):
            y = begin[1] + j
            strength = curtain * (1.0 + 0.6 * value_noise(seed, 27, float(z), float(y), 0.0, 90.0))
            flicker = line * hash_normal(seed, 23, z, y, 0)
            before = hash_normal(seed, 24, z, y, begin[2] - 1)
            for k in range(nx):
                x = begin[2] + k
                now = hash_normal(seed, 24, z, y, x)
                # The detector answers a little late: shot noise of neighbours along a line is correlated.
                grain = (now + 0.45 * before) * 0.912
                before = now
                signal = bright - gain * staining[i, j, k]
                value = (
                    signal
                    + offset
                    + flicker
                    + strength * stripes[k]
                    + shot * (0.55 + 0.45 * max(0.0, signal) / bright) * grain
                )
                value = min(255.0, max(0.0, value + 0.5))
                image[i, j, k] = 255 - int(value) if inverted else int(value)
    return image
