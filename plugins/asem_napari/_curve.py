"""A small plot of the score by round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from qtpy.QtCore import QPointF, Qt
from qtpy.QtGui import QColor, QPainter, QPen, QPolygonF
from qtpy.QtWidgets import QWidget

from asem_core import Round

HEIGHT, LEFT, BELOW, MARGIN = 110, 34, 16, 8
LINES = {"network": QColor(255, 180, 40), "classifier": QColor(150, 150, 160)}
INK = QColor(160, 165, 175)


class Curve(QWidget):
    """The share of the strokes set aside that each map is right about, after each round."""

    def __init__(self) -> None:
        super().__init__()
        self.setMinimumHeight(HEIGHT)
        self.rounds: Sequence[Round] = []
        self.setToolTip("The share of the strokes that were set aside which each map is right about, by round.")

    def show_rounds(self, rounds: Sequence[Round]) -> None:
        """Draw these."""
        self.rounds = rounds
        self.update()

    def paintEvent(self, _: Any) -> None:
        """Qt's own: draw the axes, and a line for each map."""
        painter = QPainter(self)
        painter.setRenderHint(QPainter.RenderHint.Antialiasing)
        width, height = self.width() - LEFT - MARGIN, self.height() - BELOW - MARGIN
        scores = {
            name: [(r.number, found.right) for r in self.rounds if (found := getattr(r, name)) is not None]
            for name in LINES
        }
        low = min([0.5, *(s for line in scores.values() for _, s in line)])
        last = max(2, len(self.rounds))

        def place(number: float, score: float) -> QPointF:
            return QPointF(
                LEFT + width * (number - 1) / (last - 1), MARGIN + height * (1 - (score - low) / max(1 - low, 1e-9))
            )

        painter.setPen(INK)
        for score in (low, (1 + low) / 2, 1):
            painter.drawText(0, round(place(1, score).y()) + 4, f"{score:.0%}")
            painter.drawLine(place(1, score), place(last, score))
        painter.drawText(
            LEFT, self.height() - 3, f"round 1 to {len(self.rounds)}" if self.rounds else "no round is finished yet"
        )
        right = self.width() - MARGIN
        for name, colour in reversed(LINES.items()):
            right -= painter.fontMetrics().horizontalAdvance(name) + 10
            painter.setPen(QPen(colour, 2))
            painter.drawText(right, self.height() - 3, name)
            points = [place(*point) for point in scores[name]]
            painter.drawPolyline(QPolygonF(points))
            painter.setBrush(colour)
            for point in points:
                painter.drawEllipse(point, 2.5, 2.5)
            painter.setBrush(Qt.BrushStyle.NoBrush)
        painter.end()
