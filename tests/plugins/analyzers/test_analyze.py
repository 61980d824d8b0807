"""The analyze stage and its command: reports on disk, and what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import attrs
import numpy as np
import pytest
from typer.testing import CliRunner

from asem_analyzers.morphometry import Morphometry
from asem_core.blocks import Run
from asem_core.cell.record import Made, Record
from asem_core.cell.store import create_volume, finish_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, PluginError, VoxelSizeMismatch
from asem_core.interfaces import Analysis, Column
from asem_core.stages.analyze import analyze
from asem_core.volume import Labels, Volume

RUN = Run(progress=False)


@pytest.fixture
def cell(tmp_path) -> Path:
    """A cell with an image and one cube of 10 voxels, 5 nm each."""
    array = np.zeros((32, 32, 32), np.uint8)
    array[10:20, 10:20, 10:20] = 1
    for layer, data in (("raw", array * 100), ("labels/cube", array)):
        volume = create_volume(
            tmp_path / "cell.zarr" / layer, Volume(data, 5.0).spec, block=(32, 32, 32), made_by={"stage": "test"}
        )
        volume.data[volume.box.slices] = data
        finish_volume(volume)
    return tmp_path / "cell.zarr"


def test_report_has_page_tables_and_figures(tmp_path):
    """One page that needs no other file; CSV and Parquet with units in the names; SVG and PNG."""
    import pyarrow.parquet as parquet

    array = np.zeros((16, 16, 44), np.uint8)
    for x in (4, 16, 28):
        array[4:12, 4:12, x : x + 8] = 1
    page = analyze(Morphometry(), Labels(array, 5.0), None, tmp_path / "report", RUN)
    text = page.read_text()
    assert 'src="data:image/svg+xml;base64,' in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    rows = list(csv.DictReader((tmp_path / "report/tables/objects.csv").open()))
    assert float(rows[0]["volume_um3"]) == pytest.approx(64e-6)
    assert parquet.read_table(tmp_path / "report/tables/objects.parquet")["num_vx"].to_pylist() == [512] * 3
    assert (tmp_path / "report/figures/distributions.svg").exists()
    assert (tmp_path / "report/figures/distributions.png").exists()
    made_by = json.loads((tmp_path / "report/made_by.json").read_text())
    assert made_by["step"]["name"] == "morphometry"
    assert made_by["step"]["options"]["smallest_um3"] == 0.0


def test_command_writes_the_report_beside_the_cell(cell):
    """The image of the cell is found by itself; `--json` prints the numbers."""
    arguments = ["analyze", "morphometry", str(cell / "labels/cube"), "-s", "skeleton=false", "-q", "-j", "1", "--json"]
    result = CliRunner().invoke(make_app(), arguments)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert Path(answer["report"]) == cell.with_name("cell_reports") / "morphometry-cube" / "report.html"
    assert answer["numbers"]["objects"] == 1
    assert answer["numbers"]["total volume, um3"] == pytest.approx(125e-6)


def test_command_refuses_a_misspelt_option(cell):
    """The message names the nearest option."""
    result = CliRunner().invoke(make_app(), ["analyze", "morphometry", str(cell / "labels/cube"), "-s", "skeletn=true"])
    assert result.exit_code == 1
    assert "unknown option 'skeletn'" in result.stderr
    assert "skeleton" in result.stderr


def test_what_is_no_report_of_the_kind_is_never_replaced(cell, tmp_path):
    """An equal report is used as it is, one of other options replaced with --overwrite; a user's own page and other reports stay."""

    def asem(*words):
        arguments = ["analyze", "morphometry", str(cell / "labels/cube"), "-q", "-j", "1", *words]
        return CliRunner().invoke(make_app(), arguments)

    plain, report = ("-s", "skeleton=false", "-o"), tmp_path / "report"
    made = []
    for words in ((), (), ("--overwrite",)):
        assert asem(*plain, str(report), *words).exit_code == 0
        made.append((report / "report.html").stat().st_mtime_ns)
    assert made[0] == made[1] < made[2]
    other = asem(*plain, str(report), "-s", "smallest_um3=1e-6")
    assert other.exit_code == 1
    assert (
        "contains a report that was made from other data or with other options. Choose another folder, or add --overwrite"
        in other.stderr
    )
    assert asem(*plain, str(report), "-s", "smallest_um3=1e-6", "--overwrite").exit_code == 0
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "report.html").write_text("mine")
    (report / "checkpoints").mkdir()
    for folder, what in ((mine, "report.html"), (report, "checkpoints")):
        told = asem(*plain, str(folder), "--overwrite")
        assert told.exit_code == 1
        assert (
            f"contains files that do not belong to a report of this kind ({what}), which are never replaced"
            in told.stderr
        )
    assert (mine / "report.html").read_text() == "mine"
    (tmp_path / "t.toml").write_text("")
    assert "t.toml is a file; a report needs a folder" in asem(*plain, str(tmp_path / "t.toml")).stderr


def test_image_of_another_voxel_size_is_refused(tmp_path):
    """The message gives both sizes and the remedy, and nothing is written."""
    labels = Labels(np.ones((8, 8, 8), np.uint8), 5.0, path="mask")
    raw = Volume(np.ones((8, 8, 8), np.uint8), 4.0, path="raw")
    with pytest.raises(VoxelSizeMismatch, match=r"image raw has voxels of \[4.0, 4.0, 4.0\] nm but .* mask has \[5.0"):
        analyze(Morphometry(), labels, raw, tmp_path / "report", RUN)
    assert not (tmp_path / "report").exists()


def test_image_elsewhere_is_refused(tmp_path):
    """Image and segmentation of different cells do not overlap."""
    labels = Labels(np.ones((8, 8, 8), np.uint8), 5.0, path="mask")
    raw = Volume(np.ones((8, 8, 8), np.uint8), 5.0, origin_nm=(500.0, 0.0, 0.0), path="raw")
    with pytest.raises(BadInput, match="do not overlap"):
        analyze(Morphometry(), labels, raw, tmp_path / "report", RUN)


def test_report_cannot_replace_a_file(tmp_path):
    """A folder is needed."""
    (tmp_path / "report").write_text("mine")
    with pytest.raises(BadInput, match="is a file; a report needs a folder"):
        analyze(Morphometry(), Labels(np.ones((8, 8, 8), np.uint8), 5.0), None, tmp_path / "report", RUN)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (None, "returned NoneType instead of an Analysis"),
        (Analysis(tables={"pores": {"d_nm": np.zeros(3)}}), "table 'pores' with 'd_nm' not a Column"),
        (
            Analysis(tables={"pores": {"a": Column(np.zeros(3), ""), "b": Column(np.zeros(2), "")}}),
            "columns of different length",
        ),
    ],
)
def test_analyzer_that_returns_something_else_is_named(returned, message, tmp_path):
    """A stranger's analyzer is told by name what is wrong with its answer."""

    @attrs.frozen
    class Odd:
        name = "odd"

        def analyze(self, segmentation, raw, run):
            return returned

    with pytest.raises(PluginError, match=f"The analyzer 'odd' returned .*{message}|'odd' {message}"):
        analyze(Odd(), Labels(np.ones((8, 8, 8), np.uint8), 5.0), None, tmp_path / "report", RUN)


@pytest.mark.parametrize(
    ("layer", "kind", "stage", "said"),
    [
        (
            "raw",
            None,
            "import",
            "raw is an image; analyses measure a segmentation or labels. If it holds labels after all",
        ),
        ("raw_clahe", None, "preprocess", "raw_clahe is an image"),
        ("predictions/a/probability", "probability", "predict", "is a probability map; .* Segment it first"),
    ],
)
def test_what_is_no_segmentation_is_refused(layer, kind, stage, said, tmp_path):
    """Only what our own record calls an image or a probability map: nothing is known of data from elsewhere."""
    labels = Labels(
        np.ones((8, 8, 8), np.uint8),
        5.0,
        path=f"c.zarr/{layer}",
        attributes=Record(kind, Made({"stage": stage})).attributes(),
    )
    with pytest.raises(BadInput, match=said):
        analyze(Morphometry(), labels, None, tmp_path / "report", RUN)
    assert not (tmp_path / "report").exists()
