"""The entry points of what is installed: the same as those of `importlib.metadata`, in a tenth of its time.

The library parses those of every distribution, and first loads what reads mails and ZIP files: in an environment of 270 distributions,
a sixth of what `asem --help` takes. Where distributions lie elsewhere than in plain folders, it is asked.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Iterator
from importlib.machinery import PathFinder
from typing import Any

import attrs

_UNKNOWN = "unknown distribution"


@attrs.frozen
class EntryPoint:
    """The name that a distribution gives to a module of its own, or to something in one."""

    name: str
    value: str  # `module` or `module:attribute`
    distribution: str
    version: str

    @property
    def module(self) -> str:
        return re.split(r"[\s:\[]", self.value, maxsplit=1)[0]

    def load(self) -> Any:
        """Import what it names."""
        attribute = self.value.partition("[")[0].partition(":")[2].strip()
        module = importlib.import_module(self.module)
        return functools.reduce(getattr, attribute.split("."), module) if attribute else module


def entry_points(group: str) -> list[EntryPoint]:
    """List the entry points of a group; of distributions of one name, the first on the path counts."""
    in_folders = not any(os.path.isfile(place) or str(place).endswith(".egg") for place in sys.path)
    if not in_folders or any(
        finder is not PathFinder and hasattr(finder, "find_distributions") for finder in sys.meta_path
    ):
        return _found_by_library(group)
    return [EntryPoint(*pair, *_name_and_version(info)) for info in _infos() for pair in _pairs(info, group)]


def _found_by_library(group: str) -> list[EntryPoint]:
    from importlib import metadata

    return [
        EntryPoint(p.name, p.value, *((p.dist.name, p.dist.version) if p.dist else (_UNKNOWN, "")))
        for p in metadata.entry_points(group=group)
    ]


def _infos() -> Iterator[str]:
    """List the folders that describe distributions."""
    seen = set()
    for place in map(str, sys.path):
        try:
            names = os.listdir(place or ".")
        except OSError:
            continue
        for name in names:
            if name.lower().endswith((".dist-info", ".egg-info")):
                whose = re.sub(r"[-_.]+", "_", name.lower().rpartition(".")[0].partition("-")[0])
                if whose not in seen:
                    seen.add(whose)
                    yield os.path.join(place, name)


def _pairs(info: str, group: str) -> Iterator[tuple[str, str]]:
    """Read names and values of a group."""
    text = _read(info, "entry_points.txt")
    if f"[{group}]" not in text:
        return
    section = None
    for line in map(str.strip, text.splitlines()):
        if line.startswith("[") and line.endswith("]"):
            section = line[1:-1]
        elif section == group and line and not line.startswith("#"):
            name, _, value = line.partition("=")
            yield name.strip(), value.strip()


def _name_and_version(info: str) -> tuple[str, str]:
    head = (_read(info, "METADATA") or _read(info, "PKG-INFO")).partition("\n\n")[0]
    told = {key: value.strip() for key, _, value in (line.partition(":") for line in head.splitlines())}
    return told.get("Name", _UNKNOWN), told.get("Version", "")


def _read(info: str, name: str) -> str:
    try:
        with open(os.path.join(info, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
