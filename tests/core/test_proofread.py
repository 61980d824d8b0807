"""Proofreading: a small log of edits, replayed on the graph of the fragments; the layer's voxels stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import Catalog, load_catalog
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutputExists
from asem_core.stages.evaluate import EvaluateOptions, Pair, evaluate
from asem_core.stages.proofread import Edit, apply_edits, describe_edits, edit_layer, open_proofread, undo_edits
from asem_core.stages.segment import Segmentation, segment
from asem_core.volume import Labels, Spec
from asem_core.voxels.cuts import other_side
from asem_models.mitochondria import Mitochondria

QUIET = Run(progress=False)
SHAPE = (24, 24, 48)
WHOLE = Mitochondria(split=True, split_below=1.0)


def balls() -> np.ndarray:
    """Two balls that touch (1, 2), joined by a neck, and a third one (3) apart."""
    z, y, x = np.indices(SHAPE)
    made = np.zeros(SHAPE, np.int64)
    for number, centre in enumerate(((11, 9, 9), (11, 9, 23), (11, 12, 40)), 1):
        near = sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True))
        made[(near < 56) & (made == 0)] = number
    return made


def write(path: Path, values: np.ndarray) -> str:
    out = create_volume(path, Spec(values.shape, values.dtype, 5.0), block=24, made_by={"stage": "test"})
    out.data[...] = values  # type: ignore[index]
    finish_volume(out)
    return str(path)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture
def layer(tmp_path: Path) -> str:
    """Connected objects, made of fragments: the first two balls are one."""
    path = write(tmp_path / "c.zarr/predictions/m/probability", ((balls() > 0) * 255).astype(np.uint8))
    return segment(open_volume(path), tmp_path / "c.zarr/predictions/m/segmentation", QUIET, WHOLE).path


SPLIT = Edit("split", (1,), None, ((11, 9, 5),), ((11, 9, 27),))


def test_a_cut_goes_through_the_neck(layer: str, catalog: Catalog) -> None:
    """Both balls are whole, but for voxels at the neck; the layer's voxels and its revision stay, only the log grows."""
    before = open_volume(layer)
    assert len(np.unique(before.read())) == 3
    now = edit_layer(layer, SPLIT, catalog, QUIET)
    found = now.read(before.box)
    truth = balls()
    assert [len(np.unique(found[truth == n])) for n in (1, 2)] in ([1, 1], [2, 2], [1, 2], [2, 1])
    for number, own in ((1, 1), (2, now.edits[-1].new)):
        assert (found[truth == number] == own).mean() > 0.97
    after = open_volume(layer)
    np.testing.assert_array_equal(after.read(), before.read())
    assert Record.of(after).revision == Record.of(before).revision


def test_edits_are_replayed_undone_and_written(layer: str, catalog: Catalog, tmp_path: Path) -> None:
    """What is written equals the replayed log for each size of blocks; undone, all is as it was; the record says what was done."""
    edit_layer(layer, SPLIT, catalog, QUIET)
    edit_layer(layer, Edit("relabel", (2,), 9), catalog, QUIET)
    edit_layer(layer, Edit("merge", (9, 1)), catalog, QUIET)
    now = edit_layer(layer, Edit("delete", (3,)), catalog, QUIET)
    expected = now.read(now.layer.box)
    assert np.unique(expected).tolist() == [0, 9]
    made = apply_edits(layer, catalog, Run(progress=False, block=(16, 16, 16)))
    np.testing.assert_array_equal(made.read(), expected)
    assert made.path == f"{layer}_proofread"
    assert Record.of(made).num_objects == 1
    assert describe_edits(made) == "Proofread: 1 x merge, 1 x split, 1 x delete, 1 x relabel."

    assert [edit.kind for edit in undo_edits(layer, 2)] == ["delete", "merge"]
    again = apply_edits(layer, catalog, QUIET)
    assert np.unique(again.read()).tolist() == [0, 1, 3, 9]
    with pytest.raises(OutputExists, match=r"2 edits would be lost"):
        segment(open_volume(Path(layer).with_name("probability")), layer, QUIET, Segmentation(), overwrite=True)
    undo_edits(layer, 2)
    assert open_proofread(layer, catalog, QUIET).edits == []
    with pytest.raises(BadInput, match="has no edits"):
        apply_edits(layer, catalog, QUIET)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (Edit("merge", (1, 77)), "There is no object 77"),
        (Edit("merge", (1,)), "two or more"),
        (Edit("relabel", (1,), 2), "that is another; merge them"),
        (Edit("relabel", (1,), 0), "ids begin at 1"),
        (Edit("split", (1,), None, ((11, 9, 5),), ((0, 0, 0),)), r"\[0, 0, 0\] is not in it"),
        (Edit("split", (1,), None, ((11, 9, 5),), ()), "one side has none"),
        (Edit("split", (1,), None, ((11, 9, 5),), ((11, 9, 6),)), "lie in one fragment"),
    ],
)
def test_edits_that_cannot_be_are_refused(layer: str, catalog: Catalog, edit: Edit, words: str) -> None:
    """Nothing is added to the log; the message says what is wrong."""
    with pytest.raises(BadInput, match=words):
        edit_layer(layer, edit, catalog, QUIET)
    assert open_proofread(layer, catalog, QUIET).edits == []


def test_the_last_edit_given_again_is_no_second_one(layer: str, catalog: Catalog) -> None:
    """A command that was killed may be repeated, whether or not it got so far."""
    for edit in (SPLIT, Edit("relabel", (3,), 8), Edit("merge", (1, 8)), Edit("delete", (2,))):
        once, again = (edit_layer(layer, edit, catalog, QUIET) for _ in range(2))
        assert list(again.edits) == list(once.edits)
        np.testing.assert_array_equal(again.table, once.table)
    assert len(open_proofread(layer, catalog, QUIET).edits) == 4


def test_objects_without_fragments_are_edited_but_not_cut(tmp_path: Path, catalog: Catalog) -> None:
    """Connected components: merged and deleted by their ids; how to make them of fragments is said."""
    path = write(tmp_path / "c.zarr/map", ((balls() > 0) * 255).astype(np.uint8))
    made = segment(open_volume(path), tmp_path / "c.zarr/objects", QUIET)
    now = edit_layer(made.path, Edit("merge", (1, 2)), catalog, QUIET)
    np.testing.assert_array_equal(now.read(made.box), (balls() > 0).astype(int))
    with pytest.raises(BadInput, match=r"split=true -s split_below=1"):
        edit_layer(made.path, SPLIT, catalog, QUIET)


def test_a_cut_is_the_least() -> None:
    """Of a chain of fragments with one weak tie, the cut is there, wherever the seeds are; a stray one stays."""
    edges = np.array([[0, 1, 0, 50], [1, 2, 0, 50], [2, 3, 0, 3], [3, 4, 0, 50]])
    members = np.array([0, 1, 2, 3, 4, 9])
    for other in ([4], [3]):
        assert other_side(members, edges, np.array([0]), np.array(other)).tolist() == [3, 4]


def test_commands_edit_and_say_what_they_did(layer: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Split by strokes, log, apply, undo; measuring the layer itself warns that its voxels do not show the edits."""
    strokes = np.zeros(SHAPE, np.uint8)
    strokes[11, 9, 4:8], strokes[11, 9, 24:28] = 1, 2
    seeds = write(tmp_path / "c.zarr/seeds/cut", strokes)

    def asem(*words: str) -> str:
        found = CliRunner().invoke(make_app(), ["proofread", *words])
        assert found.exit_code == 0, found.output
        return found.output

    assert "split 1 into 1 and 3; 3 objects" in asem("split", layer, "1", "--strokes", seeds)
    assert "1. split 1 into 1 and 3" in asem("log", layer)
    assert "3 objects. Proofread: 1 x split." in asem("apply", layer, "--quiet")
    labels: Labels = open_volume(layer, kind=Labels)
    truth = Labels(balls().astype(np.uint8), 5.0)
    evaluate([Pair("a", labels, truth)], EvaluateOptions(), QUIET, load_catalog())
    assert "has 1 edits that are not in its voxels: asem proofread apply" in caplog.text
    assert "Undone: split 1" in asem("undo", layer, "--all")
    assert "has no edits" in asem("log", layer)
    wrong = CliRunner().invoke(make_app(), ["proofread", "split", layer, "1", "--one", "1,2"])
    assert wrong.exit_code == 1
    assert "A voxel is written z,y,x" in " ".join(wrong.output.split())
