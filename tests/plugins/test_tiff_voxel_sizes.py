"""Voxel sizes of TIFF, as microscopes and programs write them: in tags, in files beside the image, in the names of planes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tifffile

from asem_core.errors import BadInput
from asem_core.voxels.units import nm_per
from asem_sources.tiff_stack import TiffStack

sys.path.insert(0, str(Path(__file__).parent))
from tiff_files import IMAGE, write

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
