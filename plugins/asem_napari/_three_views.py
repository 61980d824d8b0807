"""The two other views of the box, beside the one that is painted in: all three axes at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from qtpy.QtCore import Qt
from qtpy.QtGui import QImage, QPixmap
from qtpy.QtWidgets import QLabel, QVBoxLayout, QWidget

from asem_napari.session import Session

AXES = "zyx"
OBJECT_GREEN, BACKGROUND_RED, RESULT_BLUE = (25, 190, 76), (217, 51, 51), (38, 140, 255)
WIDTH = 300


class ThreeViews(QWidget):
    """Shows the planes across the two axes that the window does not look along; a click goes there."""

    def __init__(self, go: Callable[[int, int], None]) -> None:
        super().__init__()
        self._go = go
        layout = QVBoxLayout(self)
        self.views = [_View(self._clicked), _View(self._clicked)]
        for view in self.views:
            layout.addWidget(view)
        layout.addStretch(1)

    def show_place(self, session: Session, along: int, place: tuple[int, int, int]) -> None:
        """Draw the planes through a voxel of the box; `along` is the axis of the window's own view."""
        others = [axis for axis in range(3) if axis != along]
        for view, axis in zip(self.views, others, strict=True):
            view.draw(plane_of(session, axis, place[axis]), axis, place, session)

    def _clicked(self, axis: int, index: int) -> None:
        self._go(axis, index)


class _View(QLabel):
    def __init__(self, clicked: Callable[[int, int], None]) -> None:
        super().__init__()
        self._clicked = clicked
        self._rows = self._cols = 0
        self._shape = (1, 1)
        self.setToolTip("Click to go there.")

    def draw(self, picture: np.ndarray, axis: int, place: tuple[int, int, int], session: Session) -> None:
        self._rows, self._cols = (a for a in range(3) if a != axis)
        self._shape = picture.shape[:2]
        marked = picture.copy()
        marked[place[self._rows], :] = marked[place[self._rows], :] // 2 + np.array([120, 120, 0], np.uint8)
        marked[:, place[self._cols]] = marked[:, place[self._cols]] // 2 + np.array([120, 120, 0], np.uint8)
        height, width = self._shape
        image = QImage(np.ascontiguousarray(marked).data, width, height, 3 * width, QImage.Format.Format_RGB888).copy()
        size = session.image.voxel_size_nm
        tall = round(WIDTH * height * size[self._rows] / (width * size[self._cols]))
        modes = Qt.AspectRatioMode.IgnoreAspectRatio, Qt.TransformationMode.FastTransformation
        self.setPixmap(QPixmap.fromImage(image).scaled(WIDTH, max(1, tall), *modes))
        self.setToolTip(f"{AXES[self._rows]} down, {AXES[self._cols]} to the right. Click to go there.")

    def mousePressEvent(self, event: object) -> None:
        """Qt's own: a click goes to that plane."""
        shown = self.pixmap()
        if shown is None or shown.isNull():
            return
        where = event.position()  # type: ignore[attr-defined]
        row = int(where.y() / shown.height() * self._shape[0])
        col = int(where.x() / shown.width() * self._shape[1])
        self._clicked(self._rows, min(max(row, 0), self._shape[0] - 1))
        self._clicked(self._cols, min(max(col, 0), self._shape[1] - 1))


def plane_of(session: Session, axis: int, index: int) -> np.ndarray:
    """Draw one plane of the box: grey image, result and seeds over it; uint8 (rows, columns, 3)."""
    take = (slice(None),) * axis + (index,)
    grey = session.greys[take].astype(np.float32)
    low, high = np.percentile(grey, [0.5, 99.5])
    shown = np.clip((grey - low) / max(high - low, 1e-6), 0, 1)[..., None].repeat(3, axis=2) * 255
    seeds, result = session.seeds[take], session.result[take]
    for where, colour, opacity in (
        (result == 1, RESULT_BLUE, 0.35),
        (seeds == 1, OBJECT_GREEN, 0.7),
        (seeds == 2, BACKGROUND_RED, 0.7),
    ):
        shown[where] = shown[where] * (1 - opacity) + np.array(colour) * opacity
    return shown.astype(np.uint8)
