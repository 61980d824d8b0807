"""Sources: real TIFF stacks and containers; bad ones are refused with the plane's name, and nothing is written."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import tifffile
import zarr

from asem_core.blocks import Run
from asem_core.errors import BadInput, OutputExists
from asem_core.stages.import_ import _within_memory, import_volume
from asem_core.testing import example_image
from asem_core.volume import Volume
from asem_sources.ome_zarr import OmeZarr
from asem_sources.tiff_stack import TiffStack

IMAGE = example_image((12, 30, 40)).read()
QUIET = Run(progress=False)


def write_planes(folder: Path, image: np.ndarray = IMAGE, name: str = "cell_{}.tif", start: int = 5) -> Path:
    folder.mkdir(exist_ok=True)
    for i, plane in enumerate(image):
        tifffile.imwrite(folder / name.format(i + start), plane)
    return folder


def test_planes_are_sorted_by_number(tmp_path: Path) -> None:
    """cell_9 comes before cell_10."""
    volume = TiffStack(str(write_planes(tmp_path / "planes")), 5.0).open()
    np.testing.assert_array_equal(volume.read(), IMAGE)
    assert volume.voxel_size_nm == (5, 5, 5)
    assert volume.planes[4:6] == ["cell_9.tif", "cell_10.tif"]


def test_the_number_that_differs_counts_and_pattern(tmp_path: Path) -> None:
    """The number that differs in every name is the plane's; a pattern chooses another."""
    folder = write_planes(tmp_path / "planes", name="run2_slice{:03}_5nm.tif")
    np.testing.assert_array_equal(TiffStack(str(folder), 5.0).open().read(), IMAGE)
    volume = TiffStack(str(folder), 5.0, pattern=r"run2_slice(\d+)_").open()
    np.testing.assert_array_equal(volume.read(), IMAGE)


def test_multi_page_file(tmp_path: Path) -> None:
    """One file with many pages, compressed or not, is a stack."""
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    tifffile.imwrite(tmp_path / "b.tif", IMAGE, compression="zlib")
    for name in "ab":
        np.testing.assert_array_equal(TiffStack(str(tmp_path / f"{name}.tif"), 5.0).open().read(), IMAGE)


@pytest.mark.parametrize("options", [{}, {"imagej": True}, {"bigtiff": True}, {"compression": "zlib"}])
@pytest.mark.parametrize("part", [0.4, 0.8, 0.99])
def test_a_cut_file_of_many_pages_is_no_smaller_stack(tmp_path: Path, options: dict[str, Any], part: float) -> None:
    """Wherever a copy of a multi-page file ended early, it is refused, never read as the planes that came."""
    file = tmp_path / "a.tif"
    tifffile.imwrite(file, np.random.default_rng(0).integers(0, 256, (12, 30, 40)).astype(np.uint8), **options)
    os.truncate(file, int(file.stat().st_size * part))
    with pytest.raises(BadInput, match=r"a.tif(, page \d+,)? (is truncated: .* Copy it again|cannot be read as TIFF)"):
        TiffStack(str(file), 5.0).open()


def test_a_raw_stack_of_imagej(tmp_path: Path) -> None:
    """ImageJ describes only the first plane of a stack above 4 GB; the others follow it. One that was cut is refused."""
    file = tmp_path / "a.tif"
    image = IMAGE.astype(np.uint16) * 200
    tifffile.imwrite(file, image, imagej=True, metadata={"axes": "ZYX"})
    with tifffile.TiffFile(file) as tiff:
        end = tiff.pages[0].offset + 2 + 12 * len(tiff.pages[0].tags)
    with file.open("r+b") as raw:
        raw.seek(end)
        raw.write(bytes(4))
    np.testing.assert_array_equal(TiffStack(str(file), 5.0).open().read(), image)
    os.truncate(file, file.stat().st_size - 3000)
    with pytest.raises(BadInput, match="is truncated: .* Copy it again"):
        TiffStack(str(file), 5.0).open()


def test_voxel_size_of_imagej(tmp_path: Path) -> None:
    """ImageJ's metadata gives the voxel size if the user does not."""
    tifffile.imwrite(
        tmp_path / "a.tif",
        IMAGE,
        imagej=True,
        resolution=(250.0, 200.0),
        metadata={"spacing": 0.008, "unit": "um", "axes": "ZYX"},
    )
    assert TiffStack(str(tmp_path / "a.tif")).open().voxel_size_nm == pytest.approx((8, 5, 4))


def test_signed_and_float_data(tmp_path: Path) -> None:
    """Floats in 0..1 become 16 bit; a grey range maps anything to 8 bit."""
    tifffile.imwrite(tmp_path / "f.tif", (IMAGE / 255).astype(np.float32))
    volume = TiffStack(str(tmp_path / "f.tif"), 5.0).open()
    assert volume.dtype == np.uint16
    assert np.abs(volume.read() / 65535 - IMAGE / 255).max() < 1e-4
    tifffile.imwrite(tmp_path / "s.tif", IMAGE.astype(np.int16) - 128)
    ranged = TiffStack(str(tmp_path / "s.tif"), 5.0, grey_range=(-128.0, 127.0)).open()
    np.testing.assert_array_equal(ranged.read(), IMAGE)
    holed = (IMAGE / 255).astype(np.float32)
    holed[3, :4] = np.nan
    tifffile.imwrite(tmp_path / "n.tif", holed)
    filled = TiffStack(str(tmp_path / "n.tif"), 5.0, grey_range=(0.0, 1.0)).open().read()
    assert not filled[3, :4].any()
    np.testing.assert_array_equal(filled[4:], IMAGE[4:])


def test_a_damaged_plane_is_named(tmp_path: Path) -> None:
    """Compressed pixels that cannot be decoded name their file, at once; the import ends with that sentence."""
    folder = write_planes(tmp_path / "planes")
    for file in folder.iterdir():
        tifffile.imwrite(file, tifffile.imread(file), compression="zlib")
    damaged = folder / "cell_8.tif"
    damaged.write_bytes(damaged.read_bytes()[:-60] + bytes(60))
    with pytest.raises(BadInput, match=r"cell_8.tif cannot be decoded: .* It is damaged: copy it again"):
        import_volume(TiffStack(str(folder), 5.0), tmp_path / "cell.zarr" / "raw", QUIET)


def _truncate(folder: Path) -> None:
    file = folder / "cell_8.tif"
    os.truncate(file, file.stat().st_size - 500)


def _replace(plane: np.ndarray, **options: object) -> Callable[[Path], None]:
    return lambda folder: tifffile.imwrite(folder / "cell_8.tif", plane, **options)


FAULTS: dict[str, tuple[Callable[[Path], object], str]] = {
    "gap": (lambda f: (f / "cell_8.tif").unlink(), "has planes 5 to 16, but 8 is missing"),
    "shape": (_replace(IMAGE[0, :20]), r"cell_8.tif is 20 x 40 pixels but cell_5.tif is 30 x 40"),
    "dtype": (_replace(IMAGE[0].astype(np.uint16)), "cell_8.tif holds uint16 but cell_5.tif holds uint8"),
    "truncated": (_truncate, "cell_8.tif is truncated"),
    "not tiff": (lambda f: (f / "cell_8.tif").write_text("hello"), "cell_8.tif cannot be read as TIFF"),
    "empty file": (lambda f: (f / "cell_8.tif").write_bytes(b""), "cell_8.tif is empty. Copy it again"),
    "cut in the header": (lambda f: os.truncate(f / "cell_8.tif", 5), "cell_8.tif cannot be read as TIFF"),
    "many pages": (_replace(IMAGE[:10]), "cell_8.tif holds 10 planes, but cell_5.tif holds 1"),
    "many planes of ImageJ": (
        _replace(IMAGE[:3], imagej=True, metadata={"axes": "ZYX"}),
        "cell_8.tif holds 3 planes, .* import .*cell_8.tif inst",
    ),
    "rgb": (_replace(np.stack([IMAGE[0]] * 3, -1), photometric="rgb"), "cell_8.tif is a colour image"),
    "no number": (lambda f: (f / "cell_8.tif").rename(f / "overview.tif"), "overview.tif has no plane number"),
    "no planes": (lambda f: [p.unlink() for p in f.iterdir()], "holds no TIFF planes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_stack_is_refused_and_nothing_written(tmp_path: Path, fault: str) -> None:
    """Each fault names the plane and what to do; the cell is not begun."""
    spoil, sentence = FAULTS[fault]
    folder = write_planes(tmp_path / "planes")
    spoil(folder)
    with pytest.raises(BadInput, match=sentence):
        import_volume(TiffStack(str(folder), 5.0), tmp_path / "cell.zarr" / "raw", QUIET)
    assert not (tmp_path / "cell.zarr").exists()


def test_a_thumbnail_is_no_plane(tmp_path: Path) -> None:
    """A second page that is marked as a smaller copy of the first does not make a plane two."""
    folder = write_planes(tmp_path / "planes")
    for file, plane in zip(sorted(folder.iterdir()), IMAGE, strict=True):
        with tifffile.TiffWriter(file) as tiff:
            tiff.write(plane)
            tiff.write(plane[::4, ::4], subfiletype=1)
    assert TiffStack(str(folder), 5.0).open().shape == IMAGE.shape


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (IMAGE.astype(np.int16) - 200, "holds int16 grey values from -170 to 16, outside 0 to 32767"),
        (IMAGE.astype(np.float32), "outside 0 to 1. Say which become black and white .grey_range="),
        (np.full(IMAGE.shape, np.nan, np.float32), "holds values that are not numbers"),
    ],
)
def test_grey_values_out_of_range(tmp_path: Path, values: np.ndarray, sentence: str) -> None:
    """Signed or float data that does not fit is refused before anything is written."""
    folder = write_planes(tmp_path / "planes", values)
    with pytest.raises(BadInput, match=sentence):
        import_volume(TiffStack(str(folder), 5.0), tmp_path / "cell.zarr" / "raw", QUIET)
    assert not (tmp_path / "cell.zarr").exists()


def test_no_such_path_and_no_voxel_size(tmp_path: Path) -> None:
    """A missing folder, a missing voxel size and one of the wrong length are said as such."""
    with pytest.raises(BadInput, match="does not exist"):
        TiffStack(str(tmp_path / "nothing"), 5.0).open()
    folder = write_planes(tmp_path / "planes")
    with pytest.raises(BadInput, match=r"voxel_size_nm=\[5, 5, 5\]"):
        TiffStack(str(folder)).open()
    with pytest.raises(BadInput, match="three numbers"):
        TiffStack(str(folder), (5.0, 5.0)).open()  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="positive"):
        TiffStack(str(folder), 0.0).open()


def test_gaps_may_be_allowed(tmp_path: Path) -> None:
    """On demand the planes around a gap are joined."""
    folder = write_planes(tmp_path / "planes")
    (folder / "cell_8.tif").unlink()
    volume = TiffStack(str(folder), 5.0, allow_gaps=True).open()
    np.testing.assert_array_equal(volume.read(), np.delete(IMAGE, 3, axis=0))


@pytest.mark.parametrize("workers", [1, 2])
def test_import_is_exact_and_repeatable(tmp_path: Path, workers: int) -> None:
    """What is imported equals the planes; the same import again finds it; changed planes are noticed."""
    folder = write_planes(tmp_path / "planes")
    target = tmp_path / "cell.zarr" / "raw"
    run = Run(workers=workers, progress=False, block=(8, 16, 16))
    first = import_volume(TiffStack(str(folder), 5.0), target, run)
    np.testing.assert_array_equal(first.read(), IMAGE)
    stamp = (target / "zarr.json").stat().st_mtime_ns
    import_volume(TiffStack(str(folder), 5.0), target, run)
    assert (target / "zarr.json").stat().st_mtime_ns == stamp
    tifffile.imwrite(folder / "cell_5.tif", IMAGE[1])
    os.utime(folder / "cell_5.tif", ns=(1, 1))
    with pytest.raises(Exception, match="exists and was made differently"):
        import_volume(TiffStack(str(folder), 5.0), target, run)


@pytest.mark.parametrize("layered", [False, True])
def test_a_changed_zarr_is_noticed(tmp_path: Path, layered: bool) -> None:
    """An array, or a layer of ours, that was edited in place is not taken for the one imported before."""
    path = tmp_path / "other.zarr"
    if layered:
        import_volume(TiffStack(str(write_planes(tmp_path / "planes")), 5.0), path / "raw", QUIET)
        array = zarr.open_array(str(path / "raw" / "s0"), mode="r+")
    else:
        array = zarr.create_array(str(path), shape=IMAGE.shape, chunks=(8, 16, 16), dtype=IMAGE.dtype)
        array.attrs["resolution"] = [5, 5, 5]
    source, target = OmeZarr(str(path)), tmp_path / "cell.zarr" / "raw"
    import_volume(source, target, QUIET)
    import_volume(source, target, QUIET)
    array[8:] = 77
    with pytest.raises(OutputExists, match="differs in: the input, which is another one or now contains other data"):
        import_volume(source, target, QUIET)
    assert (import_volume(source, target, QUIET, overwrite=True).read()[8:] == 77).all()


def test_an_import_can_be_done_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What changed without a trace, as at a remote address, is copied again on demand; the record stays equal."""
    monkeypatch.setattr("asem_core.files.SMALL_BYTES", 0)  # so that nothing is told by its content
    folder, target = write_planes(tmp_path / "planes"), tmp_path / "cell.zarr" / "raw"
    source = TiffStack(str(folder), 5.0)
    import_volume(source, target, QUIET)
    stamp = (folder / "cell_8.tif").stat().st_mtime_ns
    tifffile.imwrite(folder / "cell_8.tif", 255 - IMAGE[3])
    os.utime(folder / "cell_8.tif", ns=(stamp, stamp))
    assert (import_volume(source, target, QUIET, overwrite=True).read()[3] == IMAGE[3]).all()
    made = import_volume(source, target, QUIET, overwrite=True, anew=True)
    np.testing.assert_array_equal(made.read()[3], 255 - IMAGE[3])


def test_slabs_of_large_planes_fit_the_memory() -> None:
    """No more workers than half of the free memory holds slabs for; small ones leave all workers at work."""
    free = psutil.virtual_memory().available
    edge = math.isqrt(free // 8 // 10)  # eight planes are a tenth of what is free
    for shape, expected in (((64, edge, edge), {2, 3}), ((64, 10 * edge, edge), {1}), ((64, 500, 500), {8})):
        volume = Volume(np.broadcast_to(np.uint8(0), shape), 5.0)
        assert _within_memory(Run(workers=8), volume, (8, *shape[1:])).workers in expected


def test_real_stack(real_data: Callable[[str], Path]) -> None:
    """The 250 planes of a real FIB-SEM export open and read as tifffile reads them."""
    folder = real_data("fib25/raw")
    volume = TiffStack(str(folder), 10.0).open()
    assert volume.shape == (250, 250, 250)
    np.testing.assert_array_equal(volume.read()[123], tifffile.imread(folder / "fib25_0123.tif"))


def test_zarr_source_overrides_voxel_size(tmp_path: Path) -> None:
    """The `ome-zarr` source opens the container's first layer, with another voxel size on demand."""
    target = tmp_path / "cell.zarr" / "raw"
    import_volume(TiffStack(str(write_planes(tmp_path / "planes")), 5.0), target, QUIET)
    source = OmeZarr(str(tmp_path / "cell.zarr"), voxel_size_nm=4.0)
    assert source.layers() == ["raw"]
    assert source.open().voxel_size_nm == (4, 4, 4)
    assert OmeZarr(str(target)).open("s0").shape == IMAGE.shape


def test_what_is_not_annotated_stays_so(tmp_path: Path) -> None:
    """Labels of a cell, imported into another, speak of the image where they did."""
    from asem_core.cell.store import open_labels
    from asem_core.voxels.known import Meaning

    values = np.zeros((8, 8, 8), np.uint8)
    values[:4, :4], values[4:] = 3, 200
    tifffile.imwrite(tmp_path / "a.tif", values, photometric="minisblack")
    source = TiffStack(str(tmp_path / "a.tif"), 5.0)
    import_volume(source, tmp_path / "a.zarr/labels/er", QUIET, kind="labels", meaning=Meaning(ignore=(200,)))
    import_volume(
        OmeZarr(str(tmp_path / "a.zarr")), tmp_path / "b.zarr/labels/er", QUIET, layer="labels/er", kind="labels"
    )
    made = open_labels(tmp_path / "b.zarr/labels/er")
    np.testing.assert_array_equal(made.known_in(made.box), values != 200)
    np.testing.assert_array_equal(made.read(), np.where(values == 200, 0, values))
