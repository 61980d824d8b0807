"""Contacts between organelles: where the surface of one comes near another, how near, and how much of it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from asem_analyzers._objects import Objects
from asem_analyzers._surface import Facets, facet_tiles, facets, margin_vx
from asem_core.volume import Box, Labels, ZyxNm


def load_contacts(objects: Objects, other: Labels, within_nm: float) -> Callable[[int], np.ndarray]:
    """Give the function that measures one object: see `contacts_of`."""
    return partial(contacts_of, objects, other, within_nm)


def contacts_of(objects: Objects, other: Labels, within_nm: float, index: int) -> np.ndarray:
    """Measure the contacts of one object with the objects of `other`, which lies on the same grid.

    Every facet of the object's surface belongs to the nearest object of `other`; it is in contact if no farther than
    `within_nm`, or inside it.

    Returns
    -------
    float64 (n, 3): id in `other`, smallest distance in nm, area in contact in nm2
    """
    labels = objects.labels
    margin = max(margin_vx(labels.voxel_size_nm)) + int(np.ceil(within_nm / min(labels.voxel_size_nm))) + 1
    near: dict[int, tuple[float, float]] = {}
    for around, own in facet_tiles(labels, int(objects.ids[index]), objects.box(index), margin):
        block = other.read(around, outside=0)
        if not block.any() or not len(own.area_nm2):
            continue
        ids, distance, area = _nearest(own, block, other, within_nm)
        for other_id in np.unique(ids).tolist():
            mine = ids == other_id
            distance_so_far, area_so_far = near.get(other_id, (np.inf, 0.0))
            near[other_id] = (min(distance_so_far, distance[mine].min()), area_so_far + area[mine].sum())
    return np.array([(i, *values) for i, values in sorted(near.items())], np.float64).reshape(-1, 3)


def _nearest(
    own: Facets, block: np.ndarray, other: Labels, within_nm: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the other's id, the distance and the area of each facet in contact."""
    from scipy.spatial import cKDTree

    size = np.asarray(other.voxel_size_nm)
    at = np.rint(own.centre_nm / size).astype(np.int64)
    inside = block[tuple(np.clip(at, 0, np.subtract(block.shape, 1)).T)]
    theirs = facets(np.pad(block != 0, 1, mode="edge"), other.voxel_size_nm, Box.of_shape(block.shape).shift((1, 1, 1)))
    ids, distance = inside.astype(np.int64), np.zeros(len(inside))
    if len(theirs.area_nm2):
        their_vx = theirs.centre_nm / size - 1
        far, which = cKDTree(their_vx * size).query(own.centre_nm, distance_upper_bound=within_nm)
        reached = (inside == 0) & np.isfinite(far)
        ids[reached] = _id_beside(block, their_vx[which[reached]], other.voxel_size_nm)
        distance[reached] = far[reached]
    touching = ids > 0
    return ids[touching], distance[touching], own.area_nm2[touching]


def _id_beside(block: np.ndarray, at_vx: np.ndarray, voxel_size_nm: ZyxNm) -> np.ndarray:
    """Read the id that a point on a surface belongs to: of the eight voxels around it the largest, or else the nearest."""
    low = np.floor(at_vx).astype(np.int64)
    top = np.subtract(block.shape, 1)
    corners = np.indices((2, 2, 2)).reshape(3, 8).T
    ids = np.stack([block[tuple(np.clip(low + corner, 0, top).T)] for corner in corners]).max(axis=0).astype(np.int64)
    if not ids.all():  # where voxels are long, the smoothed surface may leave them
        from scipy.ndimage import distance_transform_edt

        nearest = distance_transform_edt(
            block == 0, sampling=voxel_size_nm, return_distances=False, return_indices=True
        )
        at = tuple(np.clip(np.rint(at_vx[ids == 0]).astype(np.int64), 0, top).T)
        ids[ids == 0] = block[tuple(axis[at] for axis in nearest)]
    return np.asarray(ids)
