"""The loop's part of the panel: learn beside the painting, see the map of the visible plane, go where a stroke teaches most."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QCheckBox, QComboBox, QGroupBox, QHBoxLayout, QLabel, QLineEdit, QPushButton, QVBoxLayout

from asem_core import BACKGROUND, OBJECT, LoopOptions
from asem_core.volume import Box, Zyx, as_zyx
from asem_napari._colours import map_colours
from asem_napari._curve import Curve
from asem_napari.loop import Changed, Finished, GoTo, Judged, Loop, News, Said
from asem_napari.reader import place, read
from asem_napari.session import Session

if TYPE_CHECKING:
    from asem_napari.window import AnnotatePanel

POLL_EVERY_MS = 100
READY_AFTER_MS = 1500
"""How long after a box was opened the process that learns is started: the window is drawn first."""

BY_NAME = "by the organelle's name"


class LoopSection(QGroupBox):
    """Shows a `Loop`, and hands it what the user wants."""

    def __init__(self, panel: AnnotatePanel) -> None:
        super().__init__("Loop: learn beside")
        self.panel = panel
        self.options = LoopOptions()
        self.loop: Loop | None = None
        self.layer: Any = None
        self.learn, self.model, self.weights = QCheckBox("Learn (l)"), QComboBox(), QLineEdit()
        self.model.addItems([BY_NAME, *panel.catalog.names("model")])
        self.model.setToolTip("The model that learns. A session keeps the one that it was begun with.")
        self.weights.setPlaceholderText("start from: nothing, or weights of `asem models list`")
        self.state, self.curve = QLabel(), Curve()
        self.state.setWordWrap(True)
        self.next, self.finish = QPushButton("Next place (j)"), QPushButton("Finish the cell")
        first, last = QHBoxLayout(), QHBoxLayout()
        first.addWidget(self.learn)
        first.addWidget(self.model)
        last.addWidget(self.next)
        last.addWidget(self.finish)
        layout = QVBoxLayout(self)
        layout.addLayout(first)
        for widget in (self.weights, self.state, self.curve):
            layout.addWidget(widget)
        layout.addLayout(last)
        self.learn.clicked.connect(self._learn_or_rest)
        self.next.clicked.connect(self.go_on)
        self.finish.clicked.connect(self._finish)
        self._timer = QTimer(self)
        self._timer.setInterval(POLL_EVERY_MS)
        self._timer.timeout.connect(self.poll)
        self.warming = QTimer(self)
        self.warming.setInterval(READY_AFTER_MS)
        self.warming.setSingleShot(True)
        self.warming.timeout.connect(lambda: self.loop and self.loop.prepare())
        self.setEnabled(False)

    # --- with the box that the panel opens

    def open(self, cell: Path, session: Session) -> Any:
        """Show the session of a box, and return the layer of its map; learning goes on if it was another box of the same."""
        if self.loop is None or (self.loop.cell, self.loop.name) != (cell, session.name):
            self.stop()
            self.loop = Loop(cell, session.name, session.box)
        else:
            self.loop.move(session.box)
        self.layer = self.panel.viewer.add_image(
            self.loop.map, name=f"{session.name}: map", opacity=0.5, blending="translucent", contrast_limits=(0, 255),
            colormap=map_colours(), interpolation2d="nearest", **place(session.part),
        )  # fmt: skip
        self.setEnabled(True)
        self._timer.start()
        self.warming.start()
        self._show_state()
        return self.layer

    def leave(self) -> None:
        """Let go of a box that is closed."""
        self._timer.stop()
        self.warming.stop()
        self.setEnabled(False)

    def stop(self) -> None:
        """Stop what runs beside the window; everything is in the cell."""
        self.leave()
        if self.loop is not None:
            self.loop.close()
            self.loop = None

    # --- what the user wants

    def keys(self) -> Iterator[tuple[str, Callable[[Any], None]]]:
        """List the keys of the loop, with what they do."""
        yield "l", lambda _: self.learn.click()
        yield "j", lambda _: self.go_on()
        yield "a", lambda _: self.judge(accept=True)
        yield "x", lambda _: self.judge(accept=False)

    def go_on(self) -> None:
        """Go to the next suggested place."""
        self._take(lambda loop: loop.jump())

    def judge(self, *, accept: bool) -> None:
        """Accept or reject the object of the map under the cursor."""
        voxel = self.voxel_under_cursor()
        if voxel is None:
            self.panel.tell("Put the cursor on an object of the map first.")
        else:
            self._take(lambda loop: loop.judge(voxel, accept))

    def _learn_or_rest(self, on: bool) -> None:
        if self.loop is None:
            return
        if on:
            model, weights = self.model.currentText(), self.weights.text().strip()
            chosen = {"model": None if model == BY_NAME else model, "start_from": weights or None}
            self.loop.learn(attrs.evolve(self.options, **chosen))
        else:
            self.loop.rest()
        self._show_state()

    def _finish(self) -> None:
        self._take(lambda loop: loop.finish())

    def voxel_under_cursor(self) -> Zyx | None:
        """Say which voxel of the image the cursor is on; None outside of the box."""
        session = self.panel.session
        if session is None:
            return None
        at = [round(float(c)) for c in self.panel.seeds.world_to_data(self.panel.viewer.cursor.position)]
        at[self.panel.along] = int(self.panel.viewer.dims.current_step[self.panel.along])
        if not all(0 <= c < n for c, n in zip(at, session.box.shape, strict=True)):
            return None
        return as_zyx([c + b for c, b in zip(at, session.box.begin, strict=True)])

    # --- what came of it

    def poll(self) -> None:
        """Say what is visible, and show what happened since the last time."""
        if self.loop is None or self.panel.session is None:
            return
        self.loop.look(self._visible(self.panel.session), self.panel.along)
        self._take(Loop.poll)

    def _take(self, act: Callable[[Loop], list[News]]) -> None:
        if self.loop is None:
            return
        loop = self.loop
        for news in act(loop):
            match news:
                case Said(text):
                    self.panel.tell(text)
                case GoTo(found):
                    z, y, x = found.centre
                    self.panel.go_to(found.centre)
                    self.panel.tell(
                        f"z {z}, y {y}, x {x}: unsure {found.unsure:.2f}, the mirror image differs by {found.differs:.2f}, unlike what "
                        f"was painted {found.unlike:.1f}. Paint where the map is wrong."
                    )
                case Judged(box, found, accept):
                    self._paint(box, found, accept)
                case Finished(layers, to_keep):
                    self._open(layers)
                    self.panel.objects.list_layers(loop.cell)
                    self.panel.tell(f"The cell is done. To keep the model: {to_keep}")
                case Changed(map=changed, state=state):
                    if changed:
                        self.panel.refresh(self.layer)
                    if state:
                        self._show_state()

    def _show_state(self) -> None:
        if self.loop is None:
            return
        self.learn.setChecked(self.loop.learns)
        self.state.setText(self.loop.finishing or self.loop.state)
        self.curve.show_rounds(self.loop.rounds)

    def _paint(self, box: Box, found: np.ndarray, accept: bool) -> None:
        """Paint an object as strokes, where there are none yet."""
        session = self.panel.session
        if session is None:
            return
        inside = box & session.box
        part = found[inside.shift([-b for b in box.begin]).slices]
        begin = [i - b for i, b in zip(inside.begin, session.box.begin, strict=True)]
        where = session.seeds[
            Box(as_zyx(begin), as_zyx([b + n for b, n in zip(begin, part.shape, strict=True)])).slices
        ]
        points = np.nonzero(part & (where == 0))
        if len(points[0]):
            at = tuple(p + b for p, b in zip(points, begin, strict=True))
            self.panel.seeds.data_setitem(at, OBJECT if accept else BACKGROUND)
            self.panel.save()
        self.panel.tell(
            f"{len(points[0]):,} voxels were painted as {'object' if accept else 'background'}. The next round learns from them."
        )

    def _open(self, layers: Any) -> None:
        """Open what was made, in place of what was opened before; the strokes stay selected."""
        viewer, selected = self.panel.viewer, self.panel.viewer.layers.selection.active
        for path in layers:
            for data, about, kind in read(path):
                name = f"{Path(path).parent.name}: {Path(path).name}"
                if name in viewer.layers:
                    viewer.layers.remove(name)
                add = functools.partial(viewer.add_labels if kind == "labels" else viewer.add_image, data)
                layer = add(**{**about, "name": name, "visible": kind == "labels"})
                if kind == "labels":
                    layer.editable = False
                viewer.layers.move(len(viewer.layers) - 1, 1)
        viewer.layers.selection.active = selected

    def _visible(self, session: Session) -> Box:
        """Say which part of the plane is on the screen, in voxels of the image."""
        along = self.panel.along
        first, last = np.rint(self.layer.corner_pixels).astype(int)
        begin, end = (np.clip(ends, 0, session.box.shape).tolist() for ends in (first, last + 1))
        plane = int(self.panel.viewer.dims.current_step[along])
        for axis, edge in enumerate(session.box.shape):
            if axis == along:
                begin[axis], end[axis] = plane, plane + 1
            elif end[axis] - begin[axis] < 2:  # nothing was drawn yet
                begin[axis], end[axis] = 0, edge
        return Box(as_zyx(begin), as_zyx(end)).shift(session.box.begin)
