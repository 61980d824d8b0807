"""A command that a message advises works when it is copied, also where paths hold spaces."""

from __future__ import annotations

import ast
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

import asem_core
from asem_core.cell.record import Record
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.errors import quoted

sys.path.insert(0, str(Path(__file__).parent))
from layers_by_hand import write

ROOT = Path(asem_core.__file__).parents[1]


def asem(*words: object) -> str:
    """Run a command; returns what it says."""
    return CliRunner().invoke(make_app(), [str(w) for w in words]).output


def advised(text: str, begin: str) -> list[str]:
    """Read the advised command that begins like this, as a shell does: up to the end of the clause."""
    reader = shlex.shlex(text[text.index(begin) :].splitlines()[0], posix=True)
    reader.whitespace_split, reader.commenters = True, ""
    words: list[str] = []
    for word in reader:
        words.append(word.rstrip(".,;)"))
        if words[-1] != word:
            break
    return words


@pytest.fixture
def here(stack: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of somebody who types spaces: `my data/cell 1` holds planes, `my cell.zarr` an image of them."""
    (tmp_path / "my data").mkdir()
    shutil.move(stack, tmp_path / "my data/cell 1")
    monkeypatch.chdir(tmp_path)
    assert "Traceback" not in asem("import", "my data/cell 1", "--voxel-size", 5, "-o", "my cell.zarr", "-q", "-j", 1)
    return tmp_path


def test_the_commands_that_inspect_and_import_advise_are_run(here: Path) -> None:
    """Each one as it was said, until the planes are in a cell."""
    told = asem("import", "my data", "-o", "copied.zarr")
    command = advised(told, "asem import")[1:]
    told = asem(*command, "-o", "copied.zarr")
    assert "--voxel-size 5,5,5" in told
    command = advised(told, "asem inspect")[1:]
    assert (here / command[-1]).is_dir()
    found = CliRunner().invoke(make_app(), [*command, "--voxel-size", "5"]).output
    line = next(line for line in found.splitlines() if "asem import" in line)
    command = advised(line, "asem import")[1:]
    assert command[:4] == ["import", "my data/cell 1", "--voxel-size", "5,5,5"]  # as it was given
    assert CliRunner().invoke(make_app(), [*command, "-q", "-j", "1"]).exit_code == 0
    assert (here / command[command.index("-o") + 1] / "raw").is_dir()


def test_the_command_that_makes_a_preparation_again_is_run(here: Path) -> None:
    """After the image was imported anew."""
    skip = ("--skip", "crop", "--skip", "mask", "-q", "-j", 1)
    assert "Traceback" not in asem("prepare", "my cell.zarr", *skip)
    rng = np.random.default_rng(1)
    tifffile.imwrite(here / "my data/cell 1/s_000.tif", rng.integers(0, 256, (30, 40), np.uint8))
    asem("import", "my data/cell 1", "--voxel-size", 5, "-o", "my cell.zarr", "--overwrite", "-q", "-j", 1)
    predict = ("predict", "my cell.zarr", "--model", "membrane-fibsem-10nm")
    command = advised(asem(*predict), "asem prepare")
    assert command == ["asem", "prepare", "my cell.zarr", "--overwrite"]
    assert CliRunner().invoke(make_app(), [*command[1:], *map(str, skip)]).exit_code == 0
    assert "has voxels of 5 x 5 x 5 nm" in asem(*predict)


def test_the_command_that_does_a_step_again_is_run(here: Path) -> None:
    """One that was asked for by name comes into its own layer, with its own options, whatever was made of it since."""
    asem("preprocess", "my cell.zarr", "--use", "downsample", "-s", "factor=2", "-q", "-j", 1)
    asem("prepare", "my cell.zarr", "--skip", "crop", "--skip", "mask", "-q", "-j", 1)
    asem("import", "my data/cell 1", "--voxel-size", 8, "-o", "my cell.zarr", "--overwrite", "-q", "-j", 1)
    predict = ("predict", "my cell.zarr", "--model", "membrane-fibsem-10nm")
    command = advised(asem(*predict), "asem preprocess")
    assert CliRunner().invoke(make_app(), [*command[1:], "-q", "-j", "1"]).exit_code == 0
    assert open_volume("my cell.zarr/raw_downsample").voxel_size_nm == (16, 16, 16)
    command = advised(asem(*predict), "asem prepare")
    asem(*command[1:], "--skip", "crop", "--skip", "mask", "-q", "-j", 1)
    assert "has voxels of 16 x 16 x 16 nm" in asem(*predict)


REFUSED: dict[str, tuple[Callable[[], str], list[str]]] = {
    "labels that are not there": (
        lambda: asem("train", "my cell.zarr", "--labels", "my er"),
        ["asem", "import", "LABELS", "--layer", "labels/my er", "-o", "my cell.zarr"],
    ),
    "a map that is not there": (
        lambda: asem("segment", "my cell.zarr"),
        ["asem", "predict", "my cell.zarr", "--model", "NAME"],
    ),
    "a session without strokes": (
        lambda: asem("loop", "my cell.zarr", "--labels", "my er", "--finish"),
        ["asem", "loop", "my cell.zarr", "--labels", "my er"],
    ),
    "a cell without an image": (
        lambda: _without_image() or asem("predict", "labels only.zarr", "--model", "membrane-fibsem-10nm"),
        ["asem", "import", "PLANES", "--voxel-size", "5,5,5", "-o", "labels only.zarr"],
    ),
    "a new plugin": (
        lambda: asem("plugins", "new", "my-source", "--kind", "source", "-o", "my plugins"),
        ["pip", "install", "-e", "my plugins/asem-my-source[test]"],
    ),
}  # fmt: skip


def _without_image() -> None:
    write(Path("labels only.zarr/labels/er"), 1, Record("labels"))


@pytest.mark.parametrize("case", REFUSED)
def test_paths_and_names_are_words_of_the_command(case: str, here: Path) -> None:
    """Read by a shell, the advised command has the path as one of its words."""
    say, command = REFUSED[case]
    told = say()
    assert advised(told, " ".join(command[:2]))[: len(command)] == command, told


def test_words_are_quoted_as_the_system_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only where that is needed; by double quotes on Windows, whose shells know no others."""
    assert [quoted(w) for w in (Path("a/b.zarr"), "a b", "it's")] == ["a/b.zarr", "'a b'", """'it'"'"'s'"""]
    monkeypatch.setattr("asem_core.errors.os.name", "nt")
    assert quoted("a b.zarr") == '"a b.zarr"'
    assert quoted("cell.zarr") == "cell.zarr"


def test_no_message_puts_an_unquoted_value_into_a_command() -> None:
    """Whatever stands in a command of a message is a word that `quoted` spelled, or an option."""
    found = []
    for part in ("asem_core", "plugins", "registry"):
        for file in (ROOT / part).rglob("*.py"):
            for text in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(text, ast.JoinedStr):
                    found += [f"{file.relative_to(ROOT)}:{text.lineno}: {value}" for value in _bare_words(text)]
    assert not found


COMMAND = r"\b(asem [a-z]+( [a-z]+)?|pip install)( (-\S+( [^\s-]\S*)?|[A-Z.]\S*|\S*[/=]\S*))*?(?<!\.)\.(?=\s|$)"
"""An advised command with a full stop behind it; values that are put into a message are X."""


def test_no_full_stop_follows_what_is_copied() -> None:
    """It would be copied with the command or option that a message ends with."""
    found = []
    for part in ("asem_core", "plugins", "registry"):
        for file in (ROOT / part).rglob("*.py"):
            tree = ast.parse(file.read_text(encoding="utf-8"))
            docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            found += [
                f"{file.relative_to(ROOT)}:{node.lineno}"
                for node in ast.walk(tree)
                if id(node) not in docstrings and _stops_behind_a_command(node)
            ]
    assert not found


def _stops_behind_a_command(node: ast.AST) -> bool:
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str) and bool(re.search(COMMAND, node.value))
    if isinstance(node, ast.JoinedStr):
        said = "".join(str(part.value) if isinstance(part, ast.Constant) else "X" for part in node.values)
        return bool(re.search(COMMAND, said)) or _stops_behind_a_word(node.values)
    return isinstance(node, ast.Call) and _stops_behind_a_word(node.args)


def _stops_behind_a_word(parts: Sequence[ast.expr]) -> bool:
    """Tell whether the part behind an option or a quoted word begins with a full stop."""
    for one, other in pairwise(parts):
        value = ast.unparse(one.value if isinstance(one, ast.FormattedValue) else one)
        said = other.values[0] if isinstance(other, ast.JoinedStr) and other.values else other
        copied = value.startswith(("Option(", "OVERWRITE", "quoted(", "as_flag("))
        if copied and isinstance(said, ast.Constant) and re.match(r"\.(\s|$)", str(said.value)):
            return True
    return False


def _bare_words(text: ast.JoinedStr) -> Iterator[str]:
    """List the values that follow `asem VERB` in the same sentence without being quoted."""
    said = ""
    for part in text.values:
        if isinstance(part, ast.Constant):
            said += str(part.value)
            continue
        inside = re.search(r"\basem [a-z]+( (?!writes )\S+)* ?$", re.split(r"[.;:!?)`@](?:\s|$)|\n", said)[-1])
        value = ast.unparse(part)[1:-1]
        if (
            inside
            and said.endswith((" ", "/", "="))
            and not value.startswith(("quoted(", "as_flag(", "' '.join(words"))
        ):
            yield value
        said += "X"
