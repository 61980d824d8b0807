"""What made an output: written into its attributes, compared on resume, shown in reports."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core import __version__
from asem_core.volume import Box, Volume


def made_by(stage: str, *, inputs: Sequence[Volume] = (), **details: Any) -> dict[str, Any]:
    """Describe a run, in plain JSON: the stage, ASEM's version, the inputs with what made them, and further details.

    Details may be plugins (described by name, options and the distribution they came from), boxes, paths or plain
    values. Nothing that differs between two equal runs (times, worker counts) belongs here.
    """
    return {
        "stage": stage,
        "asem_version": __version__,
        "inputs": [describe_input(v) for v in inputs],
        **{key: _plain(value) for key, value in details.items()},
    }


def describe_input(volume: Volume) -> dict[str, Any]:
    """Say which volume was read: where it is, its shape and place, and the chain of what made it."""
    chain = volume.attributes.get("asem", {}).get("made_by")
    return {
        "path": volume.path,
        "shape": list(volume.shape),
        "voxel_size_nm": list(volume.voxel_size_nm),
        "origin_nm": list(volume.origin_nm),
        **({"made_by": chain} if chain else {}),
    }


def describe_plugin(plugin: Any) -> dict[str, Any]:
    """Name a plugin with its options and where it comes from."""
    cls = type(plugin)
    options = {a.name: _plain(getattr(plugin, a.name)) for a in attrs.fields(cls) if a.init}
    return {"name": plugin.name, "module": cls.__module__, "version": _version_of(cls), "options": options}


def steps_done(volume: Volume) -> list[dict[str, Any]]:
    """List the preprocessing steps behind a volume, first to last, as `describe_plugin` wrote them."""
    found: list[dict[str, Any]] = []
    record = volume.attributes.get("asem", {}).get("made_by")
    while record:
        if "step" in record:
            found.append(record["step"])
        inputs = record.get("inputs") or [{}]
        record = inputs[0].get("made_by")
    return found[::-1]


def sha256(path: str | Path) -> str:
    """Sum a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version_of(cls: type) -> str:
    from importlib.metadata import packages_distributions, version

    package = cls.__module__.partition(".")[0]
    owners = packages_distributions().get(package)
    return f"{owners[0]} {version(owners[0])}" if owners else f"asem-core {__version__}"


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Box):
        return {"begin": list(value.begin), "end": list(value.end)}
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Volume):
        return describe_input(value)
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "name") and attrs.has(type(value)):
        return describe_plugin(value)
    if attrs.has(type(value)):
        return {a.name: _plain(getattr(value, a.name)) for a in attrs.fields(type(value))}
    return value.item() if hasattr(value, "item") else str(value)
