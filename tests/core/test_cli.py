"""The command `asem`: help with examples, answers for programs, errors without tracebacks, Ctrl-C that loses nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import typer.main
from typer.testing import CliRunner

from asem_core import __version__
from asem_core.blocks import Run
from asem_core.cell.apply import apply
from asem_core.cell.record import Record
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_preprocessors.invert import Invert

APP = make_app()


def commands(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every leaf command with the words that call it."""
    for name, child in command.commands.items():
        if hasattr(child, "commands"):
            yield from commands(child, (*path, name))
        else:
            yield (*path, name), child


LEAVES = dict(commands(typer.main.get_command(APP)))


def invoke(*words: str) -> Any:
    return CliRunner().invoke(APP, list(words))


def test_version() -> None:
    """`asem --version` prints it."""
    assert invoke("--version").output.strip() == f"asem {__version__}"


def test_all_commands_are_there() -> None:
    """The commands that the docs promise exist."""
    expected = {"import", "prepare", "train", "predict", "segment", "evaluate", "analyze", "export", "run", "demo"}
    assert expected <= {words[0] for words in LEAVES}
    assert {("plugins", w) for w in ("list", "show", "new")} | {("models", "list")} <= set(LEAVES)


@pytest.mark.parametrize("name", sorted({words[0] for words in LEAVES}))
def test_a_command_is_the_same_without_the_others(name: str) -> None:
    """`asem NAME` builds only what it needs; that is the command of the whole program."""
    alone = dict(commands(typer.main.get_command(make_app(name))))
    whole = {words: command for words, command in LEAVES.items() if words[0] == name}
    assert {words: alone[words].help for words in whole} == {words: c.help for words, c in whole.items()}


@pytest.mark.parametrize("words", sorted(LEAVES), ids=" ".join)
def test_help_has_an_example(words: tuple[str, ...]) -> None:
    """Each command explains itself, with an example to copy."""
    text = LEAVES[words].help or ""
    assert f"asem {' '.join(words)}" in text, f"asem {' '.join(words)} --help shows no example"
    assert invoke(*words, "--help").exit_code == 0


def test_answers_for_programs() -> None:
    """`--json` prints JSON alone."""
    plugins = json.loads(invoke("plugins", "list", "--json").stdout)
    assert any(p["name"] == "clahe" for p in plugins["plugins"])
    shown = json.loads(invoke("plugins", "show", "clahe", "--json").stdout)
    assert any(o["name"] == "clip_limit" for o in shown[0]["options"])
    assert json.loads(invoke("models", "list", "--json").stdout)


def test_completion() -> None:
    """The shell's completion script can be printed."""
    done = subprocess.run(
        [sys.executable, "-m", "asem_core", "--show-completion", "bash"],
        env={**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},  # there may be no shell around
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert "asem" in done.stdout.lower()


def test_asem_alone_shows_its_help() -> None:
    """What a beginner types first; the exit code is that of the groups."""
    alone = invoke()
    assert alone.output == invoke("--help").output
    assert alone.exit_code == 2


def test_words_too_many_are_explained() -> None:
    """A folder with a space and a voxel size without commas fall apart into several words."""
    for words in (["import", "my", "cell", "-o", "c.zarr"], ["import", "p", "--voxel-size", "5", "5", "-o", "c.zarr"]):
        done = invoke(*words)
        assert done.exit_code == 2
        assert "needs quotes" in " ".join(done.output.replace("│", " ").split())


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["import", "nowhere/", "--voxel-size", "5", "-o", "c.zarr"], "nowhere/ does not exist"),
        (["import", ".", "--voxel-size", "five", "-o", "c.zarr"], "--voxel-size takes one number, or three"),
        (["import", ".", "--voxel-size", "5,5", "-o", "c.zarr"], "needs three numbers in nm"),
        (["import", ".", "--voxel-size", "5", "-o", "c.zarr"], "No source plugin can read"),
        (["import", ".", "--voxel-size", "5", "-o", "c.zarr"], "can read . (it holds nothing). "),
        (["import", ".", "--set", "x", "-o", "c.zarr"], "is not KEY=VALUE"),
        (["import", "-o", "c.zarr"], "Say what to import: a path, or a source that makes images itself"),
        (["import", "cell_6/", "--use", "phantom", "-o", "c.zarr"], "'phantom' generates its images and takes no path"),
        (["import", "--use", "phantom", "--set", "sise_nm=500", "-o", "c.zarr"], "Did you mean 'size_nm'?"),
        (["import", "--use", "tiff-stack", "-o", "c.zarr"], "option 'path' is missing @ source (tiff-stack)"),
        (["plugins", "show", "clahee"], "No plugin is called 'clahee'. Did you mean 'clahe'?"),
        (["plugins", "list", "colour"], "is not a kind of plugin. Kinds: source, "),
        (["plugins", "new", "Lipid Droplets"], "cannot name a plugin"),
        (["run", "none.toml"], "none.toml does not exist"),
    ],
)
def test_errors_say_what_to_do(
    words: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistakes end with one sentence and exit code 1, and nothing is written."""
    monkeypatch.chdir(tmp_path)
    done = invoke(*words)
    assert done.exit_code == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_a_source_without_a_path_is_imported(tmp_path: Path) -> None:
    """A phantom becomes a cell by name and options alone; its labels come from the same words."""
    cell = tmp_path / "cell.zarr"
    words = ["import", "--use", "phantom", "--set", "size_nm=[200,240,280]", "-q", "-o", str(cell)]
    done = invoke(*words, "--voxel-size", "10")
    assert done.exit_code == 0, done.output
    raw = open_volume(cell / "raw")
    assert raw.shape == (20, 24, 28)
    assert raw.voxel_size_nm == (10, 10, 10)
    assert raw.read().std() > 5
    done = invoke(*words, "--voxel-size", "10", "--source-layer", "labels/membrane", "--layer", "labels/membrane")
    assert done.exit_code == 0, done.output
    assert set(np.unique(open_volume(cell / "labels/membrane").read())) <= {0, 1}


def test_an_import_into_a_layer_is_told_which_options_mean_it(tmp_path: Path) -> None:
    """A cell is made nowhere inside another; what is advised instead writes the layer."""
    cell = tmp_path / "cell.zarr"
    words = ["import", "--use", "phantom", "--set", "size_nm=[200,240,280]", "-q", "--voxel-size", "10"]
    assert invoke(*words, "-o", str(cell)).exit_code == 0
    refused = invoke(*words, "-o", str(cell / "labels/er"))
    assert refused.exit_code == 1
    assert "Give the cell itself, and the layer in it: --layer labels/er" in refused.stderr
    assert not (cell / "labels").exists()
    advised = [*words, "--source-layer", "labels/membrane", "-o", str(cell), "--layer", "labels/er"]
    assert invoke(*advised).exit_code == 0
    assert open_volume(cell / "labels/er").shape == (20, 24, 28)


def test_an_import_notes_what_it_holds(tmp_path: Path) -> None:
    """What is said, or what the name of the layer says, is noted, handed on by steps, and believed by later stages."""
    tifffile.imwrite(tmp_path / "a.tif", np.arange(8 * 16 * 16, dtype=np.uint8).reshape(8, 16, 16))
    cell = tmp_path / "cell.zarr"
    words = ["import", str(tmp_path / "a.tif"), "--voxel-size", "5", "-q", "-o", str(cell), "--layer"]
    for layer, said, kind in [
        ("em", ["--kind", "image"], "image"),
        ("neurons", ["--kind", "labels"], "labels"),
        ("raw_aligned", [], "image"),
        ("labels/golgi", [], "labels"),
        ("something", [], None),
    ]:
        assert invoke(*words, layer, *said).exit_code == 0
        assert Record.of(open_volume(cell / layer)).kind == kind
    assert "holds an image; segment takes a probability map" in invoke("segment", str(cell / "em")).stderr
    assert "holds labels; segment takes a probability map" in invoke("segment", str(cell / "neurons")).stderr
    apply(Invert(), open_volume(cell / "em"), cell / "em_inverted", Run(progress=False))
    refused = invoke("analyze", "morphometry", str(cell / "em_inverted"), "-o", str(tmp_path / "report"))
    assert "em_inverted is an image" in refused.stderr


def test_a_folder_of_planes_is_never_made_a_cell(tmp_path: Path) -> None:
    """An output that is the user's folder is refused; nothing is written into it or beside it."""
    planes = tmp_path / "planes"
    planes.mkdir()
    tifffile.imwrite(planes / "z0.tif", np.zeros((8, 8), np.uint8))
    for layer in ("raw", "labels/er"):
        result = invoke("import", str(planes), "--voxel-size", "10", "-o", str(planes), "--layer", layer)
        assert result.exit_code == 1
        assert "with other files and not a Zarr container" in result.output
    assert [p.name for p in tmp_path.rglob("*")] == ["planes", "z0.tif"]


def test_a_new_plugin_takes_no_name_that_is_taken(tmp_path: Path) -> None:
    """Two plugins of one name would clash when the project is installed."""
    result = invoke("plugins", "new", "golgi", "-o", str(tmp_path))
    assert result.exit_code == 1
    assert "is called 'golgi' already. Choose another name." in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("group", ["annotate", "proofread", "models", "data", "plugins", "clusters"])
def test_help_of_groups_has_an_example(group: str) -> None:
    """A group of commands shows one to begin with."""
    assert f"asem {group} " in invoke(group, "--help").output.partition("Example")[2]


def test_new_plugin_refuses_to_overwrite(tmp_path: Path) -> None:
    """A project that is there is kept: as it was written, the same command finds it; edited, it is refused."""
    assert invoke("plugins", "new", "lipid-droplets", "-o", str(tmp_path)).exit_code == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["asem-lipid-droplets"]
    assert invoke("plugins", "new", "lipid-droplets", "-o", str(tmp_path)).exit_code == 0  # as it was left
    (tmp_path / "asem-lipid-droplets/README.md").write_text("mine")
    again = invoke("plugins", "new", "lipid-droplets", "-o", str(tmp_path))
    assert again.exit_code == 1
    assert "already exists" in again.stderr
    assert (tmp_path / "asem-lipid-droplets/README.md").read_text() == "mine"


@pytest.mark.parametrize(("workers", "asked"), [("1", signal.SIGINT), ("2", signal.SIGTERM)])
def test_ctrl_c_keeps_finished_blocks(tmp_path: Path, workers: str, asked: signal.Signals) -> None:
    """Ctrl-C, or a queue that asks to end, ends with advice; the same command then completes the layer exactly."""
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 64)).astype(np.uint8)
    tifffile.imwrite(tmp_path / "stack.tif", image)
    words = ["import", "stack.tif", "--voxel-size", "5", "-o", "cell.zarr", "-q", "--block", "16", "-j", workers]
    command = [sys.executable, "-m", "asem_core", *words]
    process = subprocess.Popen(
        command,
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background shell job ignores it
    )
    deadline = time.monotonic() + 120
    while sum(1 for _ in tmp_path.glob(".cell.zarr-work/raw.*/build-*/layer/s0/c/*/*/*")) <= 8:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(process.pid, asked)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    assert re.search(r"Finished blocks \(\d+ of 64\) are kept: run the same command again to resume", said), said
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(open_volume(tmp_path / "cell.zarr" / "raw").read(), image)
