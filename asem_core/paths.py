"""Options that name a file or a layer: their types say so, and the core resolves and checks them before any work.

path: FilePath                          a file, a folder, or a URL
others: tuple[LayerPath, ...] = ()      layers of a cell, "cell.zarr/labels/er"; in a recipe also "labels/er" of its own cell
"""

from __future__ import annotations

import os
import re
import typing
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
import platformdirs

from asem_core.errors import RecipeError


def config_path(environ: Mapping[str, str] = os.environ) -> Path:
    """Say where the configuration file is, whether or not it exists."""
    named = environ.get("ASEM_CONFIG")
    return Path(named).expanduser() if named else platformdirs.user_config_path("asem") / "config.toml"


SEPARATOR = os.sep


def slashed(path: str | os.PathLike[str]) -> str:
    """Spell a path with slashes on every system, so that the place of a layer in its cell can be read from it; a URL stays as it is."""
    text = os.fspath(path)
    return text if SEPARATOR == "/" or "://" in text else text.replace(SEPARATOR, "/")


_RESERVED = re.compile(r"(con|prn|aux|nul|com[0-9]|lpt[0-9])(\..*)?", re.IGNORECASE)


def is_reserved(name: str) -> bool:
    """Tell a name that Windows keeps for devices, with or without an ending: a folder that holds it cannot be copied there."""
    return bool(_RESERVED.fullmatch(name))


What = Literal["file", "layer"]


@attrs.frozen
class Names:
    """The mark of an option's type: its text names something on disk."""

    what: What


FilePath = Annotated[str, Names("file")]
"""A file or folder, or a URL. Relative to a recipe where a recipe says it; must be there before work starts."""

LayerPath = Annotated[str, Names("layer")]
"""A layer of a cell. In a recipe: relative to it, or the name of a layer that the recipe's own cell has or gets."""


def path_options(cls: type) -> dict[str, What]:
    """List the options of a plugin that name files or layers, in the order of its fields."""
    attrs.resolve_types(cls)
    found = {a.name: _what(a.type) for a in attrs.fields(cls) if a.init}
    return {name: what for name, what in found.items() if what is not None}


def address_option(cls: type) -> str | None:
    """Name the option of a source that says where it reads or writes: its first `FilePath`; None makes its own images."""
    return next((name for name, what in path_options(cls).items() if what == "file"), None)


def named_paths(plugin: Any) -> Iterator[tuple[str, What, str]]:
    """Go through what a plugin's options name: (option, file or layer, text)."""
    for name, what in path_options(type(plugin)).items():
        value = getattr(plugin, name)
        for text in (value,) if isinstance(value, str) else tuple(value or ()):
            yield name, what, text


def with_paths(options: Mapping[str, Any], cls: type, resolve: Callable[[str, What], str]) -> dict[str, Any]:
    """Replace each text that names a file or layer by what `resolve` makes of it; other values stay as they are."""
    found = dict(options)
    for name, what in path_options(cls).items():
        value = found.get(name)
        if isinstance(value, str):
            found[name] = resolve(value, what)
        elif isinstance(value, (list, tuple)):
            found[name] = type(value)(resolve(v, what) if isinstance(v, str) else v for v in value)
    return found


def resolved(text: str, folder: Path, where: str) -> str:
    """Make a path of a recipe one that holds from anywhere; a URL stays as it is."""
    return text if "://" in text else str(folder / expand(text, where))


def expand(path: str, where: str) -> str:
    """Put the values of environment variables (`${NAME}`) and `~` into a path of a recipe.

    Raises
    ------
    RecipeError
        A variable is not set; names it.
    """
    found = os.path.expandvars(Path(path).expanduser())
    unset = re.search(r"\$\{(\w+)\}", found)
    if unset:
        raise RecipeError(
            f"{where}: the environment variable {unset[1]} in '{path}' is not set. Set it to a folder first."
        )
    return found


def _what(kind: Any) -> What | None:
    """Find the mark in a type, also within `... | None` and `tuple[..., ...]`."""
    if typing.get_origin(kind) is Annotated:
        marks = [m for m in kind.__metadata__ if isinstance(m, Names)]
        return marks[0].what if marks else None
    inner = (_what(k) for k in typing.get_args(kind))
    return next((what for what in inner if what is not None), None)
