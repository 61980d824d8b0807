"""What errors and warnings say, and how each door spells the options that answer them."""

from __future__ import annotations

import ast
import logging
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import tifffile
import typer.main
from typer.testing import CliRunner

import asem_core
from asem_core.built import build_flow
from asem_core.catalog import load_catalog
from asem_core.cli import make_app
from asem_core.errors import (
    OVERWRITE,
    AsemError,
    BadInput,
    NoVoxelSize,
    Option,
    RecipeError,
    as_argument,
    as_flag,
    in_recipe,
    spelled_for_recipe,
)
from asem_core.recipe import build, read_recipe
from asem_core.stages.recipe_checks import require_inputs
from asem_core.testing import example_image
from asem_core.volume import Volume


@pytest.mark.parametrize(
    ("option", "flag", "argument", "line"),
    [
        (Option("voxel_size_nm", [8.0, 4.5, 4]), "--voxel-size 8,4.5,4", "voxel_size_nm=[8, 4.5, 4]", "voxel_size_nm = [8, 4.5, 4]"),
        (Option("channel", 0, of_plugin=True), "--set channel=0", "channel=0", "channel = 0"),
        (Option("allow_gaps", True, of_plugin=True), "--set allow_gaps=true", "allow_gaps=True", "allow_gaps = true"),
        (Option("grey_range", [0.0, 9.0], "[LOW,HIGH]", of_plugin=True), "--set 'grey_range=[LOW,HIGH]'", "grey_range=[LOW,HIGH]", "grey_range = [LOW,HIGH]"),
        (Option("as_is", True, table="predict"), "--as-is", "as_is=True", "as_is = true in [predict]"),
        (Option("axes", "zyx", of_plugin=True), "--set axes=zyx", 'axes="zyx"', 'axes = "zyx"'),
        (Option("files", "*ch0*", of_plugin=True), "--set 'files=*ch0*'", 'files="*ch0*"', 'files = "*ch0*"'),
        (Option("name", "true", of_plugin=True), """--set 'name="true"'""", 'name="true"', 'name = "true"'),
        (Option("kind", "labels"), "--kind labels", 'kind="labels"', "[labels.NAME]"),
        (Option("source_layer", "a b"), "--source-layer 'a b'", 'source_layer="a b"', 'layer = "a b"'),
        (Option("output", "cell.zarr"), "-o cell.zarr", 'output="cell.zarr"', 'output = "cell.zarr"'),
        (Option("minutes"), "--minutes", "minutes", "minutes"),
        (Option("ignore", [255, -1]), "--ignore 255,-1", "ignore=[255, -1]", "ignore = [255, -1]"),
        (Option("done", []), "--done none", "done=[]", "done = []"),
    ],
)  # fmt: skip
def test_each_door_spells_an_option_in_its_own_way(option: Option, flag: str, argument: str, line: str) -> None:
    """Flags for commands, lines for recipes, arguments for functions."""
    assert (as_flag(option), as_argument(option), in_recipe(option)) == (flag, argument, line)


def test_an_error_keeps_its_options_when_it_travels() -> None:
    """Pickled to another process, told again with more words, and placed in a recipe, it still knows what answers it."""
    error = NoVoxelSize("It has none: ", Option("voxel_size_nm", [5, 5, 5]), ".", stated_nm=(None, 4.0, 4.0))
    back = pickle.loads(pickle.dumps(error))
    assert (str(back), back.options, back.stated_nm) == (str(error), error.options, error.stated_nm)
    more = error.followed_by("More.")
    assert more.told(as_flag) == "It has none: --voxel-size 5,5,5. More."
    placed = RecipeError.at("a.toml @ source", error)
    assert placed.options == error.options
    assert str(placed) == placed.told(as_flag) == "a.toml @ source: It has none: voxel_size_nm = [5, 5, 5]."
    of_run = RecipeError.at("a.toml @ predict", BadInput("Use ", Option("block"), ", or ", OVERWRITE))
    assert of_run.told(as_flag) == "a.toml @ predict: Use --block, or --overwrite"  # no lines of a recipe
    with pytest.raises(NoVoxelSize) as left, spelled_for_recipe():
        raise error
    assert left.value.told(as_flag) == "It has none: voxel_size_nm = [5, 5, 5]."


def test_command_recipe_and_python_advise_each_in_their_own_words(tmp_path: Path) -> None:
    """One file without a voxel size, through three doors; what each says works there."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, example_image((6, 8, 8)).read())
    done = CliRunner().invoke(make_app(), ["import", str(path), "-o", str(tmp_path / "cell.zarr")])
    assert "Give it in nm, z,y,x: --voxel-size 5,5,5\n" in done.output
    assert "voxel_size_nm" not in done.output
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[source]\nuse = "tiff-stack"\npath = "a.tif"\n')
    catalog = load_catalog()
    with pytest.raises(RecipeError, match=r"recipe.toml @ source: .*voxel_size_nm = \[5, 5, 5\]$"):
        require_inputs(build_flow(read_recipe(recipe), catalog), catalog)
    recipe.write_text('[source]\nuse = "tiff-stack"\npath = "a.tif"\nvoxel_size_nm = [5, 5, 5]\n')
    require_inputs(build_flow(read_recipe(recipe), catalog), catalog)
    with pytest.raises(BadInput, match=r"voxel_size_nm=\[5, 5, 5\]$"):
        asem_core.open(path, tmp_path / "cell.zarr")


def test_what_a_running_recipe_is_refused_is_advised_as_a_recipe(tmp_path: Path) -> None:
    """Values are read only when the import runs: the advice is a line of the recipe even then, and names its place."""
    values = example_image((6, 8, 8)).read().astype(np.float32)
    values[5, 0, 0] = 700
    tifffile.imwrite(tmp_path / "a.tif", values)
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[source]\nuse = "tiff-stack"\npath = "a.tif"\nvoxel_size_nm = [5, 5, 5]\n')
    done = CliRunner().invoke(make_app(), ["run", str(recipe), "-o", str(tmp_path / "out"), "-q"])
    assert done.exit_code == 1
    assert "recipe.toml @ import: " in done.output
    assert "(grey_range = [LOW,HIGH])" in done.output
    assert "--set" not in done.output


def test_warnings_are_worded_as_errors_are(tmp_path: Path, warnings: list[str]) -> None:
    """Labels with 255 beside 1 through command, Python and recipe; what the recipe is advised works."""
    values = np.zeros((6, 8, 8), np.uint8)
    values[:3], values[0, 0, 0] = 1, 255
    tifffile.imwrite(tmp_path / "labels.tif", values)
    tifffile.imwrite(tmp_path / "a.tif", example_image((6, 8, 8)).read())
    recipe = tmp_path / "recipe.toml"
    table = 'use = "tiff-stack"\npath = "{}.tif"\nvoxel_size_nm = [5, 5, 5]\n'
    recipe.write_text(f"[source]\n{table.format('a')}[labels.er]\n{table.format('labels')}")

    def by_command(*words: object) -> None:
        done = CliRunner().invoke(make_app(), [*map(str, words), "-q"])
        assert done.exit_code == 0, done.output

    def told() -> str:
        found = " ".join(text for text in warnings if "255" in text)
        warnings.clear()
        return found.partition("say what it is: ")[2]

    labels = tmp_path / "labels.tif"
    by_command("import", labels, "-o", tmp_path / "a.zarr", "--layer", "labels/er", "--voxel-size", 5)
    assert told() == "--background 255, or --ignore none if it is an object."
    asem_core.open(labels, tmp_path / "b.zarr", layer="labels/er", voxel_size_nm=5)
    assert told() == "background=[255], or ignore=[] if it is an object."
    by_command("run", recipe, "-o", tmp_path / "out")
    assert told() == "background = [255], or ignore = [] if it is an object."
    for line, objects in (("background = [255]", 191), ("ignore = []", 192)):
        recipe.write_text(f"[source]\n{table.format('a')}[labels.er]\n{table.format('labels')}{line}\n")
        by_command("run", recipe, "-o", tmp_path / "out", "--overwrite")
        assert not told()
        assert np.count_nonzero(asem_core.open_volume(tmp_path / "out/cell.zarr/labels/er").read()) == objects


def test_a_recipe_takes_the_part_that_a_warning_names(tmp_path: Path) -> None:
    """`box` of a table does what `asem import --box` does; one that sticks out is refused before any work."""
    tifffile.imwrite(tmp_path / "a.tif", example_image((6, 8, 8)).read())
    recipe = tmp_path / "recipe.toml"
    text = '[source]\nuse = "tiff-stack"\npath = "a.tif"\nvoxel_size_nm = [5, 5, 5]\nbox = "2:5,:,0:7"\n'
    recipe.write_text(text)
    done = CliRunner().invoke(make_app(), ["run", str(recipe), "-o", str(tmp_path / "out"), "-q"])
    assert done.exit_code == 0, done.output
    found: Volume = asem_core.open_volume(tmp_path / "out/cell.zarr/raw")
    assert (found.shape, found.origin_nm) == ((3, 8, 7), (10, 0, 0))
    recipe.write_text(text.replace("2:5", "2:9"))
    with pytest.raises(RecipeError, match=r"recipe.toml @ source: .*2:9"):
        require_inputs(build_flow(read_recipe(recipe), load_catalog()), load_catalog())


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    """What is warned of, worded where it was told, as what shows it does."""

    class Shown(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    told: list[str] = []
    shown, logger = Shown(), logging.getLogger("asem_core")
    logger.addHandler(shown)
    yield told
    logger.removeHandler(shown)


ROOT = Path(asem_core.__file__).parents[1]
SOURCES = [
    (file, ast.parse(file.read_text(encoding="utf-8")))
    for part in ("asem_core", "plugins", "registry")
    for file in (ROOT / part).rglob("*.py")
    if not {part for part in file.with_suffix("").parts if part.split("_")[0] in ("cli", "commands")}
]


def test_every_flag_that_an_error_advises_is_one_of_a_command() -> None:
    """An option that is no plugin's is a flag of at least one command under the name that it is spelled with."""
    known: set[str] = set()
    waiting: list[Any] = [typer.main.get_command(make_app())]
    while waiting:
        command = waiting.pop()
        known |= {name for parameter in command.params for name in parameter.opts}
        waiting += getattr(command, "commands", {}).values()
    for file, tree in SOURCES:
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if getattr(call.func, "id", "") != "Option" or any(k.arg == "of_plugin" for k in call.keywords):
                continue
            if isinstance(call.args[0], ast.Constant):
                assert as_flag(Option(call.args[0].value)) in known, (file, call.lineno)


def test_no_message_spells_an_option_for_one_door() -> None:
    """A flag in a sentence, of errors, warnings and advice, belongs to a whole command that is named there; options are given as `Option`."""
    found = []
    for file, tree in SOURCES:
        for line, text in sentences(tree):
            for flag in re.finditer(r"(?<![\w-])(--[a-z][\w-]*|--\.\.\.|-[jotw]\b)", text):
                if not re.search(r"\b(asem|wsl|uv) [^;]*$", text[: flag.start()]):
                    found.append(f"{file.relative_to(ROOT)}:{line}: {flag[0]}")
    assert not found


def sentences(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """List the strings of a module that hold a space and do not begin with a flag, but for its docstrings."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            continue
        text = ""
        if isinstance(node, ast.JoinedStr):
            text = "".join(str(p.value) if isinstance(p, ast.Constant) else "..." for p in node.values)
            waiting += [p for p in node.values if not isinstance(p, ast.Constant)]
        else:
            text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""
            waiting += ast.iter_child_nodes(node)
        if " " in text and not text.startswith("-"):
            yield node.lineno, text  # type: ignore[attr-defined]


def test_errors_are_caught_by_one_class() -> None:
    """Every class of the module derives from `AsemError`."""
    from asem_core import errors

    assert all(
        issubclass(c, AsemError) for c in vars(errors).values() if isinstance(c, type) and issubclass(c, Exception)
    )


def test_options_of_a_class_are_advised_as_its_door_takes_them() -> None:
    """What a class refuses when it is built keeps its options: flags in a command, arguments in Python, lines in a recipe."""
    for where, words in (
        ("asem evaluate", "asem evaluate: `--mask` is nonzero where it counts"),
        ("asem.evaluate", "asem.evaluate: `mask` is nonzero where it counts"),
        ("a.toml @ evaluate", "a.toml @ evaluate: `mask` is nonzero where it counts"),
    ):
        with pytest.raises(RecipeError) as refused:
            build(Refusing, {}, where)
        assert refused.value.told(as_flag if where.startswith("asem e") else as_argument) == words
        assert refused.value.options == (Option("mask"),)


def test_an_option_of_several_kinds_is_refused_in_parts() -> None:
    """What each kind says is told once, with the options that answer it."""
    with pytest.raises(RecipeError) as refused:
        build(Either, {"inner": {}}, "asem.evaluate")
    assert (
        str(refused.value)
        == "asem.evaluate: option 'inner': expected a whole number, got {}; or `mask` is nonzero where it counts"
    )
    assert refused.value.options == (Option("mask"),)


@attrs.frozen
class Refusing:
    def __attrs_post_init__(self) -> None:
        raise BadInput("`", Option("mask"), "` is nonzero where it counts")


@attrs.frozen
class Either:
    inner: int | Refusing
