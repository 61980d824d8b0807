"""What errors say, and how each door spells the options that answer them."""

from __future__ import annotations

import ast
import pickle
import re
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
from asem_core.errors import AsemError, BadInput, NoVoxelSize, Option, RecipeError, as_argument, as_flag, in_recipe
from asem_core.recipe import build, read_recipe
from asem_core.stages.recipe_checks import require_inputs
from asem_core.testing import example_image


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
        (Option("kind", "labels"), "--kind labels", 'kind="labels"', 'kind = "labels"'),
        (Option("source_layer", "a b"), "--source-layer 'a b'", 'source_layer="a b"', 'layer = "a b"'),
        (Option("output", "cell.zarr"), "-o cell.zarr", 'output="cell.zarr"', 'output = "cell.zarr"'),
        (Option("minutes"), "--minutes", "minutes", "minutes"),
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


def test_command_recipe_and_python_advise_each_in_their_own_words(tmp_path: Path) -> None:
    """One file without a voxel size, through three doors; what each says works there."""
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, example_image((6, 8, 8)).read())
    done = CliRunner().invoke(make_app(), ["import", str(path), "-o", str(tmp_path / "cell.zarr")])
    assert "Give it in nm, z,y,x: --voxel-size 5,5,5." in done.output
    assert "voxel_size_nm" not in done.output
    recipe = tmp_path / "recipe.toml"
    recipe.write_text('[source]\nuse = "tiff-stack"\npath = "a.tif"\n')
    catalog = load_catalog()
    with pytest.raises(RecipeError, match=r"recipe.toml @ source: .*voxel_size_nm = \[5, 5, 5\]\.$"):
        require_inputs(build_flow(read_recipe(recipe), catalog), catalog)
    recipe.write_text('[source]\nuse = "tiff-stack"\npath = "a.tif"\nvoxel_size_nm = [5, 5, 5]\n')
    require_inputs(build_flow(read_recipe(recipe), catalog), catalog)
    with pytest.raises(BadInput, match=r"voxel_size_nm=\[5, 5, 5\]\.$"):
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
    assert "grey_range = [LOW,HIGH]." in done.output
    assert "--set" not in done.output


ROOT = Path(asem_core.__file__).parents[1]
SOURCES = [
    (file, ast.parse(file.read_text(encoding="utf-8")))
    for file in [*ROOT.glob("asem_core/**/*.py"), *ROOT.glob("plugins/**/*.py")]
    if "cli" not in file.parts and file.name != "commands.py"
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


def test_no_error_spells_an_option_for_one_door() -> None:
    """A flag in the text of an error belongs to a whole command that is named there; options are given as `Option`."""
    found = []
    for file, tree in SOURCES:
        for node in (node for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc is not None):
            texts = [n.value for n in ast.walk(node.exc) if isinstance(n, ast.Constant) and isinstance(n.value, str)]
            text = " ".join(texts)
            for flag in re.finditer(r"(?<![\w-])--?[a-z][\w-]*", text):
                if not re.search(r"\b(asem|wsl) [^;]*$", text[: flag.start()]):
                    found.append(f"{file.relative_to(ROOT)}:{node.lineno}: {flag[0]}")
    assert not found


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


@attrs.frozen
class Refusing:
    def __attrs_post_init__(self) -> None:
        raise BadInput("`", Option("mask"), "` is nonzero where it counts")
