"""Annotate: seeds become labels, in their place in the cell.

Seeds and labels are layers as large as the image (`seeds/<name>`, `labels/<name>`; voxels never written take no room), so
several boxes of one cell and several organelles lie where they belong. The labels' attributes list the boxes annotated.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import filelock
import numpy as np

from asem_core.abilities import SaysWhatIsKnown
from asem_core.blocks import Run
from asem_core.cell.build import is_nobodys
from asem_core.cell.place import cell_work_folder, unlock
from asem_core.cell.place import lock as take_lock
from asem_core.cell.provenance import describe_plugin, kind_by_name, made_by, new_revision, what_it_holds
from asem_core.cell.record import AnnotatedBox, Record, note, record_at
from asem_core.cell.store import create_known, create_volume, finish_volume, open_volume, tidy
from asem_core.errors import BadInput, OutsideVolume, PluginError, ShapeMismatch, VoxelSizeMismatch
from asem_core.files import fingerprint
from asem_core.interfaces import Annotator, PreparedAnnotator
from asem_core.progress import still_at
from asem_core.temporary import sweep_zarr
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.known import KNOWN
from asem_core.voxels.strokes import extent

OBJECT, BACKGROUND = 1, 2
CHUNK = 64


# --- cutting ----------------------------------------------------------------------------------------------------


def image_of(cell: Path, raw: str = "raw", box: str | Box | None = None) -> tuple[Volume, Box]:
    """Open the image of a cell that is annotated, and say which box of it: all of it by default.

    Raises
    ------
    OutsideVolume
        The box extends beyond the image.
    """
    image: Volume = open_volume(cell / raw)
    where = Box.parse(box, image.shape) if isinstance(box, str) else box or image.box
    if not image.box.contains(where) or where.is_empty:
        raise OutsideVolume(f"The box {where} extends beyond {image.path}, whose shape is {list(image.shape)}.")
    return image, where


def annotate(annotator: Annotator, volume: Volume, box: Box, seeds: np.ndarray, output: str | Path, run: Run) -> Layer:
    """Label a box of an image from seeds and write the result to the layer `output`, in its place.

    Voxels of the layer outside the box stay as they are. What the annotator can know without seeds is kept beside the cell.

    Raises
    ------
    BadInput
        The seeds cannot be used (see `check_seeds`), or the annotator cannot use the image.
    PluginError
        The annotator returned something else than labels of the box.
    """
    check_seeds(annotator, seeds, box)
    run = attrs.evolve(run, scratch=run.scratch or cell_work_folder(output) / "annotate")
    prepared = annotator.prepare(volume, box, run)
    with still_at(f"cut ({annotator.name})", shown=run.progress):
        made = cut(prepared, annotator.name, seeds)
    with Layer.open(output, volume) as layer:
        layer.accept(box, made, annotator)
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
    painted = extent(seeds)
    with Layer.open(path, volume) as layer:
        where, new = painted.shift(box.begin), seeds[painted.slices]
        there = layer.read(where)
        kept = np.where(new != 0, new, there).astype(there.dtype)
        changed = int(np.count_nonzero(kept != there))
        if changed:
            layer.write(where, kept)
    return changed


@attrs.frozen(eq=False)
class Cut:
    """Labels of a box, and where they speak of the image (bool; None: everywhere)."""

    values: np.ndarray
    known: np.ndarray | None = None


def cut(prepared: PreparedAnnotator, name: str, seeds: np.ndarray, previous: np.ndarray | None = None) -> Cut:
    """Call a prepared annotator and check that it kept its word: uint8 of the box's shape, 0 and 1, seeds honoured."""
    result: Any = prepared(seeds, previous)
    if not isinstance(result, np.ndarray):
        raise PluginError(
            f"Annotator '{name}' must return uint8 of shape {list(seeds.shape)}, but returned {type(result).__name__}."
        )
    if result.shape != seeds.shape or result.dtype != np.uint8:
        raise PluginError(
            f"Annotator '{name}' must return uint8 of shape {list(seeds.shape)}, but returned {result.dtype} of shape "
            f"{list(result.shape)}."
        )
    if result.max(initial=0) > 1 or not result[seeds == OBJECT].all() or result[seeds == BACKGROUND].any():
        raise PluginError(
            f"Annotator '{name}' must return 0 and 1 and honour every seed. This is a fault of the plugin."
        )
    return Cut(result, prepared.known if isinstance(prepared, SaysWhatIsKnown) else None)


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
    found = classes_in(seeds, "these hold")
    if not annotator.needs_seeds or {OBJECT, BACKGROUND} <= set(found):
        return
    if found in ([], [0]):
        raise BadInput(f"There are no seeds in the box {box}: paint some of the object and some of the background.")
    have, lack = ("object", "background") if OBJECT in found else ("background", "object")
    raise BadInput(f"All seeds in the box {box} are {have}: paint some {lack} too, or nothing bounds the {have}.")


def classes_in(seeds: np.ndarray, who_holds: str) -> list[Any]:
    """List the values of seeds.

    Raises
    ------
    BadInput
        There are others than 0, 1 and 2.
    """
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
        tidy(target)
        lock = take_lock(target)
        try:
            sweep_zarr(target, deep=True)
            volume = open_volume(target, kind=Labels, follow=True)
            if (held := what_it_holds(volume) or kind_by_name(target)) in ("image", "probability"):
                raise BadInput(
                    f"{target} holds the cell's {held}, which annotating would overwrite: name a layer like labels/golgi."
                )
            try:
                image.require_same_grid(volume)
            except (ShapeMismatch, VoxelSizeMismatch) as error:
                raise error.followed_by(
                    f"The layer {target} was there before: name another one, or move it out of the cell."
                ) from None
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
                    f"{self.path} is annotated everywhere, so partly annotated labels cannot be written to it. "
                    "Name another layer, or give a box that is annotated completely."
                )
            values = np.where(known, values, 0)
        note(self.path, revision=new_revision(), fingerprint=None)
        if self.known:
            _write(self.known, box, np.ones(box.shape, np.uint8) if known is None else known.astype(np.uint8))
        _write(self.levels, box, values)

    def accept(self, box: Box, made: Cut, annotator: Annotator) -> None:
        """Write what an annotator made of a box, and note that it was annotated."""
        self.write(box, made.values, made.known)
        self.note_box(box, annotator)

    def note_box(self, box: Box, annotator: Any) -> None:
        """Note in the layer's record that a box was annotated, and by what; the last note of a box counts."""
        others = [b for b in record_at(self.path).boxes if b.box != box]
        note(self.path, boxes=[*others, AnnotatedBox(box, describe_plugin(annotator))])


def open_for_painting(cell: Path, name: str, image: Volume) -> tuple[Layer, Layer]:
    """Open the layers `seeds/<name>` and `labels/<name>` of a cell, for a window.

    Raises
    ------
    BadInput
        The name is empty or holds a slash.
    OutputBusy
        Another window has these layers open.
    """
    require_name(name)
    seeds = Layer.open(cell / "seeds" / name, image)
    try:
        return seeds, Layer.open(cell / "labels" / name, image)
    except BaseException:  # the first layer's lock must be given back
        seeds.close()
        raise


def require_name(name: str) -> None:
    """Refuse what cannot name an organelle.

    Raises
    ------
    BadInput
        It is empty or holds a slash.
    """
    if not name or "/" in name:
        raise BadInput(f"'{name}' cannot name an organelle: use letters, digits and -, for example golgi.")


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
