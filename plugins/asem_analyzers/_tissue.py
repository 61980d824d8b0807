"""Sheets and tubules of objects, told apart and measured tile by tile, so that a network may fill a whole cell.

Tiles lie on a fixed lattice, each read with what surrounds it, so nothing depends on the blocks or workers of a run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import attrs
import numpy as np

from asem_analyzers._local_shape import REACH, LocalShape, cubic, local_shape
from asem_analyzers._objects import Objects
from asem_analyzers._sheet import Directions
from asem_analyzers._skeleton import junctions
from asem_analyzers._surface import continue_outside, facets, margin_vx
from asem_core.volume import Box, Labels, Zyx, as_zyx

TILE: Zyx = (128, 128, 128)
TUBULE, SHEET = 1, 2
RIM = 1.5
"""What lies within this many local radii of a sheet belongs to it: its rim, which by itself would be judged a tube."""
MOSTLY = 0.5
"""A place is in a sheet if this part of the object around it, by a Gaussian of the mean local radius, is judged a sheet."""
SHORTEST = 4 * math.pi
"""A tubule is at least twice as long as wide: this many cubes of its radius."""
NARROWEST = 32.0
"""A sheet is at least twice as wide and long as thick."""
NUM_MEASURES = 7


@attrs.frozen(eq=False)
class Tissue:
    """What a tile holds of one object."""

    classes: np.ndarray  # uint8 zyx, on the grid of the labels: 0, `TUBULE` or `SHEET`, of the tile
    sheet_nm2: float  # area of the middle surface of sheets
    tubule_nm2: float  # area of the surface of tubules
    junctions: np.ndarray  # float64 (n, 5): place in nm from the origin of the labels, radius in nm, number of tubules


def around_tile(tile: Box, labels: Labels, thickest_nm: float) -> Box:
    """Grow a tile by what its measures depend on: neighbourhoods of the thickest part, and rims."""
    reach = [
        2 * -(-((1 + REACH) * thickest_nm / 2 / size + margin) // 2)
        for size, margin in zip(labels.voxel_size_nm, margin_vx(labels.voxel_size_nm), strict=True)
    ]
    return tile.grow([int(n) for n in reach])


def tissue_of(mask: np.ndarray, around: Box, tile: Box, labels: Labels) -> Tissue:
    """Tell sheets from tubules in a tile of one object, and measure them.

    Parameters
    ----------
    mask : bool, zyx, of the box `around`
    """
    edge = min(labels.voxel_size_nm)
    fine = cubic(mask, labels.voxel_size_nm, edge)
    local = local_shape(fine)
    sheet = _cleaned(fine, local)
    size = np.asarray(labels.voxel_size_nm)
    begin = np.subtract(tile.begin, around.begin)
    classes = np.where(mask, TUBULE, 0).astype(np.uint8)
    where = [
        np.minimum(((np.arange(n) + 0.5) * s / edge).astype(np.intp), m - 1)
        for n, s, m in zip(mask.shape, size, fine.shape, strict=True)
    ]
    classes[mask & sheet[np.ix_(*where)]] = SHEET

    found = facets(mask, labels.voxel_size_nm)
    of_sheet = _class_beside(classes, found.centre_nm / size) == SHEET
    inner = ((found.centre_nm / size >= begin - 0.5) & (found.centre_nm / size < begin + tile.shape - 0.5)).all(axis=1)
    sheet_nm2 = 0.0
    if of_sheet.any():
        thickness = 2 * edge * float(local.radius_vx[sheet].mean())
        faces = found.take(of_sheet)
        directions = Directions([(np.zeros(3), faces)], np.multiply(mask.shape, size), thickness)
        sheet_nm2 = directions.area_nm2(np.zeros(3), found.take(of_sheet & inner))
    nodes = junctions(fine & ~sheet, edge)
    at_vx = nodes[:, :3] / size  # from the first face of the box
    kept = ((at_vx >= begin) & (at_vx < begin + tile.shape)).all(axis=1)
    nodes[:, :3] += (np.asarray(around.begin) - 0.5) * size
    return Tissue(
        classes[tile.shift([-b for b in around.begin]).slices],
        sheet_nm2,
        float(found.area_nm2[inner & ~of_sheet].sum()),
        nodes[kept],
    )


def _cleaned(mask: np.ndarray, local: LocalShape) -> np.ndarray:
    """Say where sheets are: most of the object around lies in sheets, or a rim of it is near.

    Small balls under the surface of a tube see a flat wall, and the rim of a sheet is judged a tube.
    """
    import edt
    from scipy.ndimage import gaussian_filter

    if not local.is_sheet.any():
        return local.is_sheet
    sigma = float(local.radius_vx[mask].mean())

    def around(values: np.ndarray) -> np.ndarray:
        return np.asarray(gaussian_filter(values.astype(np.float32), sigma, mode="constant", truncate=2.0))

    inside = around(mask)
    sheet = mask & (around(local.is_sheet) >= MOSTLY * inside)
    if not sheet.any():
        return sheet
    # By the radius around, not that of a voxel itself: else the border to a tubule is ragged, and its centreline branches there.
    rim = RIM * around(local.radius_vx) / np.maximum(inside, 1e-6)
    sheet = mask & (edt.edt((~sheet).view(np.uint8)) <= rim)
    sheet |= _small(mask & ~sheet, local.radius_vx, SHORTEST)
    return np.asarray(sheet & ~_small(sheet, local.radius_vx, NARROWEST))


def _small(part: np.ndarray, radius_vx: np.ndarray, least: float) -> np.ndarray:
    """Find pieces of less than `least` times the cube of their largest radius: too short for a tubule, too narrow for a sheet."""
    import cc3d

    pieces = cc3d.connected_components(part.view(np.uint8), connectivity=26)
    num = np.bincount(pieces.ravel())
    radius = np.zeros(len(num))
    np.maximum.at(radius, pieces[part], radius_vx[part])
    small = num < least * radius**3
    small[0] = False
    return np.asarray(small[pieces])


def _class_beside(classes: np.ndarray, at_vx: np.ndarray) -> np.ndarray:
    """Say to which class a point on the surface belongs: the largest of the eight voxels around it."""
    low = np.floor(at_vx).astype(np.intp)
    top = np.subtract(classes.shape, 1)
    corners = np.indices((2, 2, 2)).reshape(3, 8).T
    return np.asarray(np.stack([classes[tuple(np.clip(low + c, 0, top).T)] for c in corners]).max(axis=0))


def load_tile(objects: Objects, thickest_nm: float, store: Path) -> Callable[[Box], np.ndarray]:
    """Give the function that measures every object in a tile: see `measure_tile`; `store` is a file of the volume's shape (npy, uint8)."""
    return partial(measure_tile, objects, thickest_nm, np.load(store, mmap_mode="r+"))


def measure_tile(objects: Objects, thickest_nm: float, store: np.ndarray, tile: Box) -> np.ndarray:
    """Measure every object in a tile, and note for each voxel what it belongs to in `store`.

    Returns
    -------
    float64 (n, 7): index of the object, and then either 0, voxels of tubule, of sheet, nm2 of sheets, nm2 of tubules, 0; or the number of tubules
    that meet at a junction, its place (zyx, nm) and radius (nm), 0
    """
    labels = objects.labels
    around = around_tile(tile, labels, thickest_nm)
    here = np.flatnonzero(((objects.begin < tile.end) & (objects.end > tile.begin)).all(axis=1))
    classes = np.zeros(tile.shape, np.uint8)
    rows: list[Sequence[float]] = []
    if len(here):
        values = continue_outside(labels.read(around, outside=0), around, labels)
    for index in here.tolist():
        own = values == objects.ids[index]
        if not own[tile.shift([-b for b in around.begin]).slices].any():
            continue
        box = _extent(own)
        part = box.shift(around.begin)
        core = tile & part
        tissue = tissue_of(own[box.slices], part, core, labels)
        classes[core.shift([-b for b in tile.begin]).slices] |= tissue.classes
        counts = [int((tissue.classes == c).sum()) for c in (TUBULE, SHEET)]
        rows.append((index, 0, *counts, tissue.sheet_nm2, tissue.tubule_nm2, 0))
        rows += [(index, n, z, y, x, radius, 0) for z, y, x, radius, n in tissue.junctions.tolist()]
    store[tile.slices] = classes
    return np.array(rows, np.float64).reshape(-1, NUM_MEASURES)


def _extent(mask: np.ndarray) -> Box:
    """Give the box around what is set, with a margin for its surface, beginning at an even voxel: thinning goes by fields of two."""
    grown = []
    for axis in range(3):
        rows = np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != axis)))
        grown.append((max(0, (int(rows[0]) - 8) // 2 * 2), min(mask.shape[axis], int(rows[-1]) + 9)))
    return Box(as_zyx([b for b, _ in grown]), as_zyx([e for _, e in grown]))
