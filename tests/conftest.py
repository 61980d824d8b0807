"""What tests share: the cores, and where the real volumes are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from asem_core.engine.machine import available_cores

ROOT = Path(__file__).resolve().parent.parent

# Side by side (`pytest -n 2`), each process of pytest uses its share of the cores, as workers of `asem` do. Otherwise the
# threads of one wait for cores that those of the other hold, and small networks take ten times as long. The libraries read
# these names when they are loaded, which is later.
SHARE = max(1, available_cores() // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1")))
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, str(SHARE))


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Find a file of the real volume-EM data sets, or skip where they are not installed."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("ASEM_TEST_DATA", ROOT.parent / "shared" / "data"))
        if not (folder / name).exists():
            pytest.skip(f"real data {name} is not here; set ASEM_TEST_DATA to the folder that holds it")
        return folder / name

    return find
