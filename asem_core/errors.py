"""What can go wrong, said to the person who must mend it.

Every error a user can cause derives from `AsemError`; the command line prints its text without a traceback.
A message says what happened, to which file or plugin, what was expected, and what to do next.
"""

from __future__ import annotations

import re
from typing import Self


class AsemError(Exception):
    """Base of every error that a user can cause and mend."""


class BadInput(AsemError):
    """A file, array or value cannot be used as it is."""


class NoVoxelSize(BadInput):
    """A file does not state its voxel size, or not along all axes; `stated_nm` is what it states, z y x."""

    def __init__(self, message: str, stated_nm: tuple[float | None, ...] = (None, None, None)) -> None:
        super().__init__(message)
        self.stated_nm = stated_nm


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
    import shlex
    import sys
    from importlib.metadata import PackageNotFoundError, requires
    from pathlib import Path

    try:
        lines = requires("asem-core") or []
    except PackageNotFoundError:  # run from a source tree that was never installed
        lines = []
    packages = [line.partition(";")[0].strip() for line in lines if re.search(rf"""extra == ['"]{extra}['"]""", line)]
    wanted = " ".join(shlex.quote(p) for p in packages) or shlex.quote(f"asem-core[{extra}]")
    if {"pipx", "venvs"} <= set(Path(sys.prefix).parts):
        return f"pipx inject asem-core {wanted}"
    python = shlex.quote(sys.executable)
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


class TrainingStopped(AsemError):
    """A training run cannot go on; the message says at which block, and what was saved."""
