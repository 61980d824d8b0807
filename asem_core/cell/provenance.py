"""What made an output: written into its attributes, compared on resume, shown in reports."""

from __future__ import annotations

import functools
import hashlib
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core import __version__
from asem_core.cell.record import Input, Kind, Record
from asem_core.errors import BadInput
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
    """Say which volume was read: where it is, its shape and place, the chain of what made it, and its last edit."""
    record = Record.of(volume)
    known = {"made_by": dict(record.made.noted), "revision": record.revision}
    return {
        "path": volume.path,
        "shape": list(volume.shape),
        "voxel_size_nm": list(volume.voxel_size_nm),
        "origin_nm": list(volume.origin_nm),
        **{key: value for key, value in known.items() if value},
    }


def is_unchanged(read: Input, volume: Volume) -> bool:
    """Tell whether a volume is still what it was when something was made of it."""
    return bool(identity(read.identity) == identity(Input.parse(describe_input(volume)).identity))


def describe_plugin(plugin: Any) -> dict[str, Any]:
    """Name a plugin with its options and where it comes from."""
    cls = type(plugin)
    options = {a.name: _plain(getattr(plugin, a.name)) for a in attrs.fields(cls) if a.init}
    return {
        "name": plugin.name,
        "module": cls.__module__,
        "version": _version_of(cls.__module__.partition(".")[0]),
        "options": options,
    }


def identity(record: Any) -> Any:
    """Give a record of `made_by` without the versions: what two runs must share to make the same thing.

    Versions tell in reports what was used; that a newer one is installed does not make a layer another.
    """
    if isinstance(record, Mapping):
        versions = {"asem_version", "version"} if "module" in record else {"asem_version"}
        return {key: identity(value) for key, value in record.items() if key not in versions}
    return [identity(value) for value in record] if isinstance(record, (list, tuple)) else record


def steps_done(volume: Volume) -> list[dict[str, Any]]:
    """List the preprocessing steps behind a volume, first to last, as `describe_plugin` wrote them."""
    return [dict(made.step) for made in Record.of(volume).made.chain() if made.step is not None][::-1]


def differences(before: Any, after: Any) -> list[str]:
    """Name what differs between two records of `made_by`, with short values: `clip_limit: 0.02 -> 0.1`."""
    return [_told(keys, *values) for keys, *values in _differing(identity(before), identity(after), ())]


_ABSENT = object()


def _differing(before: Any, after: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if before == after:
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        named_otherwise = before.get("name") != after.get("name") and "name" in before and "name" in after
        for key in ["name"] if named_otherwise else sorted({*before, *after}):
            yield from _differing(before.get(key, _ABSENT), after.get(key, _ABSENT), (*keys, key))
    elif (
        keys[-1:] == ("inputs",) and isinstance(before, list) and isinstance(after, list) and len(before) == len(after)
    ):
        for one, other in zip(before, after, strict=True):
            yield from _differing(one, other, keys)
    else:
        yield keys, before, after


def _told(keys: tuple[str, ...], before: Any, after: Any) -> str:
    if keys[-1] == "revision":
        return "the input, edited since"
    of_input = "the input's " if keys[0] == "inputs" and len(keys) > 1 else ""
    shown = [k for k in keys if k not in ("inputs", "made_by")] or ["inputs"]
    if "options" in shown:
        shown = shown[shown.index("options") + 1 :] or shown
    values = [json.dumps(v) if v is not _ABSENT else "not set" for v in (before, after)]
    told = f": {values[0]} -> {values[1]}" if all(len(v) <= 40 for v in values) else ""
    return f"{of_input}{'.'.join(shown)}{told}"


def what_it_holds(volume: Volume) -> Kind | None:
    """Say what a layer of ours holds, as noted by what made it; None for data from elsewhere, of which nothing is known.

    An import that could not tell counts as what its name says, see `kind_by_name`.
    """
    record = Record.of(volume)
    return record.kind or (kind_by_name(volume.path) if record.made.stage in ("import", "preprocess") else None)


def require_labels(volume: Volume, needs: str) -> None:
    """Refuse what is known to be an image or a probability map; `needs` says what takes labels: "a mesh is made of labels".

    Raises
    ------
    BadInput
    """
    held = what_it_holds(volume)
    if held == "image":
        advice = "If it holds labels all the same, import it as such: asem import ... --kind labels"
        raise BadInput(f"{volume.path} is an image; {needs}. {advice}.")
    if held == "probability":
        raise BadInput(f"{volume.path} is a probability map; {needs}. Segment it first: asem segment.")


def kind_by_name(path: str | Path) -> Kind | None:
    """Say what a layer holds by its place in the container, if that tells: `raw_clahe`, `labels/golgi`, ..."""
    *folders, name = str(path).rpartition(".zarr/")[2].split("/")
    if name == "probability":
        return "probability"
    if _FOLDERS_OF_LABELS & {*folders} or name in ("mask", "segmentation"):
        return "labels"
    return "image" if name.partition("_")[0] == "raw" else None


_FOLDERS_OF_LABELS = {"labels", "seeds", "exclusion", "mask", "instances", "groundtruth"}


def sha256(path: str | Path) -> str:
    """Sum a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(folder: Path, files: Sequence[Path] | None = None) -> str:
    """Sum names, sizes and times of files, so that changed data is not taken for what was read before.

    `files` lie in the folder; None takes all in it.
    """
    if files is None:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
    stats = {f.relative_to(folder).as_posix(): f.stat() for f in files}
    text = "\n".join(f"{name} {s.st_size} {s.st_mtime_ns}" for name, s in stats.items())
    return f"{zlib.crc32(text.encode()):08x}"


@functools.cache
def _version_of(package: str) -> str:
    from importlib.metadata import entry_points, packages_distributions, version

    # A plugin's entry point says whose it is. What every installed distribution holds is read only without one: it takes
    # half a second, and an editable install does not tell.
    for entry in entry_points(group="asem"):
        if entry.module.partition(".")[0] == package and entry.dist is not None:
            return f"{entry.dist.name} {entry.dist.version}"
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
