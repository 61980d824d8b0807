"""The plasma membrane near an object, from a segmentation of it or from the mask of the cell."""

from __future__ import annotations

import attrs
import numpy as np

from asem_core.volume import Box, Labels, Volume, as_zyx

FLAT_NM = 200.0
"""How far around a pit its membrane is looked at."""
FEWEST = 60
"""Voxels of membrane that make a surface."""


@attrs.frozen(eq=False)
class MembraneSource:
    """Where the plasma membrane is: `labels` trace it, or, with `is_mask`, hold the cell that it bounds."""

    labels: Labels
    is_mask: bool

    def points_nm(self, box: Box, places: Volume) -> np.ndarray:
        """List where the membrane is in a box of `places`; (n, 3) in nm from the first voxel of `places`."""
        offset = self.labels.box_of(places).begin
        there = box.shift(offset)
        size = np.asarray(self.labels.voxel_size_nm)
        if not self.is_mask:
            found = np.argwhere(self.labels.read(there, outside=0) != 0).astype(np.float64)
        else:
            found = _boundary(self.labels.read(there & self.labels.box) != 0) + np.subtract(
                (there & self.labels.box).begin, there.begin
            )
        return np.asarray((found + box.begin) * size)


def _boundary(inside: np.ndarray) -> np.ndarray:
    """List the faces between cell and outside, as points between two voxels; (n, 3)."""
    found = []
    for axis in range(3):
        step = np.argwhere(np.diff(inside.view(np.int8), axis=axis) != 0).astype(np.float64)
        step[:, axis] += 0.5
        found.append(step)
    return np.concatenate(found)


@attrs.frozen(eq=False)
class Sheet:
    """The membrane around a pit: a plane with one curvature through it."""

    foot_nm: np.ndarray  # (3,), on the sheet, above the pit
    inwards: np.ndarray  # (3,), unit normal into the cell
    curvature_per_nm: float  # height over the plane is this times the distance from the foot squared


def sheet_around(points_nm: np.ndarray, pit_nm: np.ndarray) -> Sheet | None:
    """Fit the membrane around a pit that the pit itself has not bent.

    Parameters
    ----------
    points_nm
        The membrane, (n, 3).
    pit_nm
        The voxels of the pit, (m, 3).
    """
    from scipy.spatial import cKDTree

    middle = pit_nm.mean(axis=0)
    reach = np.linalg.norm(pit_nm - middle, axis=1).max()
    around = points_nm[np.linalg.norm(points_nm - middle, axis=1) <= reach + FLAT_NM]
    away = cKDTree(pit_nm).query(around, distance_upper_bound=40.0)[0]
    around = around[~np.isfinite(away)]
    if len(around) < FEWEST:
        return None
    normal = np.linalg.svd(around - around.mean(axis=0), full_matrices=False)[2][2]
    keep = np.ones(len(around), bool)
    solution = np.zeros(4)
    for _ in range(5):
        first, second = across(normal)
        u, v, height = ((around - middle) @ axis for axis in (first, second, normal))
        design = np.column_stack([np.ones_like(u), u, v, u**2 + v**2])
        solution = np.linalg.lstsq(design[keep], height[keep], rcond=None)[0]
        residual = np.abs(height - design @ solution)
        keep = residual <= max(6.0, 2.5 * float(np.median(residual)))
        if keep.sum() < FEWEST:
            return None
        tilted = normal - solution[1] * first - solution[2] * second
        middle, normal = middle, tilted / np.linalg.norm(tilted)
    foot = middle + solution[0] * normal
    sign = -1.0 if (middle - foot) @ normal < 0 else 1.0
    return Sheet(foot, sign * normal, float(sign * solution[3]))


def across(normal: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first = np.cross(normal, np.eye(3)[np.abs(normal).argmin()])
    first /= np.linalg.norm(first)
    return first, np.cross(normal, first)


def grown_box(box: Box, reach_nm: float, volume: Volume) -> Box:
    """Grow a box by a length, within a volume."""
    by = as_zyx([int(np.ceil(reach_nm / s)) for s in volume.voxel_size_nm])
    return box.grow(by) & volume.box
