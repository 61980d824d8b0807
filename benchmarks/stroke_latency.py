"""How long a brush stroke waits in the annotation window, while a network learns beside it and while none does.

    python benchmarks/stroke_latency.py [--strokes 100]

Mouse events come every 16 ms, as from a hand: a stroke is a press, twelve moves and a release. The time of an event is that from
when it was due until it is painted on the screen (Xvfb, so that the processor draws); what the window does in between, such as
refreshing the map, delays it as it would delay the hand. The release writes the stroke to the disk. Beside it stands the processor
time that the window's thread took, which other work on the machine does not change. Data: fib25, 150 x 250 x 250.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from _data import data_path, hardware

EVERY_S, MOVES = 0.016, 12
GOAL_MS = 50


@contextlib.contextmanager
def a_screen() -> Iterator[None]:
    """A virtual screen."""
    if shutil.which("Xvfb") is None:
        sys.exit("This needs Xvfb (system package xvfb).")
    screen = subprocess.Popen(["Xvfb", "-displayfd", "1", "-screen", "0", "1500x950x24"], stdout=subprocess.PIPE)
    assert screen.stdout is not None
    os.environ.update(DISPLAY=f":{int(screen.stdout.readline())}", QT_QPA_PLATFORM="xcb")
    yield
    screen.terminate()


def event(panel: Any, kind: str, row: float, col: float) -> None:
    """Send a mouse event at a voxel of the visible plane."""
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    viewer, native = panel.viewer, panel.viewer.window._qt_viewer.canvas.native
    world = panel.seeds.data_to_world((0, row, col))[1:]
    size = native.height(), native.width()
    y, x = ((w - c) * viewer.camera.zoom + n / 2 for w, c, n in zip(world, viewer.camera.center[1:], size, strict=True))
    types = {
        "press": QEvent.Type.MouseButtonPress,
        "move": QEvent.Type.MouseMove,
        "release": QEvent.Type.MouseButtonRelease,
    }
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    where = QPointF(x, y)
    button, held = (none if kind == "move" else left), (none if kind == "release" else left)
    QApplication.sendEvent(
        native,
        QMouseEvent(
            types[kind], where, QPointF(native.mapToGlobal(where)), button, held, Qt.KeyboardModifier.NoModifier
        ),
    )


def stroke(panel: Any, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Paint one stroke; for each event the seconds from when it was due, and the processor time since the event before."""
    from qtpy.QtWidgets import QApplication

    points = rng.uniform(30, 220, 2) + np.cumsum(rng.normal(0, 3, (MOVES + 2, 2)), axis=0)
    points = np.clip(points, 5, 244)
    kinds, took = ["press", *["move"] * MOVES, "release"], []
    due, worked = time.perf_counter() + EVERY_S, time.thread_time()
    for kind, (row, col) in zip(kinds, points, strict=True):
        while time.perf_counter() < due:
            QApplication.processEvents()
            time.sleep(0.001)
        event(panel, kind, row, col)
        QApplication.processEvents()
        now, work = time.perf_counter(), time.thread_time()
        took.append((now - due, work - worked))
        worked = work
        due = max(due + EVERY_S, now)  # a hand does not hurry to catch up
    return took


def measure(panel: Any, num: int, what: str) -> None:
    """Paint strokes on plane after plane, and print how long their events took."""
    rng, events = np.random.default_rng(0), []
    for number in range(num):
        panel.viewer.dims.set_current_step(0, 30 + number % 40)
        panel.brush(1 + number % 2)
        events.append(stroke(panel, rng))
    assert panel.session.seeds.any(), "nothing was painted"
    took = np.array(events) * 1000  # strokes, events, (due, processor)
    (middle, high), (work, most) = (np.percentile(took[..., n], [50, 95]) for n in (0, 1))
    saved = np.percentile(took[:, -1], 95, axis=0)
    print(
        f"{what}: {num} strokes, an event takes {middle:.0f} ms, 95th percentile {high:.0f} ms (goal {GOAL_MS}), longest "
        f"{took[..., 0].max():.0f} ms; processor {work:.1f} ms, 95th percentile {most:.1f} ms; the release, which saves, 95th percentile "
        f"{saved[0]:.0f} ms, processor {saved[1]:.1f} ms; load {os.getloadavg()[0]:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strokes", type=int, default=100)
    options = parser.parse_args()
    with a_screen(), tempfile.TemporaryDirectory() as folder:
        import napari
        from qtpy.QtWidgets import QApplication

        from asem_core.cell.store import create_volume, finish_volume
        from asem_core.volume import Spec
        from asem_napari.window import AnnotatePanel

        raw = np.stack([tifffile.imread(data_path(f"fib25/raw/fib25_{z:04}.tif")) for z in range(150)])
        cell = Path(folder) / "fib25.zarr"
        out = create_volume(cell / "raw", Spec(raw.shape, "uint8", 10), block=64, made_by={})
        out.data[:] = raw
        finish_volume(out, pyramid=False)
        viewer = napari.Viewer()
        panel = AnnotatePanel(viewer)
        viewer.window.add_dock_widget(panel, name="Annotate organelles", area="right")
        viewer.window.resize(1400, 900)
        panel.open(cell, "membrane")
        QApplication.processEvents()
        measure(panel, 10, "first strokes (compiling, caches)")
        measure(panel, options.strokes, "no learning")
        panel.loop.learn.click()
        begun = time.monotonic()
        while not panel.loop.loop.map.any():
            QApplication.processEvents()
            time.sleep(0.05)
        print(f"the map is shown {time.monotonic() - begun:.1f} s after learning was turned on", flush=True)
        measure(panel, options.strokes, "while a network learns")
        assert panel.loop.loop.learns, panel.status.text()
        print(panel.loop.state.text())
        panel.close_session()
        viewer.close()
    print(hardware())


if __name__ == "__main__":
    main()
