"""Recipes: names and options, strictly; every mistake is told with its place and the nearest right word."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import attrs
import pytest

from asem_core.catalog import load_catalog
from asem_core.errors import RecipeError
from asem_core.recipe import build, build_choice, read_recipe
from asem_core.volume import Zyx, as_zyx


@attrs.frozen
class Part:
    size: int = 1


@attrs.frozen
class Step:
    name: ClassVar[str] = "step"
    path: str
    clip_limit: float = attrs.field(default=0.02, validator=attrs.validators.gt(0))
    count: int = 3
    flag: bool = False
    kernel: int | tuple[int, int, int] = 128
    mode: Literal["mean", "mode"] = "mean"
    parts: tuple[Part, ...] = ()
    place: Zyx = attrs.field(default=(1, 1, 1), converter=as_zyx)
    note: str | None = None
    names: tuple[str, ...] = ()


WHERE = "recipe.toml @ preprocess[0] (step)"


def test_plain_values_build_a_plugin() -> None:
    """TOML's lists, tables and numbers become tuples, objects and floats."""
    options = {"path": "x", "clip_limit": 1, "kernel": [1, 2, 3], "parts": [{"size": 2}], "mode": "mode", "place": 4}
    assert build(Step, options, WHERE) == Step(
        "x", clip_limit=1.0, kernel=(1, 2, 3), parts=(Part(2),), mode="mode", place=4
    )


MISTAKES = {
    "misspelt": ({"clip_limt": 1}, "unknown option 'clip_limt' @ preprocess[0] (step). Did you mean 'clip_limit'?"),
    "far off": ({"xyz": 1}, "unknown option 'xyz' @ preprocess[0] (step). Known: clip_limit, count,"),
    "float for int": ({"count": 2.9}, "option 'count' @ preprocess[0] (step): expected a whole number, got 2.9"),
    "text for bool": ({"flag": "false"}, "option 'flag' @ preprocess[0] (step): expected true or false, got 'false'"),
    "bool for int": ({"count": True}, "expected a whole number, got True"),
    "number for text": ({"path": 3}, "expected text in quotes, got 3"),
    "short list": ({"kernel": [1, 2]}, "expected 3 values, got 2"),
    "not a list": ({"parts": 1}, "option 'parts' @ preprocess[0] (step): expected a list, as in [1] ("),
    "one text for a list": (
        {"names": "cell.zarr/raw"},
        """expected a list, as in ["cell.zarr/raw"] (in a shell within single quotes), got 'cell.zarr/raw'""",
    ),
    "not a choice": ({"mode": "median"}, "expected one of 'mean', 'mode', got 'median'"),
    "nested": ({"parts": [{"sise": 1}]}, "unknown option 'sise' in parts @ preprocess[0] (step). Did you mean 'size'?"),
    "validator": ({"clip_limit": -1}, "'clip_limit' must be > 0"),
    "converter": ({"place": [1, 2]}, "Expected one integer or three (z, y, x)"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_told(mistake: str) -> None:
    """Nothing is converted silently, and the message has file, place and remedy."""
    options, sentence = MISTAKES[mistake]
    with pytest.raises(RecipeError) as raised:
        build(Step, {"path": "x", **options}, WHERE)
    assert str(raised.value).startswith(("recipe.toml: ", "recipe.toml @ "))
    assert sentence in str(raised.value)


def test_missing_option() -> None:
    """An option without default that is not given is named."""
    with pytest.raises(RecipeError, match="option 'path' is missing"):
        build(Step, {}, WHERE)


def test_several_mistakes_at_once() -> None:
    """All faults of a table are told together."""
    with pytest.raises(RecipeError) as raised:
        build(Step, {"path": 1, "count": "x"}, WHERE)
    assert len(str(raised.value).splitlines()) == 2


OUTLINES = {
    "no source": ("[model]\nuse = 'golgi'", "[source] is missing"),
    "unknown table": ("[sorce]\nuse = 'tiff-stack'", "unknown table [sorce]. Did you mean 'source'?"),
    "no use": ("[source]\npath = 'x'", 'source does not name a plugin: add use = "..."'),
    "single bracket": ("[source]\nuse='a'\n[preprocess]\nuse='clahe'", "write [[preprocess]] with two brackets"),
    "not a table": ("source = 3", "source must be a table"),
    "syntax": ("[source", "is not valid TOML"),
}


@pytest.mark.parametrize("case", OUTLINES)
def test_outline(tmp_path: Path, case: str) -> None:
    """A recipe's outline is checked before any plugin is built."""
    text, sentence = OUTLINES[case]
    path = tmp_path / "recipe.toml"
    path.write_text(text)
    with pytest.raises(RecipeError) as raised:
        read_recipe(path)
    assert sentence in str(raised.value)


def test_missing_recipe(tmp_path: Path) -> None:
    """A recipe that is not there is said."""
    with pytest.raises(RecipeError, match="does not exist"):
        read_recipe(tmp_path / "none.toml")


def test_unknown_plugin_and_relative_path(tmp_path: Path) -> None:
    """A wrong plugin name is told with its place; paths are relative to the recipe."""
    path = tmp_path / "recipe.toml"
    path.write_text("[source]\nuse = 'tiff-stack'\npath = 'planes'\n[[preprocess]]\nuse = 'clahee'\n")
    recipe = read_recipe(path)
    catalog = load_catalog()
    source = build_choice(catalog, "source", recipe.source, "recipe.toml @ source", recipe.folder)
    assert source.path == str(tmp_path / "planes")
    with pytest.raises(RecipeError, match=r"preprocess\[0\]: No preprocessor is called 'clahee'. Did you mean 'clahe'"):
        build_choice(catalog, "preprocessor", recipe.preprocess[0], "recipe.toml @ preprocess[0]")


@pytest.mark.parametrize(
    ("encoding", "said"), [("utf-8-sig", None), ("utf-16", "is not UTF-8"), ("cp1252", "is not UTF-8")]
)
def test_what_windows_saves_is_read_or_refused_in_a_sentence(tmp_path: Path, encoding: str, said: str | None) -> None:
    """A byte-order mark is no fault; another encoding is named."""
    recipe = tmp_path / "r.toml"
    recipe.write_bytes('# µm\n[source]\nuse = "tiff-stack"\npath = "cell"\n'.encode(encoding))
    if said is None:
        assert read_recipe(recipe).source.use == "tiff-stack"
    else:
        with pytest.raises(RecipeError, match=said):
            read_recipe(recipe)
