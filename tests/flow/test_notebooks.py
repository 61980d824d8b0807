"""The notebooks of the docs run from top to bottom and show what they are for."""

from __future__ import annotations

import ast
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[2] / "docs" / "notebooks"


def run_cells(name: str) -> tuple[dict[str, Any], list[Any]]:
    """Run a notebook's cells in this process; returns its variables, and what each cell shows."""
    names: dict[str, Any] = {"__name__": "__main__"}
    shown = []
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]:
        if cell["cell_type"] != "code":
            continue
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        if last is not None:
            shown.append(eval(compile(ast.Expression(last.value), name, "eval"), names))  # type: ignore[attr-defined]
    return names, shown


def pictures(shown: list[Any]) -> list[bytes]:
    return [value._repr_png_() for value in shown if hasattr(value, "_repr_png_")]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASEM_OFFLINE", "1")
    return tmp_path


def test_ten_lines(here: Path) -> None:
    """From nothing to a table, with a picture; the layers are those that the commands write."""
    names, shown = run_cells("ten_lines")
    assert names["found"].numbers["objects"] == names["found"].tables["objects"].num_rows > 0
    assert [p[:4] for p in pictures(shown)] == [b"\x89PNG"]
    assert "predictions/mitochondria-phantom/segmentation" in names["cell"].layers
    assert names["found"].page == Path("cell_reports/morphometry-mitochondria-phantom/report.html")
    assert (here / names["found"].page).is_file()


def test_labels(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Labels are imported, shown, compared and measured; the voxel size is checked as by the command, in Python's words."""
    names, shown = run_cells("labels")
    assert len(pictures(shown)) == 2
    assert names["scores"].at(0.5).f1 > 0.5
    assert shown[-1]["objects"] > 0
    assert "allow_voxel_size=True, to predict all the same" in capsys.readouterr().out


@pytest.mark.slow
def test_fib25(here: Path, real_data: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """On real data: planes, a prediction that finds most of the membranes, neurites, and what they measure."""
    monkeypatch.setenv("ASEM_TEST_DATA", str(real_data("fib25").parent))
    names, shown = run_cells("fib25")
    assert names["scores"].at(0.5).f1 > 0.65  # of all voxels, those next to outlines too
    assert len(pictures(shown)) == 2
    assert names["found"].numbers["objects"] > 20


@pytest.mark.slow
def test_in_a_notebook(here: Path) -> None:
    """In a kernel, whose event loop runs already: nothing fails, and pictures are shown."""
    nbformat = pytest.importorskip("nbformat")
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(NOTEBOOKS / "ten_lines.ipynb", as_version=4)
    os.environ["ASEM_OFFLINE"] = "1"
    nbclient.NotebookClient(notebook, timeout=600, kernel_name="python3").execute(cwd=str(here))
    made = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not [output for output in made if output.output_type == "error"]
    assert any("image/png" in output.get("data", {}) for output in made)
