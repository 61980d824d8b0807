"""Recipes: a TOML file that chooses plugins by name and gives their options.

Options go straight into the attrs fields of the plugin. Unknown keys are refused and nothing is converted silently: 2.9
is not 2, and "false" is not true.
"""

from __future__ import annotations

import difflib
import json
import re
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs
from cattrs.errors import (
    AttributeValidationNote,
    ClassValidationError,
    ForbiddenExtraKeysError,
    IterableValidationError,
)

from asem_core.catalog import Catalog
from asem_core.errors import AsemError, BadInput, BadOptions, Option, RecipeError
from asem_core.paths import What, resolved, with_paths

T = TypeVar("T")


@attrs.frozen
class Choice:
    """A plugin by name, with its options.

    Attributes
    ----------
    layer
        Of a source that holds several: the one that is taken.
    box
        The part of a source that is taken, `z0:z1,y0:y1,x0:x1` in its voxels; None: all.
    done
        The preprocessing that an image has had already; None goes by its attributes and its name.
    ignore, background
        Values of labels that mean "not annotated", or background besides 0.
    of
        The class whose objects an analyzer measures, where the model has several; None: of every class.
    """

    use: str
    options: Mapping[str, Any] = attrs.field(factory=dict)
    layer: str | None = None
    box: str | None = None
    done: tuple[str, ...] | None = None
    ignore: tuple[int, ...] | None = None
    background: tuple[int, ...] | None = None
    of: str | None = None


_BESIDE_OPTIONS = {
    "source": ("layer", "box", "done"),
    "labels": ("layer", "box", "ignore", "background"),
    "others": ("layer", "box", "done"),
    "analyze": ("of",),
}
"""What a table says besides the options of the plugin that it chooses."""


@attrs.frozen
class Recipe:
    """What `asem run` does, in flow order. Tables that a stage does not need may be left out.

    `labels` are sources of annotations by name, `others` of further images to preprocess, predict and segment; `train`,
    `predict`, `evaluate` and `export` hold the options of those stages; how a map becomes objects is the model's. Relative
    paths are relative to the recipe's folder.
    """

    path: Path
    source: Choice
    labels: Mapping[str, Choice] = attrs.field(factory=dict)
    others: Mapping[str, Choice] = attrs.field(factory=dict)
    preprocess: tuple[Choice, ...] = ()
    model: Choice | None = None
    sampler: Choice | None = None
    train: Mapping[str, Any] | None = None
    predict: Mapping[str, Any] = attrs.field(factory=dict)
    evaluate: Mapping[str, Any] | None = None
    analyze: tuple[Choice, ...] = ()
    export: Mapping[str, Any] | None = None

    @property
    def folder(self) -> Path:
        return self.path.parent


def read_toml(path: str | Path) -> dict[str, Any]:
    """Read a TOML file, with or without a byte-order mark, as editors of Windows write it; a syntax error names its line."""
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise RecipeError(f"{path} does not exist.") from None
    except UnicodeDecodeError:
        raise RecipeError(f"{path} is not UTF-8 text, as TOML must be. Save it as UTF-8 in your editor.") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"{path} is not valid TOML: {error}.") from None


def read_recipe(path: str | Path) -> Recipe:
    """Read a recipe and check its outline; `build` checks the options against the plugins."""
    path = Path(path)
    table = read_toml(path)
    known = {a.name for a in attrs.fields(Recipe)} - {"path"}
    for key in table:
        if key not in known:
            raise RecipeError(f"{path.name}: unknown table [{key}].{nearest(key, known)}")
    if "source" not in table:
        raise RecipeError(
            f'{path.name}: [source] is missing. Begin with: [source]  use = "tiff-stack"  path = "cell_6/".'
        )
    parts: dict[str, Any] = {"path": path.resolve()}
    for key, value in table.items():
        if key in ("source", "model", "sampler"):
            parts[key] = _choice(value, path, key)
        elif key in ("preprocess", "analyze"):
            if not isinstance(value, list):
                raise RecipeError(f"{path.name}: {key} is a list of steps: write [[{key}]] with two brackets.")
            parts[key] = tuple(_choice(v, path, f"{key}[{i}]") for i, v in enumerate(value))
        elif key in ("labels", "others"):
            parts[key] = {n: _choice(v, path, f"{key}.{n}") for n, v in _table(value, path, key).items()}
        else:
            parts[key] = _table(value, path, key)
    return Recipe(**parts)


def _table(value: Any, path: Path, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise RecipeError(f"{path.name}: {where} must be a table: write [{where}].")
    return value


def _choice(value: Any, path: Path, where: str) -> Choice:
    options = dict(_table(value, path, where))
    use = options.pop("use", None)
    if not isinstance(use, str):
        raise RecipeError(f'{path.name}: {where} does not name a plugin: add use = "...".')
    beside = _BESIDE_OPTIONS.get(re.split(r"[.\[]", where)[0], ())
    own = {name: options.pop(name) for name in beside if name in options}
    return attrs.evolve(build(Choice, {"use": use, **own}, f"{path.name} @ {where}"), options=options)


def build_choice(catalog: Catalog, kind: str, choice: Choice, where: str, folder: Path | None = None) -> Any:
    """Build the plugin that a recipe chooses; `where` is the recipe's name and place, for messages."""
    try:
        cls = catalog.get(kind, choice.use)
        for step in choice.done or ():
            catalog.get("preprocessor", step)
    except AsemError as error:
        raise RecipeError.at(where, error) from None
    options = dict(choice.options)
    if folder is not None:
        options = with_paths(options, cls, lambda text, what: _resolved(text, what, folder, where))
    return build(cls, options, f"{where} ({choice.use})")


def _resolved(text: str, what: What, folder: Path, where: str) -> str:
    """Resolve what a recipe names; a layer outside of any container is one of the recipe's own cell, which is not there yet."""
    return text if what == "layer" and ".zarr" not in text else resolved(text, folder, where)


def build(cls: type[T], options: Mapping[str, Any], where: str) -> T:
    """Build an attrs class from plain TOML values, strictly.

    Raises
    ------
    RecipeError
        An unknown key (with the nearest known one), a value of the wrong type or refused by the class, or a missing
        one. Several faults are told at once. `where` begins the message: `recipe.toml: @ preprocess[0] (clahe)`.
    BadOptions
        The same, where the options are those of a command (`asem predict`) or of a function (`asem.predict`).
    """
    file, _, place = where.partition(" @ ")
    suffix = f" @ {place}" if place else ""
    try:
        return _converter().structure(dict(options), cls)
    except ClassValidationError as error:
        found = _faults(error, "", suffix)
        faults = [fault for i, fault in enumerate(found) if fault not in found[:i]]
    except (AsemError, ValueError, TypeError) as error:
        faults = [(f"{suffix}: ", *_parts(error))]
    parts = [part for fault in faults for part in ("\n", file, *fault)][1:]
    raise (BadOptions if file.startswith(("asem ", "asem.")) else RecipeError)(*parts)


def _parts(error: BaseException) -> tuple[str | Option, ...]:
    return error.args if isinstance(error, AsemError) else (str(error),)


def _faults(error: BaseException, name: str, suffix: str) -> list[tuple[str | Option, ...]]:
    """Flatten cattrs' tree of errors into what follows the file's name in a message, each in parts."""
    if isinstance(error, ForbiddenExtraKeysError):
        known = [a.name for a in attrs.fields(error.cl) if a.init]
        inside = f" in {name}" if name else ""
        return [(f": unknown option '{k}'{inside}{suffix}.{nearest(k, known)}",) for k in sorted(error.extra_fields)]
    if isinstance(error, ClassValidationError | IterableValidationError):
        found = []
        for child in error.exceptions:
            notes = [n for n in getattr(child, "__notes__", ()) if isinstance(n, AttributeValidationNote)]
            inner = f"{name}.{notes[0].name}".strip(".") if notes else name
            found += _faults(child, inner, suffix)
        return found
    if isinstance(error, KeyError) and error.args:
        return [(f": option '{error.args[0]}' is missing{suffix}.",)]
    if isinstance(error, ExceptionGroup):
        return [fault for child in error.exceptions for fault in _faults(child, name, suffix)]
    return [(f": option '{name}'{suffix}: " if name else f"{suffix}: ", *_parts(error))]


def _in_one(error: BaseException) -> list[str | Option]:
    """Say what is wrong with one value, in parts of one sentence."""
    faults = ((str(first).removeprefix(": "), *rest) for first, *rest in _faults(error, "", ""))
    return [part for fault in faults for part in ("; ", *fault)][1:]


def nearest(key: str, known: Any) -> str:
    """Say which known name was probably meant, or all of them."""
    near = difflib.get_close_matches(key, list(known), 1)
    return f" Did you mean '{near[0]}'?" if near else f" Known: {', '.join(sorted(known))}."


# --- strict conversion ------------------------------------------------------------------------------------------


def _converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True, prefer_attrib_converters=True)
    for kind in (bool, int, float, str):
        converter.register_structure_hook(kind, _strict)
    converter.register_structure_hook(Path, lambda value, _: Path(_strict(value, str)))
    converter.register_structure_hook_func(lambda t: _origin(t) is typing.Literal, _one_of)
    converter.register_structure_hook_func(_is_union, lambda value, union: _first_fit(converter, value, union))
    converter.register_structure_hook_func(
        lambda t: _origin(t) is tuple, lambda value, t: _strict_tuple(converter, value, t)
    )
    return converter


def _strict(value: Any, kind: Any) -> Any:
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is not kind:
        names = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}
        raise ValueError(f"expected {names[kind]}, got {value!r}")
    return value


def _one_of(value: Any, kind: Any) -> Any:
    allowed = typing.get_args(kind)
    if value not in allowed or type(value) not in {type(a) for a in allowed}:
        raise ValueError(f"expected one of {', '.join(map(repr, allowed))}, got {value!r}")
    return value


def _origin(kind: Any) -> Any:
    return typing.get_origin(kind)


def _is_union(kind: Any) -> bool:
    return _origin(kind) in (typing.Union, types.UnionType)


def _first_fit(converter: cattrs.Converter, value: Any, union: Any) -> Any:
    if value is None and type(None) in typing.get_args(union):
        return None
    kinds = [k for k in typing.get_args(union) if k is not type(None)]
    said: list[list[str | Option]] = []
    for kind in kinds:
        try:
            return converter.structure(value, kind)
        except Exception as error:  # a converter or validator of a plugin may raise whatever it likes
            if len(kinds) == 1:
                raise
            if (parts := _in_one(error)) not in said:
                said.append(parts)
    raise BadInput(*[part for parts in said for part in ("; or ", *parts)][1:])


def _strict_tuple(converter: cattrs.Converter, value: Any, kind: Any) -> tuple[Any, ...]:
    inner = typing.get_args(kind)
    is_open = len(inner) == 2 and inner[1] is Ellipsis
    if not isinstance(value, (list, tuple)):
        example = f", as in {json.dumps([value], default=str)} (in a shell within single quotes)" if is_open else ""
        raise ValueError(f"expected a list{example}, got {value!r}")
    if is_open:
        return tuple(converter.structure(v, inner[0]) for v in value)
    if len(value) != len(inner):
        raise ValueError(f"expected {len(inner)} values, got {len(value)}")
    return tuple(converter.structure(v, k) for v, k in zip(value, inner, strict=True))
