"""Blocks: every voxel once, workers and threads, failures with their box and cause, resume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import attrs
import numpy as np
import pytest

from asem_core.blocks import Run, Work, map_blocks, run_blocks, worker_index
from asem_core.errors import BadInput, BlockFailed, NoSpace
from asem_core.volume import Box

BOX = Box((2, 0, 1), (12, 11, 13))


@attrs.frozen
class Touch:
    """Write a file per block; fail, or kill the process, where told to."""

    folder: Path
    fail: tuple[int, int, int] | None = None
    how: str = "value"
    wait: float = 0.0

    def __call__(self) -> Work:
        if self.how == "load":
            raise BadInput("The weights are missing.")
        (self.folder / f"loaded-{os.getpid()}").touch()
        return self.work

    def work(self, box: Box) -> np.ndarray:
        time.sleep(self.wait)
        with (self.folder / "calls").open("a") as file:
            file.write(f"{box}\n")
        if box.begin == self.fail:
            if self.how == "value":
                raise ValueError("too dark")
            if self.how == "input":
                raise BadInput("The plane is torn.")
            if self.how == "space":
                raise OSError(28, "No space left on device")
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([*box.begin, worker_index()])


def heed_interrupts() -> None:
    """Undo what a shell does to background jobs: there Ctrl-C is ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 1), (1, 3)])
def test_every_block_once(tmp_path: Path, workers: int, threads: int) -> None:
    """Inline, with processes and with threads, each block is called once and `load` once a process."""
    run_blocks(Touch(tmp_path), BOX, 4, Run(workers=workers, progress=False), name="touch", threads=threads)
    assert sorted(calls(tmp_path)) == sorted(map(str, BOX.blocks(4)))
    assert len(list(tmp_path.glob("loaded-*"))) <= workers
    inline = (tmp_path / f"loaded-{os.getpid()}").exists()
    assert inline == (workers == 1 and threads == 1)


def test_map_blocks_in_order(tmp_path: Path) -> None:
    """Results come in C order of blocks, whoever made them."""
    found = list(map_blocks(Touch(tmp_path), BOX, 4, Run(workers=2, progress=False), name="map"))
    assert [box for box, _ in found] == list(BOX.blocks(4))
    assert all(tuple(result[:3]) == box.begin and result[3] in (0, 1) for box, result in found)


def test_launcher(tmp_path: Path) -> None:
    """A launcher command starts the workers; here one that changes their environment."""
    run = Run(workers=1, progress=False, launcher="env ASEM_TEST_LAUNCHED=yes", scratch=tmp_path / "scratch")
    run_blocks(Touch(tmp_path), BOX, 6, run, name="launched")
    assert sorted(calls(tmp_path)) == sorted(map(str, BOX.blocks(6)))


def test_skip(tmp_path: Path) -> None:
    """Skipped blocks are never called."""
    run_blocks(Touch(tmp_path), BOX, 4, Run(progress=False), name="some", skip=lambda box: box.begin[0] != 6)
    assert sorted(calls(tmp_path)) == sorted(str(b) for b in BOX.blocks(4) if b.begin[0] == 6)


@pytest.mark.parametrize("workers", [1, 2])
def test_failing_block(tmp_path: Path, workers: int) -> None:
    """A failing block is tried three times and named with its cause; the others are done and not redone on resume."""
    run = Run(workers=workers, progress=False, scratch=tmp_path / "scratch")
    with pytest.raises(
        BlockFailed, match=r"\[6:10, 4:8, 5:9\] failed 3 times: ValueError: too dark.*same command again"
    ):
        run_blocks(Touch(tmp_path, (6, 4, 5)), BOX, 4, run, name="bad")
    assert calls(tmp_path).count("[6:10, 4:8, 5:9]") == 3
    (tmp_path / "calls").unlink()
    run_blocks(Touch(tmp_path), BOX, 4, run, name="bad")
    assert calls(tmp_path) == ["[6:10, 4:8, 5:9]"]


@pytest.mark.parametrize("workers", [1, 2])
def test_error_for_people_keeps_its_type(tmp_path: Path, workers: int) -> None:
    """An AsemError is not retried, and arrives as what it was, with the block."""
    with pytest.raises(BadInput, match=r"The plane is torn\. \(block \[6:10, 4:8, 5:9\]\)"):
        run_blocks(Touch(tmp_path, (6, 4, 5), "input"), BOX, 4, Run(workers=workers, progress=False), name="bad")
    assert calls(tmp_path).count("[6:10, 4:8, 5:9]") == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_full_disk(tmp_path: Path, workers: int) -> None:
    """No space stops the run at once and says that finished blocks are kept."""
    with pytest.raises(NoSpace, match="disk is full.*Finished blocks are kept"):
        run_blocks(Touch(tmp_path, (2, 0, 1), "space"), BOX, 4, Run(workers=workers, progress=False), name="bad")


def test_dying_worker(tmp_path: Path) -> None:
    """A block that kills its process is reported, and does not hang the run."""
    with pytest.raises(BlockFailed):
        run_blocks(Touch(tmp_path, (8, 6, 7), "kill"), BOX, 6, Run(workers=2, progress=False), name="deadly")


@pytest.mark.parametrize("workers", [1, 2])
def test_load_fails(tmp_path: Path, workers: int) -> None:
    """What goes wrong before the first block is said as it is."""
    with pytest.raises(BadInput, match="weights are missing"):
        run_blocks(Touch(tmp_path, how="load"), BOX, 4, Run(workers=workers, progress=False), name="unloadable")


@pytest.mark.parametrize("workers", [1, 2])
def test_interrupt_stops_soon_and_resumes(tmp_path: Path, workers: int) -> None:
    """Ctrl-C ends the run within two seconds; the rest, and only the rest, is done by the same run started again."""
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from test_blocks import Touch, BOX\n"
        "from asem_core.blocks import Run, run_blocks\n"
        f"run_blocks(Touch(Path({str(tmp_path)!r}), wait=0.15), BOX, 4, "
        f"Run(workers={workers}, progress=False, scratch=Path({str(tmp_path / 'scratch')!r})), name='slow')"
    )
    process = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, preexec_fn=heed_interrupts)
    deadline = time.monotonic() + 60
    while not (tmp_path / "calls").exists() or len(calls(tmp_path)) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    sent = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) != 0
    assert time.monotonic() - sent < 2
    time.sleep(0.5)  # a worker may still end its last block
    before = calls(tmp_path)
    run = Run(workers=workers, progress=False, scratch=tmp_path / "scratch")
    run_blocks(Touch(tmp_path), BOX, 4, run, name="slow")
    everything = calls(tmp_path)
    assert set(everything) == set(map(str, BOX.blocks(4)))
    repeated = len(everything) - len(set(everything))
    assert repeated <= 2 * workers, f"{repeated} blocks were done twice, of {len(before)} done before the interrupt"
