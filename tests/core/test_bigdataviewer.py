"""A cell as a data set of BigDataViewer: what pybdv reads of the XML, and the voxels and pyramids in the places that it names."""

from __future__ import annotations

import json
import shutil
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, NoVoxelSize, OutputExists
from asem_core.stages.bigdataviewer import BigDataViewer, export_for_bigdataviewer
from asem_core.volume import Volume

pytest.importorskip("tensorstore", reason="pip install tensorstore (extra precomputed)")
sys.path.insert(0, str(Path(__file__).parent))
from measured_cell import SHAPE, measured_cell

QUIET = Run(progress=False)
NAMES = ["raw", "labels/golgi", "labels/golgi_mask"]


@pytest.fixture(scope="module")
def xml(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cell = measured_cell(tmp_path_factory.mktemp("cells"))
    return export_for_bigdataviewer(str(cell), cell.with_name("cell_bdv"), BigDataViewer(), load_catalog(), QUIET)


def test_the_xml_by_another_library(xml: Path) -> None:
    """Format, names, sizes, voxel sizes with their unit, and the affine, as pybdv reads them (its lists are z, y, x)."""
    pybdv = pytest.importorskip("pybdv.metadata")
    root = ET.parse(xml).getroot()
    names = [setup.findtext("name") for setup in root.iter("ViewSetup")]
    assert sorted(str(n) for n in names) == sorted(NAMES)
    assert pybdv.get_bdv_format(xml) == "bdv.n5"
    assert Path(pybdv.get_data_path(xml, return_absolute_path=True)) == xml.with_name("dataset.n5")
    assert pybdv.get_time_range(xml) == (0, 0)
    for number, name in enumerate(names):
        layer: Volume = open_volume(xml.parents[1] / "cell.zarr" / str(name))
        assert tuple(pybdv.get_size(xml, number)) == SHAPE
        assert tuple(pybdv.get_resolution(xml, number)) == layer.voxel_size_nm
        assert pybdv.get_unit(xml, number) == "nm"
        (affine,) = pybdv.get_affine(xml, number).values()
        (z, y, x), (oz, oy, ox) = layer.voxel_size_nm, layer.origin_nm
        assert affine == [x, 0, 0, ox, 0, y, 0, oy, 0, 0, z, oz]


def test_the_voxels(xml: Path) -> None:
    """Each level where BigDataViewer looks for it, with the factors (x, y, z) that the group states."""
    names = [setup.findtext("name") for setup in ET.parse(xml).getroot().iter("ViewSetup")]
    source = load_catalog().get("source", "n5")
    for number, name in enumerate(names):
        setup = xml.with_name("dataset.n5") / f"setup{number}"
        about = json.loads((setup / "attributes.json").read_text())
        layer: Volume = open_volume(xml.parents[1] / "cell.zarr" / str(name))
        assert about["dataType"] == layer.dtype.name
        assert about["downsamplingFactors"][0] == [1, 1, 1]
        levels = sorted((setup / "timepoint0").glob("s*"))
        assert len(levels) == len(about["downsamplingFactors"])
        np.testing.assert_array_equal(source(str(levels[0])).open().read(), layer.read())
        for path, factors in zip(levels, about["downsamplingFactors"], strict=True):
            shape = json.loads((path / "attributes.json").read_text())["dimensions"]
            assert shape == [-(-n // f) for n, f in zip(layer.shape[::-1], factors, strict=True)]


def test_the_size_in_the_xml_is_read(xml: Path, tmp_path: Path) -> None:
    """Of an N5 that states no size itself, as BigDataViewer's own: its XML lies beside it under the same name."""
    setup = shutil.copytree(xml.with_name("dataset.n5"), tmp_path / "cell.n5") / "setup0/timepoint0"
    shutil.copyfile(xml, tmp_path / "cell.xml")
    own = ("dimensions", "blockSize", "dataType", "compression", "downsamplingFactors")
    for place in (setup, *setup.glob("s*")):
        about = json.loads((place / "attributes.json").read_text()) if (place / "attributes.json").exists() else {}
        (place / "attributes.json").write_text(json.dumps({k: v for k, v in about.items() if k in own}))
    size = ET.parse(xml).getroot().findtext(".//ViewSetup/voxelSize/size").split()[::-1]
    opened = load_catalog().get("source", "n5")(str(setup / "s0")).open()
    assert opened.voxel_size_nm == tuple(map(float, size))
    assert "cell.xml of BigDataViewer" in " ".join(opened.remarks)
    (tmp_path / "cell.xml").unlink()
    with pytest.raises(NoVoxelSize):
        load_catalog().get("source", "n5")(str(setup / "s0")).open()


def test_again_and_over_other_things(xml: Path, tmp_path: Path) -> None:
    """The same again returns it; other layers are refused without --overwrite; one layer is no cell."""
    cell, catalog = xml.parents[1] / "cell.zarr", load_catalog()
    before = xml.stat().st_mtime_ns
    assert export_for_bigdataviewer(str(cell), xml.parent, BigDataViewer(), catalog, QUIET) == xml
    assert xml.stat().st_mtime_ns == before
    with pytest.raises(OutputExists, match="made from other data"):
        export_for_bigdataviewer(str(cell), xml.parent, BigDataViewer(("raw",)), catalog, QUIET)
    with pytest.raises(BadInput):
        export_for_bigdataviewer(str(cell / "raw"), tmp_path / "x", BigDataViewer(), catalog, QUIET)


def test_the_command(xml: Path, tmp_path: Path) -> None:
    """`asem export CELL --use bigdataviewer` says how it is opened."""
    words = [
        "export",
        xml.parents[1] / "cell.zarr",
        "--use",
        "bigdataviewer",
        "-s",
        'layers=["raw"]',
        "-o",
        tmp_path / "b",
        "-q",
    ]
    result = CliRunner().invoke(make_app(), [str(word) for word in words])
    assert result.exit_code == 0, result.output
    assert "Plugins > BigDataViewer > Open XML/HDF5" in result.stdout
    assert (tmp_path / "b" / "dataset.xml").is_file()
