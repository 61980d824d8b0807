"""One image in the many dialects of N5, HDF5, Zarr, MRC, AmiraMesh, PNG and raw planes: in its place, or asked for by an answer that works."""

from __future__ import annotations

import json
import struct
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

sys.path.insert(0, str(Path(__file__).parent))
import foreign_files as foreign
from foreign_files import IMAGE, SIZE, check_place, choose

from asem_core.errors import BadInput

XYZ = SIZE[::-1]
UM = [s / 1000 for s in XYZ]
NM = ["nm"] * 3
TWO = np.stack([IMAGE, 255 - IMAGE])


# --- N5 -----------------------------------------------------------------------------------------------------------


def write_n5(array: Path, data: np.ndarray, attributes: dict[str, Any], group: dict[str, Any]) -> Path:
    """Write an array of one block, and the attributes of the container around it."""
    array.mkdir(parents=True)
    (array.parent / "attributes.json").write_text(json.dumps({"n5": "2.5.1", **group}))
    shape = data.shape[::-1]
    about = {"dimensions": shape, "blockSize": shape, "dataType": str(data.dtype), "compression": {"type": "raw"}}
    (array / "attributes.json").write_text(json.dumps({**about, **attributes}))
    block = array.joinpath(*["0"] * data.ndim)
    block.parent.mkdir(parents=True, exist_ok=True)
    block.write_bytes(struct.pack(f">HH{data.ndim}I", 0, data.ndim, *shape) + data.tobytes())
    return array.parent


PIXELS = {"pixelResolution": {"unit": "nm", "dimensions": XYZ}}
IMAGEJ = dict(zip(("pixelWidth", "pixelHeight", "pixelDepth"), UM, strict=True))
COUNTS = {"numChannels": 1, "numSlices": len(IMAGE), "numFrames": 1}
OME_AXES = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
OME_STEPS = [{"type": "scale", "scale": SIZE}, {"type": "translation", "translation": [80, 0, 40]}]
OME_LEVEL = {"path": "raw", "coordinateTransformations": OME_STEPS}
N5: dict[str, tuple[np.ndarray, dict[str, Any], dict[str, Any]]] = {
    "units of resolution": (IMAGE, {"resolution": UM, "units": ["um"] * 3}, {}),
    "unit of resolution": (IMAGE, {"resolution": UM, "unit": "micrometer"}, {}),
    "of the group": (IMAGE, {}, PIXELS),
    "of ImageJ": (IMAGE, {**IMAGEJ, **COUNTS, "pixelUnit": "\u00b5m"}, {}),
    "channel of one": (IMAGE[None], PIXELS, {}),
    "channel and time of Fiji": (
        IMAGE[None, :, None],
        {
            "axes": ["x", "y", "c", "z", "t"],
            "resolution": [*XYZ[:2], 1, XYZ[2], 1],
            "units": ["nm", "nm", "", "nm", "s"],
        },
        {},
    ),
    "axes in another order": (IMAGE.T, {"axes": ["z", "y", "x"], "resolution": SIZE, "units": NM}, {}),
    "OME": (IMAGE, {}, {"multiscales": [{"version": "0.4", "axes": OME_AXES, "datasets": [OME_LEVEL]}]}),
}


@pytest.mark.parametrize("name", N5)
def test_n5(tmp_path: Path, name: str) -> None:
    """Axes and voxel size as each program notes them."""
    data, attributes, group = N5[name]
    volume = choose(write_n5(tmp_path / "a.n5" / "raw", np.ascontiguousarray(data), attributes, group)).open()
    check_place(volume)
    assert volume.origin_nm == ((80, 0, 40) if name == "OME" else (0, 0, 0))


@pytest.mark.parametrize(
    ("data", "attributes", "array", "told", "answers"),
    [
        (TWO, PIXELS, "raw", "has 4 axes .* does not name them. .*axes=.?czyx", {"axes": "czyx", "channel": 0}),
        (TWO, {**PIXELS, "axes": list("xyzc")}, "raw", "has 2 channels .*channel=0", {"channel": 0}),
        (IMAGE, {"resolution": XYZ}, "setup0/timepoint0/s0", "gives 8, 5, 4 without a unit", {"voxel_size_nm": SIZE}),
        (IMAGE, {"isLabelMultiset": True, **PIXELS}, "raw", "holds label multisets of Paintera", None),
    ],
)
def test_n5_asks(tmp_path: Path, data: np.ndarray, attributes: Any, array: str, told: str, answers: Any) -> None:
    """What is not stated is asked for; BigDataViewer's unit stands elsewhere."""
    write_n5(tmp_path / "a.n5" / array, data, attributes, {})
    with pytest.raises(BadInput, match=told):
        choose(tmp_path / "a.n5").open()
    if answers is not None:
        answers = {k: list(v) if isinstance(v, tuple) else v for k, v in answers.items()}
        check_place(choose(tmp_path / "a.n5", **answers).open())


# --- HDF5 ---------------------------------------------------------------------------------------------------------


def _with_resolutions(unit: str | None) -> dict[str, Any]:
    axes = [{"key": a, "typeFlags": 2, "resolution": s, "description": ""} for a, s in zip("zyx", SIZE, strict=True)]
    units = {"axis_units": json.dumps(dict.fromkeys("zyx", unit))} if unit else {}
    return {"axistags": json.dumps({"axes": axes}), **units}


HDF5: dict[str, tuple[np.ndarray, dict[str, Any], dict[str, Any]]] = {
    "of the group": (IMAGE, {"units": "x"}, {"resolution": SIZE}),
    "N5 as JSON": (IMAGE, {"pixelResolution": json.dumps({"unit": "nm", "dimensions": XYZ})}, {}),
    "pixel size of ilastik": (IMAGE, _with_resolutions("nm"), {}),
    "big-endian": (IMAGE.astype(">u2"), {"resolution": SIZE}, {}),
}


@pytest.mark.parametrize("name", HDF5)
def test_hdf5(tmp_path: Path, name: str) -> None:
    """The voxel size stands at the data set or at a group around it."""
    import h5py

    data, attributes, around = HDF5[name]
    path = foreign.write_hdf5(tmp_path, data, "volumes/raw", **attributes)
    with h5py.File(path, "a") as file:
        file["volumes"].attrs.update(around)
    check_place(choose(path).open(), data)


def test_hdf5_asks(tmp_path: Path) -> None:
    """One number is the size along all axes; axistags that are none, a size without a unit, and several data sets ask."""
    path = foreign.write_hdf5(tmp_path, IMAGE, "raw", resolution=5.0)
    assert choose(path).open().voxel_size_nm == (5, 5, 5)
    path.unlink()
    foreign.write_hdf5(tmp_path, IMAGE, "Input Data/em", **_with_resolutions(None))
    with pytest.raises(BadInput, match="axistags of ilastik gives 8, 5, 4 without a unit"):
        choose(path).open()
    foreign.write_hdf5(tmp_path, IMAGE[:4], "x/labels", axistags="none")
    with pytest.raises(BadInput, match="holds 2 data sets: .* source_layer=.?Input Data/em"):
        choose(path).open()
    with pytest.raises(BadInput, match=r"axistags that cannot be read, .*axes=.?zyx"):
        choose(path, voxel_size_nm=5.0).open("x/labels")
    np.testing.assert_array_equal(choose(path, voxel_size_nm=5.0, axes="zyx").open("x/labels").read(), IMAGE[:4])


# --- Zarr ---------------------------------------------------------------------------------------------------------


def test_zarr_with_a_sequence_of_steps_and_levels_in_any_order(tmp_path: Path) -> None:
    """Transformations may come as one, and the finest level may be listed last."""
    group = zarr.open_group(tmp_path / "steps.zarr", mode="w")
    group.create_array("half", shape=(2, 2, 2), chunks=(2, 2, 2), dtype="u1")
    group.create_array("raw", shape=IMAGE.shape, chunks=(16, 16, 16), dtype="u1")[...] = IMAGE
    level = {"path": "raw", "coordinateTransformations": [{"type": "sequence", "transformations": OME_STEPS}]}
    half = {"path": "half", "coordinateTransformations": [{"type": "scale", "scale": [2 * s for s in SIZE]}]}
    group.attrs["ome"] = {"version": "0.6", "multiscales": [{"axes": OME_AXES, "datasets": [half, level]}]}
    volume = choose(tmp_path / "steps.zarr").open()
    check_place(volume)
    assert volume.origin_nm == (80, 0, 40)


# --- MRC, AmiraMesh, raw planes -----------------------------------------------------------------------------------


def test_bytes_of_mrc_that_cannot_be_signed(tmp_path: Path) -> None:
    """A header that gives a largest byte of 255 is of unsigned ones, whatever the standard says; colours are refused."""
    path = foreign.write_mrc(tmp_path, IMAGE.view(np.int8))
    header = bytearray(path.read_bytes())
    struct.pack_into("<2f", header, 76, 0, 255)
    path.write_bytes(header)
    check_place(choose(path).open())
    struct.pack_into("<i", header, 12, 16)
    path.write_bytes(header)
    with pytest.raises(BadInput, match="holds colours; an image has grey values"):
        choose(path).open()


def test_amira_of_uneven_planes_and_cut(tmp_path: Path) -> None:
    """Coordinates that are not equally spaced give no voxel size; a cut file is refused before anything is read."""
    path = foreign.write_amira(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b'CoordType "uniform"', b'CoordType "stacked"'))
    with pytest.raises(
        BadInput, match="coordinates of the type 'stacked', which are not equally spaced.*voxel_size_nm"
    ):
        choose(path).open()
    check_place(choose(path, voxel_size_nm=list(SIZE)).open())
    path.write_bytes(whole[:-100])
    with pytest.raises(BadInput, match="is truncated"):
        choose(path).open()


@pytest.mark.parametrize(("version", "form", "place"), [(1, ">d", 416), (2, ">d", 416), (3, ">f", 464), (8, ">f", 464)])
def test_pixel_size_of_old_raw_planes(tmp_path: Path, version: int, form: str, place: int) -> None:
    """Versions before 3 keep it elsewhere, as a number of 64 bits."""
    folder = foreign.write_dat(tmp_path)
    for file in folder.iterdir():
        data = bytearray(file.read_bytes())
        data[464:468] = struct.pack(">f", 77)
        struct.pack_into(">H", data, 4, version)
        struct.pack_into(form, data, place, 6.5)
        file.write_bytes(data)
    with pytest.raises(BadInput, match=r"states 6.5 x 6.5 nm .*voxel_size_nm=.8, 6.5, 6.5."):
        choose(folder, channel=0).open()


# --- PNG and what nothing reads -----------------------------------------------------------------------------------


def _png(path: Path, plane: np.ndarray, colour_type: int) -> None:
    """Write samples of 16 bits, which Pillow does not write for colours: 2 is RGB, 4 grey with transparency."""
    height, width, _ = plane.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in plane)
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    body = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in parts.items()
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def test_colours_that_are_not_grey(tmp_path: Path) -> None:
    """Inks and colours of 16 bits, which would be cut to 8, are named; grey with transparency is grey."""
    from PIL import Image

    for name, colour_type, num in (("rgb.png", 2, 3), ("grey_alpha.png", 4, 2)):
        _png(tmp_path / name, np.stack([IMAGE[0].astype(np.uint16) * 257] * num, -1), colour_type)
        with pytest.raises(BadInput, match="has 16 bits for each colour or transparency. Save it as 16-bit grey"):
            choose(tmp_path / name, voxel_size_nm=5.0).open()
    Image.fromarray(IMAGE[0]).convert("CMYK").save(tmp_path / "ink.jpg")
    with pytest.raises(BadInput, match=r"ink.jpg is a colour image \(CMYK\)"):
        choose(tmp_path / "ink.jpg", voxel_size_nm=5.0).open()
    Image.fromarray(np.dstack([IMAGE[0]] * 2), mode="LA").save(tmp_path / "la.png")
    np.testing.assert_array_equal(choose(tmp_path / "la.png", voxel_size_nm=5.0).open().read()[0], IMAGE[0])


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (
            lambda here: foreign.write_planes(here),
            r"folders in it, these can be imported: planes_png. .* asem import .*planes_png",
        ),
        (lambda here: (here / "a.zarr.zip").write_bytes(b"PK"), r"It is packed: unpack it first"),
        (lambda here: (here / "a.czi").write_bytes(b"ZISRAWFILE"), r"Save it as TIFF, MRC, HDF5 or OME-Zarr \(Fiji"),
    ],
)
def test_what_nothing_reads(tmp_path: Path, make: Callable[[Path], object], told: str) -> None:
    """A folder too high, an archive and an unknown format are told what to do."""
    make(tmp_path)
    (only,) = tmp_path.iterdir()
    with pytest.raises(BadInput, match=told):
        choose(tmp_path if only.is_dir() else only)
