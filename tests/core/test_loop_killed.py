"""A session of the loop whose programs are killed at random moments."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest

from asem_core.cell.store import open_volume
from asem_core.training.rounds import Round, read_round
from asem_core.weights import read_tensors

from .loop_driver import NAME, SHAPE, stroke
from .test_plan import balls, grey_of, write

DRIVER = Path(__file__).with_name("loop_driver.py")
KILLS = 10


class Painter:
    """The program that paints, and what it said."""

    def __init__(self, cell: Path, first: int) -> None:
        command = [sys.executable, str(DRIVER), "paint", str(cell), str(first)]
        env = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=env)
        self.saved: list[int] = []
        self.children: list[int] = []
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            what, number = line.split()
            (self.saved if what == "saved" else self.children).append(int(number))


@contextmanager
def painter(cell: Path, first: int) -> Iterator[Painter]:
    """Paint until the block ends; then kill what is left, and wait until the child that learnt is gone, too."""
    begun = Painter(cell, first)
    yield begun
    begun.process.kill()
    begun.process.wait()
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in begun.children), 120)


def wait_until(true: object, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, "this did not happen in time"
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.skipif(sys.platform != "linux", reason="it looks into /proc for processes that are gone")
def test_killed_at_random_moments(tmp_path: Path) -> None:
    """Who paints, or who learns, ten times: no stroke that was saved is lost, and the weights are those of an unbroken session."""
    cell, rng = tmp_path / "cell.zarr", np.random.default_rng(int(os.environ.get("ASEM_SEED", "0")))
    write(cell / "raw", grey_of(balls(7)))
    shutil.copytree(cell, tmp_path / "other.zarr")
    saved: list[int] = []

    def check() -> None:
        on_disk = open_volume(cell / "seeds" / NAME).read() if saved else np.zeros(SHAPE, np.uint8)
        for number in saved:
            where, value = stroke(number)
            assert (on_disk[where] == value).all(), f"stroke {number} was saved, and is lost"

    with painter(cell, 0) as first:
        begun = time.monotonic()
        wait_until(lambda: (cell / f"loop/{NAME}/rounds/001/round.json").exists(), 1200)
        one_round = time.monotonic() - begun
    saved += first.saved
    check()
    for kill in range(1, KILLS):
        with painter(cell, len(saved)) as now:
            wait_until(lambda: now.children, 300)
            time.sleep(rng.uniform(0, one_round))
            victim = ("painter", "child", "both")[kill % 3]
            if victim != "painter":
                with suppress(ProcessLookupError):
                    os.kill(now.children[-1], signal.SIGKILL)
                if victim == "child":
                    wait_until(lambda: len(now.children) > 1, 300)
        saved += now.saved
        check()
        print(f"kill {kill}, {victim}: {len(saved)} strokes, {len(rounds(cell))} rounds")
    done = subprocess.run(
        [sys.executable, str(DRIVER), "replay", str(cell), str(tmp_path / "other.zarr")],
        env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    check()
    assert len(rounds(cell)) == len(rounds(tmp_path / "other.zarr")) >= 2
    for one, two in zip(rounds(cell), rounds(tmp_path / "other.zarr"), strict=True):
        assert (one.weights, one.strokes) == (two.weights, two.strokes)
        found, same = (read_tensors(c / f"loop/{NAME}" / str(one.weights)) for c in (cell, tmp_path / "other.zarr"))
        assert found.keys() == same.keys()
        assert all(np.array_equal(found[k].numpy(), same[k].numpy()) for k in found), one.number


def rounds(cell: Path) -> list[Round]:
    """List the finished rounds."""
    return [read_round(p) for p in sorted((cell / f"loop/{NAME}/rounds").glob("*/round.json"))]
