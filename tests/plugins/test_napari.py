"""The annotation window under a virtual display."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import AsemError
from asem_core.testing import example_labels
from asem_core.volume import Box, Spec

from .in_thread import InThread, scripted
from .test_window_proofread import CENTRES, SHAPE, write_objects
from .window_cell import BOX, make_cell

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _window import virtual_screen

MIDDLE = 14  # a plane through one of the balls


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    return make_cell(tmp_path / "cell.zarr")


@pytest.fixture(scope="module")
def display() -> Iterator[None]:
    """A virtual screen for Qt."""
    if importlib.util.find_spec("napari") is None:
        pytest.skip("napari is not installed (extra napari)")
    if shutil.which("Xvfb") is None:
        pytest.skip("there is no Xvfb for a virtual display (system package xvfb)")
    with virtual_screen():
        yield


@pytest.fixture(scope="module")
def viewer(display: None) -> Iterator[Any]:
    """A napari window, which takes ten seconds to open: one for all tests, closed at the end."""
    import napari

    viewer = napari.Viewer()
    gc.freeze()  # as after collecting the tests: napari looks for garbage whenever a layer goes
    yield viewer
    viewer.close()


@pytest.fixture
def window(viewer: Any) -> Iterator[Any]:
    with new_panel(viewer) as panel:
        yield panel


@pytest.fixture(scope="class")
def opened(viewer: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A panel that shows one box, which takes ten seconds to draw: one for all tests of a class."""
    with new_panel(viewer) as panel:
        panel.open(make_cell(tmp_path_factory.mktemp("opened") / "cell.zarr"), "keys", BOX)
        yield panel


@contextlib.contextmanager
def new_panel(viewer: Any) -> Iterator[Any]:
    """Put a new panel into the window, and take it out again with all that it showed."""
    from asem_napari.window import AnnotatePanel

    panel = AnnotatePanel(viewer)
    panel.loop.warming.setInterval(3_600_000)  # few of the tests learn
    dock = viewer.window.add_dock_widget(panel, name="Annotate organelles", area="right")
    yield panel
    panel.close_session()
    viewer.window.remove_dock_widget(dock)
    viewer.layers.clear()
    viewer.dims.order = (0, 1, 2)


def wait_for(true: Callable[[], bool], seconds: float = 240) -> None:
    """Let Qt work until something holds."""
    from qtpy.QtWidgets import QApplication

    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "this did not happen in time"
        QApplication.processEvents()
        time.sleep(0.05)


def press(panel: Any, key: str) -> None:
    """Press a key on the canvas."""
    from qtpy.QtTest import QTest

    QTest.keyClicks(panel.viewer.window._qt_viewer.canvas.native, key)


def stroke(panel: Any, points: list[tuple[int, int, int]]) -> None:
    """Paint as one stroke of the brush, through these voxels."""
    with panel.seeds.block_history():
        for point in points:
            panel.seeds.paint(point, panel.seeds.selected_label)


def test_paint_press_see_save_reopen(window: Any, cell: Path) -> None:
    """The whole round: strokes by keys, one key to cut, an overlay, everything on disk, and back at the next start."""
    window.open(cell, "golgi", BOX)
    assert [layer.name for layer in window.viewer.layers] == [
        "golgi: image",
        "golgi: map",
        "golgi: result",
        "golgi: seeds",
    ]
    assert tuple(window.seeds.scale) == (10, 5, 5)
    assert tuple(window.seeds.translate) == (140, 200, 300)
    truth = example_labels().read()[BOX.slices]
    middle = tuple(int(c.mean()) for c in np.nonzero(truth[MIDDLE - 4] > 0))

    window.seeds.brush_size = 5
    press(window, "q")
    assert (window.seeds.selected_label, window.seeds.mode) == (1, "paint")
    assert "c cut" in window.viewer.help  # our keys, not napari's own
    stroke(window, [(MIDDLE - 4, middle[0], x) for x in (middle[1] - 3, middle[1] + 3)])
    press(window, "w")
    assert window.seeds.selected_label == 2
    for z in (0, MIDDLE - 4, 35):
        stroke(window, [(z, y, x) for y in (2, 41) for x in range(0, 48, 6)])
        stroke(window, [(z, y, x) for x in (2, 45) for y in range(0, 44, 6)])

    on_disk = open_volume(cell / "seeds/golgi", follow=True)
    wait_for(lambda: bool((on_disk.read(BOX) == window.session.seeds).all()))
    assert (window.session.seeds == 1).any()
    assert (window.session.seeds == 2).any()

    window.cutting.annotators.setCurrentText("watershed")
    press(window, "c")
    wait_for(lambda: not window.cutting.is_busy)
    shown = window.viewer.layers["golgi: result"].data
    assert "voxels are object" in window.status.text()
    assert shown.sum() > 0
    np.testing.assert_array_equal(open_volume(cell / "labels/golgi").read(BOX), shown)

    press(window, "2")
    assert window.viewer.dims.order == (1, 0, 2)
    press(window, "e")
    assert window.seeds.mode == "erase"
    kept, seeds = shown.copy(), window.session.seeds.copy()
    window.close_session()
    assert not window.viewer.layers
    window.open(cell, "golgi", BOX)
    np.testing.assert_array_equal(window.seeds.data, seeds)
    np.testing.assert_array_equal(window.viewer.layers["golgi: result"].data, kept)


def test_faults_are_told_in_the_panel(window: Any, cell: Path) -> None:
    """No seeds, one class, repainting, a wrong option, a missing cell: a sentence, never a traceback."""
    window.cutting.cut()
    assert window.status.text() == "Open a cell first."
    window.open(cell, "golgi", BOX)
    window.cutting.cut()
    assert "There are no seeds in the box" in window.status.text()
    stroke(window, [(10, 20, 20)])
    window.save()
    window.cutting.cut()
    assert "paint some background too" in window.status.text()
    press(window, "w")
    stroke(window, [(10, 20, 20)])
    wait_for(lambda: "the last stroke counts" in window.status.text(), 60)
    window.cutting.form.findChild(object, "lam").setText("-3")
    window.cutting.cut()
    assert "lam must be at least 0, got -3" in window.status.text()
    window.open(cell.with_name("other.zarr"), "golgi")
    assert "does not exist" in window.status.text()


def test_cancel_ends_a_cut(window: Any, cell: Path) -> None:
    """A cancelled cut leaves the result as it was, and the next cut works."""
    window.open(cell, "golgi", BOX)
    stroke(window, [(10, 20, 20)])
    press(window, "w")
    stroke(window, [(0, 2, 2)])
    window.cutting.annotators.setCurrentText("watershed")
    window.cutting.cut()
    assert window.cutting.is_busy
    wait_for(lambda: window.cutting.cutter._process is not None and window.cutting.cutter._process.is_alive())
    window.cutting.stop()
    wait_for(lambda: not window.cutting.is_busy)
    assert "was stopped before it finished" in window.status.text()
    assert not window.session.result.any()
    window.cutting.cut()
    wait_for(lambda: not window.cutting.is_busy)
    assert window.session.result.any()


def test_every_annotator_has_its_form(window: Any) -> None:
    """All annotators of the catalog, other distributions' too, are in the panel with their options."""
    names = [window.cutting.annotators.itemText(i) for i in range(window.cutting.annotators.count())]
    assert names == load_catalog().names("annotator")
    for name in names:
        window.cutting.annotators.setCurrentText(name)
        try:
            made = window.cutting.form.annotator()
        except AsemError as error:
            assert name == "from-file"
            assert "path" in str(error)  # noqa: PT017
        else:
            assert made == load_catalog().get("annotator", name)()
            assert attrs.has(type(made))


def test_command_opens_the_window(display: None, cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`asem annotate open` shows the box that was asked for, with the annotator that was asked for."""
    import napari
    from typer.testing import CliRunner

    from asem_core.cli import make_app

    monkeypatch.setattr(napari, "run", lambda: None)  # which would wait until somebody closes the window
    command = ["annotate", "open", str(cell), "--name", "er", "--box", "4:40,:,:", "--use", "watershed"]
    result = CliRunner().invoke(make_app(), command)
    assert result.exit_code == 0, result.output
    viewer = napari.current_viewer()
    panel = viewer.window.dock_widgets["Annotate organelles"]
    assert panel.session.box == BOX
    assert panel.cutting.annotators.currentText() == "watershed"
    panel.close_session()
    viewer.close()


def test_napari_finds_reader_and_window(window: Any, cell: Path) -> None:
    """The manifest is valid, what it names is there, and napari opens a cell by it, scaled in nm."""
    from importlib.resources import files

    from npe2 import PluginManager, PluginManifest

    manifest = PluginManifest.from_file(files("asem_napari") / "napari.yaml")
    for command in manifest.contributions.commands:
        module, _, name = command.python_name.partition(":")
        assert hasattr(importlib.import_module(module), name)
    if manifest.name not in PluginManager.instance():
        PluginManager.instance().register(manifest)
    image, labels = window.viewer.open(str(cell), plugin=manifest.name)
    assert (image.name, labels.name) == ("raw", "labels/known")
    assert tuple(image.scale) == (10, 5, 5)
    assert tuple(labels.translate) == (100, 200, 300)


class TestKeys:
    def test_painted_planes_are_found_hidden_and_reset(self, opened: Any) -> None:
        """n and p go between painted planes, h hides what lies over the image, r takes the strokes off a plane."""
        opened.session.seeds[:] = 0
        opened.session.seeds[2, 3:6, 3:6] = 1
        opened.session.seeds[9, 3:6, 3:6] = 2
        opened.viewer.dims.set_current_step(0, 5)
        press(opened, "n")
        assert opened.viewer.dims.current_step[0] == 9
        press(opened, "p")
        assert opened.viewer.dims.current_step[0] == 2
        press(opened, "h")
        assert not opened.seeds.visible
        press(opened, "h")
        assert opened.seeds.visible
        press(opened, "r")
        assert not opened.session.seeds[2].any()
        assert opened.session.seeds[9].any()
        opened.seeds.undo()
        assert opened.session.seeds[2].any()

    def test_undo_takes_a_stroke_back_on_disk_too(self, opened: Any) -> None:
        """Undo changes what is shown and, at the next save, what is stored."""
        opened.session.seeds[:] = 0
        stroke(opened, [(10, 20, 20)])
        opened.save()
        stored = open_volume(Path(opened.session.image.path).with_name("seeds") / "keys", follow=True)
        assert stored.read().any()
        opened.seeds.undo()
        opened.save()
        assert not stored.read().any()

    def test_each_brush_has_its_size(self, opened: Any) -> None:
        """A fine brush for the object and a broad one for the background stay so."""
        opened.seeds.brush_size = 4
        press(opened, "w")
        opened.seeds.brush_size = 20
        press(opened, "q")
        assert opened.seeds.brush_size == 4
        press(opened, "w")
        assert opened.seeds.brush_size == 20

    def test_sliders_speak_of_planes_of_the_cell(self, opened: Any) -> None:
        """The slider's label is the plane's number in the cell, whichever box is open; a scale bar is shown."""
        opened.viewer.dims.set_current_step(0, 3)
        assert opened.viewer.dims.axis_labels[0] == f"z {BOX.begin[0] + 3}"
        assert opened.viewer.scale_bar.visible

    def test_three_views_show_the_other_axes(self, opened: Any) -> None:
        """The planes across y and x are drawn with strokes, and a click in them goes there."""
        opened.session.seeds[4, 5, 6] = 1
        opened.three_views.setChecked(True)
        opened._go(0, 4)
        assert opened.viewer.dims.current_step[0] == 4
        opened._go(1, 5)
        first, second = opened._views.views
        assert first.pixmap().width() == second.pixmap().width() == 300
        from asem_napari._three_views import plane_of

        red, green, _ = plane_of(opened.session, 1, 5)[4, 6].astype(int)
        assert green > red + 50
        assert not opened.cutting.form_place.isVisible()
        opened.cutting.advanced.setChecked(True)
        assert opened.cutting.form_place.isVisibleTo(opened)
        opened.three_views.setChecked(False)
        opened.cutting.advanced.setChecked(False)


def test_the_loop_is_shown_and_driven_by_keys(window: Any, cell: Path) -> None:
    """Learning by a key; the map and the score of rounds, a place to go to, an accepted object as strokes that undo takes back."""
    from asem_core import Place, Round
    from asem_core.training.rounds import MapScore

    window.open(cell, "mito", BOX)
    score = MapScore(0.8, 0.1)
    made = Round(1, 9, (5, 6), (9, 9), (2, 2), 0, score, score, "network", "w", 60.0)
    seen = Box((14, 8, 8), (15, 20, 20))
    found = np.ones((1, 4, 4), bool)
    window.loop.loop._start = scripted(
        ("rounds", [made]),
        ("values", seen, np.full(seen.shape, 200, np.uint8)),
        ("object", Box((14, 10, 10), (15, 14, 14)), found, True),
        ("places", [Place((30, 12, 13), 0.5, 0.1, 2.0, 0.9)], 1),
    )
    stroke(window, [(10, 32, 34)])
    painted = int((window.session.seeds != 0).sum())
    visible = window.loop._visible(window.session)
    assert visible.shape == (1, *BOX.shape[1:]), "all of a plane, its last row, too"
    press(window, "l")
    assert window.loop.learn.isChecked()
    wait_for(lambda: bool(window.viewer.layers["mito: map"].data[10, 8:20, 8:20].all()), 60)
    wait_for(lambda: int((window.session.seeds != 0).sum()) > painted, 60)
    assert window.loop.state.text().startswith("Round 1: right about 80.0%")
    assert window.loop.curve.rounds == [made]
    assert window.session.seeds[10, 10:14, 10:14].all()
    np.testing.assert_array_equal(open_volume(cell / "seeds/mito").read(BOX), window.session.seeds)
    window.seeds.undo()
    assert int((window.session.seeds != 0).sum()) == painted
    press(window, "j")
    wait_for(lambda: window.viewer.dims.current_step[0] == 30 - BOX.begin[0], 60)
    assert "z 30, y 12, x 13: unsure 0.50" in window.status.text()
    window.viewer.cursor.position = tuple(window.seeds.data_to_world((26, 8, 9)))
    assert window.loop.voxel_under_cursor() == (30, 8, 9)
    press(window, "l")
    assert not window.loop.learn.isChecked()
    window.loop.grab()  # the curve is drawn, too


def test_objects_are_proofread_by_keys(window: Any, tmp_path: Path) -> None:
    """The object under the cursor is merged, cut by strokes on a layer of their own, deleted, named; the shown objects change."""
    cell = tmp_path / "cell.zarr"
    write_objects(cell)
    out = create_volume(cell / "raw", Spec(SHAPE, "uint8", 5.0), block=24, made_by={"stage": "test"})
    out.data[:] = open_volume(cell / "predictions/m/probability").read()
    finish_volume(out)
    window.open(cell, "mito")
    press(window, "m")
    assert window.status.text() == "Open a segmentation first, under 'Proofread objects'."
    assert window.objects.choice.currentText() == "predictions/m/segmentation"
    window.objects.start = InThread
    window.objects.open()
    now = window.objects.proofreading
    wait_for(lambda: len(np.unique(now.objects)) == 3)
    window.viewer.dims.set_current_step(0, 11)

    def press_at(key: str, centre: tuple[int, int, int]) -> None:
        window.viewer.cursor.position = tuple(window.seeds.data_to_world(centre))
        press(window, key)

    press_at("m", CENTRES[0])
    press_at("m", CENTRES[2])
    wait_for(lambda: len(np.unique(now.objects)) == 2)
    press(window, "u")
    wait_for(lambda: len(np.unique(now.objects)) == 3)
    press(window, "s")
    assert window.viewer.layers.selection.active.name == "cut"
    for key, x in (("q", 7), ("w", 25)):
        press(window, key)
        window.painted.brush_size = 3
        window.painted.paint((11, 9, x), window.painted.selected_label)
    press(window, "s")
    assert "cut" not in window.viewer.layers
    assert window.painted is window.seeds
    wait_for(lambda: len(np.unique(now.objects)) == 4)
    assert not window.session.seeds.any()
    window.objects.new_id.setText("50")
    press_at("i", CENTRES[0])
    wait_for(lambda: now.object_at(CENTRES[0]) == 50)
    press_at("d", CENTRES[2])
    wait_for(lambda: now.object_at(CENTRES[2]) == 0)
    assert window.viewer.layers["mito: objects"].data is now.objects
    window.close_session()
    assert not window.viewer.layers
