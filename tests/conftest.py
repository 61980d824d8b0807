"""What tests share: where the real volumes are."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Callable[[str], Path]:
    """Find a file of the real volume-EM data sets, or skip where they are not installed."""

    def find(name: str) -> Path:
        folder = Path(os.environ.get("ASEM_TEST_DATA", ROOT.parent / "shared" / "data"))
        if not (folder / name).exists():
            pytest.skip(f"real data {name} is not here; set ASEM_TEST_DATA to the folder that holds it")
        return folder / name

    return find
