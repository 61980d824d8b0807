"""The annotators' part of the panel: cut what is painted, in a process of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from qtpy.QtCore import Qt
from qtpy.QtWidgets import QComboBox, QLabel, QProgressBar, QPushButton, QScrollArea, QToolButton, QVBoxLayout, QWidget

from asem_core import Cut
from asem_core.blocks import Run
from asem_core.errors import AsemError
from asem_napari._cutter import Cutter
from asem_napari._panel import OptionsForm

if TYPE_CHECKING:
    from asem_napari.window import AnnotatePanel


class CutSection(QWidget):
    """Chooses an annotator and its options, and cuts the box with it."""

    def __init__(self, panel: AnnotatePanel) -> None:
        super().__init__()
        self.panel = panel
        self.cutter = Cutter()
        self._work: Any = None
        self.annotators, self.progress = QComboBox(), QProgressBar()
        self.annotators.addItems(panel.catalog.names("annotator"))
        self.progress.hide()
        self._cut, self._stop = QPushButton("Cut (c)"), QPushButton("Cancel")
        self._stop.setEnabled(False)
        self.form_place = QScrollArea()
        self.form_place.setWidgetResizable(True)
        self.form_place.hide()
        self.advanced = QToolButton()
        self.advanced.setText("Advanced")
        self.advanced.setCheckable(True)
        self.advanced.setArrowType(Qt.ArrowType.RightArrow)
        self.advanced.setToolButtonStyle(Qt.ToolButtonStyle.ToolButtonTextBesideIcon)
        self.advanced.toggled.connect(self._fold)
        layout = QVBoxLayout(self)
        layout.setContentsMargins(0, 0, 0, 0)
        for widget in (self._cut, self._stop, self.progress, QLabel("Annotator"), self.annotators, self.advanced):
            layout.addWidget(widget)
        layout.addWidget(self.form_place, 1)
        layout.addStretch()
        self.annotators.currentTextChanged.connect(self._choose)
        self.annotators.setCurrentText(panel.catalog.default("annotator"))
        self._choose(self.annotators.currentText())
        self._cut.clicked.connect(self.cut)
        self._stop.clicked.connect(self.stop)
        self.destroyed.connect(self.cutter.stop)

    def cut(self) -> None:
        """Start a cut with the seeds as painted; the result appears when it is ready."""
        from napari.qt.threading import create_worker

        panel, session = self.panel, self.panel.session
        if session is None:
            panel.tell("Open a cell first.")
            return
        if self._work is not None:
            panel.tell("A cut is running: wait for it, or cancel it.")
            return
        try:
            annotator = self.form.annotator()
            session.check(annotator)
        except AsemError as error:
            panel.tell(str(error))
            return
        panel.save()
        cutter = self.cutter
        seeds, before = session.seeds.copy(), session.previous
        run = Run(scratch=session.scratch, progress=False)

        def work() -> Cut:
            return cutter.cut(annotator, session.image, session.box, run, seeds, before)

        def done(made: Cut) -> None:
            if session is not panel.session:
                return
            try:
                session.accept(made, annotator)
            except AsemError as error:
                self._failed(error)
                return
            panel.refresh(panel.result)
            panel.draw_views()
            panel.tell(
                f"{annotator.name}: {int(made.values.sum()):,} voxels are object. Paint where it is wrong, then cut again."
            )

        self._busy(True)
        panel.tell(f"{annotator.name} is running. The first cut of a box takes longest.")
        self._work = create_worker(work, _start_thread=False, _ignore_errors=True)  # they are told in the panel
        self._work.returned.connect(done)
        self._work.errored.connect(self._failed)
        self._work.finished.connect(lambda: self._busy(False))
        self._work.start()

    def stop(self) -> None:
        """Cancel the cut under way; nothing changes."""
        if self._work is not None:
            self.cutter.stop()

    def close(self) -> bool:
        """End the annotator's process, too."""
        self.cutter.stop()
        return super().close()

    @property
    def is_busy(self) -> bool:
        return self._work is not None

    def _failed(self, error: Exception) -> None:
        self.panel.tell(str(error) if isinstance(error, AsemError) else f"{type(error).__name__}: {error}")

    def _busy(self, busy: bool) -> None:
        if not busy:
            self._work = None
        self._cut.setEnabled(not busy)
        self._stop.setEnabled(busy)
        self.progress.setRange(0, 0 if busy else 1)  # a bar without an end: annotators do not say how far they are
        self.progress.setVisible(busy)

    def _fold(self, shown: bool) -> None:
        self.advanced.setArrowType(Qt.ArrowType.DownArrow if shown else Qt.ArrowType.RightArrow)
        self.form_place.setVisible(shown)

    def _choose(self, name: str) -> None:
        self.form = OptionsForm(self.panel.catalog, name)
        self.form_place.setWidget(self.form)  # which deletes the form before
