"""Files that are not what their name, or their description, says; or that other programs keep in a way of their own."""

from __future__ import annotations

import gzip
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
import foreign_files as foreign
from foreign_files import IMAGE, SIZE, check_place, choose
from test_dialects import write_n5

from asem_core.errors import BadInput, MissingExtra
from asem_sources._png import decode_grey

GIVEN = {"voxel_size_nm": list(SIZE)}
PLANE = IMAGE[0]


def _zarr(path: Path) -> Path:
    zarr.create_array(str(path), shape=PLANE.shape, chunks=(8, 8), dtype="u1")[...] = PLANE
    return path


def _png(path: Path) -> Path:
    Image.fromarray(PLANE).save(path)
    return path


def write_png(path: Path, shape: tuple[int, ...], bits: int, rows: bytes) -> None:
    """Write a grey PNG of any depth."""

    def part(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    about = struct.pack(">IIBBBBB", shape[1], shape[0], bits, 0, 0, 0, 0)
    parts = part(b"IHDR", about) + part(b"IDAT", zlib.compress(rows)) + part(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + parts)


def _tiff(path: Path) -> Path:
    tifffile.imwrite(path, PLANE)
    return path


def _mrc(path: Path) -> Path:
    import mrcfile

    with mrcfile.new(path) as file:
        file.set_data(PLANE.astype(np.uint16))
    return path


@pytest.mark.parametrize(
    "make",
    [
        lambda here: _tiff(here / "a.tif"),
        lambda here: _png(here / "a.png"),
        lambda here: _mrc(here / "a.mrc"),
        lambda here: _zarr(here / "a.zarr"),
        lambda here: write_n5(here / "a.n5" / "raw", PLANE, {}, {}),
        lambda here: foreign.write_hdf5(here, PLANE),
    ],
    ids=["TIFF", "PNG", "MRC", "Zarr", "N5", "HDF5"],
)
def test_an_image_without_z_is_one_plane(tmp_path: Path, make: Callable[[Path], Path]) -> None:
    """The rule is the same for every image file, and for every array, whose axes are asked for."""
    path = make(tmp_path)
    given = dict(GIVEN)
    if path.suffix not in (".tif", ".png", ".mrc"):
        with pytest.raises(BadInput, match="is one plane .y .*If one plane is what you want, say so: axes="):
            choose(path, **given).open()
        given["axes"] = "yx"
    volume = choose(path, **given).open()
    np.testing.assert_array_equal(volume.read(), PLANE[None])
    assert volume.voxel_size_nm == SIZE


# --- HDF5 of other programs -----------------------------------------------------------------------------------------


def write_bigdataviewer(folder: Path) -> Path:
    """Write uint16 as int16 of the same bits, with a level, and the voxel size in the XML beside."""
    import h5py

    wide = IMAGE.astype(np.uint16) * 257
    with h5py.File(folder / "a.h5", "w") as file:
        file["t00000/s00/0/cells"] = wide.view(np.int16)
        file["t00000/s00/1/cells"] = wide[::2, ::2, ::2].copy().view(np.int16)
        file["s00/resolutions"] = np.array([[1.0, 1, 1], [2, 2, 2]])
        file["s00/subdivisions"] = np.array([[16, 16, 16]] * 2)
    (folder / "a.xml").write_text(
        "<SpimData><SequenceDescription><ViewSetups><ViewSetup><id>0</id><voxelSize><unit>micrometer</unit>"
        "<size>0.004 0.005 0.008</size></voxelSize></ViewSetup></ViewSetups></SequenceDescription></SpimData>"
    )
    return folder / "a.h5"


def test_bigdataviewer(tmp_path: Path) -> None:
    """The finest level is the image, its values are unsigned, and the XML states its voxels; given that, the HDF5 is named."""
    path = write_bigdataviewer(tmp_path)
    check_place(choose(path).open(), IMAGE.astype(np.uint16) * 257)
    coarse = choose(path).open("t00000/s00/1/cells")
    assert coarse.voxel_size_nm == pytest.approx([2 * s for s in SIZE])
    assert coarse.origin_nm == pytest.approx([s / 2 for s in SIZE])
    assert choose(path).layers() == ["t00000/s00/0/cells", "t00000/s00/1/cells"]
    with pytest.raises(BadInput, match=r"voxels may be in a.h5 beside it: asem import .*a.h5"):
        choose(tmp_path / "a.xml")


def test_rows_and_columns_of_matlab(tmp_path: Path) -> None:
    """MATLAB keeps rows, columns and planes with the first the fastest; files before 7.3 are told apart."""
    written = foreign.write_hdf5(tmp_path, np.ascontiguousarray(IMAGE.transpose(0, 2, 1)), "im", MATLAB_class=b"uint8")
    path = written.rename(tmp_path / "a.mat")
    check_place(choose(path, **GIVEN).open())
    (tmp_path / "old.mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(500))
    with pytest.raises(BadInput, match=r"save\(..., '-v7.3'\)"):
        choose(tmp_path / "old.mat").open()


def test_a_project_of_ilastik_is_no_image(tmp_path: Path) -> None:
    """Painted blocks are not taken for the image: that is named, or is in the project."""
    import h5py

    with h5py.File(tmp_path / "a.ilp", "w") as file:
        file["Input Data/infos/lane0000/Raw Data/filePath"] = b"raw.h5/data"
        block = file.create_dataset("PixelClassification/LabelSets/labels000/block0000", data=PLANE[None, :, :, None])
        block.attrs["blockSlice"] = "[0:1,0:44,0:48,0:1]"
    with pytest.raises(BadInput, match=r"only refers to its image: raw.h5/data. Import that"):
        choose(tmp_path / "a.ilp", **GIVEN).open()
    with h5py.File(tmp_path / "a.ilp", "a") as file:
        file["Input Data/local_data/1"] = IMAGE
    check_place(choose(tmp_path / "a.ilp", **GIVEN).open())
    with h5py.File(tmp_path / "linked.h5", "w") as file:
        file["raw"] = h5py.ExternalLink("gone.h5", "/raw")
    with pytest.raises(BadInput, match=r"only links to other files, which are not followed: import gone.h5 \(/raw\)"):
        choose(tmp_path / "linked.h5", **GIVEN).open()


def test_compressions_beyond_hdf5(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of hdf5plugin are read; one that is not there is named, with what brings it, and never called damage."""
    import h5py
    import hdf5plugin

    with h5py.File(tmp_path / "a.h5", "w") as file:
        file.create_dataset("raw", data=IMAGE, chunks=(8, 16, 16), **hdf5plugin.Blosc())
    check_place(choose(tmp_path / "a.h5", **GIVEN).open())
    available = h5py.h5z.filter_avail
    monkeypatch.setattr(h5py.h5z, "filter_avail", lambda number: number != hdf5plugin.BLOSC_ID and available(number))

    def fail(*_: Any) -> None:
        raise OSError("filter returned failure during read")

    monkeypatch.setattr(h5py.Dataset, "__getitem__", fail)
    with pytest.raises(BadInput, match=r"compressed by the HDF5 filter 32001 \(blosc\).* save it with gzip"):
        choose(tmp_path / "a.h5", **GIVEN).open().read()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r"the HDF5 filter 32001 \(blosc\), which is not installed. Install it"):
        choose(tmp_path / "a.h5", **GIVEN).open().read()


# --- planes -------------------------------------------------------------------------------------------------------


def test_planes_that_are_turned_against_each_other(tmp_path: Path) -> None:
    """A viewer that turns one plane notes it in the file: told of all, refused of one."""
    for folder, turned in (("all", range(12)), ("one", range(5, 6))):
        for ending in ("tif", "jpg"):
            planes = tmp_path / f"{folder}_{ending}"
            planes.mkdir()
            for z in range(12):
                if ending == "tif":
                    tags = [(274, 3, 1, 6 if z in turned else 1, True)]
                    tifffile.imwrite(planes / f"s_{z:03}.tif", IMAGE[z], extratags=tags)
                else:
                    exif = Image.Exif()
                    exif[274] = 6 if z in turned else 1
                    Image.fromarray(IMAGE[z]).save(planes / f"s_{z:03}.jpg", exif=exif)
            source = choose(planes, **GIVEN)
            if folder == "all":
                assert any("Orientation (6)" in question for question in source.open().questions)
                continue
            with pytest.raises(BadInput, match=rf"s_005.{ending} .* turned or mirrored otherwise than s_000.{ending}"):
                source.open()


def test_labels_of_jpeg_are_refused(tmp_path: Path) -> None:
    """JPEG blurs ids into others at every edge."""
    with pytest.raises(BadInput, match=r"cell_\d+.jpg is JPEG, .* Export the labels as PNG or TIFF"):
        choose(foreign.write_planes(tmp_path, ending="jpg"), kind="labels", **GIVEN).open()


@pytest.mark.parametrize("depth", [8, 16])
@pytest.mark.parametrize("kind", [0, 1, 2, 3, 4, "mixed"])
def test_filters_of_png(tmp_path: Path, kind: Any, depth: int) -> None:
    """Every filter, of each of which any bytes are a valid row, gives what Pillow reads; what is damaged is left to it."""
    rng = np.random.default_rng(depth)
    height, width = 41, 7
    kinds = rng.integers(0, 5, height) if kind == "mixed" else [kind] * height
    rows = b"".join(bytes([k]) + rng.bytes(width * depth // 8) for k in kinds)
    write_png(tmp_path / "a.png", (height, width), depth, rows)
    data = (tmp_path / "a.png").read_bytes()
    shown = np.asarray(Image.open(tmp_path / "a.png"))
    found = decode_grey(data)
    assert found is not None
    np.testing.assert_array_equal(found, shown)
    assert found.dtype == (np.uint8 if depth == 8 else np.uint16)
    changed = bytearray(data)
    changed[len(data) // 2] ^= 1
    assert decode_grey(bytes(changed)) is None
    assert decode_grey(data[: len(data) // 2]) is None
    write_png(tmp_path / "b.png", (height, width), depth, b"\5" + rows[1:])
    assert decode_grey((tmp_path / "b.png").read_bytes()) is None


@pytest.mark.parametrize("kind", ["image", "labels"])
def test_grey_values_of_few_bits(tmp_path: Path, kind: str) -> None:
    """Of 4 bits, grey values are stretched as viewers do; ids stay."""
    few = PLANE >> 4
    rows = b"".join(b"\0" + bytes(row[::2] << 4 | row[1::2]) for row in few)
    write_png(tmp_path / "a.png", few.shape, 4, rows)
    values = choose(tmp_path / "a.png", kind=kind, **GIVEN).open().read()
    np.testing.assert_array_equal(values[0], few * 17 if kind == "image" else few)


def test_several_images_of_digital_micrograph(tmp_path: Path) -> None:
    """The thumbnail is passed over; further images are told."""
    assert not choose(foreign.write_dm3(tmp_path / "two.dm3", IMAGE, copies=2)).open().questions
    volume = choose(foreign.write_dm3(tmp_path / "three.dm3", IMAGE, copies=3)).open()
    check_place(volume)
    assert "holds 2 images, of which the first is used" in volume.questions[0]


def test_a_description_that_lists_too_few_pages(tmp_path: Path) -> None:
    """Joined files keep the description of the first: half of the planes would be lost in silence."""
    about = "ImageJ=1.53t\nimages=6\nslices=6\nunit=nm\nspacing=8.0\n"
    tifffile.imwrite(tmp_path / "a.tif", IMAGE[:12], description=about, metadata=None, resolution=(1 / 4, 1 / 5))
    with pytest.raises(BadInput, match=r"holds 12 pages, but its description \(imagej\) lists 6 planes"):
        choose(tmp_path / "a.tif").open()


def test_an_ome_tiff_without_some_of_its_planes(tmp_path: Path) -> None:
    """Planes that the metadata list and the file has not are missed, not filled with black."""
    pixels = (
        'DimensionOrder="XYZCT" Type="uint8" SizeX="48" SizeY="44" SizeZ="4" SizeC="1" SizeT="1" PhysicalSizeX="0.004" '
        'PhysicalSizeY="0.005" PhysicalSizeZ="0.008"'
    )
    listed = "".join(f'<TiffData FirstZ="{z}" IFD="{i}" PlaneCount="1"/>' for i, z in enumerate((0, 1, 3)))
    about = (
        '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="Image:0"><Pixels ID="Pixels:0" '
        f'{pixels}><Channel ID="Channel:0" SamplesPerPixel="1"/>{listed}</Pixels></Image></OME>'
    )
    with tifffile.TiffWriter(tmp_path / "a.ome.tif") as file:
        for i in range(3):
            file.write(IMAGE[i], description=about if i == 0 else None, metadata=None, contiguous=False)
    with pytest.raises(BadInput, match="lists a plane that is not in it, nor in a file beside it"):
        choose(tmp_path / "a.ome.tif").open()


def test_pixel_size_of_serial_em(tmp_path: Path) -> None:
    """The `.mdoc` beside a stack whose header says nothing states y and x in angstrom."""
    path = foreign.write_mrc(tmp_path, size=(0.1, 0.1, 0.1))
    Path(f"{path}.mdoc").write_text("PixelSpacing = 40.0\nImageFile = a.mrc\n\n[ZValue = 0]\nPixelSpacing = 40.0\n")
    with pytest.raises(BadInput, match=r"states 4 x 4 nm along y, x \(.*.mrc.mdoc \(SerialEM\)\), but not the z step"):
        choose(path).open()


# --- not what the name says ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begin", "told"),
    [
        ("a.tif", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "pointer of Git LFS: fetch"),
        ("a.tif", b"\n<!DOCTYPE html><html>Sign in</html>", "It is a web page, .*: download the file again"),
        ("a.tif", b"\x89PNG\r\n\x1a\n" + bytes(99), "It is a PNG image: let its name end in .png"),
        ("a.png", b"PK\3\4" + bytes(99), "It is packed: unpack it first"),
        ("a.h5", b"\xff\xd8\xff" + bytes(99), "It is a JPEG image: let its name end in .jpg"),
        ("a.h5", b"\x89HDF", "Is it damaged"),
        ("a.mrc", gzip.compress(bytes(5000) + bytes(range(256)) * 99), "It is packed: unpack it first"),
    ],
)
def test_what_a_file_is_by_its_first_bytes(tmp_path: Path, name: str, begin: bytes, told: str) -> None:
    """A wrong ending, a login page and a pointer are not called damage."""
    (tmp_path / name).write_bytes(begin)
    with pytest.raises(BadInput, match=told):
        choose(tmp_path / name, **GIVEN).open()


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda here: foreign.write_mrc(here), r"they can be imported one by one: asem import .*\.mrc"),
        (lambda here: (here / "planes.zip").write_bytes(b"PK"), r"planes.zip is packed: unpack it first"),
    ],
)
def test_folders_of_whole_files(tmp_path: Path, make: Callable[[Path], object], told: str) -> None:
    """A folder of stacks, or of archives, is told what to do with it."""
    (tmp_path / "folder").mkdir()
    make(tmp_path / "folder")
    with pytest.raises(BadInput, match=told):
        choose(tmp_path / "folder")
