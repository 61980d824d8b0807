"""Which layer is which: known by what it is and what made it, however its path is spelt and wherever it lies."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import zarr

from asem_core.cell.apply import apply
from asem_core.cell.node import layers
from asem_core.cell.provenance import describe_input, made_by
from asem_core.cell.record import SCHEMA, Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import BadInput, OutputExists
from asem_core.files import fingerprint
from asem_core.stages.annotate import Layer
from asem_core.stages.import_ import import_volume
from asem_core.stages.segment import segment
from asem_core.volume import Box
from asem_preprocessors.invert import Invert
from asem_sources.tiff_stack import TiffStack

sys.path.insert(0, str(Path(__file__).parent))
from layers_by_hand import QUIET, SPEC, foreign, write

# --- the same thing, reached in another way -------------------------------------------------------------------------


def test_the_same_work_is_found_by_every_spelling_and_after_a_move(
    stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another folder, `./`, an absolute path, a link, a moved cell and moved planes: nothing is done again."""

    def run(planes: str, cell: str) -> tuple[str, str]:
        raw = import_volume(TiffStack(planes, 5.0), f"{cell}/raw", QUIET)
        inverted = apply(Invert(), open_volume(f"{cell}/raw"), f"{cell}/raw_invert", QUIET)
        return Record.of(raw).id, Record.of(inverted).id

    monkeypatch.chdir(tmp_path)
    first = run("planes", "cell.zarr")
    written = (tmp_path / "cell.zarr/raw_invert/s0/zarr.json").stat().st_mtime_ns
    assert run("./planes/", "./cell.zarr") == first
    assert run(str(stack), str(tmp_path / "cell.zarr")) == first
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert run("../planes", "../cell.zarr") == first
    (tmp_path / "link").symlink_to(tmp_path / "cell.zarr")
    assert run("../planes", "../link") == first
    shutil.copytree(stack, tmp_path / "copied")  # with new times
    shutil.move(tmp_path / "cell.zarr", tmp_path / "moved.zarr")
    assert run("../copied", "../moved.zarr") == first
    assert (tmp_path / "moved.zarr/raw_invert/s0/zarr.json").stat().st_mtime_ns == written


def test_unfinished_work_is_gone_on_with_by_another_spelling(
    stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A killed run resumes from another folder and through a link: the same build, no block computed twice."""
    monkeypatch.chdir(tmp_path)
    record = made_by("import", source=TiffStack("planes", 5.0))
    begun = create_volume("cell.zarr/raw", SPEC, block=64, made_by=record)
    begun.data[...] = 7  # type: ignore[index]
    begun.release()
    (tmp_path / "link").symlink_to(tmp_path / "cell.zarr")
    monkeypatch.chdir(stack)
    again = create_volume("../link/raw", SPEC, block=64, made_by=made_by("import", source=TiffStack(".", 5.0)))
    assert again.build == begun.build
    assert (finish_volume(again).read() == 7).all()
    assert layers(tmp_path / "cell.zarr") == ["raw"]


def test_a_layer_that_was_deleted_and_is_made_again_is_the_same(stack: Path, tmp_path: Path) -> None:
    """To delete an intermediate layer costs nothing but making it again."""
    cell = tmp_path / "cell.zarr"
    raw = import_volume(TiffStack(str(stack), 5.0), cell / "raw", QUIET)
    once = apply(Invert(), raw, cell / "raw_invert", QUIET)
    shutil.rmtree(cell / "raw")
    apply(Invert(), import_volume(TiffStack(str(stack), 5.0), cell / "raw", QUIET), cell / "raw_invert", QUIET)
    assert Record.of(open_volume(cell / "raw_invert")).id == Record.of(once).id


# --- another thing under the same name -------------------------------------------------------------------------------


def test_a_foreign_layer_made_again_is_never_answered_with_the_old_result(tmp_path: Path) -> None:
    """Three cubes become two, in the place and shape and dtype of before: the old count is not given for them."""
    probability = foreign(tmp_path / "pred.zarr", 3)
    output = tmp_path / "cell.zarr/labels/cubes"
    assert Record.of(segment(open_volume(probability), output, QUIET)).num_objects == 3
    inverted = tmp_path / "cell.zarr/raw_invert"
    apply(Invert(), open_volume(probability), inverted, QUIET)
    foreign(probability, 2)
    with pytest.raises(OutputExists, match=r"differs in: the input, which is another one or now contains other data"):
        segment(open_volume(probability), output, QUIET)
    with pytest.raises(OutputExists, match=r"differs in: the input, which is another one or now contains other data"):
        apply(Invert(), open_volume(probability), inverted, QUIET)
    made = segment(open_volume(probability), output, QUIET, overwrite=True)
    assert Record.of(made).num_objects == len(np.unique(made.read())) - 1 == 2


def test_the_same_relative_name_in_another_folder_is_another_input(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`pred.zarr` of folder b is not that of folder a."""
    output = tmp_path / "cell.zarr/labels/cubes"
    for name, objects in (("a", 3), ("b", 1)):
        (tmp_path / name).mkdir()
        foreign(tmp_path / name / "pred.zarr", objects)
    monkeypatch.chdir(tmp_path / "a")
    segment(open_volume("pred.zarr"), output, QUIET)
    monkeypatch.chdir(tmp_path / "b")
    with pytest.raises(OutputExists, match="made differently"):
        segment(open_volume("pred.zarr"), output, QUIET)


def test_what_another_program_wrote_into_our_layer_is_noticed(tmp_path: Path) -> None:
    """The record is still ours, but the voxels are not: they are told by their fingerprint."""
    write(tmp_path / "cell.zarr/p", 200, Record("probability"))
    output = tmp_path / "cell.zarr/labels/all"
    segment(open_volume(tmp_path / "cell.zarr/p"), output, QUIET)
    zarr.open_group(str(tmp_path / "cell.zarr/p"), mode="r+")["s0"][:20] = 0  # type: ignore[index]
    with pytest.raises(OutputExists, match="or now contains other data"):
        segment(open_volume(tmp_path / "cell.zarr/p"), output, QUIET)


def test_an_edit_and_a_copy_made_anew_have_new_revisions(stack: Path, tmp_path: Path) -> None:
    """A write through us changes the revision, and so does an import that is made again though nothing seems to differ."""
    cell = tmp_path / "cell.zarr"
    image = import_volume(TiffStack(str(stack), 5.0), cell / "raw", QUIET)
    with Layer.open(cell / "labels/a", image) as layer:
        before = Record.of(layer.volume)
        layer.write(Box((0, 0, 0), (4, 4, 4)), np.ones((4, 4, 4), np.uint8))
    after = open_volume(cell / "labels/a")
    assert (Record.of(after).id, Record.of(after).revision) != (before.id, before.revision)
    assert "fingerprint" not in describe_input(after)  # all that was written was written through us
    anew = import_volume(TiffStack(str(stack), 5.0), cell / "raw", QUIET, anew=True)
    assert Record.of(anew).id == Record.of(image).id
    assert Record.of(anew).revision != Record.of(image).revision


def test_fingerprints_tell_content_where_it_is_small_and_times_where_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Touched small files are the same, changed ones are not; of large ones a changed time is enough."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").write_bytes(b"one")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    os.utime(tmp_path / "b/x", (1, 1))
    assert fingerprint(tmp_path / "a") == fingerprint(str(tmp_path / "b"))
    (tmp_path / "b/x").write_bytes(b"two")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
    monkeypatch.setattr("asem_core.files.SMALL_BYTES", 2)
    known = fingerprint(tmp_path / "a")
    assert fingerprint(tmp_path / "a") == known
    os.utime(tmp_path / "a/x", (1, 1))
    assert fingerprint(tmp_path / "a") != known
    assert fingerprint(tmp_path / "nothing") is None


def test_a_record_of_another_schema_is_refused(tmp_path: Path) -> None:
    """A cell of another version of ASEM is not guessed at."""
    write(tmp_path / "cell.zarr/raw", 1)
    group = zarr.open_group(str(tmp_path / "cell.zarr/raw"), mode="r+")
    group.attrs["asem"] = {**group.attrs["asem"], "schema": 99}  # type: ignore[dict-item]
    with pytest.raises(BadInput, match=f"its record has schema 99, and this version reads {SCHEMA}"):
        open_volume(tmp_path / "cell.zarr/raw")


def test_a_name_alone_makes_no_plugin() -> None:
    """What is no plugin is described by its fields, whatever these are called."""

    @attrs.frozen
    class Stain:
        name: str
        strength: float

    assert made_by("test", stain=Stain("osmium", 0.5))["stain"] == {"name": "osmium", "strength": 0.5}
