"""Exports lie where the original stack lay, plane by plane, and are never seen half done."""

from __future__ import annotations

import contextlib
import errno
from pathlib import Path

import attrs
import numpy as np
import pytest
import tifffile

from asem_core.blocks import Run
from asem_core.cell.provenance import made_by
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import BadInput, NoSpace, OutputExists, ShapeMismatch, VoxelSizeMismatch
from asem_core.stages.export import Original, as_is, export_volume, original_of
from asem_core.volume import Box, Labels, Spec, Volume
from asem_sources import _tiff_writing, _writing
from asem_sources.tiff_stack import TiffStack

NM = (5.0, 4.0, 4.0)
QUIET = Run(progress=False)


def export_tiff(volume, path, run, **options):
    return export_volume(TiffStack(str(path)), volume, run, **options)


def write_layer(path, array, *, voxel_size_nm=NM, origin_nm=(0, 0, 0), inputs=(), **about):
    spec = Spec(array.shape, array.dtype, voxel_size_nm, origin_nm)
    record = made_by("test", inputs=inputs)
    out = create_volume(path, spec, block=32, made_by=record, about=Record(**about))
    out.data[:] = array
    return finish_volume(out)


@pytest.fixture
def cell(tmp_path):
    """A cell imported from the planes img_100.tif ..., cropped, and predicted."""
    rng = np.random.default_rng(0)
    stack = tmp_path / "stack"
    stack.mkdir()
    names = [f"img_{i}.tif" for i in range(100, 120)]
    raw = rng.integers(0, 255, (20, 40, 50), np.uint8)
    planes = Volume(raw, NM, path=str(stack))
    raw_volume = write_layer(tmp_path / "cell.zarr" / "raw", raw, inputs=[planes], planes=names)
    crop = Box((3, 5, 7), (17, 35, 43))
    view = raw_volume.crop(crop)
    cropped = write_layer(
        tmp_path / "cell.zarr" / "raw_crop", view.read(), origin_nm=view.origin_nm, inputs=[raw_volume]
    )
    p = rng.integers(0, 255, crop.shape, np.uint8)
    return write_layer(
        tmp_path / "cell.zarr" / "predictions" / "a" / "probability", p, origin_nm=view.origin_nm, inputs=[cropped]
    )


def placed(array, shape=(20, 40, 50), box=Box((3, 5, 7), (17, 35, 43))):
    whole = np.zeros(shape, array.dtype)
    whole[box.slices] = array
    return whole


def test_planes_are_named_and_placed_as_the_original(cell, tmp_path):
    out = export_tiff(cell, tmp_path / "out", QUIET)
    assert sorted(f.name for f in out.iterdir()) == [f"img_{i}.tif" for i in range(100, 120)]
    np.testing.assert_array_equal(np.stack([tifffile.imread(f) for f in sorted(out.iterdir())]), placed(cell.read()))
    with tifffile.TiffFile(out / "img_100.tif") as file:
        page = file.pages[0]
        assert page.tags["XResolution"].value[0] / page.tags["XResolution"].value[1] == pytest.approx(1e7 / 4)
        assert file.shaped_metadata[0]["voxel_size_nm"] == [5, 4, 4]
        assert file.shaped_metadata[0]["made_by"]["stage"] == "export"


@pytest.mark.parametrize("slab_bytes", [1, 40 * 50 * 3, 10**9])
@pytest.mark.parametrize("workers", [1, 2])
def test_the_result_does_not_depend_on_slabs_or_workers(cell, tmp_path, monkeypatch, slab_bytes, workers):
    monkeypatch.setattr(_writing, "SLAB_BYTES", slab_bytes)
    out = export_tiff(cell, tmp_path / "out", attrs.evolve(QUIET, workers=workers))
    np.testing.assert_array_equal(np.stack([tifffile.imread(f) for f in sorted(out.iterdir())]), placed(cell.read()))


@pytest.mark.parametrize("imagej_bytes", [0, 10**9])
def test_one_file_holds_the_same_planes(cell, tmp_path, monkeypatch, imagej_bytes):
    """It is a stack of ImageJ with its voxel size where that can hold it, else a BigTIFF."""
    monkeypatch.setattr(_tiff_writing, "IMAGEJ_BYTES", imagej_bytes)
    out = export_tiff(cell, tmp_path / "out.tif", QUIET)
    assert TiffStack(str(out)).open().voxel_size_nm == pytest.approx(NM)
    with tifffile.TiffFile(out) as file:
        assert file.is_bigtiff == (not imagej_bytes)
        assert not imagej_bytes or (file.imagej_metadata["spacing"], file.imagej_metadata["unit"]) == (5.0, "nm")
        np.testing.assert_array_equal(file.asarray(), placed(cell.read()))
    assert [f.name for f in tmp_path.glob(".*.partial")] == []


def test_a_threshold_gives_a_binary_map(cell, tmp_path):
    out = export_tiff(cell, tmp_path / "out.tif", QUIET, threshold=0.5)
    np.testing.assert_array_equal(tifffile.imread(out), np.where(placed(cell.read()) >= 128, 255, 0))


@pytest.mark.parametrize("dtype", [np.uint8, bool])
def test_a_binary_map_is_white_on_black(tmp_path, dtype):
    """Labels of 0 and 1 become 0 and 255 unless ids are asked for; the single numbered object of a wider type stays 1."""
    binary = np.random.default_rng(0).integers(0, 2, (4, 6, 8)).astype(dtype)
    out = export_tiff(Labels(binary, NM), tmp_path / "white.tif", QUIET)
    np.testing.assert_array_equal(tifffile.imread(out), np.where(binary, 255, 0))
    kept = write_layer(tmp_path / "a.zarr" / "er", binary.astype(np.uint8), kind="labels")
    np.testing.assert_array_equal(tifffile.imread(export_tiff(kept, tmp_path / "e.tif", QUIET)), 255 * binary)
    out = export_tiff(kept, tmp_path / "ids.tif", QUIET, ids=True)
    np.testing.assert_array_equal(tifffile.imread(out), binary)
    out = export_tiff(Labels(binary.astype(np.uint32), NM), tmp_path / "object.tif", QUIET)
    np.testing.assert_array_equal(tifffile.imread(out), binary)


@pytest.mark.parametrize(
    ("largest", "stored", "written"),
    [(7, np.uint8, np.uint8), (300, np.uint32, np.uint16), (70_000, np.uint64, np.uint32), (300, np.uint16, np.uint16)],
)
def test_ids_are_kept_in_the_smallest_type(tmp_path, largest, stored, written):
    ids = np.zeros((4, 6, 8), stored)
    ids[1, 2, 3] = largest
    out = export_tiff(Labels(ids, NM), tmp_path / "ids.tif", QUIET)
    found = tifffile.imread(out)
    assert found.dtype == written
    np.testing.assert_array_equal(found, ids)


def test_ids_beyond_32_bits_are_refused(tmp_path):
    ids = np.full((4, 4, 4), 2**33, np.uint64)
    with pytest.raises(BadInput, match=r"id of 8589934592.*Renumber"):
        export_tiff(Labels(ids, NM), tmp_path / "out", QUIET)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32])
@pytest.mark.parametrize("name", ["out", "out.tif"])
def test_signed_greys_keep_their_values(tmp_path, dtype, name):
    greys = np.array([[[-5, 10], [np.iinfo(dtype).min, np.iinfo(dtype).max]]], dtype)
    out = export_tiff(Volume(greys, NM), tmp_path / name, QUIET)
    found = tifffile.imread(out if out.is_file() else out / "plane_0000.tif")
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, greys.reshape(found.shape))


def test_ids_below_0_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"holds int16 down to -1\. Ids begin at 0: renumber"):
        export_tiff(Labels(np.full((2, 2, 2), -1, np.int16), NM), tmp_path / "out", QUIET)
    assert not list(tmp_path.iterdir())


def test_wide_greys_take_the_narrowest_type_that_holds_them(tmp_path):
    out = export_tiff(Volume(np.full((2, 2, 2), -1000), NM), tmp_path / "out.tif", QUIET)
    assert tifffile.imread(out).dtype == np.int16
    with pytest.raises(BadInput, match="holds int64, and 'tiff-stack' holds uint8"):
        export_tiff(Volume(np.full((2, 2, 2), 2**40), NM), tmp_path / "wide.tif", QUIET)


def test_a_downsampled_volume_is_enlarged_onto_the_original(tmp_path):
    coarse = np.arange(2 * 3 * 4, dtype=np.uint8).reshape(2, 3, 4)
    volume = Volume(coarse, 10.0, (2.5 + 5, 2.5, 2.5))  # voxels of 2 x 5 nm, one fine plane further on
    out = export_tiff(volume, tmp_path / "out.tif", QUIET, original=Original(Spec((6, 6, 8), np.uint8, 5.0)))
    expected = np.zeros((6, 6, 8), np.uint8)
    expected[1:5] = coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    np.testing.assert_array_equal(tifffile.imread(out), expected)


def test_what_sticks_out_of_the_original_is_cut_off(tmp_path):
    volume = Volume(np.arange(1, 61, dtype=np.uint8).reshape(3, 4, 5), 5.0, (-5, 5, 0))
    out = export_tiff(volume, tmp_path / "out.tif", QUIET, original=Original(Spec((2, 4, 4), np.uint8, 5.0)))
    expected = np.zeros((2, 4, 4), np.uint8)
    expected[:, 1:] = volume.read()[1:, :3, :4]
    np.testing.assert_array_equal(tifffile.imread(out), expected)


def test_a_volume_can_be_written_on_its_own_grid(cell, tmp_path):
    out = export_tiff(cell, tmp_path / "out", QUIET, original=as_is(cell))
    assert sorted(f.name for f in out.iterdir())[0] == "plane_0000.tif"
    assert tifffile.imread(out / "plane_0000.tif").shape == (30, 36)


def test_the_original_is_found_after_the_container_moved(cell, tmp_path):
    (tmp_path / "cell.zarr").rename(tmp_path / "moved.zarr")
    moved = open_volume(tmp_path / "moved.zarr" / "predictions" / "a" / "probability")
    assert original_of(moved).planes[0] == "img_100.tif"


def test_nothing_is_replaced_unless_asked_and_other_files_never(cell, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "img_105.tif").write_text("old")
    (out / "notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="not empty"):
        export_tiff(cell, out, QUIET)
    assert (out / "img_105.tif").read_text() == "old"
    export_tiff(cell, out, QUIET, overwrite=True)
    assert tifffile.imread(out / "img_105.tif").shape == (40, 50)
    assert (out / "notes.txt").read_text() == "mine"


def test_the_original_stack_is_never_written_to(cell, tmp_path):
    with pytest.raises(BadInput, match="never written to"):
        export_tiff(cell, tmp_path / "stack", QUIET, overwrite=True)


def test_an_interrupted_export_shows_nothing_and_goes_on(cell, tmp_path, monkeypatch):
    monkeypatch.setattr(_writing, "SLAB_BYTES", 1)
    real, calls = tifffile.imwrite, []

    def failing(path, *args, **kwargs):
        calls.append(path)
        if len(calls) == 8:
            raise KeyboardInterrupt
        real(path, *args, **kwargs)

    monkeypatch.setattr(tifffile, "imwrite", failing)
    with pytest.raises(KeyboardInterrupt):
        export_tiff(cell, tmp_path / "out", QUIET)
    assert not (tmp_path / "out").exists()
    calls.clear()
    monkeypatch.setattr(tifffile, "imwrite", lambda *a, **k: (calls.append(a), real(*a, **k)))
    out = export_tiff(cell, tmp_path / "out", QUIET)
    assert len(calls) <= 20 - 7
    np.testing.assert_array_equal(np.stack([tifffile.imread(f) for f in sorted(out.iterdir())]), placed(cell.read()))
    assert [f.name for f in tmp_path.glob(".out*")] == [".out.made_by.json"]


def test_an_export_goes_on_only_with_planes_of_its_own_grid(cell, tmp_path, monkeypatch):
    """One that was begun in the original's place and killed gives nothing to one on the layer's own grid."""
    monkeypatch.setattr(_writing, "SLAB_BYTES", 1)
    plain = attrs.evolve(original_of(cell), planes=())
    real = _writing._WritePlanes.write

    def killed(self, box):
        if box.begin[0] == 8:
            raise KeyboardInterrupt
        real(self, box)

    monkeypatch.setattr(_writing._WritePlanes, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        export_tiff(cell, tmp_path / "out", QUIET, original=plain)
    monkeypatch.setattr(_writing._WritePlanes, "write", real)
    out = export_tiff(cell, tmp_path / "out", QUIET, original=as_is(cell))
    np.testing.assert_array_equal(np.stack([tifffile.imread(f) for f in sorted(out.iterdir())]), cell.read())


def test_a_half_plane_of_a_killed_run_is_not_published(cell, tmp_path, monkeypatch):
    real = _writing._WritePlanes.write

    def write(self, box):
        real(self, box)
        (self.folder / ".4711.img_100.tif").write_bytes(b"half")

    monkeypatch.setattr(_writing._WritePlanes, "write", write)
    out = export_tiff(cell, tmp_path / "out", QUIET)
    assert sorted(f.name for f in out.iterdir()) == [f"img_{i}.tif" for i in range(100, 120)]


@pytest.mark.parametrize("name", ["out", "out.tif"])
@pytest.mark.parametrize("what", ["replace", "write_text"])
@pytest.mark.parametrize("after", [0, 1, 2])
def test_an_export_stopped_while_it_gets_its_name_goes_on(cell, tmp_path, monkeypatch, name, what, after):
    """Killed, or on a full disk, at any of the last steps: the same call ends as if nothing had happened."""
    done = export_tiff(cell, tmp_path / "unbroken" / name, QUIET)
    real, done_before = getattr(Path, what), []

    def stopped(self, *args, **options):
        if ".partial" in str(self) or "made_by" in str(self):
            done_before.append(self)
            if len(done_before) > after:
                raise KeyboardInterrupt
        return real(self, *args, **options)

    output = tmp_path / "out" / name
    with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
        patch.setattr(Path, what, stopped)
        export_tiff(cell, output, QUIET)
    for _ in range(2):
        assert export_tiff(cell, output, QUIET) == output
        found, expected = (
            {f.name: f.read_bytes() for f in sorted(p.parent.rglob("*")) if f.is_file()} for p in (output, done)
        )
        assert sorted(found) == sorted(expected)
        np.testing.assert_array_equal(read(output), read(done))


def read(output):
    return (
        np.stack([tifffile.imread(f) for f in sorted(output.glob("*.tif"))])
        if output.is_dir()
        else tifffile.imread(output)
    )


@pytest.mark.parametrize("name", ["out", "out.tif"])
def test_a_full_disk_is_said_with_the_room_that_is_needed(cell, tmp_path, monkeypatch, name):
    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tifffile, "imwrite", full)
    monkeypatch.setattr(tifffile.TiffWriter, "write", full)
    with pytest.raises(NoSpace, match=r"needs up to 0.0 GB.*Free some space"):
        export_tiff(cell, tmp_path / name, QUIET)
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize(
    ("volume", "error", "words"),
    [
        (Volume(np.zeros((2, 2, 2), np.uint8), 7.5), VoxelSizeMismatch, "not whole multiples"),
        (Volume(np.zeros((2, 2, 2), np.uint8), 5.0, (1, 0, 0)), ShapeMismatch, "not a whole number"),
    ],
)
def test_a_volume_off_the_grid_is_refused(volume, error, words, tmp_path):
    with pytest.raises(error, match=words):
        export_tiff(volume, tmp_path / "out", QUIET, original=Original(Spec((4, 4, 4), np.uint8, 5.0)))
