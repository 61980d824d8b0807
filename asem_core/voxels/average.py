"""Average cells of voxels: what a coarser level of an image is made of."""

from __future__ import annotations

from typing import Any

import numpy as np

from asem_core.volume import Zyx


def average(block: np.ndarray, factor: Zyx, dtype: Any) -> np.ndarray:
    """Average each cell of `factor` voxels, rounded if `dtype` is of whole numbers; cells at the far border may be cut."""
    from asem_core.voxels._mean_kernel import means

    result = np.empty([-(-n // f) for n, f in zip(block.shape, factor, strict=True)], dtype)
    means(np.ascontiguousarray(block), factor, result, result.dtype.kind != "f")
    return result
