"""Notes of which blocks are done, kept where only this user can write.

A note is eight bytes appended to a file: the number of the block. Nothing is mapped into memory, so that a full disk is an
error and not the end of the process; what a killed process wrote by half is not read.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import numpy as np

from asem_core.errors import BadInput
from asem_core.temporary import temporary_folder
from asem_core.volume import Box, Zyx, as_zyx

_NOTE, _NOTE_BYTES = "<u8", 8
_KNOWS_USERS = hasattr(os, "getuid")


@attrs.frozen
class DoneBlocks:
    """Which tiles of a box are done."""

    file: Path
    box: Box
    block: Zyx

    @property
    def grid(self) -> Zyx:
        """How many tiles there are along each axis."""
        return as_zyx([-(-n // b) for n, b in zip(self.box.shape, self.block, strict=True)])

    def read(self) -> np.ndarray:
        """Tell for each tile of the grid whether it is done (bool, in the grid's shape)."""
        done = np.zeros(self.grid, bool)
        with contextlib.suppress(FileNotFoundError):
            noted = self.file.read_bytes()
            numbers = np.frombuffer(noted[: len(noted) // _NOTE_BYTES * _NOTE_BYTES], _NOTE)
            done.reshape(-1)[numbers[numbers < done.size].astype(np.int64)] = True
        return done

    @contextlib.contextmanager
    def writing(self) -> Iterator[Callable[[Box], None]]:
        """Give a function that notes a tile as done; it raises OSError where the disk is full."""
        binary = getattr(os, "O_BINARY", 0)  # Windows would put a carriage return before each byte 10
        file = os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | binary, 0o600)
        try:
            half = os.fstat(file).st_size % _NOTE_BYTES
            if half:
                os.ftruncate(file, os.fstat(file).st_size - half)

            def note(tile: Box) -> None:
                at = [(t - b) // s for t, b, s in zip(tile.begin, self.box.begin, self.block, strict=True)]
                os.write(file, np.array(np.ravel_multi_index(at, self.grid), _NOTE).tobytes())

            yield note
        finally:
            os.close(file)


def private_folder(folder: Path) -> Path:
    """Make a folder that only this user can open. What is there and was not so is emptied: others may have written in it.

    File systems that keep no permissions (exFAT, some network shares) protect neither notes nor voxels: there any will do.

    Raises
    ------
    BadInput
        It belongs to another user.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        return folder
    if not _KNOWS_USERS or _is_private(folder):
        return folder
    try:
        if not _keeps_permissions(folder.parent):
            return folder
        folder.unlink() if folder.is_symlink() else shutil.rmtree(folder)
    except OSError:
        raise BadInput(
            f"{folder} belongs to another user's run, and files that others can write are not trusted. "
            "Have that user finish the run or remove the folder."
        ) from None
    folder.mkdir(mode=0o700)
    return folder


def require_own_file(file: Path) -> None:
    """Refuse a file that others could have written, before what it holds is run.

    Raises
    ------
    BadInput
        The file or its folder belongs to another user, or others may write to it.
    """
    for place in (file, file.parent) if _KNOWS_USERS else ():
        found = place.lstat()
        if stat.S_ISLNK(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
            raise BadInput(
                f"{place} could have been written by another user, so this worker does not run it. "
                "Keep the cell in a folder of your own, on a file system that keeps permissions."
            )


def _keeps_permissions(folder: Path) -> bool:
    with temporary_folder(folder) as probe:
        return _is_private(probe)


def _is_private(folder: Path) -> bool:
    found = folder.lstat()
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077
