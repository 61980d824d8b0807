"""Is an object a tube, a sheet or a blob? Told by its local thickness and what lies around."""

from __future__ import annotations

from typing import Literal

import attrs
import numpy as np

from asem_analyzers._depth import squared_depth, stable_order
from asem_core.volume import ZyxNm

Kind = Literal["tube", "sheet", "blob"]

REACH = 3.0
"""A place is judged within this many times its local radius."""
MORE_VX = 2.0
"""Added to the reach, so that walls of one or two voxels can be judged at all."""
FLATNESS = 0.6
"""Between a tube (0) and a sheet (1), in the logarithm of the volume within reach. A junction of three tubes is at 0.37
(1.5 times a tube), the rim of a sheet at 0.7."""
COMPACT = 0.75
"""Share of its ellipsoid of the same second moments that a compact object fills: a rod or a disk fills 0.93, a bent sheet half."""
TWICE = 2.0
"""A compact object is flat, or long, from this ratio of its axes."""
CORE = 0.6
"""Depth, in local radii, from which a voxel belongs to the middle of the object."""
SAMPLES = 4
"""A large neighbourhood is sampled with this many points a local radius."""


@attrs.frozen(eq=False)
class LocalShape:
    """Local thickness and shape of every voxel of a mask; 0 and False outside it."""

    radius_vx: np.ndarray  # float32 zyx: radius of the largest ball in the mask that holds the voxel
    is_sheet: np.ndarray  # bool zyx: that ball lies in a sheet
    depth_vx: np.ndarray  # float32 zyx: distance to the nearest voxel outside

    @property
    def is_core(self) -> np.ndarray:
        """bool zyx: the middle of the object: the voxel is deep, for its local radius."""
        return (self.depth_vx > 0) & (self.depth_vx >= CORE * self.radius_vx)

    @property
    def sheet_fraction(self) -> float:
        return float(np.count_nonzero(self.is_sheet) / max(1, np.count_nonzero(self.radius_vx)))


def local_shape(mask: np.ndarray) -> LocalShape:
    """Tell sheets from tubes at every voxel by how much of the mask lies around the largest ball that holds the voxel.

    Within three radii of a point on its axis a tube fills pi r^2 6 r; a sheet of the same local thickness fills three
    times as much. Local thickness: Hildebrand and Rueegsegger, J. Microsc. 185, 67 (1997), of balls that lie half a
    radius apart.

    Parameters
    ----------
    mask : bool, zyx, of cubic voxels; beyond its borders there is nothing
    """
    from asem_analyzers._local_shape_kernels import paint

    padded = np.pad(mask, 1)
    squared = squared_depth(padded)
    depth = np.sqrt(squared, dtype=np.float32)
    voxels = np.flatnonzero(padded)
    order = voxels[stable_order(squared.max() - squared.ravel()[voxels])]
    radius, sheet = paint(padded.view(np.uint8), depth, order, REACH, MORE_VX, FLATNESS, SAMPLES)
    inner = (slice(1, -1),) * 3
    return LocalShape(radius[inner], sheet[inner].view(bool), depth[inner])


def kind_of(sheet_fraction: float, axes_nm: np.ndarray, volume_nm3: float) -> Kind:
    """Judge an object by the share of its volume in sheets; a compact one by the axes of its ellipsoid.

    A lens, or a box, is too thick for its width to hold the neighbourhood by which sheets are told.
    """
    long, middle, short = axes_nm
    compact = volume_nm3 > COMPACT * np.pi / 6 * long * middle * short
    if sheet_fraction >= 0.5 or (compact and middle >= TWICE * short and middle * middle > long * short):
        return "sheet"
    return "blob" if compact and long < TWICE * middle else "tube"


def cubic(mask: np.ndarray, voxel_size_nm: ZyxNm, edge_nm: float) -> np.ndarray:
    """Resample a mask to cubic voxels, along the axes whose voxels are longer by a tenth or more.

    Interpolates the distance to the surface between planes, so that walls of one voxel stay (shape-based interpolation).
    """
    import edt

    axes = [a for a, size in enumerate(voxel_size_nm) if size > 1.1 * edge_nm]
    if not axes:
        return mask
    padded = np.pad(mask, 1)
    size = tuple(voxel_size_nm)
    inside, outside = (edt.edt(m.view(np.uint8), anisotropy=size) for m in (padded, ~padded))
    field = inside - outside
    for axis in axes:
        step = edge_nm / voxel_size_nm[axis]
        length = int(np.ceil(mask.shape[axis] / step))
        # The middle of the first new voxel, from the middle of the padding's.
        at = np.clip((np.arange(length) + 0.5) * step + 0.5, 0, field.shape[axis] - 1)
        low = np.minimum(at.astype(np.intp), field.shape[axis] - 2)
        part = (at - low).astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
        field = np.take(field, low, axis) * (1 - part) + np.take(field, low + 1, axis) * part
    return np.asarray(field[tuple(slice(None) if a in axes else slice(1, -1) for a in range(3))] > 0)
