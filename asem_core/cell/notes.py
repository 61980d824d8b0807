"""Notes of a run into a layer: its lock, done markers and intermediate results, in a hidden folder beside the container.

They are inside no container, where Zarr readers would stumble over foreign files.
"""

from __future__ import annotations

import contextlib
import glob
import json
import shutil
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import filelock

from asem_core.cell.provenance import identity
from asem_core.errors import OutputBusy


def work_folder(path: str | Path, made_by: Mapping[str, Any]) -> Path:
    """Where a run keeps its notes (locks, done markers, intermediate results) until the layer `path` is finished.

    Runs that differ in what they make have different folders, so stale notes are never taken for good ones.
    """
    known = json.dumps(identity(made_by), sort_keys=True).encode()
    return _notes_base(Path(path)).with_suffix(f".{zlib.crc32(known):08x}")


def lock(target: Path) -> filelock.BaseFileLock:
    """Take the lock of a layer.

    Raises
    ------
    OutputBusy
        Another process has it.
    """
    file = _notes_base(target).with_suffix(".lock")
    file.parent.mkdir(exist_ok=True)
    taken = filelock.FileLock(file, timeout=0)
    try:
        taken.acquire()
    except filelock.Timeout:
        raise OutputBusy(
            f"{target} is being written by another process. Wait for it, or choose another output."
        ) from None
    return taken


def remove_notes(target: Path) -> None:
    """Remove the notes of all runs into a layer whose lock is held, and the lock's file, which its holder lets go of."""
    base = _notes_base(target)
    for work in base.parent.glob(f"{glob.escape(base.stem)}.{'[0-9a-f]' * 8}"):
        shutil.rmtree(work, ignore_errors=True)
    base.with_suffix(".lock").unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other layers of the container are under work
        base.parent.rmdir()


def forget(path: str | Path, made_by: Mapping[str, Any]) -> None:
    """Remove the notes of a run that came to nothing before its layer was made."""
    work = work_folder(path, made_by)
    shutil.rmtree(work, ignore_errors=True)
    with contextlib.suppress(OSError):  # it holds notes of other layers
        work.parent.rmdir()


def _notes_base(target: Path) -> Path:
    root = next((p for p in target.parents if p.suffix == ".zarr"), target.parent)
    return root.with_name(f".{root.name}-work") / ("-".join(target.relative_to(root).parts) + ".x")
