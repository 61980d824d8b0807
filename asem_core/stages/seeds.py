"""Read seeds that were painted in other programs: layers, planes, arrays, and strokes in CSV."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import numpy as np

from asem_core.cell.store import open_volume
from asem_core.errors import BadInput, ShapeMismatch
from asem_core.stages.annotate import BACKGROUND, OBJECT, classes_in, keep_seeds, require_name
from asem_core.tables import Row, read_table
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.planes import number_planes
from asem_core.voxels.tiff import read_tiff

log = logging.getLogger("asem_core")

CLASSES: Mapping[str, int] = {
    "object": OBJECT,
    "1": OBJECT,
    "background": BACKGROUND,
    "2": BACKGROUND,
    "erase": 0,
    "0": 0,
}
PLANE_FILES = (".tif", ".tiff")


@attrs.frozen(eq=False)
class Seeds:
    """Seeds of a box (uint8: 0 unknown, 1 object, 2 background) and how many voxels changed class while painting."""

    values: np.ndarray
    repainted: int = 0


def add_seeds(cell: Path, name: str, path: str | Path, image: Volume, box: Box) -> Seeds:
    """Add seeds from a file to those of a cell, `seeds/<name>`, where the window and the loop find them; returns those of the file.

    Raises
    ------
    BadInput, ShapeMismatch
        See `read_seeds`; or the name is empty or holds a slash, or the file holds nothing that is painted.
    OutputBusy
        A window has the strokes open.
    """
    require_name(name)
    found = read_seeds(path, image, box)
    if not found.values.any():
        raise BadInput(f"{path} holds nothing that is painted in the box {box}: 1 is object, 2 is background.")
    keep_seeds(cell / "seeds" / name, image, box, found.values)
    return found


def read_seeds(path: str | Path, volume: Volume, box: Box) -> Seeds:
    """Read seeds from a Zarr layer, TIFF planes, one TIFF, a `.npy` array or strokes in CSV.

    A layer lies where its origin says. An array or TIFF stack has the shape of the image or of the box. A folder of TIFF
    planes may hold a few: the last number of a name is the plane's z in the image. So are the files of the authors' annotator
    named, `Object_<z>.tif` and `Background_<z>.tif`: not 0 is painted. CSV: see `read_strokes`.

    Raises
    ------
    BadInput
        The file cannot be read, holds other values than 0, 1 and 2, or its seeds lie outside the box.
    ShapeMismatch
        Its shape is neither the image's nor the box's.
    """
    here = Path(path)
    if not here.exists():
        raise BadInput(f"There are no seeds at {path}.")
    if here.suffix.lower() == ".csv":
        return read_strokes(here, volume, box)
    if here.suffix.lower() == ".npy":
        try:
            stored = np.load(here, mmap_mode="r", allow_pickle=False)
        except (ValueError, EOFError) as error:
            raise BadInput(
                f"{here} is not an array of numbers, or is truncated ({error}). Save it again as uint8."
            ) from None
        values = _cropped(stored, volume, box, here)
    elif here.is_dir() and any(p.suffix.lower() in PLANE_FILES for p in here.iterdir()):
        values = _read_planes(here, volume, box)
    elif here.suffix.lower() in PLANE_FILES:
        values = _cropped(read_tiff(here), volume, box, here)
    else:
        layer = open_volume(here, kind=Labels)
        values = layer.read(box.shift([-b for b in volume.box_of(layer).begin]), outside=0)
        if not values.any():
            raise BadInput(f"{path} has no seeds in the box {box}. Paint there, or give the box that was painted.")
    classes_in(values, f"{path} holds")  # before they become uint8, where 257 would be 1
    return Seeds(np.ascontiguousarray(values, np.uint8))


def _cropped(stack: np.ndarray, volume: Volume, box: Box, path: Path) -> np.ndarray:
    if stack.shape == volume.shape:
        return stack[box.slices]
    if stack.shape != box.shape:
        raise ShapeMismatch(
            f"{path} has shape {list(stack.shape)}: seeds have that of the image {list(volume.shape)} "
            f"or of the box {list(box.shape)}."
        )
    return stack


_PAINTED = re.compile(r"(object|background)_(\d+)\.tiff?", re.IGNORECASE)
"""Files of the authors' annotator: one a plane and class, not 0 where it was painted."""


def _read_planes(folder: Path, volume: Volume, box: Box) -> np.ndarray:
    names = sorted(file.name for file in folder.iterdir() if file.suffix.lower() in PLANE_FILES)
    painted = [_PAINTED.fullmatch(name) for name in names]
    if all(painted):
        return _read_painted(folder, [(m[0], m[1].lower(), int(m[2])) for m in painted if m], volume, box)
    values = np.zeros(box.shape, np.uint8)
    by_z = ["name it after the plane's z in the image"]
    numbered = number_planes(folder, PLANE_FILES, advice=by_z, sparse=True).files
    for z, file in numbered.items():
        plane = _read_plane(file, z, volume, box)
        classes_in(plane, f"{file} holds")
        values[z - box.begin[0]] = plane
    return values


def _read_painted(folder: Path, files: Sequence[tuple[str, str, int]], volume: Volume, box: Box) -> np.ndarray:
    """Read what the authors' annotator saves; a voxel painted as both is neither."""
    values = np.zeros(box.shape, np.uint8)
    both = 0
    for name, kind, z in files:
        plane = _read_plane(folder / name, z, volume, box) != 0
        here = values[z - box.begin[0]]
        both += int(np.count_nonzero(plane & (here != 0)))
        here[plane] = np.where(here[plane] != 0, 0, CLASSES[kind])
    if both:
        log.warning(
            "%s: %s voxels are painted both as object and as background; they count as neither.", folder, f"{both:,}"
        )
    return values


def _read_plane(file: Path, z: int, volume: Volume, box: Box) -> np.ndarray:
    """Read the part of one plane of seeds that lies in the box."""
    plane = read_tiff(file)
    if not box.begin[0] <= z < box.end[0]:
        raise BadInput(f"{file} is plane {z}, outside the box {box}. Correct its name, or the box.")
    if plane.shape == volume.shape[1:]:
        plane = plane[box.slices[1:]]
    if plane.shape != box.shape[1:]:
        raise ShapeMismatch(
            f"{file} has {list(plane.shape)} pixels: a plane of seeds has those of the image "
            f"{list(volume.shape[1:])} or of the box {list(box.shape[1:])}."
        )
    return plane


def read_strokes(path: Path, volume: Volume, box: Box) -> Seeds:
    """Draw the points and lines of a CSV file.

    Columns: `class` (object, background or erase), `z,y,x` in voxels of the image or `z_nm,y_nm,x_nm`, and optionally
    `radius` of the brush in pixels (0 is one voxel; a ball in nm, in planes that lie farther apart than pixels, too) and `stroke`: rows that follow each other with the same stroke are
    joined by lines. Where rows disagree the last one counts.

    Raises
    ------
    BadInput
        A column is missing, a value is not a number, a class is not known, or a point lies outside the box.
    """
    rows = read_table(path, ["class"])
    if not rows:
        raise BadInput(f"{path} holds no strokes: it needs a header (class,z,y,x) and a row for each point.")
    in_nm = {"z_nm", "y_nm", "x_nm"} <= set(rows[0].values)
    if not (in_nm or {"z", "y", "x"} <= set(rows[0].values)):
        raise BadInput(
            f"{path} has the columns {', '.join(rows[0].values)}; it needs class and z, y, x (or z_nm, y_nm, x_nm)."
        )
    values = np.zeros(box.shape, np.uint8)
    pixels = np.asarray(volume.voxel_size_nm) / min(volume.voxel_size_nm)
    repainted = 0
    last: tuple[str, np.ndarray] | None = None
    for row in rows:
        seed = CLASSES.get(row.text("class").lower())
        if seed is None:
            raise BadInput(f"{row.where}: the class '{row.text('class')}' is not object, background or erase.")
        point = _point(row, in_nm, volume)
        if not all(b <= p < e for b, p, e in zip(box.begin, np.rint(point), box.end, strict=True)):
            raise BadInput(
                f"{row.where}: the point z={point[0]:g}, y={point[1]:g}, x={point[2]:g} lies outside the box {box}. "
                "Correct it, or the box."
            )
        stroke = row.text("stroke")
        begin = last[1] if last is not None and stroke and last[0] == stroke else point
        radius = row.number("radius", 0.0)
        if radius < 0:
            raise BadInput(f"{row.where}: a brush of radius {radius:g} paints nothing; 0 is one voxel.")
        repainted += paint(values, begin - box.begin, point - box.begin, radius, pixels, seed)
        last = (stroke, point)
    return Seeds(values, repainted)


def paint(
    seeds: np.ndarray, begin: np.ndarray, end: np.ndarray, radius_px: float, voxel_px: np.ndarray, seed: int
) -> int:
    """Paint a line of balls from `begin` to `end` (voxels of `seeds`); return how many voxels changed class.

    `voxel_px` is the size of a voxel along z, y and x, in pixels, which are its shortest edge.
    """
    reach = np.maximum(np.ceil(radius_px / voxel_px), 1).astype(int)
    low = np.maximum(np.floor(np.minimum(begin, end)).astype(int) - reach, 0)
    high = np.minimum(np.ceil(np.maximum(begin, end)).astype(int) + reach + 1, seeds.shape)
    grid = np.moveaxis(np.indices(high - low), 0, -1) + low - begin
    line = np.asarray(end, float) - begin
    touched = _away(grid, line) <= 0.5**0.5  # a thin line, too, hangs together
    touched |= _away(grid * voxel_px, line * voxel_px) <= radius_px
    part = seeds[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    changed = int(np.count_nonzero(touched & (part != 0) & (part != seed)))
    part[touched] = seed
    return changed


def _away(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """Measure how far points (..., 3) are from the line between 0 and `line`."""
    length = float(line @ line)
    share = np.clip(points @ line / length, 0, 1) if length else np.zeros(points.shape[:-1])
    return np.asarray(np.linalg.norm(points - share[..., None] * line, axis=-1))


def _point(row: Row, in_nm: bool, volume: Volume) -> np.ndarray:
    point = np.array([row.number(name) for name in (("z_nm", "y_nm", "x_nm") if in_nm else ("z", "y", "x"))])
    return (point - volume.origin_nm) / volume.voxel_size_nm if in_nm else point
