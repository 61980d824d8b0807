"""Temporary folders and half-written files, and how what killed processes left of them is removed."""

from __future__ import annotations

import contextlib
import glob
import os
import re
import shutil
import socket
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from asem_core.locks import held

_PREFIX = "asem-"
_MADE = re.compile(rf"\.?{_PREFIX}(?P<host>\w+)-(?P<pid>\d+)-")
_LOCK = ".lock"
_HALF = ".half"
_HALF_OF_ZARR = re.compile(r"\.[0-9a-f]{32}\.partial$")


@contextlib.contextmanager
def temporary_folder(base: Path | None = None) -> Iterator[Path]:
    """Make a folder that only this user can open, for a while. Those of processes that were killed are removed first.

    `base` is where; by default where temporary files lie.
    """
    sweep(base)
    made = Path(
        tempfile.mkdtemp(prefix=f".{_PREFIX}{_host()}-{os.getpid()}-", dir=base)
    )  # hidden until its lock is held
    folder = made.with_name(made.name.removeprefix("."))
    try:
        with held(made / _LOCK):
            try:
                made.rename(folder)
            except PermissionError:  # Windows, where an open file, the lock, holds its folder: it stays hidden
                folder = made
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.rmtree(made, ignore_errors=True)


@contextlib.contextmanager
def temporary_folder_of_libraries() -> Iterator[Path]:
    """Make a temporary folder in which, meanwhile, the whole process makes its temporary files.

    For libraries that leave theirs. What they look up when they are loaded must be loaded within.
    """
    with temporary_folder() as folder:
        before = tempfile.tempdir, os.environ.get("TMPDIR")
        tempfile.tempdir = os.environ["TMPDIR"] = str(folder)
        try:
            yield folder
        finally:
            tempfile.tempdir = before[0]
            if before[1] is None:
                del os.environ["TMPDIR"]
            else:
                os.environ["TMPDIR"] = before[1]


def sweep(base: Path | None = None) -> None:
    """Remove the temporary folders of processes that were killed."""
    import filelock

    base = base or Path(tempfile.gettempdir())
    for folder in (*base.glob(f"{_PREFIX}*"), *base.glob(f".{_PREFIX}{_host()}-*")):
        with contextlib.suppress(OSError, filelock.Timeout):
            if hasattr(os, "getuid") and folder.lstat().st_uid != os.getuid():
                continue
            made = _MADE.match(folder.name)
            if made is not None and made["host"] == _host() and _lives(made["pid"]):
                continue  # whatever its lock says: the lock of a file system that has none is of another kind
            ended = made is not None and made["host"] == _host()
            if (folder / _LOCK).is_file() and not folder.name.startswith("."):
                with held(folder / _LOCK):
                    shutil.rmtree(folder, ignore_errors=True)
            elif ended:  # its lock was not yet there, or was removed first
                shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def write_whole(path: Path, *, alone: bool = False) -> Iterator[Path]:
    """Give a name under which to write a file or a folder, which then becomes `path` in one step.

    Readers see the old file or the whole new one, never half of it. A folder cannot replace another: that is removed first.
    What killed processes left by half is removed.

    Parameters
    ----------
    alone
        No other process writes `path`: a lock is held, or it is one of the pieces of a run, which has a folder of its own. There
        may be one for each block of an image, and looking for what others left would take longer with each.
    """
    if alone:
        half = half_alone(path)
        if os.path.lexists(half):
            remove(half)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep_halves(path)
        half = path.with_name(f".{path.name}.{_host()}-{os.getpid()}{_HALF}")
    try:
        yield half
        os.replace(half, path)
    except BaseException:
        remove(half)
        raise


def half_alone(path: Path) -> Path:
    """Name the half of a file or a folder that only one process writes: a killed one leaves it."""
    return path.with_name(f".{path.name}{_HALF}")


def sweep_halves(path: Path) -> None:
    """Remove what killed processes left of a file or a folder that several may write."""
    for left in path.parent.glob(f".{glob.escape(path.name)}.{_host()}-*{_HALF}"):
        if not _lives(left.name.split("-")[-1].removesuffix(_HALF)):
            remove(left)


def remove(path: Path) -> None:
    """Delete a file or a folder, if it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_half(file: Path) -> bool:
    """Tell whether a file is one that we, or Zarr, were writing: it has a name of its own until it is whole."""
    return file.name.endswith(_HALF) or _HALF_OF_ZARR.search(file.name) is not None


def sweep_zarr(folder: Path, *, deep: bool = False) -> None:
    """Remove what killed processes left of files that Zarr was writing in a folder, and in those below it if `deep`.

    Only the one process that may write there calls this.
    """
    for place, folders, files in os.walk(folder):
        for file in (Path(place, name) for name in files if _HALF_OF_ZARR.search(name)):
            with contextlib.suppress(OSError):
                file.unlink()
        if not deep:
            folders.clear()


def _host() -> str:
    """Tell this machine from others that see the same files: their processes have numbers of their own."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def _lives(pid: str) -> bool:
    import psutil

    return not pid.isdigit() or psutil.pid_exists(int(pid))
