"""Comparing cells: a cell is one sample, however many objects it has."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from pyarrow import csv
from typer.testing import CliRunner

from asem_core.cli import make_app
from asem_core.errors import BadInput
from asem_core.interfaces import Column
from asem_core.report import Section, write_report
from asem_core.stages.compare import compare, holm, p_value


def report(folder: Path, volumes: np.ndarray, analysis: str = "morphometry", *, measure: str = "volume_um3") -> Path:
    table = {
        "object_id": Column(np.arange(1, len(volumes) + 1), "id"),
        measure: Column(volumes, "what is measured"),
        "touches_border": Column(np.arange(len(volumes)) == 0, "border"),
    }
    made_by = {"stage": "analyze", "step": {"name": analysis, "options": {}}}
    write_report(folder, "cell", [Section("x", tables={"objects": table})], made_by=made_by)
    return folder


@pytest.fixture
def cells(tmp_path: Path) -> list[tuple[str, Path]]:
    """Four cells a condition; those of the second are larger, and differ between each other."""
    rng = np.random.default_rng(1)
    return [
        (condition, report(tmp_path / f"{condition}_{i}", np.append(999.0, mean + i + rng.uniform(-0.1, 0.1, 50))))
        for condition, mean in (("control", 1.0), ("starved", 9.0))
        for i in range(4)
    ]


def test_cells_are_the_samples(cells: list[tuple[str, Path]], tmp_path: Path) -> None:
    """p is that of 4 against 4 cells, 2 of 70 orders, not of 200 objects each; objects at the border are left out."""
    compare(cells, tmp_path / "out")
    tests = csv.read_csv(tmp_path / "out/tables/tests.csv").to_pydict()
    assert tests["measure"] == ["volume_um3"]
    assert tests["p"] == pytest.approx([2 / 70])
    assert tests["difference"] == pytest.approx([8.0], abs=0.05)
    medians = csv.read_csv(tmp_path / "out/tables/cells.csv").to_pydict()
    assert medians["median_volume_um3"][0] == pytest.approx(1.0, abs=0.05)
    assert len(csv.read_csv(tmp_path / "out/tables/objects.csv")) == 8 * 51
    assert (tmp_path / "out/figures/volume_um3.png").exists()


def test_too_few_cells_are_said(cells: list[tuple[str, Path]], tmp_path: Path) -> None:
    """Three against three cells cannot give p < 0.05, and one cell gives none: the report says so."""
    page = compare([*cells[:3], *cells[4:7]], tmp_path / "three")
    assert "smallest p that this test can give is 0.1" in page.read_text()
    page = compare([cells[0], *cells[4:7]], tmp_path / "one")
    assert "single cell" in page.read_text()


def test_a_difference_within_the_spread_of_cells_is_none() -> None:
    """Identical conditions give a large p."""
    assert p_value([np.array([1.0, 2, 3, 4]), np.array([1.1, 2.1, 2.9, 3.9])]) > 0.9
    assert np.isnan(p_value([np.array([1.0]), np.array([2.0, 3.0])]))
    assert p_value([np.arange(5) + s for s in (0.0, 10.0, 20.0)]) < 0.01


def test_holm() -> None:
    """The example of every textbook: the smallest p counts all tests, the largest none but itself."""
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, np.nan, 0.03])), [0.03, 0.06, np.nan, 0.06])


def test_mistakes_are_explained(cells: list[tuple[str, Path]], tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="holds no report: give folders that asem analyze has written"):
        compare([("a", tmp_path)], tmp_path / "out")
    other = report(tmp_path / "pores", np.ones(3), "nuclear-pores")
    with pytest.raises(BadInput, match="different analyses"):
        compare([cells[0], ("a", other)], tmp_path / "out")
    unlike = report(tmp_path / "unlike", np.ones(3), measure="length_nm")
    with pytest.raises(
        BadInput, match="have no measure in common. The first has: object_id, volume_um3, touches_border"
    ):
        compare([cells[0], ("a", unlike)], tmp_path / "out")
    shutil.rmtree(unlike / "tables")
    with pytest.raises(BadInput, match="is a report without tables"):
        compare([cells[0], ("a", unlike)], tmp_path / "out")
    with pytest.raises(BadInput, match="has no table 'x'. Its tables: objects"):
        compare([cells[0]], tmp_path / "out", table="x")


def test_by_command(cells: list[tuple[str, Path]], tmp_path: Path) -> None:
    """Conditions are given with the folders."""
    words = [f"{condition}={folder}" for condition, folder in cells]
    done = CliRunner().invoke(make_app(), ["compare", *words, "-o", str(tmp_path / "out")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "out/report.html").exists()
