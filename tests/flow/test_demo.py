"""The demo: one command from nothing to a report, in both looks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from asem_core.cli import make_app


def asem(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    code = "from asem_core.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *words],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "ASEM_OFFLINE": "1"},
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    folder = tmp_path_factory.mktemp("demo")
    return folder, asem("demo", "-o", "out", "-q", cwd=folder)


@pytest.fixture
def asem_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Type a command in this process, in the folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ASEM_OFFLINE", "1")
    return lambda *words: CliRunner().invoke(make_app(), words)


def test_the_demo_names_its_report(asem_here: Callable[..., Result], tmp_path: Path) -> None:
    """A small one, in this process: it ends well, says every stage, and names a report and a picture that exist."""
    folder, done = tmp_path, asem_here("demo", "-o", "out", "--size-nm", "800", "-q", "-j", "1")
    assert done.exit_code == 0, done.output
    assert f"Report: {Path('out') / 'report.html'}" in done.stdout
    assert (folder / "out" / "report.html").stat().st_size > 100_000
    assert (folder / "out" / "demo.png").stat().st_size > 100_000
    assert json.loads((folder / "out" / "numbers.json").read_text())["What was found"]["F1 of mitochondria"] > 0.4
    for stage in (
        "Making a phantom",
        "Measuring nuclear pores",
        "Predicting mitochondria",
        "Segmenting mitochondria",
        "Measuring",
    ):
        assert stage in done.stderr


@pytest.mark.slow
def test_the_demo_finds_what_is_there(demo) -> None:
    """The small network finds the mitochondria of a phantom that it never saw, and the pores have their diameters."""
    folder, _ = demo
    numbers = json.loads((folder / "out" / "numbers.json").read_text())
    found = numbers["What was found"]
    assert found["F1 of mitochondria"] > 0.8
    assert found["F1 of clathrin-coats"] > 0.7
    assert found["F1 of nuclear-pores"] > 0.65  # of the openings' voxels; their number and diameters are below
    pores = numbers["Nuclear pores against the truth"]
    assert pores["measured"] >= 0.7 * pores["true pores"]
    assert abs(pores["mean error (nm)"]) < 4
    assert pores["standard deviation of the error (nm)"] < 9


@pytest.mark.slow
def test_a_second_run_reuses_the_first(demo) -> None:
    """The same command again makes nothing anew but the report."""
    folder, _ = demo
    layer = folder / "out" / "cell.zarr" / "raw"
    before = {p: p.stat().st_mtime_ns for p in layer.rglob("*") if p.is_file()}
    done = asem("demo", "-o", "out", "-q", "-j", "1", cwd=folder)  # quicker: no workers to start
    assert done.returncode == 0, done.stderr
    assert {p: p.stat().st_mtime_ns for p in layer.rglob("*") if p.is_file()} == before


def test_bad_words_are_told(asem_here: Callable[..., Result], tmp_path: Path) -> None:
    """A file in the folder's place and an unknown look are refused in a sentence."""
    (tmp_path / "taken").write_text("")
    done = asem_here("demo", "-o", "taken")
    assert done.exit_code == 1
    assert "is a file; the demo needs a folder" in done.stderr
    done = asem_here("demo", "--look", "cryo")
    assert done.exit_code == 1
    assert "look" in done.stderr
    assert not (tmp_path / "asem_demo").exists()
