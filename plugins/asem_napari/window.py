"""The annotation window: napari with a panel. Paint, press C, look, refine. `KEYS` says which keys."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from qtpy.QtCore import QSize, Qt, QTimer
from qtpy.QtWidgets import (
    QCheckBox,
    QComboBox,
    QFormLayout,
    QFrame,
    QLabel,
    QLineEdit,
    QPushButton,
    QScrollArea,
    QVBoxLayout,
    QWidget,
)

from asem_core import BACKGROUND, OBJECT, image_of
from asem_core.catalog import load_catalog
from asem_core.errors import AsemError
from asem_core.volume import Box, Volume, Zyx, as_zyx
from asem_napari._colours import result_colours, stroke_colours
from asem_napari._cut_section import CutSection
from asem_napari._loop_section import LoopSection
from asem_napari._proofread_section import ProofreadSection
from asem_napari._screen import require_screen
from asem_napari._three_views import ThreeViews
from asem_napari.reader import contrast, place
from asem_napari.session import Saved, Saver, Session, images_in, names_in

if TYPE_CHECKING:
    import napari

SAVE_EVERY_MS = 400
WIDTH = 400
KEYS = (
    "q object   w background   e erase   [ ] brush size\n1 2 3 look along z, y, x   n p next, previous painted plane\n"
    "h hide or show the overlays   r reset this plane   c cut   Ctrl+Z undo\n"
    "l learn   j next place   a accept, x reject the object of the map under the cursor\n"
    "m merge   s split   d delete   i new id   u undo an edit"
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
    panel.cutting.annotators.setCurrentText(use)
    panel.open(cell, name, box, Path(image.path).relative_to(cell).as_posix())
    napari.run()


class AnnotatePanel(QWidget):
    """Chooses a cell, a box and an annotator, and cuts what is painted."""

    def __init__(self, napari_viewer: napari.Viewer) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.session: Session | None = None
        self._saver: Saver | None = None
        self.catalog = load_catalog()
        self.cutting, self.loop, self.objects = CutSection(self), LoopSection(self), ProofreadSection(self)
        self._is_laid_out = False
        self._shown: list[Any] = []
        self._empty: list[Any] = []  # of these, not visible yet

        self.cell, self.raw, self.organelle, self.box = QLineEdit(), QComboBox(), QComboBox(), QLineEdit()
        self.organelle.setEditable(True)
        self.box.setPlaceholderText("z0:z1,y0:y1,x0:x1, or all")
        self.status, self._open = QLabel(), QPushButton("Open")
        self.status.setWordWrap(True)
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
        content, scroll = QWidget(), QScrollArea()  # a low window scrolls, instead of drawing one thing over another
        scroll.setWidget(content)
        scroll.setWidgetResizable(True)
        scroll.setFrameShape(QFrame.Shape.NoFrame)
        scroll.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        QVBoxLayout(self).addWidget(scroll)
        layout = QVBoxLayout(content)
        layout.setContentsMargins(0, 0, 0, 0)
        layout.addLayout(form)
        layout.addWidget(self._open)
        keys = QLabel(KEYS)
        keys.setWordWrap(True)
        layout.addWidget(keys)
        for widget in (self.status, self.loop, self.objects, self.three_views):
            layout.addWidget(widget)
        layout.addWidget(self.cutting, 1)

        self.cell.editingFinished.connect(self._list_layers)
        self._open.clicked.connect(self._open_from_form)
        self._timer = QTimer(self)  # for what is no stroke, too: undo, fill, a layer edited by a script
        self._timer.setInterval(SAVE_EVERY_MS)
        self._timer.timeout.connect(self._save_beside)

    # --- opening and saving

    def open(self, cell: Path, name: str, box: Box | None = None, raw: str = "raw") -> None:
        """Show a box of a cell with what was painted there before; faults are told in the panel."""
        self._leave()
        try:
            session = Session.open(Path(cell), name, box, raw)
        except AsemError as error:
            self.loop.stop()
            self.tell(str(error))
            return
        self.session, self._saver = session, Saver(session)
        self.cell.setText(str(cell))
        self._list_layers()
        self.objects.list_layers(Path(cell))
        self.raw.setCurrentText(raw)
        self.organelle.setCurrentText(name)
        self.box.setText(str(session.box)[1:-1].replace(" ", ""))
        self._show(Path(cell), session)
        self._timer.start()
        self.tell(f"{name}, box {session.box}. Paint object (q) and background (w), then cut (c).")

    def save(self) -> None:
        """Write the strokes that are not on disk yet, and wait for it."""
        if self.session is not None:
            self._tell_saved(self.session.save_seeds())

    def _save_beside(self) -> None:
        """Have strokes saved without waiting for it, and say what became of those before."""
        if self._saver is None:
            return
        for outcome in self._saver.outcomes():
            self._tell_saved(outcome)
        self._saver.save()

    def _tell_saved(self, outcome: Saved | Exception) -> None:
        if isinstance(outcome, Exception):
            self.tell(f"The strokes could not be saved, and will be tried again: {outcome}")
            return
        if outcome.changed:
            self.draw_views()
        if outcome.repainted:
            self.tell(f"{outcome.repainted} voxels had the other class; the last stroke counts.")

    def close_session(self) -> None:
        """Save, let go of the cell, clear the view of it, and stop what runs beside."""
        self._leave()
        self.loop.stop()

    def _leave(self) -> None:
        self.loop.leave()
        self.objects.stop()
        self._timer.stop()
        self.cutting.stop()
        if self.session is not None and self._saver is not None:
            self._saver.end()
            self.session.close()
            self.session = self._saver = None
        for layer in self._shown:
            if layer in self.viewer.layers:
                self.viewer.layers.remove(layer)
        self._shown = []

    def sizeHint(self) -> QSize:
        """Qt's own: narrow, so that the image has the room."""
        return QSize(WIDTH, super().sizeHint().height())

    def closeEvent(self, event: Any) -> None:
        """Qt's own: the panel is closed."""
        self.close_session()
        self.cutting.close()
        super().closeEvent(event)

    # --- the view

    def _show(self, cell: Path, session: Session) -> None:
        where = place(session.part)
        greys = contrast(session.part, session.greys)
        image = self.viewer.add_image(session.greys, name=f"{session.name}: image", contrast_limits=greys, **where)
        map_ = self.loop.open(cell, session)
        self.result = self.viewer.add_labels(
            session.result, name=f"{session.name}: result", opacity=0.35,
            colormap=result_colours(), **where,
        )  # fmt: skip
        self.seeds = self.viewer.add_labels(
            session.seeds, name=f"{session.name}: seeds", opacity=0.7,
            colormap=stroke_colours(), **where,
        )  # fmt: skip
        self.result.editable = False
        self.painted = self.seeds
        self.seeds.brush_size = 8
        self.seeds.n_edit_dimensions = 2
        self.seeds.events.paint.connect(lambda _: self._save_beside())  # at the end of each stroke
        self._shown, self._empty = [image, map_, self.result, self.seeds], []
        for layer in (map_, self.result):  # which would be drawn as if it was full
            if not layer.data.any():
                layer.visible = False
                self._empty.append(layer)
        self.viewer.scale_bar.visible = True
        self._hide_steps()
        self._sizes = dict.fromkeys((seed for _, seed in BRUSHES.values()), 8.0)
        self._place = [n // 2 for n in session.box.shape]
        self.viewer.dims.events.current_step.connect(self._tell_place)
        self.viewer.events.help.connect(self._show_keys)
        self._tell_place()
        for target in (self.viewer, *self._shown):
            self._bind(target)
        self.viewer.layers.selection = {self.seeds}
        self.brush(OBJECT)
        if not self._is_laid_out:  # the first layer's controls take room that the image was fitted into
            self._is_laid_out = True
            QTimer.singleShot(0, self.viewer.reset_view)

    def _keys(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        for key, (_, seed) in BRUSHES.items():
            yield key, lambda _, seed=seed: self.brush(seed)
        for key, order in AXES.items():
            yield key, lambda _, order=order: self.look_along(order)
        yield "c", lambda _: self.cutting.cut()
        yield "n", lambda _: self.go_to_painted(+1)
        yield "p", lambda _: self.go_to_painted(-1)
        yield "h", lambda _: self.hide_overlay()
        yield "r", lambda _: self.reset_plane()
        yield from self.loop.keys()
        yield from self.objects.keys()

    def brush(self, seed: int) -> None:
        """Paint with object (1), background (2) or erase (0); each has a brush size of its own."""
        self._sizes[self._seed] = self.painted.brush_size
        self._seed = seed
        self.viewer.layers.selection.active = self.painted
        self.painted.selected_label = seed
        self.painted.mode = "erase" if seed == 0 else "paint"
        self.painted.brush_size = self._sizes.get(seed, 8.0)
        self._show_keys()

    def paint_in(self, layer: Any) -> None:
        """Paint in another layer from now on: in a cut of an object, or in the seeds again."""
        layer.brush_size = self.painted.brush_size
        self.painted = layer
        self.brush(OBJECT)

    def adopt(self, layer: Any) -> None:
        """Take a layer for one of the panel's: its keys work there, and it goes when the box is closed."""
        self._shown.append(layer)
        self._bind(layer)

    def _bind(self, target: Any) -> None:
        for key, action in self._keys():
            target.bind_key(key, action, overwrite=True)

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
            self.tell(f"There are no strokes {'beyond' if step > 0 else 'before'} this plane.")

    def hide_overlay(self) -> None:
        """Hide strokes, result and map, or show them again."""
        shown = not self.seeds.visible
        for layer in self._shown[1:]:
            layer.visible = shown and layer not in self._empty

    def refresh(self, layer: Any) -> None:
        """Show what changed in a layer over the image, which may have been empty until now."""
        if layer in self._empty and layer.data.any():
            self._empty.remove(layer)
            layer.visible = self.seeds.visible
        layer.refresh()

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
        self.tell(f"{len(where[0]):,} stroke voxels were removed from this plane.")

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
        self.draw_views()

    def draw_views(self) -> None:
        if self._views is not None and self.session is not None:
            z, y, x = self._place
            self._views.show_place(self.session, self.along, (z, y, x))

    def _show_three_views(self, shown: bool) -> None:
        if shown and self._views is None:
            self._views = ThreeViews(self._go)
            self._views_dock = self.viewer.window.add_dock_widget(self._views, name="Other views", area="left")
        if self._views_dock is not None:
            self._views_dock.setVisible(shown)
        self.draw_views()

    def go_to(self, voxel: Zyx) -> None:
        """Show the plane of a voxel of the image, which is in the middle of the view then; in another box if it must be."""
        if self.session is None:
            return
        old = self.session.box
        if not old.contains(Box(voxel, as_zyx([c + 1 for c in voxel]))):
            image, name, cell = self.session.image, self.session.name, Path(self.cell.text())
            begin = [min(max(0, c - n // 2), m - n) for c, n, m in zip(voxel, old.shape, image.shape, strict=True)]
            box = Box(as_zyx(begin), as_zyx([b + n for b, n in zip(begin, old.shape, strict=True)]))
            self.open(cell, name, box, Path(image.path).relative_to(cell).as_posix())
        self._place = [c - b for c, b in zip(voxel, self.session.box.begin, strict=True)]
        self.viewer.dims.set_current_step(self.along, self._place[self.along])
        world = self.seeds.data_to_world(self._place)
        self.viewer.camera.center = (0, *(world[axis] for axis in self.viewer.dims.order[1:]))

    def _go(self, axis: int, index: int) -> None:
        self._place[axis] = index
        if axis == self.along:
            self.viewer.dims.set_current_step(axis, index)
        self._tell_place()

    def look_along(self, order: tuple[int, int, int]) -> None:
        """Show planes across another axis: the first of `order`."""
        self.viewer.dims.order = order
        self._tell_place()

    # --- the panel

    def _list_layers(self) -> None:
        cell = Path(self.cell.text())
        for menu, names in ((self.raw, images_in), (self.organelle, names_in)):
            before = menu.currentText()
            menu.clear()
            try:
                menu.addItems(names(cell))
            except AsemError as error:
                self.tell(str(error))
                return
            if before:
                menu.setCurrentText(before)

    def _open_from_form(self) -> None:
        cell, raw, text = Path(self.cell.text()), self.raw.currentText() or "raw", self.box.text().strip()
        try:
            box = image_of(cell, raw, text)[1] if text and text != "all" else None
        except AsemError as error:
            self.tell(str(error))
            return
        self.open(cell, self.organelle.currentText().strip(), box, raw)

    def tell(self, text: str) -> None:
        self.status.setText(text)
        self.viewer.status = text
