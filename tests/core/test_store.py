"""Layers on disk: what is written is read back, by us and by others; half-written ones are never taken for whole."""

from __future__ import annotations

import json
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Literal

import attrs
import numpy as np
import pytest
import zarr

from asem_core.blocks import Run
from asem_core.cell.chunks import chunk_shape
from asem_core.cell.group import change_attributes, make_group
from asem_core.cell.node import layers
from asem_core.cell.place import lock, require_container, work_folder, work_folders
from asem_core.cell.provenance import made_by
from asem_core.cell.record import Record
from asem_core.cell.store import (
    create_volume,
    find_finished,
    finish_volume,
    open_labels,
    open_volume,
    write_known,
)
from asem_core.errors import BadInput, OutputExists, UnknownName
from asem_core.volume import Labels, Spec, Volume

SPEC = Spec((70, 90, 100), np.uint8, (8.0, 4.0, 4.0), (80.0, 0.0, 40.0))
MADE = {"stage": "test", "threshold": 0.5}


def write(path: Path, values: np.ndarray, spec: Spec = SPEC, **options: object) -> Volume:
    out = create_volume(path, spec, block=32, made_by=MADE, **options)  # type: ignore[arg-type]
    out.data[...] = values  # type: ignore[index]
    return finish_volume(out, Run(progress=False))


def image() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, SPEC.shape).astype(np.uint8)


def test_round_trip(tmp_path: Path) -> None:
    """Voxels, voxel size, origin and provenance come back; the layer is listed."""
    write(tmp_path / "cell.zarr" / "raw", image())
    volume = open_volume(tmp_path / "cell.zarr" / "raw")
    np.testing.assert_array_equal(volume.read(), image())
    assert (volume.voxel_size_nm, volume.origin_nm) == (SPEC.voxel_size_nm, SPEC.origin_nm)
    assert Record.of(volume).made.noted == MADE
    assert layers(tmp_path / "cell.zarr") == ["raw"]


def test_pyramid(tmp_path: Path) -> None:
    """Levels halve the finest axes, average images, and stay in place: a voxel's centre is the mean of its children's."""
    write(tmp_path / "cell.zarr" / "raw", image())
    level = open_volume(tmp_path / "cell.zarr" / "raw" / "s1")
    assert level.voxel_size_nm == (8.0, 8.0, 8.0)
    assert level.origin_nm == (80.0, 2.0, 42.0)
    expected = image().reshape(70, 45, 2, 50, 2).mean((2, 4))
    assert np.abs(level.read() - expected).max() <= 0.5
    last = open_volume(tmp_path / "cell.zarr" / "raw" / "s2")
    assert max(last.shape) <= 64


def test_pyramid_of_labels_mixes_no_ids(tmp_path: Path) -> None:
    """Levels of labels hold only ids that are there, at voxels that had them."""
    labels = (image() > 128).astype(np.uint8) * 200
    write(tmp_path / "cell.zarr" / "labels" / "golgi", labels)
    level = open_volume(tmp_path / "cell.zarr" / "labels" / "golgi" / "s1", kind=Labels)
    np.testing.assert_array_equal(level.read(), labels[:, ::2, ::2])


@pytest.mark.parametrize("layer", ["raw", "labels/golgi"])
@pytest.mark.parametrize("shape", [(70, 90, 100), (64, 65, 130), (3, 200, 71)])
def test_pyramid_does_not_depend_on_blocks(tmp_path: Path, layer: str, shape: tuple[int, int, int]) -> None:
    """Written along with the layer, or read from it afterwards: every level is the same, and so is its metadata."""
    spec = Spec(shape, np.uint8, (5, 5, 5))
    voxels = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    found = []
    for block in (128, 64, 33):
        out = create_volume(tmp_path / f"{block}.zarr" / layer, spec, block=block, made_by=MADE)
        for box in out.box.blocks(block):
            out.data[box.slices] = voxels[box.slices]  # type: ignore[index]
        levels = zarr.open_group(out.build, mode="r")
        assert sorted(levels.array_keys()) == (["s0"] if block == 33 else ["s0", "s1"])  # made alongside, or not
        finish_volume(out)
        found.append({name: array[:] for name, array in levels.arrays()})
    for other in found[1:]:
        assert sorted(other) == sorted(found[0])
        for name, array in other.items():
            np.testing.assert_array_equal(array, found[0][name])


def test_parts_of_cells_written_alone_reach_the_pyramid(tmp_path: Path) -> None:
    """A box that cuts the voxels of the coarser level brings it up to date all the same."""
    out = create_volume(tmp_path / "cell.zarr" / "raw", Spec((70, 70, 70), np.uint8, (5, 5, 5)), block=64, made_by=MADE)
    voxels = np.random.default_rng(0).integers(0, 255, (70, 70, 70), np.uint8)
    for z in range(0, 70, 7):
        out.data[z : z + 7, 0:70, 0:70] = voxels[z : z + 7]  # type: ignore[index]
    expected = voxels.reshape(35, 2, 35, 2, 35, 2).mean((1, 3, 5))
    finish_volume(out)
    assert np.abs(open_volume(tmp_path / "cell.zarr" / "raw" / "s1").read() - expected).max() <= 0.5


@pytest.mark.parametrize("pyramid", [True, False])
def test_a_finished_layer_is_given_back_as_it_is(tmp_path: Path, pyramid: bool) -> None:
    """Asking again for a finished layer returns it, with and without a pyramid; nothing unlisted stays on disk."""
    path, spec = tmp_path / "cell.zarr" / "raw", Spec((70, 70, 70), np.uint8, (5, 5, 5))
    out = create_volume(path, spec, block=64, made_by=MADE)
    out.data[...] = 7  # type: ignore[index]
    finish_volume(out, pyramid=pyramid)
    assert sorted(zarr.open_group(path, mode="r").array_keys()) == (["s0", "s1"] if pyramid else ["s0"])
    again = create_volume(path, spec, block=64, made_by=MADE)
    assert again.finished
    assert (again.read() == 7).all()


def test_unfinished_layer_is_not_taken_for_whole(tmp_path: Path) -> None:
    """A layer whose run has not ended is not there yet, and the message says how it gets there."""
    out = create_volume(tmp_path / "cell.zarr" / "raw", SPEC, block=32, made_by=MADE)
    with pytest.raises(BadInput, match="is incomplete. Run the command"):
        open_volume(tmp_path / "cell.zarr" / "raw")
    assert layers(tmp_path / "cell.zarr") == []
    assert find_finished(tmp_path / "cell.zarr" / "raw", MADE) is None
    out.release()


def test_same_output_again(tmp_path: Path) -> None:
    """The same run finds its finished layer; another one is refused unless it may overwrite."""
    path = tmp_path / "cell.zarr" / "raw"
    write(path, image())
    assert find_finished(path, MADE) is not None
    with pytest.raises(OutputExists, match=r"differs in: threshold: 0.5 -> 0.6\).*overwrite=True"):
        create_volume(path, SPEC, block=32, made_by={**MADE, "threshold": 0.6})
    out = create_volume(path, SPEC, block=32, made_by={**MADE, "threshold": 0.6}, overwrite=True)
    assert not out.finished
    out.release()
    assert find_finished(path, MADE) is not None  # what is replaced stays until the other is whole


def test_a_foreign_folder_is_not_overwritten_by_accident(tmp_path: Path) -> None:
    """A folder that is no layer of ours is kept."""
    write(tmp_path / "cell.zarr" / "mask", image())
    (tmp_path / "cell.zarr" / "raw").mkdir()
    (tmp_path / "cell.zarr" / "raw" / "notes.txt").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match="is not a layer, so it is never replaced"):
            create_volume(tmp_path / "cell.zarr" / "raw", SPEC, block=32, made_by=MADE, overwrite=overwrite)
    assert (tmp_path / "cell.zarr" / "raw" / "notes.txt").read_text() == "mine"


def test_a_group_of_layers_is_never_replaced(tmp_path: Path) -> None:
    """A forgotten last part of a name, as in `-o cell.zarr/labels --overwrite`, costs no layer."""
    write(tmp_path / "cell.zarr" / "labels" / "golgi", image())
    with pytest.raises(OutputExists, match="Name a new layer"):
        create_volume(tmp_path / "cell.zarr" / "labels", SPEC, block=32, made_by=MADE, overwrite=True)
    np.testing.assert_array_equal(open_volume(tmp_path / "cell.zarr" / "labels" / "golgi").read(), image())


def test_a_layer_never_replaces_its_own_input(tmp_path: Path) -> None:
    """An output named like the input, with --overwrite, would be made of nothing."""
    raw = write(tmp_path / "cell.zarr" / "raw", image())
    record = made_by("preprocess", inputs=[raw])
    with pytest.raises(BadInput, match="which it is made from. Choose another output"):
        create_volume(tmp_path / "other" / ".." / "cell.zarr" / "raw", SPEC, block=32, made_by=record, overwrite=True)
    np.testing.assert_array_equal(open_volume(raw.path).read(), image())


def test_a_layer_that_was_hardly_begun_is_replaced(tmp_path: Path) -> None:
    """A process killed before it had described its layer stands in nobody's way."""
    path = tmp_path / "cell.zarr" / "raw"
    write(tmp_path / "cell.zarr" / "mask", image())
    zarr.open_group(str(path), mode="w").create_array("s0", shape=SPEC.shape, dtype="uint8")
    write(path, image())
    np.testing.assert_array_equal(open_volume(path).read(), image())


def test_blocks_of_another_shape_begin_anew(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Blocks of both shapes would share chunks, and of two that are written at once one would lose its part."""
    path = tmp_path / "cell.zarr" / "raw"
    begun = create_volume(path, SPEC, block=32, made_by=MADE)
    begun.data[:32] = 1  # type: ignore[index]
    begun.release()
    same = create_volume(path, SPEC, block=32, made_by=MADE)
    assert same.read().any()
    same.release()
    other = create_volume(path, SPEC, block=30, made_by=MADE)
    assert not other.read().any()
    assert other.data.chunks == (30, 30, 30)  # type: ignore[attr-defined]
    assert "with blocks of (30, 30, 30) it starts from the beginning" in caplog.text


def test_a_newer_version_finds_what_an_older_one_made(tmp_path: Path) -> None:
    """Versions are noted, but after an upgrade finished layers are still used, and others go on."""
    path = tmp_path / "cell.zarr" / "raw"
    step = {"name": "invert", "module": "asem_preprocessors.invert", "version": "asem-core 0.1.0", "options": {}}
    older = {"stage": "preprocess", "asem_version": "0.1.0", "step": step}
    newer = {"stage": "preprocess", "asem_version": "9.9.9", "step": {**step, "version": "asem-core 9.9.9"}}
    begun = create_volume(path, SPEC, block=32, made_by=older)
    begun.release()
    resumed = create_volume(path, SPEC, block=32, made_by=newer)
    assert resumed.work == begun.work
    finish_volume(resumed, Run(progress=False))
    found = find_finished(path, newer)
    assert found is not None
    assert Record.of(found).made.noted == older
    with pytest.raises(OutputExists, match=r"differs in: step.name"):
        create_volume(path, SPEC, block=32, made_by={**newer, "step": {**step, "name": "crop"}})


@pytest.mark.parametrize("layer", ["planes/raw", "planes/labels/er", "planes.zarr/raw"])
def test_a_folder_of_other_files_becomes_no_container(tmp_path: Path, layer: str) -> None:
    """A user's folder stays as it was, and nothing appears beside it; an empty one may become a cell."""
    folder = tmp_path / layer.partition("/")[0]
    folder.mkdir()
    (folder / "z0000.tif").write_bytes(b"mine")
    with pytest.raises(BadInput, match=r"is a folder with other files and not a Zarr container"):
        require_container(folder)
    if layer.count("/") == 1:
        with pytest.raises(BadInput, match=r"is a folder with other files and not a Zarr container"):
            create_volume(tmp_path / layer, SPEC, block=32, made_by=MADE)
    assert [p.name for p in tmp_path.rglob("*")] == [folder.name, "z0000.tif"]
    (folder / "z0000.tif").unlink()
    write(folder / "raw", image())


def test_notes_go_when_a_layer_is_finished_or_refused(tmp_path: Path) -> None:
    """Beside a container with nothing under work there is no hidden folder, whatever stopped runs left in it."""
    path = tmp_path / "cell.zarr" / "raw"
    stopped = create_volume(path, SPEC, block=32, made_by={**MADE, "threshold": 0.1})
    (stopped.work / "done").mkdir(parents=True)
    stopped.release()
    write(path, image(), overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["cell.zarr"]
    with pytest.raises(OutputExists):
        create_volume(path, SPEC, block=32, made_by={**MADE, "threshold": 0.6})
    assert [p.name for p in tmp_path.iterdir()] == ["cell.zarr"]


def test_notes_that_a_killed_run_left_of_a_finished_layer_go(tmp_path: Path) -> None:
    """Killed between the layer's making and the end: the same command finds the layer, and removes lock and notes."""
    path = tmp_path / "cell.zarr" / "raw"
    made = write(path, image())
    work = work_folder(path, MADE)
    (work / "build-1").mkdir(parents=True)
    work.with_name("raw.lock").touch()
    found = find_finished(path, MADE)
    assert found is not None
    np.testing.assert_array_equal(found.read(), made.read())
    assert [p.name for p in tmp_path.iterdir()] == ["cell.zarr"]


def test_notes_of_a_run_that_lives_stay(tmp_path: Path) -> None:
    """Who finds a finished layer takes nothing from the process that holds its lock."""
    path = tmp_path / "cell.zarr" / "raw"
    write(path, image())
    (work_folder(path, MADE) / "build-1").mkdir(parents=True)
    held = lock(path)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_store import MADE, find_finished\n"
        "print(find_finished(sys.argv[1], MADE) is not None)"
    )
    said = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert said.stdout == "True\n"
    assert [w.name for w in work_folders(path)] == [work_folder(path, MADE).name]
    assert Path(held.lock_file).exists()
    held.release()


def test_second_writer_is_refused(tmp_path: Path) -> None:
    """Two runs into one layer at once: the second is refused, and may go on when the first is gone."""
    path = tmp_path / "cell.zarr" / "raw"
    first = create_volume(path, SPEC, block=32, made_by=MADE)
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_store import MADE, SPEC, create_volume\n"
        "from asem_core.errors import OutputBusy\n"
        "try: create_volume(sys.argv[1], SPEC, block=32, made_by=MADE)\n"
        "except OutputBusy as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert "is being written or edited by another process" in said.stdout
    first.release()
    said = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    assert said.stdout == ""


def test_missing_layer_names_the_others(tmp_path: Path) -> None:
    """A wrong layer name lists those that are there; a group says what it holds."""
    write(tmp_path / "cell.zarr" / "labels" / "er", image())
    with pytest.raises(UnknownName, match=r"no layer 'labels/golgi'. Its layers: labels/er"):
        open_volume(tmp_path / "cell.zarr" / "labels" / "golgi")
    with pytest.raises(BadInput, match="is a group, not an image. It holds the layers labels/er"):
        open_volume(tmp_path / "cell.zarr")
    with pytest.raises(BadInput, match="does not exist"):
        open_volume(tmp_path / "nowhere.zarr")
    (tmp_path / "empty.zarr").mkdir()
    with pytest.raises(BadInput, match="not a Zarr array or group"):
        open_volume(tmp_path / "empty.zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_plain_zarr_of_the_authors(tmp_path: Path, version: int) -> None:
    """Plain arrays carry `resolution` and `offset` in nm, zyx (Gallusser et al. 2022)."""
    group = zarr.open_group(tmp_path / "cell.zarr", mode="w", zarr_format=version)  # type: ignore[arg-type]
    array = group.create_array("volumes/raw", shape=(8, 9, 10), dtype="u1", chunks=(4, 4, 4))
    array[...] = image()[:8, :9, :10]
    array.attrs.update({"resolution": [5, 4, 4], "offset": [50, 0, 8]})
    assert layers(tmp_path / "cell.zarr") == ["volumes/raw"]
    volume = open_volume(tmp_path / "cell.zarr" / "volumes" / "raw")
    assert (volume.voxel_size_nm, volume.origin_nm) == ((5, 4, 4), (50, 0, 8))
    np.testing.assert_array_equal(volume.read(), image()[:8, :9, :10])


@pytest.mark.parametrize("consolidated", [False, True])
def test_layers_in_a_container_of_zarr_v2_are_of_v2(tmp_path: Path, consolidated: bool) -> None:
    """Programs that read the authors' containers read what is added to them: OME-Zarr 0.4; it is listed, and made once."""
    cell = tmp_path / "cell.zarr"
    zarr.open_group(cell, mode="w", zarr_format=2).create_array("volumes/raw", shape=(8, 8, 8), dtype="u1")
    if consolidated:
        zarr.consolidate_metadata(cell, zarr_format=2)
    spec = attrs.evolve(SPEC, dtype=np.dtype(np.uint16))
    for _ in range(2):
        made = write(cell / "predictions/er/probability", image().astype(np.uint16) * 7, spec)
    labels = create_volume(cell / "labels/er", SPEC, block=32, made_by=MADE, about=Record("labels"))
    known = np.ones(SPEC.shape, np.uint8)
    known[:5] = 0
    write_known(labels, Volume(known, 5), 32, Run(progress=False))
    labels.data[...] = image() > 200  # type: ignore[index]
    finish_volume(labels)
    assert layers(cell) == ["volumes/raw", "labels/er", "predictions/er/probability"]
    assert not list(cell.rglob("zarr.json"))
    np.testing.assert_array_equal(made.read(), image().astype(np.uint16) * 7)
    assert open_volume(cell / "predictions/er/probability/s1").origin_nm == (80.0, 2.0, 42.0)
    read = open_labels(cell / "labels/er")
    assert not read.known_in(read.box)[:5].any()
    assert read.known_in(read.box)[5:].all()
    about = json.loads((cell / "predictions/er/probability/.zattrs").read_text())
    assert about["multiscales"][0]["version"] == "0.4"
    stored = zarr.open_array(cell / "predictions/er/probability/s0", mode="r", zarr_format=2)
    assert (stored.metadata.dimension_separator, stored.dtype) == ("/", np.uint16)  # type: ignore[union-attr]


def test_no_voxel_size(tmp_path: Path) -> None:
    """An array that does not say its voxel size asks for it."""
    zarr.open_array(tmp_path / "a.zarr", mode="w", shape=(4, 4, 4), dtype="u1")
    with pytest.raises(BadInput, match="does not state its voxel size.*--voxel-size"):
        open_volume(tmp_path / "a.zarr")


def _ome_04(path: Path, axes: list[dict[str, str]], shape: tuple[int, ...], scale: list[float]) -> None:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    array = group.create_array("0", shape=shape, dtype="u2", chunks=tuple(min(8, n) for n in shape))
    array[...] = np.arange(np.prod(shape)).reshape(shape)
    transforms = [{"type": "scale", "scale": scale}, {"type": "translation", "translation": [0.0] * len(shape)}]
    multiscale = {"version": "0.4", "axes": axes, "datasets": [{"path": "0", "coordinateTransformations": transforms}]}
    group.attrs["multiscales"] = [multiscale]


def test_ome_zarr_04_with_channel_axis_and_micrometers(tmp_path: Path) -> None:
    """Other programs' OME-Zarr opens: version 0.4, axes of length 1, micrometers."""
    axes = [{"name": n, "type": "time"} for n in "t"] + [{"name": "c", "type": "channel"}]
    axes += [{"name": n, "type": "space", "unit": "micrometer"} for n in "zyx"]
    _ome_04(tmp_path / "a.zarr", axes, (1, 1, 4, 5, 6), [1, 1, 0.008, 0.004, 0.004])
    volume = open_volume(tmp_path / "a.zarr")
    assert volume.voxel_size_nm == pytest.approx((8, 4, 4))
    np.testing.assert_array_equal(volume.read(), np.arange(120).reshape(4, 5, 6))


def test_ome_zarr_that_is_no_volume(tmp_path: Path) -> None:
    """Two channels or an unknown unit are refused with what to do."""
    axes = [{"name": "c", "type": "channel"}, *({"name": n, "type": "space", "unit": "nanometer"} for n in "zyx")]
    _ome_04(tmp_path / "a.zarr", axes, (2, 4, 5, 6), [1, 8, 4, 4])
    with pytest.raises(BadInput, match="has 2 channels"):
        open_volume(tmp_path / "a.zarr")
    _ome_04(tmp_path / "b.zarr", [{"name": n, "type": "space", "unit": "parsec"} for n in "zyx"], (4, 5, 6), [1, 1, 1])
    with pytest.raises(BadInput, match="parsec"):
        open_volume(tmp_path / "b.zarr")


@pytest.mark.parametrize(("block", "chunk"), [(64, 64), (96, 48), (128, 64), (110, 55), (97, 97), (20, 20)])
def test_chunks_divide_blocks(block: int, chunk: int) -> None:
    """No two blocks share a chunk, whatever the block."""
    assert chunk_shape((500, 500, 500), (block,) * 3) == (chunk,) * 3


def test_read_only_folder(tmp_path: Path) -> None:
    """A place that cannot be written is an error that says so (root may write anywhere, so a file stands in the way)."""
    (tmp_path / "file").write_text("")
    with pytest.raises((BadInput, NotADirectoryError)):
        create_volume(tmp_path / "file" / "cell.zarr" / "raw", SPEC, block=32, made_by=MADE)


def test_metadata_is_ome_zarr_05(tmp_path: Path) -> None:
    """The group's own file says version 0.5, nanometers, zyx."""
    write(tmp_path / "cell.zarr" / "raw", image())
    ome = json.loads((tmp_path / "cell.zarr" / "raw" / "zarr.json").read_text())["attributes"]["ome"]
    assert ome["version"] == "0.5"
    assert [(a["name"], a["unit"]) for a in ome["multiscales"][0]["axes"]] == [(n, "nanometer") for n in "zyx"]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_groups_are_made_and_changed_in_one_step(zarr_format: Literal[2, 3], tmp_path: Path) -> None:
    """As Zarr would: other attributes stay, also those that some programs keep for all groups together."""
    make_group(tmp_path / "a", zarr_format)
    group = zarr.open_group(tmp_path / "a", mode="r+")
    assert group.metadata.zarr_format == zarr_format
    group.attrs["theirs"] = 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(tmp_path / "a")
    make_group(tmp_path / "a", 3)  # it is one
    change_attributes(tmp_path / "a", {"ours": [2]})
    change_attributes(tmp_path / "a", {"ours": [3]})
    for consolidated in (True, False):
        found = zarr.open_group(tmp_path / "a", mode="r", use_consolidated=consolidated)
        assert dict(found.attrs) == {"theirs": 1, "ours": [3]}
