"""What one object measures: surface; then the length and branches of a tube, or the area, thickness and extent of a sheet."""

from __future__ import annotations

from collections.abc import Iterator

import attrs
import numpy as np

from asem_analyzers._local_shape import Kind, cubic, kind_of, local_shape
from asem_analyzers._objects import Objects, read_coarse
from asem_analyzers._sheet import extent_vx, sheet_area_nm2
from asem_analyzers._skeleton import skeleton
from asem_analyzers._surface import Facets, Mesh
from asem_core.volume import Zyx, ZyxNm, as_zyx

KINDS: tuple[Kind, ...] = ("tube", "sheet", "blob")
LARGEST_VX = 2_000_000
"""Larger objects are judged and thinned at lower resolution: their centreline does not need the detail."""
LARGEST_BOX_VX = 32_000_000
LARGEST_MESH = 2_000_000
"""Facets kept in memory, 56 bytes each. A larger mesh is found again each time it is looked at: three times for a sheet."""
NAN = float("nan")


@attrs.frozen(kw_only=True)
class Shape:
    """Measures of one object; NaN where its kind has none."""

    surface_nm2: float
    kind: int = -1  # place in `KINDS`; -1 is not known
    sheet_fraction: float = NAN
    thickness_nm: float = NAN
    sheet_area_nm2: float = NAN
    extent_nm: float = NAN
    length_nm: float = NAN
    longest_path_nm: float = NAN
    num_branches: float = NAN
    num_junctions: float = NAN
    num_ends: float = NAN
    num_loops: float = NAN


def shape_of(objects: Objects, index: int, *, with_kind: bool) -> Shape:
    """Measure one object; without its kind, its surface only."""
    labels, box, object_id = objects.labels, objects.box(index), int(objects.ids[index])
    size_nm = np.asarray(labels.voxel_size_nm)

    mesh = Mesh(labels, object_id, box, LARGEST_MESH)

    def tiles() -> Iterator[tuple[np.ndarray, Facets]]:
        for around, found in mesh:
            yield np.subtract(around.begin, box.begin) * size_nm, found

    surface = sum(float(found.area_nm2.sum()) for _, found in mesh)
    if not with_kind:
        return Shape(surface_nm2=surface)
    volume = float(objects.num_vx[index] * size_nm.prod())
    edge, factors = resolution(box.shape, volume, labels.voxel_size_nm)
    z, y, x = size_nm * factors
    mask = cubic(read_coarse(labels, box, object_id, factors), (z, y, x), edge)
    if not mask.any():  # too thin to survive coarsening
        return Shape(surface_nm2=surface)
    local = local_shape(mask)
    axes = objects.take(slice(index, index + 1)).principal_axes_nm()[0][0]
    kind = kind_of(local.sheet_fraction, axes, volume)
    known = Shape(surface_nm2=surface, kind=KINDS.index(kind), sheet_fraction=local.sheet_fraction)
    if kind == "sheet":
        area = sheet_area_nm2(tiles, np.multiply(box.shape, size_nm), 2 * volume / surface) if surface else NAN
        thickness = volume / area if area else NAN
        extent = extent_vx(mask, local.is_core) * edge
        return attrs.evolve(known, thickness_nm=thickness, sheet_area_nm2=area, extent_nm=extent)
    if kind == "blob":  # a skeleton would have ridges to its corners
        long = float(axes[0])
        return attrs.evolve(
            known, length_nm=long, longest_path_nm=long, num_branches=1, num_junctions=0, num_ends=2, num_loops=0
        )
    line = skeleton(mask, edge)
    diameter = 2 * float(np.sqrt(volume / (np.pi * line.length_nm)))
    return attrs.evolve(known, thickness_nm=diameter, **attrs.asdict(line))


def resolution(shape: Zyx, volume_nm3: float, voxel_size_nm: ZyxNm) -> tuple[float, Zyx]:
    """Choose the edge of the cubic voxels, in nm, in which to judge an object, and by which factors to coarsen before."""
    finest = min(voxel_size_nm)
    box_nm3 = float(np.prod(np.multiply(shape, voxel_size_nm)))
    edge = finest
    while volume_nm3 > LARGEST_VX * edge**3 or box_nm3 > LARGEST_BOX_VX * edge**3:
        edge += finest
    return edge, as_zyx([max(1, round(edge / s)) for s in voxel_size_nm])
