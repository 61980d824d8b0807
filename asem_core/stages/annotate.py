"""Annotate: seeds become labels, in their place in the cell.

Seeds and labels are layers as large as the image (`seeds/<name>`, `labels/<name>`; voxels never written take no room), so
several boxes of one cell and several organelles lie where they belong. The labels' attributes list the boxes annotated.
"""

from __future__ import annotations

import csv
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import attrs
import filelock
import numpy as np

from asem_core.blocks import Run
from asem_core.cell.build import is_nobodys
from asem_core.cell.place import lock as take_lock
from asem_core.cell.place import unlock
from asem_core.cell.provenance import describe_plugin, kind_by_name, made_by, new_revision, what_it_holds
from asem_core.cell.record import AnnotatedBox, Record, note, record_at
from asem_core.cell.store import create_known, create_volume, finish_volume, open_volume
from asem_core.errors import BadInput, PluginError, ShapeMismatch
from asem_core.files import fingerprint
from asem_core.interfaces import Annotator, PreparedAnnotator
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.known import KNOWN
from asem_core.voxels.planes import number_planes
from asem_core.voxels.tiff import read_tiff

log = logging.getLogger("asem_core")

OBJECT, BACKGROUND = 1, 2
CHUNK = 64
CLASSES: Mapping[str, int] = {
    "object": OBJECT,
    "1": OBJECT,
    "background": BACKGROUND,
    "2": BACKGROUND,
    "erase": 0,
    "0": 0,
}
PLANE_FILES = (".tif", ".tiff")


@runtime_checkable
class SaysWhatIsKnown(Protocol):
    """What a prepared annotator can do besides: say where its labels speak of the image."""

    @property
    def known(self) -> np.ndarray | None:
        """Bool, of the box's shape: False where nothing is known, which is neither object nor background. None: everywhere."""


# --- cutting ----------------------------------------------------------------------------------------------------


def annotate(annotator: Annotator, volume: Volume, box: Box, seeds: np.ndarray, output: str | Path, run: Run) -> Layer:
    """Label a box of an image from seeds and write the result to the layer `output`, in its place.

    Voxels of the layer outside the box stay as they are.

    Raises
    ------
    BadInput
        The seeds cannot be used (see `check_seeds`), or the annotator cannot use the image.
    PluginError
        The annotator returned something else than labels of the box.
    """
    check_seeds(annotator, seeds, box)
    prepared = annotator.prepare(volume, box, run)
    result = label(prepared, annotator.name, seeds)
    known = prepared.known if isinstance(prepared, SaysWhatIsKnown) else None
    with Layer.open(output, volume) as layer:
        layer.write(box, result, known)
        layer.note_box(box, annotator)
    if seeds.any() and Path(output).parent.name == "labels":
        keep_seeds(Path(output).parents[1] / "seeds" / Path(output).name, volume, box, seeds)
    return layer


def keep_seeds(path: Path, volume: Volume, box: Box, seeds: np.ndarray) -> int:
    """Add seeds to a layer, where the window shows them as strokes; return how many voxels are new.

    Voxels without a seed stay as they are in the layer.

    Raises
    ------
    OutputBusy
        A window has the layer open.
    """
    with Layer.open(path, volume) as layer:
        there = layer.read(box)
        kept = np.where(seeds != 0, seeds, there).astype(there.dtype)
        changed = int(np.count_nonzero(kept != there))
        if changed:
            layer.write(box, kept)
    return changed


def label(prepared: PreparedAnnotator, name: str, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
    """Call a prepared annotator and check that it kept its word: uint8 of the box's shape, 0 and 1, seeds honoured."""
    result = prepared(seeds, previous)
    if not isinstance(result, np.ndarray) or result.shape != seeds.shape or result.dtype != np.uint8:
        what = f"{getattr(result, 'dtype', type(result).__name__)} of shape {list(getattr(result, 'shape', ()))}"
        raise PluginError(f"Annotator '{name}' must return uint8 of shape {list(seeds.shape)}, but returned {what}.")
    if result.max(initial=0) > 1 or not result[seeds == OBJECT].all() or result[seeds == BACKGROUND].any():
        raise PluginError(
            f"Annotator '{name}' must return 0 and 1 and honour every seed. This is a fault of the plugin."
        )
    return result


def check_seeds(annotator: Annotator, seeds: np.ndarray, box: Box) -> None:
    """Refuse seeds that an annotator cannot start from.

    Raises
    ------
    BadInput
        There are none in the box, they are all of one class, or they hold other values than 0, 1 and 2.
    ShapeMismatch
        Their shape is not the box's.
    """
    if seeds.shape != box.shape:
        raise ShapeMismatch(f"The seeds have shape {list(seeds.shape)}, but the box {box} has {list(box.shape)}.")
    found = _classes_in(seeds, "these hold")
    if not annotator.needs_seeds or {OBJECT, BACKGROUND} <= set(found):
        return
    if found in ([], [0]):
        raise BadInput(f"There are no seeds in the box {box}: paint some of the object and some of the background.")
    have, lack = ("object", "background") if OBJECT in found else ("background", "object")
    raise BadInput(f"All seeds in the box {box} are {have}: paint some {lack} too, or nothing bounds the {have}.")


def _classes_in(seeds: np.ndarray, who_holds: str) -> list[Any]:
    found: list[Any] = np.unique(seeds).tolist()
    if not set(found) <= {0, OBJECT, BACKGROUND}:
        raise BadInput(f"Seeds are 0 (unknown), 1 (object) and 2 (background), but {who_holds} {found[:8]}.")
    return found


# --- layers that are edited ---------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Layer:
    """A layer of seeds or labels open for editing, on the grid of an image. One process at a time.

    Use it in a `with`, or call `close`.
    """

    volume: Labels
    levels: Sequence[tuple[Any, Zyx]] = attrs.field(repr=False)  # each level of the pyramid, and its scale
    known: Sequence[tuple[Any, Zyx]] = attrs.field(repr=False)  # likewise, of where it is annotated; none: everywhere
    lock: filelock.BaseFileLock = attrs.field(repr=False)

    @classmethod
    def open(cls, path: str | Path, image: Volume) -> Layer:
        """Open the layer, or make an empty one with the image's shape and place.

        Raises
        ------
        OutputBusy
            Another process has it open.
        ShapeMismatch, VoxelSizeMismatch
            A layer is there, but not on the image's grid.
        BadInput
            A layer is there, but does not hold whole numbers; or it holds an image or probabilities.
        """
        target = Path(path)
        if not target.exists() or is_nobodys(target):
            spec = Spec(image.shape, "uint8", image.voxel_size_nm, image.origin_nm)
            record = made_by("annotate", inputs=[image], layer=target.name)
            out = create_volume(target, spec, block=CHUNK, made_by=record, about=Record("labels"))
            if target.parent.name != "seeds":  # of which 0 says that nothing is known
                finish_volume(create_known(out, block=CHUNK), pyramid=False)
            finish_volume(out, pyramid=False)
        lock = take_lock(target)
        try:
            volume = open_volume(target, kind=Labels, follow=True)
            if (held := what_it_holds(volume) or kind_by_name(target)) in ("image", "probability"):
                raise BadInput(
                    f"{target} holds the cell's {held}, which annotating would overwrite: name a layer like labels/golgi."
                )
            image.require_same_grid(volume)
            known = _levels(target / KNOWN, volume.shape) if volume.known is not None else []
            return cls(volume, _levels(target, volume.shape), known, lock)
        except BaseException:  # Ctrl-C, too, must give the lock back
            unlock(target, lock)
            raise

    def __enter__(self) -> Layer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def path(self) -> str:
        return self.volume.path

    def close(self) -> None:
        """Let go of the layer; everything is on disk already."""
        if self.lock.is_locked:
            if record_at(self.path).fingerprint is None:
                note(self.path, fingerprint=fingerprint(Path(self.path) / "s0"))
            unlock(self.path, self.lock)

    def read(self, box: Box) -> np.ndarray:
        return np.asarray(self.levels[0][0][box.slices])

    def write(self, box: Box, values: np.ndarray, known: np.ndarray | None = None) -> None:
        """Write a box, and the part of each coarser level that it covers; it counts as annotated where `known` (None: all).

        What was made of the layer before is no longer what would be made of it, which its new `revision` tells.

        Raises
        ------
        BadInput
            A part of the box is not known, but the layer is one that is annotated everywhere.
        """
        if known is not None and not known.all():
            if not self.known:
                raise BadInput(
                    f"{self.path} is annotated everywhere, so nothing can be written to it that is known in parts only. Name "
                    "another layer, or give a box in which all is known."
                )
            values = np.where(known, values, 0)
        note(self.path, revision=new_revision(), fingerprint=None)
        if self.known:
            _write(self.known, box, np.ones(box.shape, np.uint8) if known is None else known.astype(np.uint8))
        _write(self.levels, box, values)

    def note_box(self, box: Box, annotator: Any) -> None:
        """Note in the layer's record that a box was annotated, and by what; the last note of a box counts."""
        others = [b for b in record_at(self.path).boxes if b.box != box]
        note(self.path, boxes=[*others, AnnotatedBox(box, describe_plugin(annotator))])


def _levels(layer: Path, shape: Zyx) -> list[tuple[Any, Zyx]]:
    """Open the levels of a layer for writing, each with its scale."""
    import zarr

    group = zarr.open_group(str(layer), mode="r+")
    attributes: Any = dict(group.attrs)
    names = [d["path"] for d in attributes.get("ome", attributes)["multiscales"][0]["datasets"]]
    arrays: list[Any] = [group[name] for name in names]
    return [(a, as_zyx([round(n / m) for n, m in zip(shape, a.shape, strict=True)])) for a in arrays]


def _write(levels: Sequence[tuple[Any, Zyx]], box: Box, values: np.ndarray) -> None:
    levels[0][0][box.slices] = values
    for array, scale in levels[1:]:
        begin = [-(-b // s) for b, s in zip(box.begin, scale, strict=True)]
        end = [-(-e // s) for e, s in zip(box.end, scale, strict=True)]
        part = values[tuple(slice(b * s - o, None, s) for b, s, o in zip(begin, scale, box.begin, strict=True))]
        array[tuple(slice(b, min(e, n)) for b, e, n in zip(begin, end, array.shape, strict=True))] = part


def annotated_boxes(labels: Volume) -> list[Box]:
    """List the boxes of a layer that were annotated (see `Layer.note_box`)."""
    return [annotated.box for annotated in Record.of(labels).boxes]


# --- reading seeds ------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class Seeds:
    """Seeds of a box (uint8: 0 unknown, 1 object, 2 background) and how many voxels changed class while painting."""

    values: np.ndarray
    repainted: int = 0


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
                f"{here} is no array of numbers, or is truncated ({error}). Save it again as uint8."
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
    _classes_in(values, f"{path} holds")  # before they become uint8, where 257 would be 1
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
    numbered = number_planes(folder, PLANE_FILES, advice="name it after the plane's z in the image", sparse=True)
    for z, file in numbered.items():
        plane = _read_plane(file, z, volume, box)
        _classes_in(plane, f"{file} holds")
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
        log.warning("%s: %s voxels are painted as object and as background; they are neither now.", folder, f"{both:,}")
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
    `radius` of the brush in voxels (0 is one voxel) and `stroke`: rows that follow each other with the same stroke are
    joined by lines. Where rows disagree the last one counts.

    Raises
    ------
    BadInput
        A column is missing, a value is not a number, a class is not known, or a point lies outside the box.
    """
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file, skipinitialspace=True))
    if not rows:
        raise BadInput(f"{path} holds no strokes: it needs a header (class,z,y,x) and a row for each point.")
    columns = list(rows[0])
    in_nm = {"z_nm", "y_nm", "x_nm"} <= set(columns)
    if "class" not in columns or not (in_nm or {"z", "y", "x"} <= set(columns)):
        raise BadInput(
            f"{path} has the columns {', '.join(columns)}; it needs class and z, y, x (or z_nm, y_nm, x_nm)."
        )
    values = np.zeros(box.shape, np.uint8)
    repainted = 0
    last: tuple[str, np.ndarray] | None = None
    for number, row in enumerate(rows, start=2):
        where = f"{path}, line {number}"
        seed = CLASSES.get(row["class"].strip().lower())
        if seed is None:
            raise BadInput(f"{where}: the class '{row['class']}' is not object, background or erase.")
        point = _point(row, in_nm, volume, where)
        if not all(b <= p < e for b, p, e in zip(box.begin, np.rint(point), box.end, strict=True)):
            raise BadInput(
                f"{where}: the point z={point[0]:g}, y={point[1]:g}, x={point[2]:g} lies outside the box {box}."
            )
        stroke = (row.get("stroke") or "").strip()
        begin = last[1] if last is not None and stroke and last[0] == stroke else point
        radius = _number(row.get("radius") or "0", where, "radius")
        repainted += paint(values, begin - box.begin, point - box.begin, radius, seed)
        last = (stroke, point)
    return Seeds(values, repainted)


def paint(seeds: np.ndarray, begin: np.ndarray, end: np.ndarray, radius_vx: float, seed: int) -> int:
    """Paint a line of balls from `begin` to `end` (voxels of `seeds`); return how many voxels changed class."""
    reach = int(np.ceil(radius_vx))
    low = np.maximum(np.floor(np.minimum(begin, end)).astype(int) - reach, 0)
    high = np.minimum(np.ceil(np.maximum(begin, end)).astype(int) + reach + 1, seeds.shape)
    grid = np.moveaxis(np.indices(high - low), 0, -1) + low
    along = np.asarray(end, float) - begin
    length = float(along @ along)
    share = np.clip(((grid - begin) @ along) / length, 0, 1) if length else np.zeros(grid.shape[:-1])
    away = np.linalg.norm(grid - (np.asarray(begin) + share[..., None] * along), axis=-1)
    part = seeds[tuple(slice(a, b) for a, b in zip(low, high, strict=True))]
    touched = away <= max(radius_vx, 0.5**0.5)  # a thin line, too, hangs together
    changed = int(np.count_nonzero(touched & (part != 0) & (part != seed)))
    part[touched] = seed
    return changed


def _point(row: Mapping[str, str], in_nm: bool, volume: Volume, where: str) -> np.ndarray:
    names = ("z_nm", "y_nm", "x_nm") if in_nm else ("z", "y", "x")
    point = np.array([_number(row[n], where, n) for n in names])
    return (point - volume.origin_nm) / volume.voxel_size_nm if in_nm else point


def _number(text: str | None, where: str, column: str) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise BadInput(f"{where}: '{text}' in the column {column} is not a number.") from None
