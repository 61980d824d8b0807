"""Small volumes to test on, the same every time."""

from __future__ import annotations

import numpy as np

from asem_core.blocks import Run
from asem_core.volume import Labels, Volume

QUIET = Run(progress=False)


def example_image(shape: tuple[int, int, int] = (40, 44, 48), voxel_size_nm: float = 5.0) -> Volume:
    """Make a small image: uint8, smooth grey texture with dark rims around two balls; the same every time."""
    from scipy.ndimage import gaussian_filter

    rng = np.random.default_rng(0)
    texture = gaussian_filter(rng.normal(size=shape), 2, mode="reflect")
    grey = 140 + 25 * texture / texture.std() + rng.normal(0, 4, shape)
    inside = gaussian_filter((example_labels(shape).read() > 0).astype(float), 1)
    grey -= 300 * inside * (1 - inside)
    return Volume(np.clip(grey, 0, 255).astype(np.uint8), voxel_size_nm, path="(example image)")


def example_labels(shape: tuple[int, int, int] = (40, 44, 48), voxel_size_nm: float = 5.0) -> Labels:
    """Make instance labels: two balls (ids 1 and 2) of radius 9 and 6 voxels in the image of `example_image`."""
    z, y, x = np.indices(shape)
    labels = np.zeros(shape, np.uint8)
    for i, (centre, radius) in enumerate((((0.35, 0.35, 0.35), 9), ((0.7, 0.7, 0.7), 6)), 1):
        c = [f * n for f, n in zip(centre, shape, strict=True)]
        labels[(z - c[0]) ** 2 + (y - c[1]) ** 2 + (x - c[2]) ** 2 <= radius**2] = i
    return Labels(labels, voxel_size_nm, path="(example labels)")
