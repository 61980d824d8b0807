"""Labels that travel to VAST or ilastik and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from asem_annotators.from_file import FromFile
from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.errors import BadInput, OutputExists, ShapeMismatch, VoxelSizeMismatch
from asem_core.stages.export import as_is, choose_writer, export_volume
from asem_core.volume import Box, Labels, Volume

QUIET = Run(progress=False)
SHAPE = (6, 20, 30)
VOXEL = (8.0, 5.0, 5.0)


@pytest.fixture
def image() -> Volume:
    return Volume(np.random.default_rng(0).integers(0, 255, SHAPE).astype(np.uint8), VOXEL)


@pytest.fixture
def drawn() -> Labels:
    ids = np.zeros(SHAPE, np.uint8)
    ids[2:5, 4:9, 5:20] = 1
    return Labels(ids, VOXEL)


def take(image: Volume, box: Box, path: Path, **options) -> np.ndarray:
    return FromFile(str(path), **options).prepare(image, box, QUIET)(np.zeros(box.shape, np.uint8))


def put(labels: Labels, box: Box, path: Path, use: str | None = None) -> None:
    """Write a box as `asem annotate export` does."""
    part = labels.crop(box)
    writer = choose_writer(load_catalog(), str(path), use, {})
    export_volume(writer, part, QUIET, original=as_is(part), ids=True)


@pytest.mark.parametrize(
    ("name", "use"), [("planes", None), ("pngs", "image-stack"), ("a.tif", None), ("a.h5", None), ("a.n5", None)]
)
@pytest.mark.parametrize("box", [Box((0, 0, 0), SHAPE), Box((1, 3, 4), (6, 15, 25))], ids=["all", "part"])
def test_goes_there_and_back(
    image: Volume, drawn: Labels, tmp_path: Path, name: str, use: str | None, box: Box
) -> None:
    """What is exported comes back the same, in its place, in every form."""
    put(drawn, box, tmp_path / name, use)
    np.testing.assert_array_equal(take(image, box, tmp_path / name), drawn.read(box))


def test_ids_too_large_for_a_form_are_refused(drawn: Labels, tmp_path: Path) -> None:
    """The message names the id and what the form holds; nothing is written."""
    ids = Labels(drawn.read().astype(np.int64) * 70_000, VOXEL)
    with pytest.raises(BadInput, match=r"an id of 70000, beyond what 'image-stack' holds \(uint8, uint16\)"):
        put(ids, ids.box, tmp_path / "made" / "pngs", "image-stack")
    assert not list(tmp_path.iterdir())


def test_reads_ids_as_vast_colours_them(image: Volume, tmp_path: Path) -> None:
    """A colour is an id of 24 bits; `ids` chooses the objects that make up the organelle."""
    colours = np.zeros((*SHAPE, 3), np.uint8)
    colours[1, :5] = (1, 2, 3)  # 66051
    colours[2, :5] = (0, 0, 7)
    for z, plane in enumerate(colours):
        tifffile.imwrite(tmp_path / f"export.vsseg_{z}.tif", plane, photometric="rgb")
    everything = take(image, image.box, tmp_path)
    one = take(image, image.box, tmp_path, ids=(66051,))
    assert everything[1, :5].all()
    assert everything[2, :5].all()
    assert one[1, :5].all()
    assert not one[2].any()
    with pytest.raises(BadInput, match=r"none of the ids \[4\]"):
        take(image, image.box, tmp_path, ids=(4,))


def test_reads_ilastik_axes(image: Volume, drawn: Labels, tmp_path: Path) -> None:
    """ilastik writes axes in its own order, with a channel axis, and names them."""
    h5py = pytest.importorskip("h5py", reason="HDF5 needs the extra hdf5")
    import json

    with h5py.File(tmp_path / "carving.h5", "w") as file:
        made = file.create_dataset("exported_data", data=drawn.read().transpose(2, 1, 0)[..., None] + 1)
        made.attrs["axistags"] = json.dumps({"axes": [{"key": a} for a in "xyzc"]})
    np.testing.assert_array_equal(take(image, image.box, tmp_path / "carving.h5", ids=(2,)), drawn.read())


@pytest.mark.parametrize("name", ["cremi.hdf", "whole.h5"])
def test_reads_where_cremi_says_that_labels_lie(image: Volume, drawn: Labels, tmp_path: Path, name: str) -> None:
    """`offset` in nm is the place, also of a stack as large as the image; another `resolution` is refused."""
    h5py = pytest.importorskip("h5py", reason="HDF5 needs the extra hdf5")
    part = Box((1, 3, 4), (5, 18, 26))
    whole = name.startswith("whole")
    stored = np.zeros(SHAPE, np.uint64)
    stored[part.shift((-1, -3, -4)).slices] = drawn.read(part)
    with h5py.File(tmp_path / name, "w") as file:
        labels = file.create_dataset("volumes/labels/ids", data=stored if whole else drawn.read(part))
        labels.attrs["resolution"], labels.attrs["offset"] = VOXEL, (8.0, 15.0, 20.0)
    np.testing.assert_array_equal(take(image, part, tmp_path / name), drawn.read(part))
    with h5py.File(tmp_path / name, "r+") as file:
        file["volumes/labels/ids"].attrs["resolution"] = (16.0, 10.0, 10.0)
    with pytest.raises(VoxelSizeMismatch, match="has voxels of"):
        take(image, part, tmp_path / name)


def test_offset_says_where_a_part_lies(image: Volume, drawn: Labels, tmp_path: Path) -> None:
    """A stack of its own shape needs its offset, and then fills any box inside it."""
    put(drawn, Box((1, 2, 3), (6, 18, 28)), tmp_path / "part.tif")
    box = Box((2, 4, 5), (5, 9, 20))
    with pytest.raises(ShapeMismatch, match=r"shape \[5, 16, 25\].*offset_vx"):
        take(image, box, tmp_path / "part.tif")
    assert take(image, box, tmp_path / "part.tif", offset_vx=(1, 2, 3)).all()
    with pytest.raises(ShapeMismatch, match=r'Give box="1:5,2:9,3:20", which it covers'):
        take(image, Box((0, 0, 0), (5, 9, 20)), tmp_path / "part.tif", offset_vx=(1, 2, 3))


def test_other_voxels_are_refused(image: Volume, drawn: Labels, tmp_path: Path) -> None:
    """A file that states another voxel size than the image's is refused, whichever side is wrong."""
    put(Labels(drawn.read(), (10, 5, 5)), drawn.box, tmp_path / "a.tif")
    with pytest.raises(VoxelSizeMismatch, match=r"a.tif has voxels of \[10.0, 5.0, 5.0\] nm"):
        take(image, image.box, tmp_path / "a.tif")
    put(drawn, drawn.box, tmp_path / "planes")
    with pytest.raises(VoxelSizeMismatch, match="Resample it"):
        take(image, image.box, tmp_path / "planes", voxel_size_nm=(5, 5, 5))


def test_broken_stacks_are_named(image: Volume, tmp_path: Path) -> None:
    """Each fault names the file and what is wrong with it."""
    with pytest.raises(BadInput, match=r"nowhere does not exist"):
        take(image, image.box, tmp_path / "nowhere")
    folder = tmp_path / "gap"
    folder.mkdir()
    for z in (0, 1, 3):
        tifffile.imwrite(folder / f"z{z}.tif", np.zeros(SHAPE[1:], np.uint8))
    with pytest.raises(BadInput, match="has planes 0 to 3, but 2 is missing"):
        take(image, image.box, folder)
    tifffile.imwrite(tmp_path / "grey.tif", np.full(SHAPE, 0.5, np.float32), photometric="minisblack")
    with pytest.raises(BadInput, match="holds fractions"):
        take(image, image.box, tmp_path / "grey.tif")
    (tmp_path / "notes.txt").write_text("no labels")
    with pytest.raises(BadInput, match=r"No source plugin can read"):
        take(image, image.box, tmp_path / "notes.txt")


def test_never_overwrites(drawn: Labels, tmp_path: Path) -> None:
    """An export leaves what is there alone."""
    (tmp_path / "labels.tif").write_bytes(b"precious")
    with pytest.raises(OutputExists, match=r"labels.tif exists"):
        put(drawn, drawn.box, tmp_path / "labels.tif")


def test_seeds_overrule_the_file(image: Volume, drawn: Labels, tmp_path: Path) -> None:
    """Strokes correct imported labels."""
    put(drawn, drawn.box, tmp_path / "a.tif")
    seeds = np.zeros(SHAPE, np.uint8)
    seeds[3, 5, 6], seeds[0, 0, 0] = 2, 1
    result = FromFile(str(tmp_path / "a.tif")).prepare(image, image.box, QUIET)(seeds)
    assert result[3, 5, 6] == 0
    assert result[0, 0, 0] == 1
