"""What this machine has."""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# Options of mallopt(3).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -2, -3, -4
_MIB = 1 << 20


def available_cores() -> int:
    """Count the cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else (os.cpu_count() or 1)


def keep_compiled_functions() -> None:
    """Have compiled functions kept in the temporary folder where neither the program's folder nor the user's cache is writable.

    numba refuses to load functions that it is to keep and cannot. Other programs of the user, or workers, find them there.
    """
    import platformdirs

    from asem_core.engine.done import private_folder

    usual = (Path(__file__).parent, platformdirs.user_cache_path("numba", appauthor=False))
    if "NUMBA_CACHE_DIR" not in os.environ and not any(map(_is_writable, usual)):
        user = os.getuid() if hasattr(os, "getuid") else "user"
        os.environ["NUMBA_CACHE_DIR"] = str(private_folder(Path(tempfile.gettempdir()) / f".asem-numba-{user}"))


def set_up_torch() -> None:
    """Before torch is loaded, choose what it reads from the environment, unless the user did.

    Large maps come to lie in large pages of memory, where the system has them: a fifth less time in training. OpenMP's idle threads sleep:
    by default they spin while threads of others, as of our convolutions, work, and took half of a prediction's processor time.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")


def keep_freed_memory() -> bool:
    """From now on, keep memory that was freed instead of giving it back to the system, which fills each page with zeros again.

    Training and prediction on a CPU free and take the same maps again and again. Does nothing, and returns False, without glibc, or where
    MALLOC_... is set in the environment.
    """
    change = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if change is None or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    for option, value in ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * _MIB)):
        change(option, value)
    return True


@contextmanager
def freed_memory_kept() -> Iterator[None]:
    """Within this context, `keep_freed_memory`."""
    if not keep_freed_memory():
        yield
        return
    try:
        yield
    finally:  # where glibc's own adjustment ends in a process of large arrays
        libc = ctypes.CDLL(None)
        for option, value in (
            (_MMAP_MAX, 1 << 16),
            (_MMAP_THRESHOLD, 32 * _MIB),
            (_TRIM_THRESHOLD, 64 * _MIB),
            (_TOP_PAD, 128 << 10),
        ):
            libc.mallopt(option, value)
        libc.malloc_trim(0)


def _is_writable(folder: Path) -> bool:
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
