"""Proofreading by the keys of the window, without the window: edits go into the log, and the objects that are shown change."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asem_core import Run, apply_edits, open_proofread, open_volume, segment
from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume
from asem_core.volume import Box, Spec
from asem_models.mitochondria import Mitochondria
from asem_napari.loop import Said
from asem_napari.proofread import Proofreading, segmentations_in

from .in_thread import InThread

SHAPE = (24, 24, 48)
QUIET = Run(progress=False)
CENTRES = ((11, 9, 9), (11, 9, 23), (11, 12, 40))


def write_objects(cell: Path) -> Path:
    """Two balls that are joined by a neck, and one apart: a map, and objects of it that are made of fragments."""
    grid = np.indices(SHAPE)
    near = [sum((a - c) ** 2 for a, c in zip(grid, centre, strict=True)) < 56 for centre in CENTRES]
    path = cell / "predictions/m/probability"
    out = create_volume(path, Spec(SHAPE, "uint8", 5.0), block=24, made_by={"stage": "test"})
    out.data[...] = np.any(near, axis=0).astype(np.uint8) * 255
    finish_volume(out)
    return Path(segment(path, model=Mitochondria(split=True, split_below=1.0), run=QUIET).path)


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    return write_objects(tmp_path / "c.zarr")


def said(now: Proofreading, wanted: Callable[[str], bool]) -> str:
    """Poll as the window does until something is said."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        for news in now.poll():
            if isinstance(news, Said) and wanted(news.text):
                return news.text
        time.sleep(0.01)
    raise AssertionError("this was not said in time")


def done(now: Proofreading) -> str:
    return said(now, lambda text: text.startswith(("Done", "Undone", "Written")))


def test_objects_are_edited_by_keys(layer: Path) -> None:
    """Merge by two picks, split by strokes, delete, relabel, undo; the log is that of `asem proofread`, and can be applied."""
    box = Box((2, 0, 0), (22, 24, 48))
    now = Proofreading(layer, box, InThread)
    assert said(now, lambda text: "edits so far" in text) == "2 objects, 0 edits so far."
    np.testing.assert_array_equal(now.objects, open_volume(layer).read(box))
    joined, apart = (now.object_at(c) for c in (CENTRES[0], CENTRES[2]))
    assert now.object_at(CENTRES[1]) == joined
    assert "is picked" in now.merge(CENTRES[0]).text
    assert now.merge(CENTRES[2]).text == f"Merge {joined}, {apart} into {joined}..."
    assert f"merge {joined}, {apart} into {joined}; 1 objects" in done(now)
    assert now.object_at(CENTRES[2]) == joined
    now.undo()
    assert done(now) == f"Undone: merge {joined}, {apart} into {joined}; 2 objects."
    strokes = np.zeros(box.shape, np.uint8)
    strokes[9, 9, 4:10], strokes[9, 9, 23:28], strokes[9, 0, 0] = 1, 2, 2
    assert now.split(strokes).text == f"Split {joined}..."
    assert "3 objects" in done(now)
    assert now.object_at(CENTRES[0]) == joined != now.object_at(CENTRES[1]) != 0
    now.delete(CENTRES[2])
    assert "delete" in done(now)
    assert now.object_at(CENTRES[2]) == 0
    now.relabel(CENTRES[0], "77")
    assert "to 77" in done(now)
    assert now.object_at(CENTRES[0]) == 77
    now.write()
    assert done(now).endswith("segmentation_proofread")
    written = open_volume(f"{layer}_proofread").read(box)
    np.testing.assert_array_equal(written, now.objects)
    assert [e.kind for e in open_proofread(layer, load_catalog(), QUIET).edits] == ["split", "delete", "relabel"]
    apply_edits(layer, load_catalog(), QUIET)
    now.close()
    assert "Open the objects again" in now.undo().text


def test_what_cannot_be_edited_is_said(layer: Path) -> None:
    """No object there, no id, one side of a cut only, nothing to take back; nothing is added to the log."""
    now = Proofreading(layer, Box.of_shape(SHAPE), InThread)
    said(now, lambda text: "edits so far" in text)
    nothing = (0, 0, 0)
    for text in (now.merge(nothing).text, now.delete(nothing).text, now.relabel(nothing, "5").text):
        assert text == "There is no object under the cursor."
    assert "whole number" in now.relabel(CENTRES[0], "five").text
    strokes = np.zeros(SHAPE, np.uint8)
    assert "paint one part of it as object" in now.split(strokes).text
    strokes[11, 9, 5:10] = 1
    assert "as background, too" in now.split(strokes).text
    now.relabel(CENTRES[0], str(now.object_at(CENTRES[2])))
    said(now, lambda text: "that is another; merge them" in text)
    now.undo()
    said(now, lambda text: "has 0 edits, so 1 cannot be undone" in text)
    assert open_proofread(layer, load_catalog(), QUIET).edits == []
    now.close()
    assert segmentations_in(["raw", "labels/m", "predictions/m/probability", "predictions/m/segmentation"]) == [
        "predictions/m/segmentation"
    ]
