"""Sources of other formats: values, axes, handedness and voxel size as their own libraries and documents say."""

from __future__ import annotations

import json
import os
import shutil
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

sys.path.insert(0, str(Path(__file__).parent))
import foreign_files as foreign
from foreign_files import IMAGE, SIZE, check_place, choose

from asem_core.blocks import Run
from asem_core.errors import BadInput, UnknownName
from asem_core.stages.import_ import import_volume
from asem_core.volume import Box
from asem_sources.amira import AmiraMesh

QUIET = Run(progress=False)
SIGNED = IMAGE.astype(np.int16) - 100


@pytest.mark.parametrize(
    ("write", "name"),
    [
        (foreign.write_hdf5, "hdf5"),
        (foreign.write_precomputed, "precomputed"),
        (foreign.write_amira, "amira"),
        (foreign.write_imaris, "imaris"),
        (lambda folder: foreign.write_dm3(folder / "a.dm3", IMAGE), "digital-micrograph"),
    ],
)
def test_formats_that_state_their_voxel_size(tmp_path: Path, write: Callable[[Path], Path], name: str) -> None:
    """The right plugin is found, and opens the image in its place without options; the import keeps both."""
    source = choose(write(tmp_path))
    assert source.name == name
    volume = source.open()
    check_place(volume)
    made = import_volume(source, tmp_path / "cell.zarr" / "raw", QUIET)
    check_place(made)
    assert made.origin_nm == volume.origin_nm


# --- planes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ending", "dtype"), [("png", np.uint8), ("png", np.uint16), ("bmp", np.uint8), ("jpg", np.uint8)]
)
def test_planes_of_images(tmp_path: Path, ending: str, dtype: type) -> None:
    """PNG of 8 and 16 bits and BMP are exact; JPEG is nearly, and questioned."""
    image = IMAGE.astype(dtype) * (1 if dtype is np.uint8 else 200)
    folder = foreign.write_planes(tmp_path, image, ending)
    with pytest.raises(BadInput, match=r"voxel_size_nm=\[5, 5, 5\]"):
        choose(folder).open()
    volume = choose(folder, voxel_size_nm=list(SIZE)).open()
    if ending != "jpg":
        check_place(volume, image)
    else:
        assert np.abs(volume.read().astype(int) - IMAGE).mean() < 5
        assert "JPEG changes grey values" in volume.questions[0]
    if ending == "png":
        (folder / "cell_003.png").write_bytes((folder / "cell_003.png").read_bytes()[:-200])
        with pytest.raises(BadInput, match="cell_003.png is damaged, truncated or of another format"):
            volume.read()


def test_grey_colours_are_grey_and_palettes_are_not(tmp_path: Path) -> None:
    """A colour image whose colours are all grey is read as grey; others are refused, and numbers of colours are ids only."""
    from PIL import Image

    for z, plane in enumerate(IMAGE[:4]):
        Image.fromarray(np.stack([plane] * 3, -1)).save(tmp_path / f"{z}.png")
    source = choose(tmp_path, voxel_size_nm=5.0)
    np.testing.assert_array_equal(source.open().read(), IMAGE[:4])
    Image.fromarray(np.stack([IMAGE[0], 255 - IMAGE[0], IMAGE[0]], -1)).save(tmp_path / "2.png")
    with pytest.raises(BadInput, match=r"2.png is a colour image"):
        source.open().read()
    for z, plane in enumerate(IMAGE[:4]):
        indexed = Image.fromarray(plane, mode="P")
        indexed.putpalette(np.random.default_rng(0).permutation(768).astype(np.uint8).tolist())
        indexed.save(tmp_path / f"{z}.png")
    with pytest.raises(BadInput, match="0.png is an indexed image: .* kind=.labels."):
        source.open()
    np.testing.assert_array_equal(choose(tmp_path, voxel_size_nm=5.0, kind="labels").open().read(), IMAGE[:4])


def test_thumbnails_beside_tiff_do_not_count(tmp_path: Path) -> None:
    """A folder of TIFF planes with JPEG copies is a TIFF stack."""
    import tifffile

    foreign.write_planes(tmp_path, ending="jpg").rename(tmp_path / "both")
    for z, plane in enumerate(IMAGE):
        tifffile.imwrite(tmp_path / "both" / f"cell_{z:03}.tif", plane)
    assert choose(tmp_path / "both", voxel_size_nm=5.0).name == "tiff-stack"


def test_raw_planes_of_janelia(tmp_path: Path) -> None:
    """A detector is chosen, signed values are shifted by half their range as Fiji does, and the z step is asked for."""
    folder = foreign.write_dat(tmp_path)
    with pytest.raises(BadInput, match="has 2 channels .detectors.* channel=0"):
        choose(folder).open()
    with pytest.raises(BadInput, match=r"states 4 x 4 nm .*voxel_size_nm=\[8, 4, 4\]"):
        choose(folder, channel=0).open()
    for channel, sign in ((0, 1), (1, -1)):
        volume = choose(folder, channel=channel, voxel_size_nm=list(SIZE)).open()
        check_place(volume, (sign * SIGNED.astype(np.int32) + 32768).astype(np.uint16))
        assert any("32768 is added to each" in line for line in volume.remarks)
    ranged = choose(folder, channel=0, voxel_size_nm=list(SIZE), grey_range=[-100, 155]).open()
    check_place(ranged, IMAGE)
    cut = folder / "Merlin_24-11-15_000103_0-0-0.dat"
    os.truncate(cut, 3000)
    with pytest.raises(BadInput, match="000103_0-0-0.dat is truncated"):
        choose(folder, channel=0).open()


def test_planes_of_digital_micrograph(tmp_path: Path) -> None:
    """3View writes a file a plane: pixel size from the first, z step asked for; values as stored, also 16 bits."""
    folder = tmp_path / "3view"
    folder.mkdir()
    for z, plane in enumerate(IMAGE[:5].astype(np.uint16) * 9):
        foreign.write_dm3(folder / f"run_{z:04}.dm3", plane)
    with pytest.raises(BadInput, match=r"states 5 x 4 nm along y, x .*voxel_size_nm=\[8, 5, 4\]"):
        choose(folder).open()
    volume = choose(folder, voxel_size_nm=list(SIZE)).open()
    np.testing.assert_array_equal(volume.read(), IMAGE[:5].astype(np.uint16) * 9)
    foreign.write_dm3(tmp_path / "um.dm3", IMAGE, tuple(s / 1000 for s in SIZE), "µm")
    check_place(choose(tmp_path / "um.dm3").open())
    (tmp_path / "um.dm3").write_bytes(b"no tags")
    with pytest.raises(BadInput, match="cannot be read as DigitalMicrograph"):
        choose(tmp_path / "um.dm3").open()


# --- MRC ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.float32])
def test_modes_of_mrc(tmp_path: Path, dtype: type) -> None:
    """Every mode gives what mrcfile reads, in its order; signed values are shifted without loss, and this is said."""
    stored = {np.int8: (IMAGE.astype(int) - 128), np.int16: SIGNED, np.uint16: IMAGE, np.float32: IMAGE / 255}[dtype]
    volume = choose(foreign.write_mrc(tmp_path, stored.astype(dtype))).open()
    if dtype is np.float32:
        check_place(volume, np.rint(stored.astype(np.float32) * 65535).astype(np.uint16))
        return
    shift = {np.int8: 128, np.int16: 32768, np.uint16: 0}[dtype]
    check_place(volume, (stored.astype(int) + shift).astype(volume.dtype))
    assert any("is added to each" in line for line in volume.remarks) == bool(shift)


def test_what_else_an_mrc_header_says(tmp_path: Path) -> None:
    """Axes may be stored in another order, bytes of old IMOD are unsigned, rows can be turned round, 1 Å is no size."""
    import mrcfile

    path = foreign.write_mrc(tmp_path, IMAGE.astype(np.uint16))
    flipped = choose(path, flip_y=True).open()
    check_place(flipped, IMAGE[:, ::-1].astype(np.uint16))
    with mrcfile.open(path, "r+") as file:
        file.set_data(IMAGE.astype(np.uint16).transpose(1, 0, 2).copy())  # sections along y
        file.header.mapc, file.header.mapr, file.header.maps = 1, 3, 2
        file.header.mx, file.header.my, file.header.mz = IMAGE.shape[::-1]
        for axis, n, s in zip("xyz", IMAGE.shape[::-1], SIZE[::-1], strict=True):
            file.header.cella[axis] = n * s * 10
    check_place(choose(path).open(), IMAGE.astype(np.uint16))
    foreign.write_mrc(tmp_path, IMAGE.view(np.int8))
    data = bytearray(path.read_bytes())
    data[152:160] = b"IMOD" + struct.pack("<i", 0)
    path.write_bytes(data)
    check_place(choose(path).open())
    foreign.write_mrc(tmp_path, IMAGE.astype(np.uint16), (0.1, 0.1, 0.1))
    with pytest.raises(BadInput, match="gives 1 Å, which programs write if they do not know it"):
        choose(path).open()
    os.truncate(path, 5000)
    with pytest.raises(BadInput, match=r"is truncated: it has 5,000 bytes, but its header promises"):
        choose(path).open()


# --- HDF5 ---------------------------------------------------------------------------------------------------------


def test_place_of_cremi(tmp_path: Path) -> None:
    """`resolution` and `offset` are nm by convention, which is named; among several data sets one is named."""
    path = foreign.write_hdf5(tmp_path)
    labels = np.zeros((10, 20, 30), np.uint64)
    labels[2:5, 5:15, 10:20] = 2**63 + 5
    foreign.write_hdf5(tmp_path, labels, "volumes/labels/clefts", resolution=SIZE, offset=(160.0, 40.0, 80.0))
    volume = choose(path).open()
    assert volume.origin_nm == (80, 0, 40)
    assert "nm by the convention of CREMI" in volume.remarks[0]
    with pytest.raises(BadInput, match="holds 2 data sets: .* source_layer=.volumes/"):
        import_volume(choose(path), tmp_path / "cell.zarr" / "labels" / "a", QUIET)
    made = import_volume(choose(path), tmp_path / "cell.zarr" / "labels" / "a", QUIET, layer="volumes/labels/clefts")
    np.testing.assert_array_equal(made.read(), labels)
    assert made.origin_nm == (160, 40, 80)
    with pytest.raises(UnknownName, match="has no data set 'nothing'. Its data sets: volumes"):
        choose(path).open("nothing")


@pytest.mark.parametrize("axes", ["zyx", "zyxc", "cxyz", "tzyxc", "xyz", "yxz"])
def test_axes_of_ilastik(tmp_path: Path, axes: str) -> None:
    """Axes in any order are put in order; several channels are asked for."""
    order = [a for a in axes if a in "zyx"]
    stored = IMAGE.transpose(["zyx".index(a) for a in order])
    full = stored.reshape([stored.shape[order.index(a)] if a in "zyx" else 1 for a in axes])
    path = foreign.write_hdf5(
        tmp_path, full, "exported_data", axistags=foreign.axistags(axes), element_size_um=[s / 1000 for s in SIZE]
    )
    check_place(choose(path).open())
    if axes == "zyxc":
        two = np.concatenate([full, 255 - full], axis=3)
        foreign.write_hdf5(tmp_path, two, "probabilities", axistags=foreign.axistags(axes), element_size_um=(1, 1, 1))
        with pytest.raises(BadInput, match="has 2 channels .*channel=0"):
            choose(path).open("probabilities")
        volume = choose(path, channel=1).open("probabilities")
        np.testing.assert_array_equal(volume.read(), 255 - IMAGE)


def test_axes_that_are_not_named(tmp_path: Path) -> None:
    """Four axes without names ask, and can be named."""
    path = foreign.write_hdf5(tmp_path, np.stack([IMAGE] * 2, 1), "data", resolution=SIZE)
    with pytest.raises(BadInput, match="has 4 axes .* does not name them. .*axes=.zyxc."):
        choose(path).open()
    check_place(choose(path, axes="zcyx", channel=1).open())
    path.write_bytes(b"not HDF5 at all")
    with pytest.raises(BadInput, match="cannot be read as HDF5"):
        choose(path).open()


# --- others -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("packing", ["HxByteRLE", "HxZip"])
def test_packed_amira(tmp_path: Path, packing: str) -> None:
    """Packed values are unpacked; a damaged file and a box without a unit say so."""
    labels = (IMAGE > 100).astype(np.uint8)
    path = foreign.write_amira(tmp_path, labels, packing)
    check_place(choose(path).open(), labels)
    data = path.read_bytes()
    other = tmp_path / "cut.am"
    other.write_bytes(data[: -len(data) // 3])
    with pytest.raises(BadInput, match="is truncated: it ends before its"):
        choose(other).open()
    other.write_bytes(data[: len(data) // 3] + bytes(len(data) - len(data) // 3))
    with pytest.raises(BadInput, match="is damaged or truncated"):
        choose(other).open().read()
    with pytest.raises(BadInput, match="the bounding box in the file gives 8, 5, 4 without a unit"):
        choose(foreign.write_amira(tmp_path, labels, packing, unit="")).open()


@pytest.mark.parametrize(
    ("part", "other", "sentence"),
    [
        ("# AmiraMesh", "# HyperMesh", r"is not an AmiraMesh file: its first line is not '# AmiraMesh'\. Is it of another"),
        ("define Lattice", "define Points", r"holds no lattice of voxels \(a surface or a field of another kind\)"),
        ("{ byte Data", "{ complex Data", "holds values of type 'complex'; an image holds byte, "),
        ("{ byte Data", "{ byte[3] Data", "holds 3 values for each voxel of 'Data'; a volume has one"),
        ("@1(HxByteRLE", "@1(HxRunes", "is packed by 'HxRunes', which is not known. Save it unpacked in Amira"),
        ("follows\n@1", "follows\n@2", "is truncated: its data section @1 is missing. Copy it again"),
        ("define Lattice 48", "define Lattice 96", "is damaged or truncated: 84,480 of 168,960 bytes are there. Copy it again"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_an_amira_file(tmp_path: Path, part: str, other: str, sentence: str) -> None:
    """One word of the header is another."""
    path = foreign.write_amira(tmp_path, packing="HxByteRLE")
    data = path.read_bytes()
    assert data.count(part.encode()) == 1
    path.write_bytes(data.replace(part.encode(), other.encode()))
    with pytest.raises(BadInput, match=sentence):
        AmiraMesh(str(path)).open().read()


def test_a_lattice_that_an_amira_file_has_not(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match=r"has no lattice 'Labels'\. Its lattices: Data\."):
        AmiraMesh(str(foreign.write_amira(tmp_path))).open("Labels")


def test_channels_of_imaris(tmp_path: Path) -> None:
    """Several channels ask; the origin is the centre of the first voxel of the extent."""
    path = foreign.write_imaris(tmp_path, channels=2)
    with pytest.raises(BadInput, match="has 2 channels; .*channel=0"):
        choose(path).open()
    volume = choose(path, channel=1).open()
    check_place(volume, 255 - IMAGE)
    assert volume.origin_nm == pytest.approx((1004, 1002.5, 1002))


def test_place_of_precomputed(tmp_path: Path) -> None:
    """The offset counts in voxels; compressed labels of 64 bits are read as stored; a folder of meshes is no volume."""
    volume = choose(foreign.write_precomputed(tmp_path)).open()
    assert volume.origin_nm == (80, 0, 40)
    shutil.rmtree(tmp_path / "example_precomputed")
    ids = IMAGE.astype(np.uint64) + 2**63
    packed = {"encoding": "compressed_segmentation", "compressed_segmentation_block_size": [8, 8, 8]}
    path = foreign.write_precomputed(tmp_path, ids, **packed)
    check_place(choose(path).open(), ids)
    (path / "info").write_text(json.dumps({"@type": "neuroglancer_legacy_mesh"}))
    with pytest.raises(BadInput, match="No source plugin can read"):
        choose(path)


# --- Zarr ---------------------------------------------------------------------------------------------------------


def write_zarr(path: Path, data: np.ndarray = IMAGE, version: int = 2, **attributes: Any) -> Path:
    array = zarr.create_array(str(path), shape=data.shape, chunks=data.shape, dtype=data.dtype, zarr_format=version)  # type: ignore[arg-type]
    array[...] = data
    array.attrs.update(attributes)
    return path


def write_ome(path: Path, version: str, axes: Any, data: np.ndarray, *steps: dict[str, Any]) -> Path:
    group = zarr.open_group(path, mode="w", zarr_format=2)
    write_zarr(path / "0", data)
    dataset = {"path": "0", **({"coordinateTransformations": list(steps)} if steps else {})}
    group.attrs["multiscales"] = [{"version": version, "datasets": [dataset], **({"axes": axes} if axes else {})}]
    return path


UM = [s / 1000 for s in SIZE]
TRANSFORM = {"axes": ["x", "y", "z"], "scale": SIZE[::-1], "translate": [40.0, 0.0, 80.0], "units": ["nm"] * 3}
PLAIN = {
    "gunpowder": (IMAGE, {"resolution": SIZE, "offset": [80, 0, 40]}),
    "channel": (IMAGE[None], {"resolution": SIZE, "offset": [80, 0, 40], "axis_names": ["c^", "z", "y", "x"]}),
    "funlib": (
        IMAGE,
        {"voxel_size": UM, "offset": [0.08, 0, 0.04], "units": ["um"] * 3, "axis_names": ["z", "y", "x"]},
    ),
    "other order": (IMAGE.T, {"voxel_size": SIZE[::-1], "offset": [40, 0, 80], "axis_names": ["x", "y", "z"]}),
    "cellmap": (IMAGE.T, {"transform": TRANSFORM}),
    "xarray": (IMAGE.T, {"_ARRAY_DIMENSIONS": ["x", "y", "z"], "resolution": SIZE[::-1], "offset": [40, 0, 80]}),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_zarr(tmp_path: Path, name: str) -> None:
    """Units, offsets and axes are read in the words of each program."""
    data, attributes = PLAIN[name]
    volume = choose(write_zarr(tmp_path / "a.zarr", np.ascontiguousarray(data), **attributes)).open()
    check_place(volume)
    assert volume.origin_nm == (80, 0, 40)


@pytest.mark.parametrize("version", [2, 3])
def test_bare_zarr_opens_as_its_error_says(tmp_path: Path, version: int) -> None:
    """An array that says nothing asks for its voxel size, and opens with it; so does one in a bare group."""
    for path in (tmp_path / "a.zarr", tmp_path / "b.zarr" / "raw"):
        if path.name == "raw":
            zarr.open_group(path.parent, mode="w", zarr_format=version)  # type: ignore[arg-type]
        write_zarr(path, version=version)
        container = path if path.suffix else path.parent
        with pytest.raises(
            BadInput, match=f"does not state its voxel size. .* asem import {path} -o CELL.zarr --voxel"
        ):
            choose(container).open()
        check_place(choose(container, voxel_size_nm=list(SIZE)).open())


@pytest.mark.parametrize("unit", ["nanometer", "nm", "micron", "angstrom", None, " ", "pixel"])
def test_units_of_ome_zarr(tmp_path: Path, unit: str | None) -> None:
    """Known units are converted; none, or one that is no length, asks."""
    factor = {"micron": 1000, "angstrom": 0.1}.get(unit or "", 1)
    axes = [{"name": a, "type": "space", **({"unit": unit} if unit else {})} for a in "zyx"]
    path = write_ome(tmp_path / "a.zarr", "0.4", axes, IMAGE, {"type": "scale", "scale": [s / factor for s in SIZE]})
    if unit in (None, " ", "pixel"):
        with pytest.raises(BadInput, match=r"gives 8, 5, 4 (without a unit|in 'pixel')"):
            choose(path).open()
        check_place(choose(path, voxel_size_nm=list(SIZE)).open())
    else:
        check_place(choose(path).open())


def test_a_unit_that_is_missing_along_z(tmp_path: Path) -> None:
    """bioformats2raw writes a scale of 1 without a unit where a size is not known: the others are kept."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=2)
    group.create_array("0", shape=IMAGE.shape, chunks=(16, 16, 16), dtype="u1")
    axes = [{"name": "z", "type": "space"}, *({"name": a, "type": "space", "unit": "micrometer"} for a in "yx")]
    level = {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 0.005, 0.004]}]}
    group.attrs["multiscales"] = [{"version": "0.4", "axes": axes, "datasets": [level]}]
    with pytest.raises(
        BadInput, match=r"states 5 x 4 nm along y, x .* but not the z step .*gives 1 along z without a unit"
    ):
        choose(tmp_path / "a.zarr").open()


def test_versions_of_ome_zarr(tmp_path: Path) -> None:
    """Versions without a scale ask for it; 0.1 names no axes; axes come in any order; several times are asked for."""
    for version, axes, data in (("0.1", None, IMAGE[None, None]), ("0.3", ["z", "y", "x"], IMAGE)):
        path = write_ome(tmp_path / f"{version}.zarr", version, axes, data)
        with pytest.raises(BadInput, match="does not state its voxel size"):
            choose(path).open()
        check_place(choose(path, voxel_size_nm=list(SIZE)).open())
    nm = [{"name": a, "type": "space", "unit": "nm"} if a in "xyz" else {"name": a} for a in "txyz"]
    data = np.ascontiguousarray(np.stack([IMAGE.T, 255 - IMAGE.T]))
    path = write_ome(tmp_path / "t.zarr", "0.4", nm, data, {"type": "scale", "scale": [1, *SIZE[::-1]]})
    with pytest.raises(BadInput, match="has 2 time points .*time=0"):
        choose(path).open()
    check_place(choose(path, time=1).open(), 255 - IMAGE)


# --- real files ---------------------------------------------------------------------------------------------------


# Every file: opened with a voxel size (z, y, x in nm), or refused for a reason.
REAL: list[tuple[str, dict[str, Any], Any]] = [
    ("amira/test9.am", {"voxel_size_nm": 1.36}, ((284, 284, 284), "uint8", (1.36, 1.36, 1.36))),
    ("amira/test9.am", {}, "gives 1.36, 1.36, 1.36 without a unit"),
    ("amira/testscalar.am", {"voxel_size_nm": 5.0, "grey_range": [0, 80]}, ((8, 6, 4), "uint8", (5, 5, 5))),
    ("dm/plane_STEM_image.dm3", {}, "0.248538 x 0.248538 nm .*voxel_size_nm=.8, 0.248538, 0.248538."),
    ("dm/stack_test-1.dm3", {"voxel_size_nm": 5.0}, ((2, 2, 2), "uint16", (5, 5, 5))),
    ("dm/stack_test-2.dm4", {"voxel_size_nm": 5.0, "grey_range": [0, 9]}, ((2, 2, 2), "uint8", (5, 5, 5))),
    ("fei/FEI-Helios-Ebeam-8bits.tif", {}, "states 3372.4 x 3372.4 nm .*FEI/Thermo.* but not the z step"),
    ("fei/fei_untitled.tif", {}, "does not state its voxel size"),
    ("fei/fei_untitled.tif", {"voxel_size_nm": 5.0}, (None, "uint8", (5, 5, 5))),
    ("fibics_atlas", {}, ((3, 9600, 9600), "uint16", (8.0, 7.9988, 7.9988))),
    ("ilastik/from-fiji.h5", {"voxel_size_nm": 5.0}, ((1, 254, 256), "uint8", (5, 5, 5))),
    ("ilastik/from-fiji.h5", {}, "does not state its voxel size"),
    ("ilastik/probabilities-from-ilastik.h5", {}, "has 2 channels"),
    (
        "ilastik/probabilities-from-ilastik.h5",
        {"channel": 1, "voxel_size_nm": 5.0, "grey_range": [0, 1]},
        (None, "uint8", (5, 5, 5)),
    ),
    ("imagej/stack_no_scale.tif", {}, "does not state its voxel size"),
    ("imagej/stack_scaled.tif", {"grey_range": [0, 1]}, (None, "uint8", (2500, 168.67, 168.67))),
    ("janelia_dat/janelia_v9.dat", {}, r"has \d channels \(detectors\); a volume has one"),
    ("janelia_dat/janelia_v9.dat", {"channel": 0}, "states 1.99996 x 1.99996 nm .*but not the z step"),
    ("janelia_dat/janelia_v9.dat", {"channel": 1, "voxel_size_nm": 2.0}, ((1, 1000, 1000), "uint16", (2, 2, 2))),
    ("mrc/gridmap_bin8.mrc", {}, ((1, 1348, 1348), "uint16", (223.6, 1788.8, 1788.8))),
    ("zeiss_sem/zeiss_sem_1k.tif", {}, "states 2615 x 2615 nm .*SmartSEM.* but not the z step"),
]


@pytest.mark.parametrize(("name", "options", "expected"), REAL)
def test_real_files(real_data: Callable[[str], Path], name: str, options: dict[str, Any], expected: Any) -> None:
    """Files as microscopes and programs wrote them open, or ask for what they do not state."""
    source = choose(real_data(f"formats/{name}"), **options)
    if isinstance(expected, str):
        with pytest.raises(BadInput, match=expected):
            source.open()
        return
    shape, dtype, size = expected
    volume = source.open()
    assert shape in (None, volume.shape)
    assert str(volume.dtype) == dtype
    assert volume.voxel_size_nm == pytest.approx(size, rel=1e-4)
    corner = tuple(max(0, n - 40) for n in volume.shape)
    assert volume.read(Box(corner, volume.shape)).shape == tuple(
        n - c for n, c in zip(volume.shape, corner, strict=True)
    )


def test_no_real_file_is_left_out(real_data: Callable[[str], Path]) -> None:
    """The table names every file that there is, itself or its folder."""
    folder = real_data("formats")
    named = {name for name, _, _ in REAL}
    files = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    assert not [str(f) for f in files if not {str(f), str(f.parent)} & named]
