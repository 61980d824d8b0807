"""The annotation window: napari with a panel. Paint, press C, look, refine.

Keys: q object, w background, e erase; 1, 2, 3 the axis one looks along (z, y, x); c cut; Ctrl+Z undo; [ and ] brush size.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import (
    QComboBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from asem_core import BACKGROUND, OBJECT, open_volume
from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.errors import AsemError
from asem_core.volume import Box, Volume
from asem_napari._cutter import Cutter
from asem_napari._panel import OptionsForm
from asem_napari.reader import contrast, place
from asem_napari.session import Session, images_in, names_in

if TYPE_CHECKING:
    import napari

SAVE_EVERY_MS = 400
COLOURS = {0: (0, 0, 0, 0), OBJECT: (0.1, 0.75, 0.3, 1), BACKGROUND: (0.85, 0.2, 0.2, 1), None: (0, 0, 0, 0)}
RESULT_COLOURS = {0: (0, 0, 0, 0), 1: (0.15, 0.55, 1.0, 1), None: (0, 0, 0, 0)}
BRUSHES = {"q": ("object", OBJECT), "w": ("background", BACKGROUND), "e": ("erase", 0)}
AXES = {"1": (0, 1, 2), "2": (1, 0, 2), "3": (2, 0, 1)}


def show(cell: Path, image: Volume, box: Box | None, name: str, use: str) -> None:
    """Open the window on a cell and wait until it is closed."""
    import napari

    viewer = napari.Viewer(title=f"{cell.name}: {name}")
    panel = AnnotatePanel(viewer)
    viewer.window.add_dock_widget(panel, name="Annotate organelles", area="right")
    panel.annotators.setCurrentText(use)
    panel.open(cell, name, box, Path(image.path).relative_to(cell).as_posix())
    napari.run()


class AnnotatePanel(QWidget):
    """Chooses a cell, a box and an annotator, and cuts what is painted."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.session: Session | None = None
        self.catalog = load_catalog()
        self._cutter = Cutter()
        self._work: Any = None
        self._shown: list[Any] = []

        self.cell, self.raw, self.organelle, self.box = QLineEdit(), QComboBox(), QComboBox(), QLineEdit()
        self.organelle.setEditable(True)
        self.box.setPlaceholderText("z0:z1,y0:y1,x0:x1, or all")
        self.annotators = QComboBox()
        self.annotators.addItems(self.catalog.names("annotator"))
        self.status, self.progress = QLabel(), QProgressBar()
        self.status.setWordWrap(True)
        self.progress.hide()
        self._open, self._cut, self._stop = QPushButton("Open"), QPushButton("Cut (c)"), QPushButton("Cancel")
        self._stop.setEnabled(False)
        self._form_place = QScrollArea()
        self._form_place.setWidgetResizable(True)

        form = QFormLayout()
        for label, field in (
            ("Cell", self.cell),
            ("Image", self.raw),
            ("Organelle", self.organelle),
            ("Box", self.box),
        ):
            form.addRow(label, field)
        layout = QVBoxLayout(self)
        layout.addLayout(form)
        layout.addWidget(self._open)
        layout.addWidget(QLabel("q object   w background   e erase\n1 2 3 axis   [ ] brush   c cut   Ctrl+Z undo"))
        layout.addWidget(self.annotators)
        layout.addWidget(self._form_place, 1)
        for widget in (self._cut, self._stop, self.progress, self.status):
            layout.addWidget(widget)

        self.annotators.currentTextChanged.connect(self._choose)
        self.annotators.setCurrentText("graph-cut")
        self._choose(self.annotators.currentText())
        self.cell.editingFinished.connect(self._list_layers)
        self._open.clicked.connect(self._open_from_form)
        self._cut.clicked.connect(self.cut)
        self._stop.clicked.connect(self.stop)
        self._timer = QTimer(self)  # for what is no stroke: undo, fill, a layer edited by a script
        self._timer.setInterval(SAVE_EVERY_MS)
        self._timer.timeout.connect(self.save)
        self.destroyed.connect(self._cutter.stop)

    # --- opening and saving

    def open(self, cell: Path, name: str, box: Box | None = None, raw: str = "raw") -> None:
        """Show a box of a cell with what was painted there before; faults are told in the panel."""
        self.close_session()
        try:
            session = Session.open(Path(cell), name, box, raw)
        except AsemError as error:
            self._tell(str(error))
            return
        self.session = session
        self.cell.setText(str(cell))
        self._list_layers()
        self.raw.setCurrentText(raw)
        self.organelle.setCurrentText(name)
        self.box.setText(str(session.box)[1:-1].replace(" ", ""))
        self._show(session)
        self._timer.start()
        self._tell(f"{name}, box {session.box}. Paint object (q) and background (w), then cut (c).")

    def save(self) -> None:
        """Write the strokes that are not on disk yet."""
        if self.session is not None:
            saved = self.session.save_seeds()
            if saved.repainted:
                self._tell(f"{saved.repainted} voxels had the other class; the last stroke counts.")

    def close_session(self) -> None:
        """Save, let go of the cell, and clear the view of it."""
        self._timer.stop()
        self.stop()
        if self.session is not None:
            self.session.close()
            self.session = None
        for layer in self._shown:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._shown = []

    def closeEvent(self, event: Any) -> None:
        """Qt's own: the panel is closed."""
        self.close_session()
        self._cutter.stop()
        super().closeEvent(event)

    # --- cutting

    def cut(self) -> None:
        """Start a cut with the seeds as painted; the result appears when it is ready."""
        from napari.qt.threading import create_worker

        if self.session is None:
            self._tell("Open a cell first.")
            return
        if self._work is not None:
            self._tell("A cut is under way: wait for it, or cancel it.")
            return
        try:
            annotator = self._form.annotator()
            self.session.check(annotator)
        except AsemError as error:
            self._tell(str(error))
            return
        self.save()
        session, cutter = self.session, self._cutter
        seeds, before = session.seeds.copy(), session.previous
        run = Run(scratch=session.scratch, progress=False)

        def work() -> np.ndarray:
            return cutter.cut(annotator, session.image, session.box, run, seeds, before)

        def done(result: np.ndarray) -> None:
            if session is self.session:
                session.accept(result, annotator)
                self._result.refresh()
                self._tell(f"{annotator.name}: {int(result.sum()):,} voxels are object. Refine where it is wrong.")

        self._busy(True)
        self._tell(f"{annotator.name} is at work. The first cut of a box takes longest.")
        self._work = create_worker(work, _start_thread=False, _ignore_errors=True)  # they are told in the panel
        self._work.returned.connect(done)
        self._work.errored.connect(self._failed)
        self._work.finished.connect(lambda: self._busy(False))
        self._work.start()

    def stop(self) -> None:
        """Cancel the cut under way; nothing changes."""
        if self._work is not None:
            self._cutter.stop()

    @property
    def is_busy(self) -> bool:
        return self._work is not None

    def _failed(self, error: Exception) -> None:
        self._tell(str(error) if isinstance(error, AsemError) else f"{type(error).__name__}: {error}")

    def _busy(self, busy: bool) -> None:
        if not busy:
            self._work = None
        self._cut.setEnabled(not busy)
        self._stop.setEnabled(busy)
        self.progress.setRange(0, 0 if busy else 1)  # a bar without an end: annotators do not say how far they are
        self.progress.setVisible(busy)

    # --- the view

    def _show(self, session: Session) -> None:
        from napari.utils.colormaps import DirectLabelColormap

        where = place(session.part)
        greys = contrast(session.part, session.greys)
        image = self.viewer.add_image(session.greys, name=f"{session.name}: image", contrast_limits=greys, **where)
        self._result = self.viewer.add_labels(
            session.result, name=f"{session.name}: result", opacity=0.35,
            colormap=DirectLabelColormap(color_dict=RESULT_COLOURS), **where,
        )  # fmt: skip
        self.seeds = self.viewer.add_labels(
            session.seeds, name=f"{session.name}: seeds", opacity=0.7,
            colormap=DirectLabelColormap(color_dict=COLOURS), **where,
        )  # fmt: skip
        self._result.editable = False
        self.seeds.brush_size = 8
        self.seeds.n_edit_dimensions = 2
        self.seeds.events.paint.connect(lambda _: self.save())  # at the end of each stroke
        self._shown = [image, self._result, self.seeds]
        for target in (self.viewer, *self._shown):
            for key, action in self._keys():
                target.bind_key(key, action, overwrite=True)
        self.viewer.layers.selection = {self.seeds}
        self.brush(OBJECT)

    def _keys(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        for key, (_, seed) in BRUSHES.items():
            yield key, lambda _, seed=seed: self.brush(seed)
        for key, order in AXES.items():
            yield key, lambda _, order=order: self.look_along(order)
        yield "c", lambda _: self.cut()

    def brush(self, seed: int) -> None:
        """Paint with object (1), background (2) or erase (0)."""
        self.viewer.layers.selection.active = self.seeds
        self.seeds.selected_label = seed
        self.seeds.mode = "erase" if seed == 0 else "paint"

    def look_along(self, order: tuple[int, int, int]) -> None:
        """Show planes across another axis: the first of `order`."""
        self.viewer.dims.order = order

    # --- the panel

    def _choose(self, name: str) -> None:
        self._form = OptionsForm(self.catalog, name)
        self._form_place.setWidget(self._form)  # which deletes the form before

    def _list_layers(self) -> None:
        cell = Path(self.cell.text())
        for menu, names in ((self.raw, images_in), (self.organelle, names_in)):
            before = menu.currentText()
            menu.clear()
            try:
                menu.addItems(names(cell))
            except AsemError as error:
                self._tell(str(error))
                return
            if before:
                menu.setCurrentText(before)

    def _open_from_form(self) -> None:
        cell, raw, text = Path(self.cell.text()), self.raw.currentText() or "raw", self.box.text().strip()
        try:
            box = Box.parse(text, open_volume(cell / raw).shape) if text and text != "all" else None
        except AsemError as error:
            self._tell(str(error))
            return
        self.open(cell, self.organelle.currentText().strip(), box, raw)

    def _tell(self, text: str) -> None:
        self.status.setText(text)
        self.viewer.status = text
