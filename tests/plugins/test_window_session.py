"""What the annotation window keeps on disk, without a screen, and napari's reader."""

from __future__ import annotations

import contextlib
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import BadInput, OutputBusy, OutsideVolume
from asem_core.stages.annotate import Cut, Layer, annotated_boxes
from asem_core.testing import example_image
from asem_core.volume import Box, Spec, Volume
from asem_napari.reader import get_reader, read
from asem_napari.session import Saved, Saver, Session, default_box, images_in, names_in

from .window_cell import BOX, make_cell, raising


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    return make_cell(tmp_path / "cell.zarr")


class TestSession:
    def test_strokes_are_on_disk_and_work_resumes(self, cell: Path) -> None:
        """What was painted and saved is there when the box is opened again, also inside another box."""
        session = Session.open(cell, "golgi", BOX)
        session.seeds[10, 20:25, 20:25] = 1
        session.seeds[3, :5, :5] = 2
        assert session.save_seeds() == Saved(changed=50, repainted=0)
        assert session.save_seeds() == Saved(changed=0, repainted=0)
        session.seeds[10, 20:25, 20] = 2
        assert session.save_seeds() == Saved(changed=5, repainted=5)
        on_disk = open_volume(cell / "seeds/golgi").read(BOX)
        np.testing.assert_array_equal(on_disk, session.seeds)
        session.close()
        again = Session.open(cell, "golgi", Box((10, 0, 0), (40, 44, 48)))
        assert again.seeds.sum() == 30
        again.close()

    def test_strokes_are_saved_beside_the_painting(self, cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """In a thread, while more is painted; what could not be written is told, and written as soon as it can be."""
        session = Session.open(cell, "golgi", BOX)
        saver, outcomes = Saver(session), []

        def until_told() -> Saved | Exception:
            end = time.monotonic() + 60
            while not outcomes:
                assert time.monotonic() < end
                outcomes.extend(saver.outcomes())
                time.sleep(0.01)
            return outcomes.pop(0)

        session.seeds[30, 20:25, 20:25] = 1
        saver.save()
        assert until_told() == Saved(changed=25, repainted=0)
        np.testing.assert_array_equal(open_volume(cell / "seeds/golgi").read(BOX), session.seeds)
        session.seeds[2, :5, :5] = 2
        session.seeds[30, 20, 20] = 2
        with monkeypatch.context() as patch:
            patch.setattr(Layer, "write", raising(OSError(28, "No space left on device")))
            saver.save()
            assert "No space left" in str(until_told())
        saver.save()
        assert until_told() == Saved(changed=26, repainted=1)
        np.testing.assert_array_equal(open_volume(cell / "seeds/golgi").read(BOX), session.seeds)
        saver.end()
        session.close()

    def test_result_is_written_and_shown_again(self, cell: Path) -> None:
        """An accepted result lies in labels/<name>, is noted, and is there at the next opening."""
        session = Session.open(cell, "golgi", BOX)
        result = np.zeros(BOX.shape, np.uint8)
        result[5:9] = 1
        session.accept(Cut(result), load_catalog().get("annotator", "watershed")())
        session.close()
        labels = open_volume(cell / "labels/golgi")
        np.testing.assert_array_equal(labels.read(BOX), result)
        assert annotated_boxes(labels) == [BOX]
        again = Session.open(cell, "golgi", BOX)
        np.testing.assert_array_equal(again.result, result)
        again.close()

    def test_one_window_at_a_time(self, cell: Path) -> None:
        """A second window on the same organelle is refused, and can open it after the first is closed."""
        session = Session.open(cell, "golgi", BOX)
        with pytest.raises(OutputBusy, match="being written or edited"):
            Session.open(cell, "golgi", BOX)
        Session.open(cell, "er", BOX).close()
        session.close()
        Session.open(cell, "golgi", BOX).close()

    def test_bad_names_and_boxes(self, cell: Path) -> None:
        """A name with a slash, or a box that sticks out, is refused."""
        with pytest.raises(BadInput, match="cannot name an organelle"):
            Session.open(cell, "labels/golgi", BOX)
        with pytest.raises(OutsideVolume, match="extends beyond"):
            Session.open(cell, "golgi", Box((0, 0, 0), (99, 9, 9)))

    def test_lists_what_can_be_chosen(self, cell: Path) -> None:
        """Images and organelles of a cell; a large image opens in its middle."""
        Session.open(cell, "golgi", BOX).close()
        assert images_in(cell) == ["raw"]
        assert names_in(cell) == ["golgi", "known"]
        large = Volume(np.broadcast_to(np.uint8(0), (300, 1000, 200)), 5)
        assert default_box(large) == Box((22, 372, 0), (278, 628, 200))


class TestReader:
    def test_opens_every_layer_in_nm(self, cell: Path) -> None:
        """The image first, then labels; scale and place in nm."""
        (image, image_about, image_kind), (_, labels_about, labels_kind) = get_reader(str(cell))(str(cell))
        assert (image_kind, labels_kind) == ("image", "labels")
        assert image_about["name"] == "raw"
        assert image_about["scale"] == (10, 5, 5)
        assert image_about["translate"] == (100, 200, 300)
        assert labels_about["scale"] == (10, 5, 5)
        np.testing.assert_array_equal(np.asarray(image[:]), example_image().read())

    def test_opens_one_layer_and_pyramids(self, tmp_path: Path) -> None:
        """A layer's own address opens; its coarser levels come along."""
        out = create_volume(
            tmp_path / "c.zarr/raw", Spec((70, 140, 140), "uint16", (5, 5, 5)), block=64, made_by={"test": 1}
        )
        out.data[:] = np.broadcast_to(np.arange(140, dtype=np.uint16), (70, 140, 140))
        finish_volume(out)
        ((levels, about, kind),) = read(str(tmp_path / "c.zarr"))
        assert kind == "image"
        assert about["multiscale"]
        assert [level.shape for level in levels] == [(70, 140, 140), (35, 70, 70), (18, 35, 35)]
        assert 0 <= about["contrast_limits"][0] < about["contrast_limits"][1] <= 139
        assert get_reader(str(tmp_path / "c.zarr" / "raw")) is not None

    def test_leaves_other_files_to_other_readers(self, tmp_path: Path) -> None:
        """A folder that is no cell, and a file that is not there, are not ours."""
        assert get_reader(str(tmp_path)) is None
        assert get_reader(str(tmp_path / "nothing.zarr")) is None


# --- the window -------------------------------------------------------------------------------------------------


def test_strokes_from_a_file_are_strokes(cell: Path, tmp_path: Path) -> None:
    """What a cut was made from is in the window as strokes."""
    image = open_volume(cell / "raw")
    seeds = np.zeros(BOX.shape, np.uint8)
    seeds[2, 3:6, 3:6], seeds[2, 20:24, 20:24] = 1, 2
    from asem_core.stages.annotate import annotate

    annotate(
        load_catalog().get("annotator", "watershed")(), image, BOX, seeds, cell / "labels/strokes", Run(progress=False)
    )
    with contextlib.closing(Session.open(cell, "strokes", BOX)) as session:
        np.testing.assert_array_equal(session.seeds, seeds)


def test_a_missing_screen_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a screen or a library of Qt the error says what to do; Qt itself would end the program."""
    pytest.importorskip("qtpy")
    from asem_napari import window as module

    monkeypatch.setattr(sys, "platform", "linux")
    for name in ("QT_QPA_PLATFORM", "DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BadInput, match="There is no screen"):
        module.require_screen()
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(BadInput, match="sudo apt install libxcb-cursor0 .*dnf install xcb-util-cursor"):
        module.require_screen()
