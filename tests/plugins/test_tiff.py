"""TIFF by its meaning: values as a viewer shows them, planes by their names, voxel sizes as microscopes write them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from asem_core.blocks import Run
from asem_core.errors import BadInput, MissingExtra
from asem_core.stages.import_ import import_volume
from asem_core.testing import example_image
from asem_core.voxels.units import nm_per
from asem_sources.tiff_stack import TiffStack

IMAGE = example_image((6, 20, 24)).read()
QUIET = Run(progress=False)


def write(folder: Path, planes: Any = IMAGE, name: str = "s_{:03}.tif", **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for i, plane in enumerate(planes):
        tifffile.imwrite(folder / name.format(i), plane, **options)
    return folder


def pillow(folder: Path, planes: Any = IMAGE, **options: Any) -> Path:
    folder.mkdir(exist_ok=True)
    for i, plane in enumerate(planes):
        Image.fromarray(plane).save(folder / f"s_{i:03}.tif", **options)
    return folder


# --- axes ---------------------------------------------------------------------------------------------------------


def test_channels_and_times_are_no_planes(tmp_path: Path) -> None:
    """They are refused with their names, or one is chosen; misnamed axes can be named."""
    both = np.stack([IMAGE, 255 - IMAGE], axis=1)
    nm = {"spacing": 8, "unit": "nm"}
    tifffile.imwrite(tmp_path / "zc.tif", both, imagej=True, metadata={"axes": "ZCYX", **nm}, resolution=(0.2, 0.2))
    with pytest.raises(BadInput, match=r"zc.tif has 2 channels .*channel=0"):
        TiffStack(str(tmp_path / "zc.tif")).open()
    for channel in (0, 1):
        volume = TiffStack(str(tmp_path / "zc.tif"), channel=channel).open()
        np.testing.assert_array_equal(volume.read(), both[:, channel])
        assert volume.voxel_size_nm == pytest.approx((8, 5, 5))
    with pytest.raises(BadInput, match="has no channel 2: there are 2"):
        TiffStack(str(tmp_path / "zc.tif"), channel=2).open()
    sizes = {f"PhysicalSize{a}": s for a, s in zip("XYZ", (0.005, 0.006, 0.008), strict=True)}
    tifffile.imwrite(tmp_path / "cz.ome.tif", both.swapaxes(0, 1), ome=True, metadata={"axes": "CZYX", **sizes})
    with pytest.raises(BadInput, match="2 channels"):
        TiffStack(str(tmp_path / "cz.ome.tif")).open()
    volume = TiffStack(str(tmp_path / "cz.ome.tif"), channel=1).open()
    np.testing.assert_array_equal(volume.read(), 255 - IMAGE)
    assert volume.voxel_size_nm == pytest.approx((8, 6, 5))
    tifffile.imwrite(tmp_path / "t.tif", IMAGE, imagej=True, metadata={"axes": "TYX", **nm})
    with pytest.raises(BadInput, match=r"the axes t 6, y 20, x 24; .*axes=.zyx."):
        TiffStack(str(tmp_path / "t.tif"), 5.0).open()
    np.testing.assert_array_equal(TiffStack(str(tmp_path / "t.tif"), 5.0, axes="zyx").open().read(), IMAGE)


def test_several_images_in_a_file_are_asked_for(tmp_path: Path) -> None:
    """Two stacks that a program keeps apart are not one after the other; planes written one by one are."""
    for name, options in (("a.ome.tif", {"ome": True}), ("a.tif", {})):
        with tifffile.TiffWriter(tmp_path / name, **options) as tiff:
            for stack in (IMAGE, 255 - IMAGE):
                tiff.write(stack, photometric="minisblack", metadata={"axes": "ZYX", "Name": "SE"})
        with pytest.raises(BadInput, match=r"holds 2 images: 0 .*6 x 20 x 24.*series=0"):
            TiffStack(str(tmp_path / name), 5.0).open()
        np.testing.assert_array_equal(TiffStack(str(tmp_path / name), 5.0, series=1).open().read(), 255 - IMAGE)
    with tifffile.TiffWriter(tmp_path / "planes.tif") as tiff:
        for plane in IMAGE:
            tiff.write(plane)
    np.testing.assert_array_equal(TiffStack(str(tmp_path / "planes.tif"), 5.0).open().read(), IMAGE)


def _write_ome_set(folder: Path, files: dict[str, np.ndarray], axis: str) -> None:
    """Write one stack over several files, each of which lists all: a file for each plane, or for each channel."""
    folder.mkdir()
    names, num = list(files), len(IMAGE)
    data = "".join(
        f'<TiffData First{axis}="{i}" IFD="0" PlaneCount="{1 if axis == "Z" else num}"><UUID FileName="{n}">urn:uuid:{i}</UUID></TiffData>'
        for i, n in enumerate(names)
    )
    sizes = {"X": 24, "Y": 20, "Z": num, "C": 1 if axis == "Z" else len(names), "T": 1}
    about = " ".join(f'Size{a}="{n}"' for a, n in sizes.items())
    about += "".join(f' PhysicalSize{a}="{s}" PhysicalSize{a}Unit="nm"' for a, s in zip("XYZ", (4, 5, 8), strict=True))
    for i, (name, values) in enumerate(files.items()):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="urn:uuid:{i}"><Image ID="Image:0">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" {about}>{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(folder / name, values, description=xml, metadata=None, photometric="minisblack")


def test_an_ome_tiff_of_several_files(tmp_path: Path) -> None:
    """Its metadata order the planes of all files, whichever is named; channels in files of their own are no planes."""
    _write_ome_set(tmp_path / "z", {f"p{9 - i}.ome.tif": plane for i, plane in enumerate(IMAGE)}, "Z")
    for path in (tmp_path / "z", tmp_path / "z" / "p6.ome.tif"):
        volume = TiffStack(str(path)).open()
        np.testing.assert_array_equal(volume.read(), IMAGE)
        assert volume.voxel_size_nm == (8, 5, 4)
        assert "one stack of 6 files (OME-TIFF)" in volume.remarks
    _write_ome_set(tmp_path / "c", {"a_C0.ome.tif": IMAGE, "a_C1.ome.tif": 255 - IMAGE}, "C")
    with pytest.raises(BadInput, match=r"has 2 channels .*channel=0"):
        TiffStack(str(tmp_path / "c")).open()
    for options in ({"channel": 1}, {"files": "*C1*"}):
        np.testing.assert_array_equal(TiffStack(str(tmp_path / "c"), **options).open().read(), 255 - IMAGE)  # type: ignore[arg-type]
    for i in (0, 1):
        (tmp_path / "c" / f"a_C{i}.ome.tif").rename(tmp_path / "c" / f"b_{i}.tif")
    with pytest.raises(BadInput, match=r"b_0.tif is one of 2 files .* by another name .a_C0.ome.tif, ...."):
        TiffStack(str(tmp_path / "c")).open()


def test_a_folder_of_files_of_several_planes(tmp_path: Path) -> None:
    """They follow each other in the order of the names, numbered by file or by first plane; the last may hold fewer."""
    for names in (("part_1.tif", "part_2.tif"), ("from_0000.tif", "from_0004.tif")):
        folder = tmp_path / names[0][:4]
        folder.mkdir()
        tifffile.imwrite(folder / names[0], IMAGE[:4], photometric="minisblack")
        tifffile.imwrite(folder / names[1], IMAGE[4:], photometric="minisblack")
        np.testing.assert_array_equal(TiffStack(str(folder), 5.0).open().read(), IMAGE)


@pytest.mark.parametrize("options", [{"bigtiff": True}, {"tile": (16, 16)}, {"rowsperstrip": 3, "compression": "zlib"}])
def test_forms_of_tiff(tmp_path: Path, options: dict[str, Any]) -> None:
    """BigTIFF, tiles and strips hold the same planes."""
    tifffile.imwrite(tmp_path / "a.tif", IMAGE, **options)
    np.testing.assert_array_equal(TiffStack(str(tmp_path / "a.tif"), 5.0).open().read(), IMAGE)


# --- values -------------------------------------------------------------------------------------------------------


def test_values_as_a_viewer_shows_them(tmp_path: Path) -> None:
    """Where 0 is white the values are inverted, masks and labels, too; Pillow sees the same."""
    white0 = write(tmp_path / "white0", 255 - IMAGE, photometric="miniswhite")
    np.testing.assert_array_equal(TiffStack(str(white0), 5.0).open().read(), IMAGE)
    np.testing.assert_array_equal(np.asarray(Image.open(white0 / "s_002.tif")), IMAGE[2])
    wide = write(tmp_path / "wide", 65535 - IMAGE.astype(np.uint16) * 9, photometric="miniswhite")
    np.testing.assert_array_equal(TiffStack(str(wide), 5.0).open().read(), IMAGE.astype(np.uint16) * 9)
    mask = write(tmp_path / "mask", IMAGE <= 128, photometric="miniswhite")
    np.testing.assert_array_equal(TiffStack(str(mask), 5.0, kind="labels").open().read(), IMAGE > 128)
    assert "0 is white in this file (MinIsWhite)" in TiffStack(str(mask), 5.0, kind="labels").open().remarks[1]
    signed = write(tmp_path / "signed", ~(IMAGE.astype(np.int16) - 128), photometric="miniswhite")
    np.testing.assert_array_equal(TiffStack(str(signed), 5.0, grey_range=(-128.0, 127.0)).open().read(), IMAGE)
    with pytest.raises(BadInput, match="floating-point values in which 0 is white"):
        TiffStack(str(write(tmp_path / "f", IMAGE / np.float32(255), photometric="miniswhite")), 5.0).open()


def test_a_palette_is_no_grey_scale(tmp_path: Path) -> None:
    """Numbers of colours are refused as an image and are ids as labels; a palette that changes nothing does not matter."""
    swapped = np.repeat(np.random.default_rng(3).permutation(256).astype(np.uint16)[None] * 257, 3, axis=0)
    folder = write(tmp_path / "swapped", photometric="palette", colormap=swapped)
    with pytest.raises(BadInput, match="s_000.tif is an indexed image: .* kind=.labels."):
        TiffStack(str(folder), 5.0).open()
    made = import_volume(TiffStack(str(folder), 5.0), tmp_path / "cell.zarr" / "labels" / "a", QUIET)
    np.testing.assert_array_equal(made.read(), IMAGE)
    identity = np.repeat(np.arange(256, dtype=np.uint16)[None] * 257, 3, axis=0)
    folder = write(tmp_path / "identity", photometric="palette", colormap=identity)
    np.testing.assert_array_equal(TiffStack(str(folder), 5.0).open().read(), IMAGE)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"photometric": "rgb", "planarconfig": "separate"}, "is a colour image .a separate plane for each colour."),
        ({"photometric": "rgb", "planarconfig": "contig"}, "is a colour image"),
        ({"photometric": "minisblack", "planarconfig": "contig"}, "has 2 values for each pixel"),
    ],
)
def test_colours_are_called_what_they_are(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    """Colour is refused as such, however it is stored."""
    num, first = (2, 0) if options["photometric"] == "minisblack" else (3, 0)
    axis = 0 if options["planarconfig"] == "separate" else -1
    planes = [np.stack([p] * num, axis) for p in IMAGE[first:]]
    with pytest.raises(BadInput, match=sentence):
        TiffStack(str(write(tmp_path / "c", planes, **options)), 5.0).open()


@pytest.mark.parametrize("dtype", [np.uint64, np.int64, np.float32])
def test_ids_are_kept(tmp_path: Path, dtype: type) -> None:
    """Ids of 64 bits are not cut, and floats of whole numbers are labels where labels are imported."""
    ids = np.zeros(IMAGE.shape, np.uint64)
    ids[1:3, 2:9, 3:9] = 2**24 if dtype is np.float32 else 720575940379283456
    ids[3:5, 9:12, 3:9] = 7
    tifffile.imwrite(tmp_path / "ids.tif", ids.astype(dtype), compression="zlib")
    source = TiffStack(str(tmp_path / "ids.tif"), 5.0)
    made = import_volume(source, tmp_path / "cell.zarr" / "labels" / "a", QUIET)
    np.testing.assert_array_equal(made.read(), ids)
    if dtype is np.float32:
        tifffile.imwrite(tmp_path / "half.tif", ids.astype(dtype) + 0.5)
        with pytest.raises(BadInput, match="holds fractions"):
            import_volume(TiffStack(str(tmp_path / "half.tif"), 5.0), tmp_path / "cell.zarr" / "labels" / "b", QUIET)


@pytest.mark.parametrize("compression", ["tiff_lzw", "packbits", "tiff_adobe_deflate", "jpeg"])
def test_compressions(tmp_path: Path, compression: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Common compressions are read; without the package that a compression needs, the error names both."""
    folder = pillow(tmp_path / "planes", compression=compression)
    found = TiffStack(str(folder), 5.0).open().read().astype(int)
    assert np.abs(found - IMAGE).max() <= (40 if compression == "jpeg" else 0)
    if compression == "tiff_lzw":
        error = KeyError("<COMPRESSION.LZW: 5> requires the 'imagecodecs' package")

        class Lacking(dict[Any, Any]):
            def __getitem__(self, key: Any) -> Any:
                raise error

        monkeypatch.setattr(tifffile.TIFF, "DECOMPRESSORS", Lacking())
        (folder / "s_000.tif").touch()  # what was read of an unchanged file is known
        with pytest.raises(
            MissingExtra, match="compressed by LZW and needs imagecodecs, .* install .*(imagecodecs|codecs)"
        ):
            TiffStack(str(folder), 5.0).open()


# --- names --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    [
        "slice_{:05}_z=8.5521um.tif",
        "20190730_cell1_{:04}_5nm.TIF",
        "cell.{:03}.ch1.tif",
        "tile2_{}_17.52.35.Tif",
        "x{:02}y03.tiff",
    ],
)
def test_the_field_that_counts_planes(tmp_path: Path, name: str) -> None:
    """Among dates, tiles, channels, times and lengths the number that differs in every name is the plane's."""
    folder = write(tmp_path / "planes", name=name)
    (folder / "._s_001.tif").write_bytes(b"hidden")
    (folder / "thumbnail.tif").write_bytes(b"small")
    volume = TiffStack(str(folder), 5.0).open()
    np.testing.assert_array_equal(volume.read(), IMAGE)
    assert volume.remarks[1:] == ["skipped: thumbnail.tif"]


def test_times_differ_too_but_have_gaps(tmp_path: Path) -> None:
    """Of two numbers that differ in every name, the one without gaps counts, wherever it stands."""
    folder = tmp_path / "planes"
    folder.mkdir()
    times = [175235, 175244, 175259, 175301, 180000, 180011]
    for i, (time, plane) in enumerate(zip(times, IMAGE, strict=True)):
        tifffile.imwrite(folder / f"img_{i + 8:03}_{time}.tif", plane)
    np.testing.assert_array_equal(TiffStack(str(folder), 5.0).open().read(), IMAGE)


def test_duplicates_and_gaps_in_the_words_of_the_names(tmp_path: Path) -> None:
    """Two channels in one folder are told by their names, and one of them can be chosen; the files around a gap are named."""
    folder = write(tmp_path / "planes", name="s_{:03}_ch0.tif")
    write(folder, 255 - IMAGE, name="s_{:03}_ch1.tif")
    with pytest.raises(BadInput, match=r"s_000_ch0.tif and s_000_ch1.tif .* both plane 0.*files=.\*ch0\*."):
        TiffStack(str(folder), 5.0).open()
    np.testing.assert_array_equal(TiffStack(str(folder), 5.0, files="*ch1*").open().read(), 255 - IMAGE)
    (folder / "s_003_ch1.tif").unlink()
    with pytest.raises(BadInput, match=r"but 3 is missing: s_002_ch1.tif is followed by s_004_ch1.tif"):
        TiffStack(str(folder), 5.0, files="*ch1*").open()


def test_z_positions_in_names(tmp_path: Path) -> None:
    """They give the z step, and the order where no other number counts; uneven ones are questioned."""
    folder = tmp_path / "planes"
    folder.mkdir()
    for i, plane in enumerate(IMAGE):
        tifffile.imwrite(folder / f"cell1_z={9.992 + 0.008 * i:.3f}um.tif", plane)
    with pytest.raises(
        BadInput, match=r"states 8 nm along z \(the names of the planes\), but not the voxel size along y"
    ):
        TiffStack(str(folder)).open()
    np.testing.assert_array_equal(TiffStack(str(folder), 5.0).open().read(), IMAGE)
    (folder / "cell1_z=10.016um.tif").rename(folder / "cell1_z=10.019um.tif")
    assert TiffStack(str(folder), (8.0, 5.0, 5.0)).open().questions == [
        "the names of the planes have steps from 5.000 to 11.000 nm"
    ]


# --- voxel sizes --------------------------------------------------------------------------------------------------

FIBICS = (
    '<?xml version="1.0" encoding="iso-8859-1"?><Fibics version="1.2"><Scan><Ux>0.0069282</Ux><Uy>0.004</Uy>'
    "<Vx>0.004</Vx><Vy>-0.0069282</Vy></Scan><ATLAS3D><Slice><ZPos>{}</ZPos></Slice></ATLAS3D></Fibics>"
)
HELIOS = "[User]\r\nDate=06/13/2016\r\n[Scan]\r\nPixelWidth=4e-09\r\nPixelHeight=5e-09\r\n[PrivateFei]\r\nDatabarHeight=4\r\n"
DUAL = (
    "[User]\r\nDate=1\r\n[Beam]\r\nBeam=IBeam\r\n[EScan]\r\nPixelWidth=9e-09\r\nPixelHeight=9e-09\r\n"
    "[IScan]\r\nPixelWidth=4e-09\r\nPixelHeight=5e-09\r\n"
)
TITAN = '<Metadata><BinaryResult><PixelSize><X unit="m">4e-09</X><Y unit="m">5e-09</Y></PixelSize></BinaryResult></Metadata>'
TESCAN = b"\x01\x00\x10\x00[MAIN]\r\nDevice=AMBER\r\nPixelSizeX=4e-9\r\nPixelSizeY=5e-9\r\n"


@pytest.mark.parametrize(
    ("tag", "where"),
    [
        ((51023, 2, None, FIBICS.format(1), True), "Fibics"),
        ((34680, 2, None, HELIOS, True), "FEI/Thermo"),
        ((34682, 2, None, HELIOS, True), "FEI/Thermo"),
        ((34682, 2, None, DUAL, True), "FEI/Thermo"),
        ((34683, 2, None, TITAN, True), "FEI/Thermo"),
        ((50431, 7, len(TESCAN), TESCAN, True), "TESCAN"),
    ],
)
def test_pixel_sizes_in_tags(tmp_path: Path, tag: Any, where: str) -> None:
    """The pixel size of a slice is read from the microscope's tag; the z step is asked for, by a command that works."""
    folder = write(tmp_path / "planes", extratags=[tag])
    with pytest.raises(BadInput, match=f"{where}.*but not the z step. .*voxel_size_nm=.8, ") as told:
        TiffStack(str(folder)).open()
    (option,) = told.value.options
    z, y, x = option.value
    assert (y, x) == pytest.approx((8, 8) if where == "Fibics" else (5, 4), abs=1e-3)
    volume = TiffStack(str(folder), (z, y, x)).open()
    assert volume.voxel_size_nm == (z, y, x)
    assert volume.remarks == ["voxel size: as given"]
    (told,) = TiffStack(str(folder), (8.0, 6.0, 6.0)).open().remarks
    assert "as given, instead of y" in told
    assert where in told


@pytest.mark.parametrize(
    ("tag", "told"),
    [
        ((34682, 2, None, HELIOS + "[Slicing]\r\nSliceThickness=1e-08\r\n", True), "gives 'SliceThickness' as 10 nm"),
        ((34683, 2, None, TITAN.replace("<Bin", '<MillingStep unit="nm">12</MillingStep><Bin'), True), "as 12 nm"),
    ],
)
def test_what_may_be_the_milling_step_is_told(tmp_path: Path, tag: Any, told: str) -> None:
    """No document says that it is: it is named where the z step is asked for."""
    tifffile.imwrite(tmp_path / "a.tif", IMAGE[0], extratags=[tag])
    with pytest.raises(BadInput, match=rf"but not the z step \(tag .*{told}, which may be it\)"):
        TiffStack(str(tmp_path / "a.tif")).open()


@pytest.mark.parametrize(
    ("name", "text", "where"),
    [
        ("{}-tif.hdr", "[MAIN]\r\nPixelSizeX=4.0E-009\r\nPixelSizeY=5.0E-009\r\n", "TESCAN"),
        ("{}.hdr", "[MAIN]\nPixelSizeX=4e-9\nPixelSizeY=5e-9\n", "TESCAN"),
        ("{}.txt", "$CM_MAG 50000\n$$SM_MICRON_BAR 200\n$$SM_MICRON_MARKER 1um\n", "JEOL"),
        ("{}.txt", "[SemImageFile]\r\nInstructName=SU8000\r\nPixelSize=4.960938\r\n", "Hitachi"),
    ],
)
def test_pixel_sizes_beside_the_image(tmp_path: Path, name: str, text: str, where: str) -> None:
    """Text files beside the planes state the pixel size."""
    folder = write(tmp_path / "planes")
    for file in sorted(folder.iterdir())[2:]:  # those of the first planes were lost
        (folder / name.format(file.stem)).write_bytes(text.encode("utf-16" if where == "Hitachi" else "cp1252"))
    with pytest.raises(BadInput, match=rf"{where}.*voxel_size_nm=.8, (5|4.96094), (4|5|4.96094)."):
        TiffStack(str(folder)).open()


def test_positions_of_slices_give_the_z_step(tmp_path: Path) -> None:
    """Atlas notes where each slice lies; a change of magnification is questioned."""
    folder = tmp_path / "planes"
    folder.mkdir()
    for i, plane in enumerate(IMAGE):
        text = FIBICS.format(3 + 0.006 * i)
        text = text if i < 5 else text.replace("0.0069282", "0.0138564").replace("0.004", "0.008")
        tifffile.imwrite(folder / f"s_{i}.tif", plane, extratags=[(51023, 2, None, text, True)])
    volume = TiffStack(str(folder)).open()
    assert volume.voxel_size_nm == pytest.approx((6, 8, 8), rel=1e-4)
    assert "s_5.tif has pixels of 16 x 16 instead of 8 x 8 nm" in volume.questions[0]


def test_printers_resolution_is_no_pixel_size(tmp_path: Path) -> None:
    """72 dpi is no voxel size; pixels per cm that are electron microscopy's are."""
    tifffile.imwrite(tmp_path / "dpi.tif", IMAGE, resolution=(72, 72), resolutionunit="INCH")
    with pytest.raises(BadInput, match="does not state its voxel size. Give"):
        TiffStack(str(tmp_path / "dpi.tif")).open()
    tifffile.imwrite(tmp_path / "cm.tif", IMAGE, resolution=(2e6, 2.5e6), resolutionunit="CENTIMETER")
    with pytest.raises(BadInput, match=r"states 4 x 5 nm .*voxel_size_nm=.8, 4, 5."):
        TiffStack(str(tmp_path / "cm.tif")).open()


@pytest.mark.parametrize(
    ("words", "nm"),
    [
        (("nm", "Nanometers", "nanometre"), 1),
        (("um", "\u00b5m", "\u03bcm", "\\u00b5m", "micron", "microns", "micrometres"), 1000),
        (("\u00c5", "\u212b", "A", "angstrom", "Angstroms"), 0.1),
        (("pm", "picometer"), 1e-3),
        (("mm", "millimeter"), 1e6),
        (("m", "meter", "metre"), 1e9),
        (("inch",), 2.54e7),
        (("", None, "pixel", "voxels", " "), None),
    ],
)
def test_units(words: tuple[str, ...], nm: float | None) -> None:
    """Every spelling of a unit of length is an entry of one table."""
    assert [nm_per(word) for word in words] == [nm] * len(words)


def test_unknown_units_ask(tmp_path: Path) -> None:
    """Pixels are no length."""
    for unit, told in (("pixel", "in 'pixel', which is not a unit of length"), ("inch", "which is implausible")):
        tifffile.imwrite(
            tmp_path / "a.tif",
            IMAGE,
            imagej=True,
            metadata={"axes": "ZYX", "spacing": 1, "unit": unit},
            resolution=(1, 1),
        )
        with pytest.raises(
            BadInput, match=f"does not state its voxel size .ImageJ metadata gives .*{told}.*voxel_size_nm"
        ):
            TiffStack(str(tmp_path / "a.tif")).open()
        assert TiffStack(str(tmp_path / "a.tif"), 5.0).open().voxel_size_nm == (5, 5, 5)


# --- real files ---------------------------------------------------------------------------------------------------


def test_a_real_run_of_atlas(real_data: Callable[[str], Path]) -> None:
    """Three planes of 8.0 nm by their names, which the slices' own positions nearly confirm, and pixels of 7.9988 nm."""
    volume = TiffStack(str(real_data("formats/fibics_atlas"))).open()
    assert volume.shape == (3, 9600, 9600)
    assert volume.voxel_size_nm == pytest.approx((8.0, 7.9988, 7.9988), abs=1e-4)
    assert volume.voxel_size_nm[0] == 8.0
    assert volume.remarks == ["voxel size: z from the names of the planes; y, x from tag 51023 (Fibics Atlas)"]
    assert volume.questions == ["the slices' own z positions have steps from 7.946 to 8.000 nm"]


def test_a_real_stack_of_imagej(real_data: Callable[[str], Path]) -> None:
    """Its voxel size is read; its floats ask for the range that becomes black and white."""
    source = TiffStack(str(real_data("formats/imagej/stack_scaled.tif")))
    assert source.open().voxel_size_nm == pytest.approx((2500, 168.67, 168.67), abs=0.01)
    with pytest.raises(BadInput, match=r"float32 grey values from .*grey_range="):
        source.open().read()


def test_blocks_decode_each_plane_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Going through a stack in blocks decodes a plane once a layer of blocks; little is kept, and nothing of whole planes."""
    from asem_core.volume import Box
    from asem_sources import _planes
    from asem_sources._tiff import TiffPage

    stack = np.random.default_rng(0).integers(0, 255, (6, 40, 50), np.uint8)
    tifffile.imwrite(tmp_path / "a.tif", stack, photometric="minisblack")
    decoded: list[int] = []
    real = TiffPage.read
    monkeypatch.setattr(TiffPage, "read", lambda self: (decoded.append(self.index), real(self))[1])
    volume = TiffStack(str(tmp_path / "a.tif"), 5.0).open()
    for box in volume.box.blocks(16):
        np.testing.assert_array_equal(volume.read(box), stack[box.slices])
    assert sorted(decoded) == list(range(6))
    decoded.clear()
    monkeypatch.setattr(_planes, "MOST_KEPT_BYTES", 3 * 2000)
    volume = TiffStack(str(tmp_path / "a.tif"), 5.0).open()
    for z in range(6):
        for box in Box((z, 0, 0), (z + 1, 40, 50)).blocks((1, 20, 20)):
            volume.read(box)
    assert sorted(decoded) == list(range(6))
    planes: Any = volume.data
    assert planes._recent.held <= 3 * 2000
    volume.read()
    assert len(decoded) == 12
    assert planes._recent.held <= 3 * 2000
