"""What made an output: written into its attributes, compared on resume, shown in reports."""

from __future__ import annotations

import functools
import hashlib
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core import __version__, files
from asem_core.catalog import KINDS
from asem_core.cell.elsewhere import done_elsewhere, steps_of
from asem_core.cell.record import Input, Kind, Record, record_at
from asem_core.errors import BadInput
from asem_core.interfaces import Preprocessor
from asem_core.paths import address_option, named_paths, slashed
from asem_core.volume import Box, Volume


def made_by(stage: str, *, inputs: Sequence[Volume | Mapping[str, Any]] = (), **details: Any) -> dict[str, Any]:
    """Describe a run, in plain JSON: the stage, ASEM's version, the inputs with what made them, and further details.

    Details may be plugins (described by name, options and the distribution they came from), boxes, paths or plain
    values. Nothing that differs between two equal runs (times, worker counts) belongs here, and all that makes their
    results differ does: runs of equal `identity` make equal layers.
    """
    return {
        "stage": stage,
        "asem_version": __version__,
        "inputs": [describe_input(v) if isinstance(v, Volume) else dict(v) for v in inputs],
        **{key: _plain(value) for key, value in details.items()},
    }


def describe_input(volume: Volume, fingerprint: str | None = None) -> dict[str, Any]:
    """Say which volume was read: where it is, its shape and place, and which layer it is, with the chain of what made it.

    A layer of ours is told by its id and revision; if another program has written into it, by its fingerprint, too. All else
    is told by its fingerprint: the one given, or that of the files at its path.
    """
    record, done = Record.of(volume), done_elsewhere(volume)
    made_by = {**record.made.noted, **({} if done is None else {"done": done})}
    if record.id:
        changed = None if record.fingerprint in (None, found := _stored_voxels(volume)) else found
        known = {
            "id": record.id,
            "revision": record.revision,
            "fingerprint": changed,
            "made_by": made_by,
        }
    else:
        known = {"fingerprint": fingerprint or _fingerprint_of(volume), "made_by": made_by}
    here = Path(volume.path)
    return {
        "path": str(here.resolve()) if "://" not in volume.path and here.exists() else volume.path,
        "shape": list(volume.shape),
        "voxel_size_nm": list(volume.voxel_size_nm),
        "origin_nm": list(volume.origin_nm),
        **{key: value for key, value in known.items() if value},
    }


def _stored_voxels(volume: Volume) -> str | None:
    """Sum up the files of a layer's finest array; None of one that is not on this computer."""
    return None if "://" in volume.path else files.fingerprint(Path(volume.path) / "s0")


def _fingerprint_of(volume: Volume) -> str | None:
    if isinstance(volume.data, np.ndarray):
        return hashlib.sha256(np.ascontiguousarray(volume.data).tobytes()).hexdigest()[:32]
    return files.fingerprint(volume.path)


def new_identity(made_by: Mapping[str, Any]) -> tuple[str, str]:
    """Give a layer that is to be made its id and first revision.

    They follow from what it is made of, so that a layer that was deleted and is made again is the same one. Where this does
    not tell all (an input without a fingerprint, a record that `made_by` did not write) they are drawn.
    """
    inputs = made_by.get("inputs", [])
    told = "asem_version" in made_by and all(read.get("id") or read.get("fingerprint") for read in inputs)
    text = json.dumps(identity(made_by), sort_keys=True)
    return (hashlib.sha256(text.encode()).hexdigest()[:32], "") if told else (uuid.uuid4().hex, new_revision())


def new_revision() -> str:
    """Draw the revision of a layer that was written into."""
    return uuid.uuid4().hex


def is_unchanged(read: Input, volume: Volume) -> bool:
    """Tell whether a volume is still what it was when something was made of it."""
    return bool(identity(read.identity) == identity(Input.parse(describe_input(volume)).identity))


def describe_plugin(plugin: Any, fingerprint: str | None = None) -> dict[str, Any]:
    """Name a plugin with its options and where it comes from; of options that name files or layers, what these hold.

    `fingerprint` is that of the files where a source reads, where it is known better than from all that lies there.
    """
    cls = type(plugin)
    options = {a.name: _plain(getattr(plugin, a.name)) for a in attrs.fields(cls) if a.init}
    held: dict[str, list[str | None]] = {}
    for name, what, place in named_paths(plugin):
        known = fingerprint if name == address_option(cls) else None
        held.setdefault(name, []).append(
            known or (_held_by_layer(place) if what == "layer" else files.fingerprint(place))
        )
    sums = {name: " ".join(map(str, found)) if all(found) else None for name, found in held.items()}
    return {
        "name": plugin.name,
        "module": cls.__module__,
        "version": _version_of(cls.__module__.partition(".")[0]),
        "options": options,
        **({"changes": plugin.changes} if isinstance(plugin, Preprocessor) else {}),
        **({"files": sums} if sums else {}),
    }


def options_to_build(described: Mapping[str, Any]) -> dict[str, Any]:
    """Give the options of a plugin that `describe_plugin` described, as they build it again: what was left open stays out."""
    return {name: value for name, value in described["options"].items() if value is not None}


def _held_by_layer(place: str) -> str | None:
    """Tell a layer that an option names by its id and revision, if it is ours and unchanged; otherwise by its files."""
    stored = Path(place) / "s0"
    if "://" not in place and stored.exists():
        record = record_at(place)
        if record.id and record.fingerprint in (None, files.fingerprint(stored)):
            return f"{record.id} {record.revision}"
    return files.fingerprint(place)


def identity(record: Any) -> Any:
    """Give a record of `made_by` without versions and paths: what two runs must share to make the same thing.

    Versions and paths tell in reports what was used; that a newer version is installed, or that a file is named otherwise
    or lies elsewhere, does not make a layer another. What a file holds does: its sum, fingerprint or id.
    """
    if isinstance(record, Mapping):
        beside = _beside_the_point(record)
        return {key: identity(value) for key, value in _without_paths(record).items() if key not in beside}
    return [identity(value) for value in record] if isinstance(record, (list, tuple)) else record


def _beside_the_point(record: Mapping[str, Any]) -> set[str]:
    """Name the entries of a record that do not make its layer another."""
    found = {"asem_version", *(key for key in record if f"{key}_sha256" in record)}
    if "module" in record:  # a plugin
        found |= {"version"}
    if record.get("sha256"):  # a file
        found |= {"path"}
    if record.get("id") or record.get("fingerprint"):  # a volume
        found |= {"path", "made_by"}
    return found


def _without_paths(record: Mapping[str, Any]) -> Mapping[str, Any]:
    """Leave out the options of a plugin that name files, where it is known what these hold."""
    held = {name for name, fingerprint in record.get("files", {}).items() if fingerprint} if "module" in record else {}
    return {**record, "options": {k: v for k, v in record["options"].items() if k not in held}} if held else record


def steps_done(volume: Volume) -> list[dict[str, Any]]:
    """List the preprocessing steps behind a volume, first to last, as `describe_plugin` wrote them; those done elsewhere first."""
    return steps_of(Record.of(volume).made, done_elsewhere(volume))


def differences(before: Any, after: Any) -> list[str]:
    """Name what differs between two records of `made_by`, with short values: `clip_limit: 0.02 -> 0.1`."""
    return list(dict.fromkeys(_difference(keys, *values) for keys, *values in _differing(before, after, ())))


_ABSENT = object()


def _differing(before: Any, after: Any, keys: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if identity(before) == identity(after):
        return
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        if before.get("id") != after.get("id") and (
            told := list(_differing(before.get("made_by", {}), after.get("made_by", {}), (*keys, "made_by")))
        ):  # what made the one and the other says more than that they are not the same
            yield from told
            return
        named_otherwise = before.get("name") != after.get("name") and "name" in before and "name" in after
        beside = _beside_the_point(before) & _beside_the_point(after)
        before, after = _without_paths(before), _without_paths(after)
        for key in ["name"] if named_otherwise else sorted({*before, *after} - beside):
            yield from _differing(before.get(key, _ABSENT), after.get(key, _ABSENT), (*keys, key))
    elif (
        keys[-1:] == ("inputs",) and isinstance(before, list) and isinstance(after, list) and len(before) == len(after)
    ):
        for one, other in zip(before, after, strict=True):
            yield from _differing(one, other, keys)
    else:
        yield keys, identity(before), identity(after)


def _difference(keys: tuple[str, ...], before: Any, after: Any) -> str:
    if keys[-1] == "revision":
        return "the input, edited since"
    if keys[-1] in ("id", "fingerprint") or "files" in keys:
        return "the input, which is another one or now contains other data"
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
        advice = "If it holds labels after all, import it as such: asem import ... --kind labels"
        raise BadInput(f"{volume.path} is an image; {needs}. {advice}")
    if held == "probability":
        raise BadInput(f"{volume.path} is a probability map; {needs}. Segment it first: asem segment")


def require_image(volume: Volume, needs: str) -> None:
    """Refuse what is known to hold labels or probabilities; `needs` says what takes an image: "a network needs an image".

    Raises
    ------
    BadInput
    """
    held = what_it_holds(volume)
    if held not in (None, "image"):
        raise BadInput(
            f"{volume.path} holds {'labels' if held == 'labels' else 'a probability map'}; {needs}. If it holds an image after all, "
            "import it as such: asem import ... --kind image"
        )


def kind_by_name(path: str | Path) -> Kind | None:
    """Say what a layer holds by its place in the container, if that tells: `raw_clahe`, `labels/golgi`, ..."""
    *folders, name = slashed(path).rpartition(".zarr/")[2].split("/")
    if name == "probability":
        return "probability"
    if _FOLDERS_OF_LABELS & {*folders} or name in ("mask", "segmentation"):
        return "labels"
    return "image" if name.partition("_")[0] == "raw" else None


_FOLDERS_OF_LABELS = {"labels", "seeds", "exclusion", "mask", "instances", "groundtruth"}


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
    if any(kind in type(value).__mro__ for kind in KINDS.values()):
        return describe_plugin(value)
    if attrs.has(type(value)):
        return {a.name: _plain(getattr(value, a.name)) for a in attrs.fields(type(value))}
    return value.item() if hasattr(value, "item") else str(value)
