"""What the tests of preprocessors share: volumes with texture and objects, and the raw data of a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from asem_core.volume import Labels, Volume


@pytest.fixture(scope="session")
def image() -> Callable[..., Volume]:
    """Make a textured image of any shape whose brightness changes over it."""

    def make(shape: tuple[int, int, int], seed: int = 0, dtype: str = "uint8") -> Volume:
        rng = np.random.default_rng(seed)
        texture = ndimage.gaussian_filter(rng.normal(size=shape), 1.5)
        grey = 100 + 30 * texture / (texture.std() + 1e-9) + np.linspace(0, 60, shape[2]) + rng.normal(0, 3, shape)
        grey = np.clip(grey, 0, 255)
        if dtype == "uint16":
            grey = grey * 200
        return Volume(grey.astype(dtype), (8, 5, 5), (80.0, 0.0, 35.0))

    return make


@pytest.fixture(scope="session")
def objects() -> Callable[..., Labels]:
    """Make labels of any shape: blobs of all sizes with holes, some with ids of their own."""

    def make(shape: tuple[int, int, int], seed: int = 0, num_ids: int = 1) -> Labels:
        rng = np.random.default_rng(seed)
        smooth = ndimage.gaussian_filter(rng.normal(size=shape), 1.0)
        mask = smooth > np.quantile(smooth, 0.55)
        ids = ndimage.zoom(
            rng.integers(1, num_ids + 1, (3, 3, 3)), [n / 3 for n in shape], order=0, grid_mode=True, mode="nearest"
        )
        return Labels(np.where(mask, ids[: shape[0], : shape[1], : shape[2]], 0).astype(np.uint16), (8, 5, 5))

    return make


@pytest.fixture(scope="session")
def fib25(real_data: Callable[[str], Path]) -> np.ndarray:
    """Load the 250 planes of the real image."""
    import tifffile

    return np.stack([tifffile.imread(path) for path in sorted(real_data("fib25/raw").glob("*.tif"))])


@pytest.fixture(scope="session")
def other_block(real_data: Callable[[str], Path]) -> np.ndarray:
    """Load the middle of another real image, 256 planes of 250 x 250 voxels."""
    import tifffile

    return tifffile.imread(real_data("fib25/raw_large_256x512x512.tif"))[:, 131:381, 131:381]
