"""Reports: one page that opens offline, and files that other programs read."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from matplotlib.figure import Figure
from pyarrow import csv, parquet

from asem_core.errors import BadInput
from asem_core.interfaces import Analysis, Column
from asem_core.report import LARGEST_SVG, ROWS_SHOWN, Section, write_report


def pores(num: int = 3) -> dict[str, Column]:
    return {
        "id": Column(np.arange(1, num + 1), "the object"),
        "diameter_nm": Column(np.linspace(80, 100, num), "median of 18 directions"),
    }


def histogram(num_points: int = 5) -> Figure:
    figure = Figure()
    figure.subplots().plot(np.arange(num_points), np.arange(num_points) % 7)
    return figure


def test_a_report_is_one_page_with_its_figures_inside(tmp_path):
    section = Section(
        "Pores", "First.\n\nSecond <b>.", {"num_pores": 3}, {"pores": pores()}, {"histogram": histogram()}
    )
    page = write_report(tmp_path / "out", "Cell 13a", [section], made_by={"version": "0.1"})

    html = page.read_text()
    assert page == tmp_path / "out" / "report.html"
    assert "<h1>Cell 13a</h1>" in html
    assert "<p>First.</p>" in html
    assert "Second &lt;b&gt;." in html  # text is text, never markup
    assert "data:image/svg+xml;base64," in html
    assert not re.search(r"""(src|href)=["'](https?:|//)""", html)
    assert "&#34;version&#34;: &#34;0.1&#34;" in html


def test_how_a_report_was_made_is_one_line_that_opens(tmp_path):
    made_by = {
        "stage": "analyze",
        "asem_version": "0.1.0",
        "inputs": [{"path": f"cell.zarr/{name}", "shape": [9, 9, 9]} for name in ("mito", "raw", "raw", "a", "b", "c")],
        "step": {"name": "morphometry", "options": {}},
    }
    html = write_report(tmp_path, "Cell", [], made_by=made_by).read_text()
    assert (
        "<summary>asem analyze (morphometry); from cell.zarr/mito, cell.zarr/raw, cell.zarr/a, cell.zarr/b and 1 more; "
        "version 0.1.0</summary>" in html
    )
    assert re.search(r"<details>.*</summary>\n<pre>{.*&#34;shape&#34;.*</pre>\n</details>", html, re.DOTALL)


def test_tables_are_csv_and_parquet_with_the_meaning_of_each_column(tmp_path):
    write_report(tmp_path, "Cell", [Section("Pores", tables={"pores": pores()})], made_by={})

    frame = csv.read_csv(tmp_path / "tables" / "pores.csv")
    assert frame["diameter_nm"].to_pylist() == [80, 90, 100]
    schema = parquet.read_table(tmp_path / "tables" / "pores.parquet").schema
    assert schema.field("diameter_nm").metadata[b"about"] == b"median of 18 directions"
    columns = csv.read_csv(tmp_path / "tables" / "columns.csv")
    assert columns["about"].to_pylist() == ["the object", "median of 18 directions"]


def test_an_empty_table_keeps_its_columns(tmp_path):
    write_report(tmp_path, "Cell", [Section("Pores", tables={"pores": pores(0)})], made_by={})
    assert csv.read_csv(tmp_path / "tables" / "pores.csv").column_names == ["id", "diameter_nm"]


def test_a_long_table_is_cut_on_the_page_but_not_in_the_file(tmp_path):
    page = write_report(tmp_path, "Cell", [Section("Pores", tables={"pores": pores(500)})], made_by={})
    assert f"{ROWS_SHOWN} of 500 rows shown" in page.read_text()
    assert len(csv.read_csv(tmp_path / "tables" / "pores.csv")) == 500


def test_one_name_in_two_sections_gives_two_files(tmp_path):
    sections = [Section("Pores", tables={"objects": pores(1)}), Section("Pits", tables={"objects": pores(2)})]
    write_report(tmp_path, "Cell", sections, made_by={})
    names = {path.name for path in (tmp_path / "tables").glob("*objects.csv")}
    assert names == {"pores-objects.csv", "pits-objects.csv"}


def test_numbers_are_valid_json_even_when_undefined(tmp_path):
    section = Section("Scores", numbers={"f1": float("nan"), "num": np.int64(4), "each": np.array([0.5, 1])})
    page = write_report(tmp_path, "Scores", [section], made_by={"path": tmp_path})
    assert json.loads((tmp_path / "numbers.json").read_text()) == {"Scores": {"f1": None, "num": 4, "each": [0.5, 1]}}
    assert json.loads((tmp_path / "made_by.json").read_text()) == {"path": str(tmp_path)}
    assert "<td>–</td>" in page.read_text()


def test_the_same_report_twice_gives_the_same_bytes_and_leaves_nothing_else(tmp_path):
    section = Section("Pores", tables={"pores": pores()}, figures={"histogram": histogram()})
    for folder in ("a", "b", "a"):
        write_report(tmp_path / folder, "Cell", [section], made_by={})
    files = {path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file()}
    assert {str(f) for f in files} == {
        "report.html", "numbers.json", "made_by.json", "figures/histogram.svg", "figures/histogram.png",
        "tables/pores.csv", "tables/pores.parquet", "tables/columns.csv",
    }  # fmt: skip
    for file in files:
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_a_figure_with_very_many_points_is_embedded_as_png(tmp_path):
    figure = Figure()
    rng = np.random.default_rng(0)
    figure.subplots().scatter(*rng.random((2, 20_000)), c=rng.random(20_000))
    page = write_report(tmp_path, "Cell", [Section("Map", figures={"map": figure})], made_by={})
    assert (tmp_path / "figures" / "map.svg").stat().st_size > LARGEST_SVG
    assert "data:image/png;base64," in page.read_text()


def test_columns_of_different_length_are_refused(tmp_path):
    table = {**pores(3), "area_um2": Column(np.ones(2), "area")}
    with pytest.raises(BadInput, match=r"table 'pores' differ in length.*'area_um2': 2"):
        write_report(tmp_path, "Cell", [Section("Pores", tables={"pores": table})], made_by={})


def test_an_analysis_becomes_a_section_with_its_method_and_notes(tmp_path):
    analysis = Analysis(
        {"pores": pores()}, numbers={"median_nm": 92.0}, method="Rotated views.", notes=["Two skipped."]
    )
    html = write_report(tmp_path, "Cell", [Section.of("Pores", analysis)], made_by={}).read_text()
    assert "<p>Rotated views.</p>" in html
    assert "<p>Two skipped.</p>" in html
    assert "<td>92</td>" in html
