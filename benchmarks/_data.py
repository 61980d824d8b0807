"""Where the real volumes are, for benchmarks."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def data_path(name: str) -> Path:
    """Return the path of a real data file, or leave with a sentence that says how to point to it."""
    root = Path(__file__).resolve().parent.parent
    folder = Path(os.environ.get("ASEM_TEST_DATA", root.parent / "shared" / "data"))
    if not (folder / name).exists():
        sys.exit(f"{folder / name} is not here. Set ASEM_TEST_DATA to the folder that holds the real volumes.")
    return folder / name


def hardware() -> str:
    """Name this machine's processor and core count, for the last line of every benchmark."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Python {platform.python_version()}"
