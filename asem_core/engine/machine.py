"""What this machine has."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


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


def _is_writable(folder: Path) -> bool:
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    return nearest.is_dir() and os.access(nearest, os.W_OK | os.X_OK)
