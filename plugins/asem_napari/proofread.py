"""Proofreading in the window, without the window: which objects were picked, and edits that another process makes.

Edits go into the log of the segmentation, as those of `asem proofread` do; its voxels stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np

from asem_core import BACKGROUND, OBJECT, Edit, apply_edits, edit_layer, open_proofread, undo_edits
from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.errors import AsemError
from asem_core.volume import Box, Zyx, as_zyx
from asem_napari._children import STOP, Child, Line
from asem_napari.loop import Changed, News, Said

SENT_VX = 64
"""Edge of the blocks in which changed objects travel to the window."""

MOST_POINTS = 256
"""Of a stroke that cuts, evenly drawn: what matters is which fragments it touches, and the log stays small."""


class Proofreading:
    """The objects of a box, as the edits leave them.

    Attributes
    ----------
    layer : of the segmentation
    box : in voxels of the segmentation
    objects : uint32 of the box's shape
    """

    def __init__(self, layer: Path, box: Box, start: Callable[..., Child] = Child) -> None:
        self.layer, self.box = layer, box
        self.objects = np.zeros(box.shape, np.uint32)
        self._picked: int | None = None
        self._child: Child | None = start(work, layer, box)

    def close(self) -> None:
        """End the process; every edit is in the log."""
        if self._child is not None:
            self._child.stop()
            self._child = None

    def object_at(self, voxel: Zyx) -> int:
        """Say which object is at a voxel of the segmentation; 0 where none is."""
        if not all(b <= c < e for c, b, e in zip(voxel, self.box.begin, self.box.end, strict=True)):
            return 0
        return int(self.objects[tuple(c - b for c, b in zip(voxel, self.box.begin, strict=True))])

    # --- edits

    def merge(self, voxel: Zyx) -> Said:
        """Pick the first object, or merge the second with it."""
        found = self.object_at(voxel)
        if not found:
            return Said("There is no object under the cursor.")
        first, self._picked = self._picked, None
        if first is None or first == found:
            self._picked = found
            return Said(f"Object {found} is picked: press the key again over the object to merge with it.")
        return self._edit(Edit("merge", (first, found)))

    def delete(self, voxel: Zyx) -> Said:
        """Remove an object."""
        found = self.object_at(voxel)
        return self._edit(Edit("delete", (found,))) if found else Said("There is no object under the cursor.")

    def relabel(self, voxel: Zyx, new: str) -> Said:
        """Give an object another id."""
        found = self.object_at(voxel)
        if not found:
            return Said("There is no object under the cursor.")
        if not new.isdecimal():
            return Said("Write the new id into the field first: a whole number.")
        return self._edit(Edit("relabel", (found,), int(new)))

    def split(self, strokes: np.ndarray) -> Said:
        """Cut the object under strokes: what is painted as object keeps the id, the part painted as background gets a new one.

        Parameters
        ----------
        strokes : uint8 of the box's shape, 1 object, 2 background
        """
        under = self.objects[strokes == OBJECT]
        under = under[under != 0]
        if not under.size:
            return Said("To cut an object, paint one part of it as object and the other as background.")
        own = int(np.bincount(under).argmax())
        one, other = (self._points((strokes == value) & (self.objects == own)) for value in (OBJECT, BACKGROUND))
        if not other:
            return Said(f"Paint the other part of object {own} as background, too; it gets a new id.")
        return self._edit(Edit("split", (own,), None, one, other))

    def undo(self) -> Said:
        """Take the last edit back."""
        return self._ask("undo", "Taking the last edit back...")

    def write(self) -> Said:
        """Write the objects as the edits leave them, to a layer of their own."""
        return self._ask("apply", "Writing the corrected objects...")

    def poll(self) -> Iterator[News]:
        """Take what the process told since the last time, without waiting."""
        if self._child is None:
            return
        changed = False
        for message in self._child.told(64):
            match message:
                case ("objects", where, values):
                    self.objects[where.shift([-b for b in self.box.begin]).slices] = values
                    changed = True
                case ("said" | "failed", text):
                    yield Said(text)
        if changed:
            yield Changed(map=True, state=True)
        if self._child.is_over:
            self._child = None
            yield Said("Proofreading ended. Open the objects again to go on; every edit is kept.")

    def _edit(self, edit: Edit) -> Said:
        return self._ask("edit", f"split {edit.ids[0]}..." if edit.kind == "split" else f"{edit}...", edit)

    def _ask(self, what: str, text: str, *content: object) -> Said:
        self._picked = None
        if self._child is None:
            return Said("Open the objects again first.")
        self._child.ask(what, *content)
        return Said(f"{text[0].upper()}{text[1:]}")

    def _points(self, where: np.ndarray) -> tuple[Zyx, ...]:
        found = np.argwhere(where) + self.box.begin
        found = found[np.unique(np.linspace(0, len(found) - 1, MOST_POINTS).astype(int))] if len(found) else found
        return tuple(as_zyx(p) for p in found.tolist())


def work(line: Line, layer: Path, box: Box) -> None:
    """Make edits in a process of its own.

    Is asked ("edit", Edit), ("undo",), ("apply",). Tells ("objects", box, ids) where they changed, and ("said", what was done).
    """
    catalog, run = load_catalog(), Run(progress=False)
    now = open_proofread(layer, catalog, run)
    shown = _Shown(line, box)
    shown.send(now.read)
    line.tell("said", f"{now.num_objects:,} objects, {len(now.edits)} edits so far.")
    while (message := line.asked(None)) != STOP:
        try:
            match message:
                case ("edit", edit):
                    now = edit_layer(layer, edit, catalog, run, before=now)
                    said = f"Done: {now.edits[-1]}; {now.num_objects:,} objects."
                case ("undo",):
                    (gone,) = undo_edits(layer)
                    now = open_proofread(layer, catalog, run, before=now)
                    said = f"Undone: {gone}; {now.num_objects:,} objects."
                case ("apply",):
                    said = f"Written: {apply_edits(layer, catalog, run).path}"
        except AsemError as error:
            said = str(error)
        shown.send(now.read)
        line.tell("said", said)


@attrs.define(eq=False)
class _Shown:
    """What the window has of the objects of a box."""

    line: Line
    box: Box
    values: np.ndarray = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.values = np.zeros(self.box.shape, np.uint32)

    def send(self, read: Callable[[Box], np.ndarray]) -> None:
        """Tell the blocks that are not as the window has them."""
        for block in self.box.blocks(SENT_VX):
            new = read(block).astype(np.uint32)
            mine = self.values[block.shift([-b for b in self.box.begin]).slices]
            if not np.array_equal(new, mine):
                mine[:] = new
                self.line.tell("objects", block, new)


def segmentations_in(layers: Sequence[str]) -> list[str]:
    """List the layers of a cell that can be proofread: those of objects."""
    return [name for name in layers if name.split("/")[-1] in ("segmentation", "instances")]
