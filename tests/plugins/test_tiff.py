"""TIFF by its meaning: axes, values as a viewer shows them, planes by their names."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from asem_core.blocks import Run
from asem_core.errors import BadInput, MissingExtra
from asem_core.stages.import_ import import_volume
from asem_sources.tiff_stack import TiffStack

sys.path.insert(0, str(Path(__file__).parent))
from tiff_files import IMAGE, write

QUIET = Run(progress=False)


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


def test_three_planes_stored_as_colours(tmp_path: Path) -> None:
    """As tifffile does if nothing is said of them: they are asked about, and the answer reads them."""
    ids = np.arange(3 * 8 * 10).reshape(3, 8, 10).astype(np.uint16)
    for values in (IMAGE[:3], ids):
        tifffile.imwrite(tmp_path / "three.tif", values, photometric="rgb", planarconfig="separate")
        with pytest.raises(BadInput, match="If these are planes of a stack: axes=.zyx."):
            TiffStack(str(tmp_path / "three.tif"), 5.0).open()
        opened = TiffStack(str(tmp_path / "three.tif"), 5.0, axes="zyx").open()
        np.testing.assert_array_equal(opened.read(), values)
    tifffile.imwrite(tmp_path / "six.tif", np.stack([ids, ids]), photometric="rgb", planarconfig="separate")
    with pytest.raises(BadInput, match="is a colour image"):  # of two pages, one would be lost
        TiffStack(str(tmp_path / "six.tif"), 5.0, axes="zyx").open()


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


# --- reading ------------------------------------------------------------------------------------------------------


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
