"""The whole loop in a real window on a virtual screen, by real key and mouse events, with the processes that learn and look.

`ASEM_PICTURES=docs/images pytest -m slow tests/plugins/test_window_drive.py` makes the pictures and the film of docs/loop.md.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from asem_core import LoopOptions
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.viewing.movie import write_movie
from asem_core.volume import Box
from asem_sources.phantom import Phantom

from .test_napari import display, press, viewer, wait_for, window  # noqa: F401 - fixtures

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _window import mouse

MADE = Phantom(
    size_nm=(320.0, 896.0, 896.0),
    voxel_size_nm=(8.0, 8.0, 8.0),
    scene="cytoplasm",
    seed=5,
    mitochondria_fraction=0.25,
)
WIDE = 1000
PICTURES = Path(os.environ["ASEM_PICTURES"]).resolve() if "ASEM_PICTURES" in os.environ else None


@pytest.fixture
def truth() -> np.ndarray:
    return MADE.open("labels/mitochondria").read() != 0


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    raw = MADE.open().read()
    monkeypatch.chdir(tmp_path)  # so that the film shows no path of this machine
    out = create_volume(Path("phantom.zarr/raw"), MADE.open().spec, block=64, made_by={"stage": "test"})
    out.data[:] = raw
    finish_volume(out)
    return Path("phantom.zarr")


class Film:
    """Pictures of the window, step by step."""

    def __init__(self, panel: Any, folder: Path) -> None:
        self.panel, self.folder = panel, folder
        self.frames: list[np.ndarray] = []

    def take(self, name: str | None = None) -> None:
        from PIL import Image
        from qtpy.QtWidgets import QApplication

        QApplication.processEvents()
        shot = Image.fromarray(self.panel.viewer.screenshot(canvas_only=False, flash=False)[..., :3])
        if name is not None:
            shot.quantize(96).save(self.folder / f"{name}.png", optimize=True)
        small = shot.resize((WIDE, round(shot.height * WIDE / shot.width)))
        self.frames += [np.asarray(small)]

    def write(self) -> None:
        write_movie(iter(self.frames), self.folder / "loop.gif", fps=0.7)


def drag(panel: Any, begin: tuple[float, float], end: tuple[float, float]) -> None:
    """Paint from one pixel of the plane to another, with the left button held."""
    from qtpy.QtWidgets import QApplication

    places = np.linspace(begin, end, 5)
    for kind, (row, col) in zip(["press", *["move"] * 3, "release"], places, strict=True):
        mouse(panel, kind, row, col)
        QApplication.processEvents()


def runs_in(where: np.ndarray, number: int) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Find horizontal strokes of 16 pixels within a region of a plane, far from each other."""
    fits = ndimage.binary_erosion(where, np.ones((5, 17)))
    rng, found = np.random.default_rng(0), []
    places = rng.permutation(np.argwhere(fits))
    for row, col in places.tolist():
        if all(abs(row - r) + abs(col - c) > 20 for (r, c), _ in found):
            found.append(((row, col - 8), (row, col + 8)))
        if len(found) == number:
            break
    return [((r, c), e) for (r, c), e in found]


@pytest.mark.slow
@pytest.mark.timeout(5400)
def test_paint_see_go_on_correct_accept_finish(cell: Path, window: Any, truth: np.ndarray, tmp_path: Path) -> None:  # noqa: F811
    """Strokes by the mouse; the map appears; a key goes to a place; the map is corrected; an object accepted; the cell finished."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    viewer, section = window.viewer, window.loop  # noqa: F811
    film = Film(window, PICTURES or tmp_path)
    viewer.window.resize(1480, 930)
    window.open(cell, "mitochondria")
    section.options = LoopOptions(iterations=40, device="cpu")
    viewer.reset_view()
    window.seeds.brush_size = 4
    planes = [z for z in range(6, len(truth), 14) if len(runs_in(truth[z], 2)) == len(runs_in(~truth[z], 2)) == 2]
    for plane in planes:
        viewer.dims.set_current_step(0, plane)
        for key, where in (("q", truth[plane]), ("w", ~truth[plane])):
            press(window, key)
            window.seeds.brush_size = 4
            before = int(np.count_nonzero(window.session.seeds))
            for begin, end in runs_in(where, 2):
                drag(window, begin, end)
            assert np.count_nonzero(window.session.seeds) > before, "the mouse painted"
    film.take()
    painted = window.session.seeds
    assert (truth[painted == 1]).mean() > 0.9, "where the mouse was sent"
    np.testing.assert_array_equal(open_volume(cell / "seeds/mitochondria").read(), painted)

    begun = time.monotonic()
    press(window, "l")
    assert section.learn.isChecked()
    plane = planes[-1]
    wait_for(lambda: bool(window.viewer.layers["mitochondria: map"].data[plane].any()), 1800)
    print(f"map after {time.monotonic() - begun:.0f} s")
    film.take()
    wait_for(lambda: len(section.loop.rounds) >= 1, 1800)
    print(f"round after {time.monotonic() - begun:.0f} s")
    film.take("loop_map")

    press(window, "j")
    wait_for(lambda: "Paint where the map is wrong" in window.status.text(), 1800)
    plane = int(viewer.dims.current_step[0])
    wait_for(lambda: bool(section.loop.map[plane].all()), 1800)
    film.take()
    missed = truth[plane] & (section.loop.map[plane] < 128)
    extra = ~truth[plane] & (section.loop.map[plane] >= 128)
    before = int(np.count_nonzero(painted))
    for key, wrong in (("q", missed), ("w", extra)):
        press(window, key)
        for begin, end in runs_in(wrong, 2) or runs_in(truth[plane] if key == "q" else ~truth[plane], 1):
            drag(window, begin, end)
    assert np.count_nonzero(painted) > before
    film.take()

    found = ndimage.binary_erosion(truth[plane] & (section.loop.map[plane] >= 128), np.ones((3, 3))) & (
        painted[plane] == 0
    )
    row, col = np.argwhere(found)[0]
    mouse(window, "move", row, col)
    assert section.voxel_under_cursor() == (plane, row, col)
    before = int(np.count_nonzero(painted == 1))
    press(window, "a")
    wait_for(lambda: int(np.count_nonzero(painted == 1)) > before, 600)
    assert painted[plane, row, col] == 1
    film.take()
    press(window, "l")
    assert not section.learn.isChecked()

    QTest.mouseClick(section.finish, Qt.MouseButton.LeftButton)
    wait_for(lambda: "block" in section.state.text(), 1800)
    film.take()
    wait_for(lambda: "mitochondria: segmentation" in viewer.layers, 1800)
    assert "To keep the model: asem models add" in window.status.text()
    film.take("loop_finished")
    film.write()
    whole = open_volume(cell / "predictions/mitochondria/probability").read(Box.of_shape(truth.shape))
    both = np.count_nonzero((whole >= 128) & truth)
    print(section.loop.state, "F1", 2 * both / (np.count_nonzero(whole >= 128) + np.count_nonzero(truth)))
    assert window.objects.choice.currentText() == "predictions/mitochondria/segmentation"
    np.testing.assert_array_equal(open_volume(cell / "seeds/mitochondria").read(), painted)
