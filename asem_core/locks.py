"""Locks between processes, also on file systems that have none."""

from __future__ import annotations

import contextlib
import errno
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import filelock

log = logging.getLogger("asem_core")

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524)  # 524: ENOTSUPP, which NFS lets through


def acquired(file: Path, timeout: float = 0) -> filelock.BaseFileLock:
    """Take the lock that a file stands for.

    Where the file system knows no locks, the mere presence of another file does, which another computer may overlook: that
    is said.

    Parameters
    ----------
    timeout : s to wait for it; -1 waits as long as it takes

    Raises
    ------
    filelock.Timeout
        Another process has it.
    """
    import filelock

    lock: filelock.BaseFileLock = filelock.FileLock(file, timeout=timeout, fallback_to_soft=False)
    try:
        lock.acquire()
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
        log.warning(
            "The file system of %s does not support locks: do not write to this cell from another computer at the same time.",
            file.parent,
        )
        lock = filelock.SoftFileLock(file.with_suffix(".soft"), timeout=timeout)
        lock.acquire()
    return lock


def let_go(lock: filelock.BaseFileLock) -> None:
    """Remove the file of a lock and let go of it.

    The file goes first, so that nobody waits for one that is about to vanish; except where an open file cannot be removed
    (Windows).
    """
    file = Path(lock.lock_file)
    try:
        file.unlink(missing_ok=True)
        lock.release()
    except PermissionError:
        lock.release()
        with contextlib.suppress(OSError):  # somebody else has taken it
            file.unlink(missing_ok=True)


@contextlib.contextmanager
def held(file: Path, timeout: float = 0) -> Iterator[None]:
    """Hold a lock for a while (see `acquired`)."""
    lock = acquired(file, timeout)
    try:
        yield
    finally:
        lock.release()
