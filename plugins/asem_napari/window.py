"""The annotation window: napari with a panel. Paint, press C, look, refine. `KEYS` says which keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QScrollArea,
    QToolButton,
    QVBoxLayout,
    QWidget,
)

from asem_core import BACKGROUND, OBJECT, Cut, image_of
from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.errors import AsemError
from asem_core.volume import Box, Volume
from asem_napari._cutter import Cutter
from asem_napari._panel import OptionsForm
from asem_napari._screen import require_screen
from asem_napari._three_views import ThreeViews
from asem_napari.reader import contrast, place
from asem_napari.session import Session, images_in, names_in

if TYPE_CHECKING:
    import napari

SAVE_EVERY_MS = 400
COLOURS = {0: (0, 0, 0, 0), OBJECT: (0.1, 0.75, 0.3, 1), BACKGROUND: (0.85, 0.2, 0.2, 1), None: (0, 0, 0, 0)}
RESULT_COLOURS = {0: (0, 0, 0, 0), 1: (0.15, 0.55, 1.0, 1), None: (0, 0, 0, 0)}
KEYS = (
    "q object   w background   e erase   [ ] brush size\n1 2 3 look along z, y, x   n p next, previous painted plane\n"
    "h hide or show the overlays   r reset this plane\nc cut   Ctrl+Z undo"
)
BRUSHES = {"q": ("object", OBJECT), "w": ("background", BACKGROUND), "e": ("erase", 0)}
AXES = {"1": (0, 1, 2), "2": (1, 0, 2), "3": (2, 0, 1)}


def show(cell: Path, image: Volume, box: Box | None, name: str, use: str) -> None:
    """Open the window on a cell and wait until it is closed.

    Raises
    ------
    BadInput
        There is no screen, or a system library of Qt is missing: Qt itself would end the program without a message.
    """
    require_screen()
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
        self._form_place.hide()
        self.advanced = QToolButton()
        self.advanced.setText("Advanced")
        self.advanced.setCheckable(True)
        self.advanced.setArrowType(Qt.ArrowType.RightArrow)
        self.advanced.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.advanced.toggled.connect(self._fold)
        self.three_views = QCheckBox("Three views")
        self.three_views.toggled.connect(self._show_three_views)
        self._views: ThreeViews | None = None
        self._views_dock: Any = None
        self._place = [0, 0, 0]
        self._sizes: dict[int, float] = {}
        self._seed = OBJECT

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
        layout.addWidget(QLabel(KEYS))
        for widget in (self._cut, self._stop, self.progress, self.status, self.three_views):
            layout.addWidget(widget)
        layout.addWidget(QLabel("Annotator"))
        layout.addWidget(self.annotators)
        layout.addWidget(self.advanced)
        layout.addWidget(self._form_place, 1)
        layout.addStretch()

        self.annotators.currentTextChanged.connect(self._choose)
        self.annotators.setCurrentText(self.catalog.default("annotator"))
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
            if saved.changed:
                self._draw_views()
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
            self._tell("A cut is running: wait for it, or cancel it.")
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

        def work() -> Cut:
            return cutter.cut(annotator, session.image, session.box, run, seeds, before)

        def done(made: Cut) -> None:
            if session is not self.session:
                return
            try:
                session.accept(made, annotator)
            except AsemError as error:
                self._failed(error)
                return
            self._result.refresh()
            self._draw_views()
            self._tell(
                f"{annotator.name}: {int(made.values.sum()):,} voxels are object. Paint where it is wrong, then cut again."
            )

        self._busy(True)
        self._tell(f"{annotator.name} is running. The first cut of a box takes longest.")
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
        self.viewer.scale_bar.visible = True
        self._hide_steps()
        self._sizes = dict.fromkeys((seed for _, seed in BRUSHES.values()), 8.0)
        self._place = [n // 2 for n in session.box.shape]
        self.viewer.dims.events.current_step.connect(self._tell_place)
        self.viewer.events.help.connect(self._show_keys)
        self._tell_place()
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
        yield "n", lambda _: self.go_to_painted(+1)
        yield "p", lambda _: self.go_to_painted(-1)
        yield "h", lambda _: self.hide_overlay()
        yield "r", lambda _: self.reset_plane()

    def brush(self, seed: int) -> None:
        """Paint with object (1), background (2) or erase (0); each has a brush size of its own."""
        self._sizes[self._seed] = self.seeds.brush_size
        self._seed = seed
        self.viewer.layers.selection.active = self.seeds
        self.seeds.selected_label = seed
        self.seeds.mode = "erase" if seed == 0 else "paint"
        self.seeds.brush_size = self._sizes.get(seed, 8.0)
        self._show_keys()

    def _show_keys(self, _: Any = None) -> None:
        """Write our keys where napari writes its own for the mode of a layer."""
        keys = KEYS.replace("\n", "   ")
        if self.session is not None and self.viewer.help != keys:
            self.viewer.help = keys

    @property
    def along(self) -> int:
        """The axis that one looks along: 0 for z."""
        return int(self.viewer.dims.order[0])

    def go_to_painted(self, step: int) -> None:
        """Go to the next (1) or the previous (-1) plane with strokes on it."""
        if self.session is None:
            return
        axis = self.along
        painted = np.flatnonzero(self.session.seeds.any(axis=tuple(a for a in range(3) if a != axis)))
        here = self.viewer.dims.current_step[axis]
        found = painted[painted > here][:1] if step > 0 else painted[painted < here][-1:]
        if len(found):
            self.viewer.dims.set_current_step(axis, int(found[0]))
        else:
            self._tell(f"There are no strokes {'beyond' if step > 0 else 'before'} this plane.")

    def hide_overlay(self) -> None:
        """Hide strokes and result, or show them again."""
        shown = not self.seeds.visible
        self.seeds.visible = self._result.visible = shown

    def reset_plane(self) -> None:
        """Take all strokes off the plane that is shown; Ctrl+Z brings them back."""
        if self.session is None:
            return
        plane: list[Any] = [slice(None)] * 3
        plane[self.along] = self.viewer.dims.current_step[self.along]
        where = np.nonzero(self.session.seeds[tuple(plane)])
        index: list[np.ndarray] = list(where)
        index.insert(self.along, np.full(len(where[0]), plane[self.along]))
        if len(where[0]):
            self.seeds.data_setitem(tuple(index), 0)
            self.save()
        self._tell(f"{len(where[0]):,} stroke voxels were removed from this plane.")

    def _hide_steps(self) -> None:
        """Hide the sliders' own numbers, which count from the corner of the box: their labels say the cell's planes."""
        with contextlib.suppress(AttributeError):  # of another version of napari
            for slider in self.viewer.window._qt_viewer.dims.slider_widgets:
                for label in (slider.curslice_label, slider.totslice_label):
                    label.hide()

    def _tell_place(self, _: Any = None) -> None:
        """Say on the sliders which planes of the cell are shown, and draw the other views."""
        if self.session is None:
            return
        self._place[self.along] = int(self.viewer.dims.current_step[self.along])
        planes = [b + p for b, p in zip(self.session.box.begin, self._place, strict=True)]
        self.viewer.dims.axis_labels = tuple(f"{a} {p}" for a, p in zip("zyx", planes, strict=True))
        self._draw_views()

    def _draw_views(self) -> None:
        if self._views is not None and self.session is not None:
            z, y, x = self._place
            self._views.show_place(self.session, self.along, (z, y, x))

    def _show_three_views(self, shown: bool) -> None:
        if shown and self._views is None:
            self._views = ThreeViews(self._go)
            self._views_dock = self.viewer.window.add_dock_widget(self._views, name="Other views", area="left")
        if self._views_dock is not None:
            self._views_dock.setVisible(shown)
        self._draw_views()

    def _go(self, axis: int, index: int) -> None:
        self._place[axis] = index
        if axis == self.along:
            self.viewer.dims.set_current_step(axis, index)
        self._tell_place()

    def _fold(self, shown: bool) -> None:
        self.advanced.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self._form_place.setVisible(shown)

    def look_along(self, order: tuple[int, int, int]) -> None:
        """Show planes across another axis: the first of `order`."""
        self.viewer.dims.order = order
        self._tell_place()

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
            box = image_of(cell, raw, text)[1] if text and text != "all" else None
        except AsemError as error:
            self._tell(str(error))
            return
        self.open(cell, self.organelle.currentText().strip(), box, raw)

    def _tell(self, text: str) -> None:
        self.status.setText(text)
        self.viewer.status = text
