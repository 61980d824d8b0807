"""Temporary folders and half-written files, and how what killed processes left of them is removed."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import filelock

_PREFIX = "asem-"
_LOCK = ".lock"


@contextlib.contextmanager
def temporary_folder(base: Path | None = None) -> Iterator[Path]:
    """Make a folder that only this user can open, for a while. Those of processes that were killed are removed first.

    `base` is where; by default where temporary files lie.
    """
    base = base or Path(tempfile.gettempdir())
    _sweep_folders(base)
    made = Path(
        tempfile.mkdtemp(prefix=f".{_PREFIX}", dir=base)
    )  # under a name that is not swept until the lock is held
    folder = made.with_name(made.name.removeprefix("."))
    with filelock.FileLock(made / _LOCK):
        made.rename(folder)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _sweep_folders(base: Path) -> None:
    for folder in base.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, filelock.Timeout):
            ours = not hasattr(os, "getuid") or folder.lstat().st_uid == os.getuid()
            if ours and (folder / _LOCK).is_file():
                with filelock.FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a file to write, which then becomes `path` in one step: readers see the old file or the whole new one.

    What killed processes left by half is removed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    half = _half_of(path)
    try:
        yield half
        os.replace(half, path)
    finally:
        half.unlink(missing_ok=True)


def _half_of(path: Path) -> Path:
    import psutil

    host = f"{zlib.crc32(socket.gethostname().encode()):08x}"
    for left in path.parent.glob(f".{glob.escape(path.name)}.{host}-*.half"):
        pid = left.name.split("-")[-1].removesuffix(".half")
        if pid.isdigit() and not psutil.pid_exists(int(pid)):
            left.unlink(missing_ok=True)
    return path.with_name(f".{path.name}.{host}-{os.getpid()}.half")
