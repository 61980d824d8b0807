"""The groups of a cell: each is made, and its attributes are changed, in one step that leaves nothing when a process is killed.

Zarr itself leaves the half of a file that it was writing, and nobody could tell whether its writer lives.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from asem_core.temporary import sweep_halves, write_whole

_V3, _V2, _V2_ATTRIBUTES, _V2_ALL = "zarr.json", ".zgroup", ".zattrs", ".zmetadata"


def is_group(folder: Path) -> bool:
    """Tell whether a folder has been made a Zarr group, or an array of Zarr v3."""
    return (folder / _V3).exists() or (folder / _V2).exists()


def make_group(folder: Path, zarr_format: Literal[2, 3]) -> None:
    """Make a folder a group, if it is none; what killed processes left of the files of one is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (_V3, _V2, _V2_ATTRIBUTES, _V2_ALL):
        sweep_halves(folder / name)
    if is_group(folder):
        return
    if zarr_format == 3:
        _write(folder / _V3, {"attributes": {}, "zarr_format": 3, "node_type": "group"})
    else:
        _write(folder / _V2, {"zarr_format": 2})


def change_attributes(folder: Path, changes: Mapping[str, Any]) -> None:
    """Give attributes of a group new values; the others stay."""
    if (folder / _V3).exists():
        whole = _read(folder / _V3)
        whole["attributes"] = {**whole.get("attributes", {}), **changes}
        _write(folder / _V3, whole)
        return
    attributes = {**_read(folder / _V2_ATTRIBUTES), **changes}
    _write(folder / _V2_ATTRIBUTES, attributes)
    if (folder / _V2_ALL).exists():  # the attributes of all below, which some programs write
        everything = _read(folder / _V2_ALL)
        everything.setdefault("metadata", {})[_V2_ATTRIBUTES] = attributes
        _write(folder / _V2_ALL, everything)


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}


def _write(file: Path, values: Mapping[str, Any]) -> None:
    with write_whole(file) as half:
        half.write_text(json.dumps(values, indent=2), encoding="utf-8")
