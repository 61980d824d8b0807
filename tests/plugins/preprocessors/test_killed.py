"""A step killed at any moment and started again gives the result of an unbroken run."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.volume import Volume

PROGRAM = """
import sys
from pathlib import Path
from asem_core.blocks import Run
from asem_core.cell.apply import apply
from asem_core.cell.store import open_volume
from asem_preprocessors.cell_mask import CellMask
from asem_preprocessors.clahe import Clahe
cell = Path(sys.argv[1])
run = Run(workers=2, block=32, progress=False)
raw = open_volume(cell / "raw")
apply(CellMask(darkest=60, brightest=140, opening_vx=1, smallest_vx=50), raw, cell / "mask", run)
apply(Clahe(kernel_vx=32), raw, cell / "raw_clahe", run)
"""


@pytest.mark.slow
def test_killed_ten_times_and_run_to_the_end(image: Callable[..., Volume], tmp_path: Path) -> None:
    """SIGKILL of all processes at random moments, ten times, while a mask and CLAHE are made: bit-identical in the end."""
    volume = image((90, 100, 110))
    for name in ("broken.zarr", "unbroken.zarr"):
        out = create_volume(tmp_path / name / "raw", volume.spec, block=32, made_by={"test": 1})
        out.data[:] = volume.read()  # type: ignore[index]
        finish_volume(out)
    assert start(tmp_path / "unbroken.zarr").wait() == 0
    rng = random.Random(0)
    for number in range(10):
        process = start(tmp_path / "broken.zarr")
        # After so many more files than before, not after so many seconds: how fast a run is must not matter.
        enough = num_files(tmp_path) + rng.randint(1, 12)
        while num_files(tmp_path) < enough:
            assert process.poll() is None, f"run {number} ended before it could be killed"
            time.sleep(0.002)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert start(tmp_path / "broken.zarr").wait() == 0
    for layer in ("mask", "raw_clahe"):
        broken, unbroken = (open_volume(tmp_path / name / layer) for name in ("broken.zarr", "unbroken.zarr"))
        np.testing.assert_array_equal(broken.read(), unbroken.read())


def start(cell: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, str(cell)], start_new_session=True)


def num_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))
