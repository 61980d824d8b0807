"""How deep the voxels of a mask lie, and their order by it."""

from __future__ import annotations

import numpy as np


def squared_depth(mask: np.ndarray) -> np.ndarray:
    """Square of the distance of each voxel of a mask to the nearest voxel outside, in voxels; int32 zyx.

    Parameters
    ----------
    mask : bool, zyx
        Its outermost voxels must be empty.
    """
    from asem_analyzers._depth_kernels import squared_depth

    return np.asarray(squared_depth(mask.view(np.uint8)))


def stable_order(keys: np.ndarray) -> np.ndarray:
    """Order whole numbers from 0 on, equal ones as they come. Those of 16 bits are sorted by radix, in a tenth of the time."""
    return np.argsort(keys.astype(np.uint16) if keys.max(initial=0) < 2**16 else keys, kind="stable")
