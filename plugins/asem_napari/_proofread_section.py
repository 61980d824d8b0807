"""Proofreading's part of the panel: keys that merge, split, delete and rename the object under the cursor."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QComboBox, QGroupBox, QHBoxLayout, QLineEdit, QPushButton, QVBoxLayout

from asem_core import layers, open_volume
from asem_core.errors import AsemError
from asem_core.volume import Zyx, as_zyx
from asem_napari._children import Child
from asem_napari._colours import stroke_colours
from asem_napari.loop import Said
from asem_napari.proofread import Proofreading, segmentations_in
from asem_napari.reader import place

if TYPE_CHECKING:
    from asem_napari.window import AnnotatePanel

POLL_EVERY_MS = 100
NOT_OPEN = "Open a segmentation first, under 'Proofread objects'."


class ProofreadSection(QGroupBox):
    """Shows a segmentation as its edits leave it, in the box that is open; hands on what is to be edited."""

    def __init__(self, panel: AnnotatePanel) -> None:
        super().__init__("Proofread objects")
        self.panel = panel
        self.start = Child
        self.proofreading: Proofreading | None = None
        self.layer: Any = None
        self.strokes: Any = None  # of a cut that is being painted
        self._offset: Zyx = (0, 0, 0)  # of the image in the segmentation
        self.choice, self.new_id = QComboBox(), QLineEdit()
        self.new_id.setPlaceholderText("new id (i)")
        self._open, self._write = QPushButton("Open"), QPushButton("Write")
        self._write.setToolTip("Write the corrected objects to a layer of their own, as asem proofread apply does.")
        first, last = QHBoxLayout(), QHBoxLayout()
        first.addWidget(self.choice, 1)
        first.addWidget(self._open)
        last.addWidget(self.new_id, 1)
        last.addWidget(self._write)
        layout = QVBoxLayout(self)
        layout.addLayout(first)
        layout.addLayout(last)
        self._open.clicked.connect(self.open)
        self._write.clicked.connect(lambda: self._do(lambda now: now.write()))
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_EVERY_MS)
        self._timer.timeout.connect(self.poll)

    def list_layers(self, cell: Path) -> None:
        """Offer the segmentations of a cell."""
        before = self.choice.currentText()
        self.choice.clear()
        self.choice.addItems(segmentations_in(layers(cell)))
        if before:
            self.choice.setCurrentText(before)

    def open(self) -> None:
        """Show the chosen segmentation in the box that is open, as its edits leave it."""
        self.stop()
        session, name = self.panel.session, self.choice.currentText()
        if session is None or not name:
            self.panel.tell("Open a cell with a segmentation first: finish the cell, or run asem segment on its map.")
            return
        path = Path(self.panel.cell.text()) / name
        try:
            labels = open_volume(path)
            there = labels.box_of(session.part) & labels.box
        except AsemError as error:
            self.panel.tell(str(error))
            return
        if there.is_empty:
            self.panel.tell(f"{path} has nothing in the box that is open.")
            return
        self._offset = labels.box_of(session.image).begin
        self.proofreading = Proofreading(path, there, self.start)
        selected = self.panel.viewer.layers.selection.active
        self.layer = self.panel.viewer.add_labels(
            self.proofreading.objects, name=f"{session.name}: objects", opacity=0.4, **place(labels.crop(there))
        )
        self.layer.editable = False
        self.panel.adopt(self.layer)
        self.panel.viewer.layers.selection.active = selected
        self._timer.start()
        self.panel.tell(f"Opening the objects of {path}...")

    def stop(self) -> None:
        """Let go of the segmentation; every edit is in its log."""
        self._timer.stop()
        self._end_cut()
        if self.proofreading is not None:
            self.proofreading.close()
            self.proofreading = None
        if self.layer is not None and self.layer in self.panel.viewer.layers:
            self.panel.viewer.layers.remove(self.layer)
        self.layer = None

    def keys(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        """List the keys of proofreading, with what they do."""
        yield "m", lambda _: self._at_cursor(lambda now, voxel: now.merge(voxel))
        yield "d", lambda _: self._at_cursor(lambda now, voxel: now.delete(voxel))
        yield "i", lambda _: self._at_cursor(lambda now, voxel: now.relabel(voxel, self.new_id.text().strip()))
        yield "s", lambda _: self.split()
        yield "u", lambda _: self._do(lambda now: now.undo())

    def split(self) -> None:
        """Begin to paint a cut on a layer of its own; or make the cut that was painted."""
        if self.proofreading is None:
            self.panel.tell(NOT_OPEN)
            return
        if self.strokes is None:
            self.strokes = self.panel.viewer.add_labels(
                np.zeros(self.proofreading.box.shape, np.uint8), name="cut", opacity=0.8, colormap=stroke_colours(),
                scale=self.layer.scale, translate=self.layer.translate, units=self.layer.units,
            )  # fmt: skip
            self.strokes.n_edit_dimensions = 2
            self.panel.adopt(self.strokes)
            self.panel.paint_in(self.strokes)
            self.panel.tell(
                "Paint one part of the object (q), and the other (w), which gets a new id; then press s again."
            )
            return
        painted = np.asarray(self.strokes.data).copy()
        self._end_cut()
        self._do(lambda now: now.split(painted))

    def _end_cut(self) -> None:
        if self.strokes is not None:
            if self.strokes in self.panel.viewer.layers:
                self.panel.viewer.layers.remove(self.strokes)
            self.strokes = None
            self.panel.paint_in(self.panel.seeds)

    def poll(self) -> None:
        """Show what was edited since the last time."""
        if self.proofreading is None:
            return
        for news in self.proofreading.poll():
            if isinstance(news, Said):
                self.panel.tell(news.text)
            else:
                self.layer.refresh()

    def _at_cursor(self, act: Callable[[Proofreading, Zyx], Said]) -> None:
        voxel = self.panel.loop.voxel_under_cursor()
        if voxel is None:
            self.panel.tell("Put the cursor on an object first.")
        else:
            at = as_zyx([c + o for c, o in zip(voxel, self._offset, strict=True)])
            self._do(lambda now: act(now, at))

    def _do(self, act: Callable[[Proofreading], Said]) -> None:
        if self.proofreading is None:
            self.panel.tell(NOT_OPEN)
        else:
            self.panel.tell(act(self.proofreading).text)
