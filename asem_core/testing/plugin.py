"""What holds for plugins of every kind."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any, ClassVar

import attrs

from asem_core.catalog import KINDS
from asem_core.errors import AsemError
from asem_core.recipe import build
from asem_core.volume import Box


class PluginKit:
    """What holds for every kind: the class is made of plain options, and its object travels between processes."""

    kind: ClassVar[str]
    plugin: Any = None

    def make(self, tmp_path: Path) -> Any:
        """Return the plugin to test; override it if the plugin needs files."""
        return self.plugin

    def test_derives_from_its_interface(self, tmp_path: Path) -> None:
        """The class names its kind explicitly, is a frozen attrs class, and has a kebab-case name."""
        cls: Any = type(self.make(tmp_path))
        name = cls.name
        assert KINDS[self.kind] in cls.__mro__, f"{cls.__name__} does not derive from {KINDS[self.kind].__name__}"
        assert attrs.has(cls), f"{cls.__name__} is not an attrs class"
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", name), f"{name!r} is not kebab-case"
        assert cls.__doc__, f"{cls.__name__} has no docstring"

    def test_is_built_from_plain_options(self, tmp_path: Path) -> None:
        """A recipe can say everything that the object says: plain values in, an equal object out."""
        plugin = self.make(tmp_path)
        plain = {f.name: _toml(getattr(plugin, f.name)) for f in attrs.fields(type(plugin)) if f.init}
        plain = {k: v for k, v in plain.items() if v is not None}
        assert build(type(plugin), plain, "recipe.toml @ test") == plugin

    def test_refuses_unknown_options(self, tmp_path: Path) -> None:
        """A misspelt option is an error, not silence."""
        try:
            build(type(self.make(tmp_path)), {"no_such_option": 1}, "recipe.toml @ test")
        except AsemError as error:
            assert "no_such_option" in str(error)  # noqa: PT017 - kits do not import pytest
        else:
            raise AssertionError("an unknown option was accepted")

    def test_travels_to_workers(self, tmp_path: Path) -> None:
        """The object pickles, so that worker processes can use it."""
        plugin = self.make(tmp_path)
        assert pickle.loads(pickle.dumps(plugin)) == plugin


def expect_error(call: Any) -> None:
    """Check that a call raises an error of ours."""
    try:
        call()
    except AsemError:
        return
    raise AssertionError("expected an AsemError")


def _toml(value: Any) -> Any:
    """Write an option as TOML would: lists for tuples, tables for attrs objects."""
    if isinstance(value, (tuple, list)):
        return [_toml(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Box):
        return str(value)
    if attrs.has(type(value)):
        return {f.name: _toml(getattr(value, f.name)) for f in attrs.fields(type(value))}
    return value
