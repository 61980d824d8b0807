"""Where objects touch: faces between voxels of two of them."""

from __future__ import annotations

import numpy as np


def meetings(ids: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """List the faces across an axis at which voxels of two objects meet.

    Parameters
    ----------
    ids : integers (z, y, x); 0 and below belong to no object

    Returns
    -------
    pairs : (n, 2), of the dtype of `ids`: the two objects, the lower id first
    places : int64 (n, 3): the voxel before each face
    """
    one, other = (np.moveaxis(ids, axis, 0)[s] for s in (slice(None, -1), slice(1, None)))
    here = np.nonzero(np.moveaxis((one != other) & (one > 0) & (other > 0), 0, axis))
    there = tuple(index + (a == axis) for a, index in enumerate(here))
    return np.sort(np.stack([ids[here], ids[there]], axis=1), axis=1), np.stack(here, axis=1)
