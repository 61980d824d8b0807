"""What can go wrong, said to the person who must mend it.

Every error a user can cause derives from `AsemError`; the command line prints its text without a traceback.
A message says what happened, to which file or plugin, what was expected, and what to do next. Where an option of the call is
what to do, it stands in the message as an `Option`: a command spells it as a flag, a recipe as a line of its own, Python as an
argument, and a program may take its value as the answer. Warnings, which are told at once, hold options in the same way, and
`str` spells each as the door does that is open (`spelled`).
"""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any, Self

import attrs


@attrs.frozen
class Option:
    """An option that answers an error or a warning, as a part of its text.

    BadInput(f"{path} does not state its voxel size. Give it in nm, z,y,x: ", Option("voxel_size_nm", [5, 5, 5]))

    Parameters
    ----------
    name
        As functions and recipes have it.
    value
        An answer that may be right; None where only the user knows one.
    shown
        What stands in the text in place of the value: "NAME".
    of_plugin
        Whether it is an option of a plugin: commands take those by `--set`.
    table
        Of a recipe, where it is not the one that the error is about.
    """

    name: str
    value: Any = None
    shown: str = ""
    of_plugin: bool = False
    table: str = ""

    def __str__(self) -> str:
        return _spelling.get()(self)


OVERWRITE = Option("overwrite", True)

_FLAGS = {"voxel_size_nm": "--voxel-size", "output": "-o", "workers": "-j", "start_from": "--from"}
"""Flags that are not named as the option is."""
_OF_RUNS = {"overwrite", "workers", "block", "output"}
"""Options of whoever runs a recipe, which are no lines of it."""


_TABLES = {"image": "[source]", "labels": "[labels.NAME]"}
"""Where a recipe says what it imports: by the table."""


def as_flag(option: Option) -> str:
    """Spell an option as commands take it: `--voxel-size 5,5,5`, `--set channel=0`."""
    value = option.value
    if option.of_plugin:
        text = value if _is_bare(value) else _in_toml(value).replace(", ", ",")
        return f"--set {quoted(f'{option.name}={option.shown or text}')}"
    flag = _FLAGS.get(option.name, "--" + option.name.replace("_", "-"))
    if value == []:
        return f"{flag} none"
    if option.shown or value is None or value is True:
        return f"{flag} {option.shown}".rstrip()
    values = value if isinstance(value, (list, tuple)) else [value]
    return f"{flag} {quoted(','.join(f'{v:g}' if isinstance(v, float) else str(v) for v in values))}"


def quoted(word: object) -> str:
    """Spell a word of a command (a path, a name) so that a shell takes it as one: `asem import 'my cells/a.tif'`."""
    import subprocess

    return subprocess.list2cmdline([str(word)]) if os.name == "nt" else shlex.quote(str(word))


def as_argument(option: Option) -> str:
    """Spell an option as functions take it: `voxel_size_nm=[5, 5, 5]`."""
    value = option.shown or (str(option.value) if isinstance(option.value, bool) else _in_toml(option.value))
    return f"{option.name}={value}" if value else option.name


def in_recipe(option: Option) -> str:
    """Spell an option as recipes have it: `voxel_size_nm = [5, 5, 5]`."""
    if option.name == "kind" and option.value in _TABLES:
        return _TABLES[option.value]
    name = option.name.removeprefix("source_")
    value = option.shown or _in_toml(option.value)
    return (f"{name} = {value}" if value else name) + (f" in [{option.table}]" if option.table else "")


_spelling: ContextVar[Callable[[Option], str]] = ContextVar("spelling", default=as_argument)


@contextmanager
def spelled(spell: Callable[[Option], str]) -> Iterator[None]:
    """Open a door: within it, options in messages are spelled like this, as `as_flag` does; elsewhere as Python does."""
    before = _spelling.set(spell)
    try:
        yield
    finally:
        _spelling.reset(before)


@contextmanager
def spelled_for_recipe() -> Iterator[None]:
    """Spell options as lines of a recipe, in errors that leave it, too; those of the run itself stay the words of whoever runs it."""
    of_run = _spelling.get()
    try:
        with spelled(lambda option: (of_run if option.name in _OF_RUNS else in_recipe)(option)):
            yield
    except AsemError as error:
        error.of_recipe = True
        raise


def _is_bare(value: Any) -> bool:
    """Tell whether a value is a text that `--set` takes without quotes, because it means nothing else."""
    import tomllib

    try:
        return isinstance(value, str) and not tomllib.loads(f"value = {value}")
    except tomllib.TOMLDecodeError:
        return True


def _in_toml(value: Any) -> str:
    """Write a value as TOML and JSON do; "" for None."""
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(_in_toml(v) for v in value)}]"
    if isinstance(value, float):
        return f"{value:g}"
    return "" if value is None else json.dumps(value, ensure_ascii=False)


class AsemError(Exception):
    """Base of every error that a user can cause and mend; its text is made of parts, some of which may be an `Option`."""

    of_recipe = False
    """Whether its options are lines of a recipe, whoever runs that."""

    def __init__(self, *parts: str | Option) -> None:
        super().__init__(*parts)

    @property
    def options(self) -> tuple[Option, ...]:
        """The options that answer it, the likeliest first."""
        return tuple(part for part in self.args if isinstance(part, Option))

    def told(self, spell: Callable[[Option], str]) -> str:
        """Write the message with the options spelled like this."""
        with spelled(spell):
            return str(self)

    def followed_by(self, sentence: str) -> Self:
        """Tell the same, and one sentence more; in another line where the first ends with what is copied, without a full stop."""
        last = self.args[-1]
        between = " " if isinstance(last, str) and last.endswith((".", "?", "!")) else "\n"
        told = type(self)(*self.args, between + sentence)
        told.of_recipe = self.of_recipe
        return told

    def __str__(self) -> str:
        with spelled_for_recipe() if self.of_recipe else nullcontext():
            return "".join(map(str, self.args))


class BadInput(AsemError):
    """A file, array or value cannot be used as it is."""


class NoVoxelSize(BadInput):
    """A file does not state its voxel size, or not along all axes; `stated_nm` is what it states, z y x."""

    def __init__(self, *parts: str | Option, stated_nm: tuple[float | None, ...] = (None, None, None)) -> None:
        super().__init__(*parts)
        self.stated_nm = stated_nm


class NotAnImage(BadInput):
    """A group of a container was given, which holds layers and is none itself."""


class ShapeMismatch(BadInput):
    """Two volumes that must agree in shape or place do not."""


class VoxelSizeMismatch(BadInput):
    """Two volumes, or a volume and a model, disagree in voxel size."""


class OutsideVolume(BadInput):
    """A box extends beyond its volume and the caller did not allow that."""


class NothingToDo(BadInput):
    """A step has nothing to do with this volume, which is fine as it is; a chain of steps goes on without it."""


class TooLarge(BadInput):
    """It would take more memory than is free."""


class RecipeError(AsemError):
    """A recipe has an unknown key, a value of the wrong type, or an unknown name."""

    of_recipe = True

    @classmethod
    def at(cls, where: str, error: AsemError) -> Self:
        """Say at which place of a recipe an error belongs: `recipe.toml @ source`."""
        return cls(f"{where}: ", *error.args)


class BadOptions(RecipeError):
    """A command or a function was given options like those: they are spelled as it takes them."""

    of_recipe = False


class UnknownName(AsemError):
    """No plugin, model or layer has this name."""


class PluginError(AsemError):
    """A plugin could not be loaded, clashes with another, or returned something it must not."""


class MissingExtra(AsemError):
    """An optional dependency is not installed; the message holds the command that installs it."""

    @classmethod
    def of(cls, extra: str, why: str, or_else: str = "") -> Self:
        """Say what needs the packages of one of ASEM's extras, and the command that installs them here."""
        return cls(f"{why}, which is not installed. Install it: {install_command(extra)}{or_else}")


def install_command(extra: str) -> str:
    """Write the command that adds the packages of an extra to where this program is installed, however it was."""
    import importlib.util
    import sys
    from importlib.metadata import PackageNotFoundError, requires
    from pathlib import Path

    try:
        lines = requires("asem-core") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        lines = []
    packages = [line.partition(";")[0].strip() for line in lines if re.search(rf"""extra == ['"]{extra}['"]""", line)]
    wanted = " ".join(quoted(p) for p in packages) or quoted(f"asem-core[{extra}]")
    if {"pipx", "venvs"} <= set(Path(sys.prefix).parts):
        return f"pipx inject asem-core {wanted}"
    python = quoted(sys.executable)
    if importlib.util.find_spec("pip") is None:  # environments of uv
        return f"uv pip install --python {python} {wanted}"
    return f"{python} -m pip install {wanted}"


class OutputExists(AsemError):
    """The output is already there and was made by something else."""


class OutputBusy(AsemError):
    """Another process is writing this output."""


class InputChanged(AsemError):
    """A layer was replaced or edited while a stage read it."""


class BlockFailed(AsemError):
    """A block failed three times; the message holds its box and its cause."""


class NoSpace(AsemError):
    """The disk is full; the message says how much room is needed."""


def is_full_disk(error: BaseException | None) -> bool:
    """Tell whether an error says that a disk (or a quota) is full, or came of one that does: libraries put their own in its place.

    numpy keeps only the numbers: "74088 requested and 16256 written".
    """
    while error is not None:
        if isinstance(error, NoSpace):
            return True
        if isinstance(error, OSError):
            cut_short = error.errno is None and re.search(r"\d+ requested and \d+ written", str(error))
            if cut_short or error.errno in (errno.ENOSPC, errno.EDQUOT):
                return True
        error = error.__cause__ or error.__context__
    return False


class TrainingStopped(AsemError):
    """A training run cannot go on; the message says at which block, and what was saved."""
