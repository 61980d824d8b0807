"""The annotation window on a virtual screen, painted in by mouse events: for benchmarks, pictures and tests."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from _data import data_path

SIZE = (1400, 900)


@contextlib.contextmanager
def virtual_screen(width: int = 1500, height: int = 950) -> Iterator[None]:
    """Start a virtual screen for Qt."""
    if shutil.which("Xvfb") is None:
        sys.exit("This needs Xvfb (system package xvfb).")
    command = ["Xvfb", "-displayfd", "1", "-screen", "0", f"{width}x{height}x24"]
    before = {name: os.environ.get(name) for name in ("DISPLAY", "QT_QPA_PLATFORM")}
    with subprocess.Popen(command, stdout=subprocess.PIPE) as screen:
        assert screen.stdout is not None
        os.environ.update(DISPLAY=f":{int(screen.stdout.readline())}", QT_QPA_PLATFORM="xcb")
        try:
            yield
        finally:
            screen.terminate()
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


@contextlib.contextmanager
def annotation_window() -> Iterator[Any]:
    """Open napari with the panel, and close it in the end."""
    import napari

    from asem_napari.window import AnnotatePanel

    viewer = napari.Viewer()
    panel = AnnotatePanel(viewer)
    viewer.window.add_dock_widget(panel, name="Annotate organelles", area="right")
    viewer.window.resize(*SIZE)
    try:
        yield panel
    finally:
        panel.close_session()
        viewer.close()
        for child in multiprocessing.active_children():
            child.join(20)  # it saves what it has learnt


def write_fib25(cell: Path, planes: int) -> None:
    """Write fib25's image, its first planes, as a cell."""
    from asem_core.cell.store import create_volume, finish_volume
    from asem_core.volume import Spec

    raw = np.stack([tifffile.imread(data_path(f"fib25/raw/fib25_{z:04}.tif")) for z in range(planes)])
    out = create_volume(cell / "raw", Spec(raw.shape, "uint8", 10), block=64, made_by={})
    out.data[:] = raw
    finish_volume(out, pyramid=False)


def work_until(true: Callable[[], bool], seconds: float = 600) -> float:
    """Let Qt work until something holds; how long that took, in seconds."""
    from qtpy.QtWidgets import QApplication

    begun = time.perf_counter()
    while not true():
        if time.perf_counter() > begun + seconds:
            raise TimeoutError(f"This did not happen within {seconds:.0f} s.")
        QApplication.processEvents()
        time.sleep(0.01)
    return time.perf_counter() - begun


def processor_s(pid: int) -> float:
    """Read how much processor time a process has used (Linux); its threads count, too."""
    used = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return sum(map(int, used)) / os.sysconf("SC_CLK_TCK")


def mouse(panel: Any, kind: str, row: float, col: float) -> None:
    """Send a mouse event ("press", "move" or "release") at a pixel of the plane that is shown across z."""
    from qtpy.QtCore import QEvent, QPointF, Qt
    from qtpy.QtGui import QMouseEvent
    from qtpy.QtWidgets import QApplication

    viewer, native = panel.viewer, panel.viewer.window._qt_viewer.canvas.native
    camera = getattr(viewer, "scene", viewer).camera  # as napari has it since 0.9
    world = panel.seeds.data_to_world((0, row, col))[1:]
    size = native.height(), native.width()
    y, x = ((w - c) * camera.zoom + n / 2 for w, c, n in zip(world, camera.center[1:], size, strict=True))
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
