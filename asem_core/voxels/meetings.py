"""Where objects touch: faces between voxels of two of them."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from asem_core.volume import Labels

MANY_IDS = 10
"""Classes of tissue are fewer."""

CELLS_FILL = 0.5
"""Objects with an id each that fill more than this are cells, whether they touch or not; membranes fill less."""


def touch(ids: Labels, least: int) -> bool:
    """Tell whether at least so many pairs of objects share faces of voxels within a block; no more is read than tells it."""
    pairs: set[tuple[int, int]] = set()
    for box in ids.box.blocks(128):
        values = ids.read(box)
        for axis in range(3):
            pairs.update(map(tuple, np.unique(meetings(values, axis)[0], axis=0).tolist()))
        if len(pairs) >= least:
            return True
    return False


def filled(blocks: Iterable[tuple[np.ndarray, np.ndarray]]) -> float:
    """Say what part of the annotated voxels objects with an id each fill; 0 where there are fewer than `MANY_IDS`, as in a mask or a map of classes.

    Parameters
    ----------
    blocks : of any shapes, one at a time: the ids (0: none), and which voxels were annotated
    """
    found: set[int] = set()
    num_object, num_known = 0, 0
    for ids, known in blocks:
        objects = ids[known & (ids != 0)]
        if len(found) < MANY_IDS:
            found.update(np.unique(objects).tolist())
        num_object, num_known = num_object + objects.size, num_known + int(known.sum())
    return num_object / num_known if len(found) >= MANY_IDS else 0.0


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
