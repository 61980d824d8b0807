"""Where a layer lies: its cell, and the notes of the runs that make it (locks, done markers, half-made layers).

The notes lie in a hidden folder beside the cell, where Zarr readers do not stumble over them. They belong to the real
layer, so that it has one lock whatever way it is reached: by another spelling of its path, or through a link.
"""

from __future__ import annotations

import contextlib
import errno
import glob
import json
import shutil
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import filelock

from asem_core.cell.group import make_group
from asem_core.cell.provenance import identity
from asem_core.errors import BadInput, Option, OutputBusy
from asem_core.locks import acquired, let_go
from asem_core.temporary import is_half, sweep_zarr

ZARR_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


def cell_of(path: str | Path) -> Path:
    """Find the cell that a layer lies in: `cell.zarr` of `cell.zarr/labels/er`. A cell is its own.

    It is the nearest folder upwards whose name ends in .zarr; else (a link may have any name) the outermost of the Zarr
    groups around; else the path itself.
    """
    here = Path(path)
    chain = [here, *here.parents]
    named = next((p for p in chain if p.suffix == ".zarr"), None)
    if named is not None:
        return named
    groups = [p for p in chain[:-1] if any((p / mark).exists() for mark in ZARR_MARKS)]
    return groups[-1] if groups else here


def name_in_cell(address: str) -> str:
    """Say how a layer is called in its cell: `labels/er` of `cell.zarr/labels/er`; it is the same after the cell was moved."""
    return Path(address).relative_to(cell_of(address)).as_posix()


def require_container(folder: str | Path) -> None:
    """Refuse a folder of other files as a container, before anything is written to it.

    Raises
    ------
    BadInput
        It is there, is not empty, and is no Zarr container; or it is a file.
    """
    place = Path(folder)
    if place.is_file():
        raise BadInput(f"{place} is a file; a cell is a folder. Choose another name, for example cell.zarr.")
    if place.is_dir() and not any((place / m).exists() for m in ZARR_MARKS) and not all(map(is_half, place.iterdir())):
        raise BadInput(
            f"{place} is a folder with other files and not a Zarr container, so nothing is written to it. "
            "Choose a new name, for example cell.zarr."
        )


def require_cell(folder: str | Path, layer: str) -> None:
    """Refuse what cannot be the cell that a layer is imported into: a folder of other files, or a place inside a cell.

    Raises
    ------
    BadInput
    """
    require_container(folder)
    cell = cell_of(folder)
    if cell.resolve() != Path(folder).resolve():
        name = name_in_cell(str(folder)) + ("" if layer == "raw" else f"/{layer}")
        meant = Option("layer", shown="labels/NAME") if name == "labels" else Option("layer", name)
        raise BadInput(f"{folder} lies inside the cell {cell}. Give the cell itself, and the layer in it: ", meant)


def require_outside_cells(output: str | Path, part_of: Sequence[str] = ()) -> None:
    """Refuse files for people and other programs within a cell, or in its place: readers of Zarr would stumble over them.

    `part_of` names the marks of containers that the output may be a part of.

    Raises
    ------
    BadInput
    """
    here = Path(output).absolute()
    for place in (here, *here.parents):
        if any((place / mark).is_file() for mark in ZARR_MARKS if mark not in part_of):
            raise BadInput(
                f"{output} would lie inside the cell {place}, which contains only layers. Choose a place outside the cell."
            )


def zarr_format_of(group: str | Path) -> Literal[2, 3]:
    """Say which version of Zarr a group is written in; 3 of one that is to be made outside of any."""
    here = Path(group)
    found = next((p for p in (here, *here.parents) if (p / "zarr.json").exists() or (p / ".zgroup").exists()), None)
    return 2 if found is not None and not (found / "zarr.json").exists() else 3


def make_groups(folder: Path) -> None:
    """Make the groups between a cell and a layer, and the cell; in a container of Zarr v2, such as the authors', in v2.

    Raises
    ------
    BadInput
        The place cannot be written to.
    """
    root = cell_of(folder)
    chain = [p for p in [folder, *folder.parents] if p == root or root in p.parents]
    try:
        for group in reversed(chain):
            make_group(group, zarr_format_of(group))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise BadInput(
            f"Cannot write to {folder}: {error.strerror}. Choose another place, or change its permissions."
        ) from None


def cell_work_folder(layer: str | Path) -> Path:
    """Where the notes of all layers of a cell lie, and what annotators prepared."""
    root = _root(Path(layer).resolve())
    return root.with_name(f".{root.name}-work")


def work_folder(layer: str | Path, made_by: Mapping[str, Any]) -> Path:
    """Where a run keeps its notes (done markers, intermediate results, the half-made layer) until the layer is finished.

    Runs that differ in what they make have different folders, so stale notes are never taken for good ones.
    """
    known = json.dumps(identity(made_by), sort_keys=True).encode()
    return _notes_of(layer, f".{zlib.crc32(known):08x}")


def work_folders(layer: str | Path) -> list[Path]:
    """List the notes of all runs into a layer."""
    stem = _notes_of(layer, "")
    return sorted(stem.parent.glob(f"{glob.escape(stem.name)}.{'[0-9a-f]' * 8}"))


def lock(layer: str | Path) -> filelock.BaseFileLock:
    """Take the lock of a layer, whatever way it is reached.

    Raises
    ------
    OutputBusy
        Another process has it.
    """
    file = _notes_of(layer, ".lock")
    file.parent.mkdir(exist_ok=True)
    try:
        taken = acquired(file)
        sweep_zarr(Path(layer))
        return taken
    except filelock.Timeout:
        raise OutputBusy(
            f"{layer} is being written or edited by another process. Wait for it or close it there, or choose another output."
        ) from None


def unlock(layer: str | Path, taken: filelock.BaseFileLock) -> None:
    """Let go of a layer's lock, and remove its file."""
    let_go(taken)
    _remove_if_empty(_notes_of(layer, "").parent)


def remove_notes(layer: str | Path) -> None:
    """Remove the notes of all runs into a layer whose lock is held."""
    for work in work_folders(layer):
        shutil.rmtree(work, ignore_errors=True)


def has_notes(layer: str | Path) -> bool:
    """Tell whether there are notes of a run into a layer: it is being made, or its process was killed."""
    return _notes_of(layer, ".lock").exists() or bool(work_folders(layer))


def forget(layer: str | Path, made_by: Mapping[str, Any]) -> None:
    """Remove the notes of a run that came to nothing before its layer was made."""
    work = work_folder(layer, made_by)
    shutil.rmtree(work, ignore_errors=True)
    _remove_if_empty(work.parent)


def _remove_if_empty(folder: Path) -> None:
    with contextlib.suppress(OSError):  # it holds notes of other layers
        folder.rmdir()


def _notes_of(layer: str | Path, ending: str) -> Path:
    real = Path(layer).resolve()
    return cell_work_folder(real) / ("-".join(real.relative_to(_root(real)).parts) + ending)


def _root(real: Path) -> Path:
    return cell_of(real.parent)
