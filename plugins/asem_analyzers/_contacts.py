"""Contacts between organelles: where the surface of one comes near another, how near, and how much of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import attrs
import numpy as np

from asem_analyzers._objects import Objects
from asem_analyzers._places import box_around, voxel_at
from asem_analyzers._surface import Facets, Mesh, continue_outside, facets, margin_vx
from asem_core.volume import Box, ZyxNm

SURFACE = -1.0
"""Instead of a segmentation's number: the row that states the surface of the object itself."""


def load_contacts(
    objects: Objects, others: Sequence[Objects], itself: int | None, contact_nm: float, reach_nm: float
) -> Callable[[int], np.ndarray]:
    """Give the function that measures one object: see `contacts_of`."""
    return partial(contacts_of, objects, others, itself, contact_nm, reach_nm)


def contacts_of(
    objects: Objects, others: Sequence[Objects], itself: int | None, contact_nm: float, reach_nm: float, index: int
) -> np.ndarray:
    """Measure the contacts of one object with those of other segmentations, of any voxel size.

    Both surfaces are meshed, each on the grid of its own voxels, and compared in nm. Every facet of the object's surface belongs
    to the nearest object of a segmentation, and is in contact if no farther than `contact_nm`, or inside it.

    Parameters
    ----------
    itself
        Which of `others` is the object's own segmentation: the object is no neighbour of its own.
    reach_nm
        Objects up to this far are listed, with their distance.

    Returns
    -------
    float64 (n, 4): which of `others`, index of the object in it, smallest distance in nm, area in contact in nm2; before them a
    row of `SURFACE`, 0, 0, and the area of the object's surface
    """
    labels = objects.labels
    near: dict[tuple[int, int], tuple[float, float]] = {}
    surface = 0.0
    for around, own in Mesh(labels, int(objects.ids[index]), objects.box(index)):
        if not len(own.area_nm2):
            continue
        surface += float(own.area_nm2.sum())
        at_nm = own.centre_nm + np.multiply(around.begin, labels.voxel_size_nm) + labels.origin_nm
        own = attrs.evolve(own, centre_nm=at_nm)
        for number, other in enumerate(others):
            without = int(objects.ids[index]) if number == itself else None
            for row, distance, area in _with(own, other, without, contact_nm, reach_nm):
                distance_so_far, area_so_far = near.get((number, row), (np.inf, 0.0))
                near[number, row] = (min(distance_so_far, distance), area_so_far + area)
    rows = [(*which, *values) for which, values in sorted(near.items())]
    return np.array([(SURFACE, 0, 0, surface), *rows], np.float64)


def _with(
    own: Facets, other: Objects, without: int | None, contact_nm: float, reach_nm: float
) -> list[tuple[int, float, float]]:
    """List the objects of `other` within reach of a surface, with distance and area."""
    from scipy.spatial import cKDTree

    labels = other.labels
    reach = max(reach_nm, contact_nm)
    ends = own.centre_nm.min(axis=0) - reach, own.centre_nm.max(axis=0) + reach
    box = box_around(labels, *ends).grow(margin_vx(labels.voxel_size_nm))
    ids = labels.read(box, outside=0)
    if without is not None:
        ids = np.where(ids == without, 0, ids)
    if not ids.any():
        return []
    theirs, their_rows = _surface(ids, box, other)
    at = voxel_at(labels, own.centre_nm) - box.begin
    inside = ids[tuple(at.T)]
    row_of, distance = np.searchsorted(other.ids, inside.astype(other.ids.dtype)), np.where(inside != 0, 0.0, np.inf)
    smallest = np.full(len(other), np.inf)
    if len(theirs.area_nm2):
        far, which = cKDTree(theirs.centre_nm).query(own.centre_nm)
        outside = inside == 0
        row_of = np.where(outside, their_rows[which], row_of)
        distance = np.where(outside, _to_facets(own.centre_nm, theirs, which, far), distance)
        # The nearest object hides others from this surface; seen from theirs, every object has its own distance.
        far, which = cKDTree(own.centre_nm).query(theirs.centre_nm)
        np.minimum.at(smallest, their_rows, _to_facets(theirs.centre_nm, own, which, far))
    reached = np.isfinite(distance)
    np.minimum.at(smallest, row_of[reached], distance[reached])
    touching = distance <= contact_nm
    area = np.bincount(row_of[touching], own.area_nm2[touching], len(other))
    return [(row, float(smallest[row]), float(area[row])) for row in np.flatnonzero(smallest <= reach).tolist()]


def _surface(ids: np.ndarray, box: Box, other: Objects) -> tuple[Facets, np.ndarray]:
    """Mesh what a box holds of a segmentation: its facets, in nm, and the row of the object that each belongs to.

    What the border of the volume cuts open is not surface.
    """
    labels = other.labels
    mask = continue_outside(ids != 0, box, labels)
    found = facets(mask, labels.voxel_size_nm, (box & labels.box).shift([-b for b in box.begin]))
    beside = _id_beside(ids, found.centre_nm / labels.voxel_size_nm, labels.voxel_size_nm)
    rows = np.searchsorted(other.ids, beside.astype(other.ids.dtype))
    shift = np.multiply(box.begin, labels.voxel_size_nm) + labels.origin_nm
    return attrs.evolve(found, centre_nm=found.centre_nm + shift), rows


def _to_facets(points_nm: np.ndarray, surface: Facets, which: np.ndarray, to_centre_nm: np.ndarray) -> np.ndarray:
    """Measure how far points are from facets, taken as disks of their area: the centre alone may lie a voxel to the side."""
    off = np.abs(((points_nm - surface.centre_nm[which]) * surface.normal[which]).sum(axis=1))
    aside = np.sqrt(np.maximum(0, to_centre_nm**2 - off**2))
    return np.hypot(off, np.maximum(0, aside - np.sqrt(surface.area_nm2[which] / np.pi)))


def _id_beside(block: np.ndarray, at_vx: np.ndarray, voxel_size_nm: ZyxNm) -> np.ndarray:
    """Read the id that a point on a surface belongs to: of the eight voxels around it the largest, or else the nearest."""
    low = np.floor(at_vx).astype(np.int64)
    top = np.subtract(block.shape, 1)
    corners = np.indices((2, 2, 2)).reshape(3, 8).T
    ids = np.stack([block[tuple(np.clip(low + corner, 0, top).T)] for corner in corners]).max(axis=0)
    if not ids.all():  # where voxels are long, the smoothed surface may leave them
        from scipy.ndimage import distance_transform_edt

        nearest = distance_transform_edt(
            block == 0, sampling=voxel_size_nm, return_distances=False, return_indices=True
        )
        at = tuple(np.clip(np.rint(at_vx[ids == 0]).astype(np.int64), 0, top).T)
        ids[ids == 0] = block[tuple(axis[at] for axis in nearest)]
    return np.asarray(ids)
