"""Blocks: every voxel once, workers and threads, failures with their box and cause, resume."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import psutil
import pytest

from asem_core.blocks import Run, Work, map_blocks, run_blocks, worker_index
from asem_core.engine.clusters import Cluster
from asem_core.engine.schedule import Schedule
from asem_core.errors import BadInput, BlockFailed, NoSpace
from asem_core.progress import Bar, counted, rate_of, still_at
from asem_core.volume import Box

BOX = Box((2, 0, 1), (12, 11, 13))


@attrs.frozen
class Touch:
    """Write a file per block; fail, or kill the process, where told to."""

    folder: Path
    fail: tuple[int, int, int] | None = None
    how: str = "value"
    wait: float = 0.0
    wait_more: float = 0.0  # s, from the fifth block on

    def __call__(self) -> Work:
        if self.how == "load":
            raise BadInput("The weights are missing.")
        if self.how == "load late":
            try:
                (self.folder / "first").touch(exist_ok=False)
            except FileExistsError:
                time.sleep(2)
            atexit.register((self.folder / f"ended-{os.getpid()}").touch)  # one that is killed leaves none
        (self.folder / f"loaded-{os.getpid()}").touch()
        return self.work

    def work(self, box: Box) -> np.ndarray:
        time.sleep(self.wait_more if self.wait_more and len(calls(self.folder)) >= 4 else self.wait)
        with (self.folder / "calls").open("a") as file:
            file.write(f"{box}\n")
        if box.begin == self.fail:
            if self.how == "value":
                raise ValueError("too dark")
            if self.how == "input":
                raise BadInput("The plane is torn.")
            if self.how == "interrupt":
                raise KeyboardInterrupt
            if self.how == "space":
                raise OSError(28, "No space left on device")
            if self.how == "kill once" and calls(self.folder).count(str(box)) > 1:
                return np.zeros(0)
            os.kill(os.getpid(), signal.SIGKILL)
        return np.array([*box.begin, worker_index()])


def heed_interrupts() -> None:
    """Undo what a shell does to background jobs: there Ctrl-C is ignored, and children inherit that."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def calls(folder: Path) -> list[str]:
    file = folder / "calls"
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 1), (1, 3)])
def test_every_block_once(tmp_path: Path, workers: int, threads: int) -> None:
    """Inline, with processes and with threads, each block is called once and `load` once a process."""
    run_blocks(Touch(tmp_path), BOX, 4, Run(workers=workers, progress=False), name="touch", threads=threads)
    assert sorted(calls(tmp_path)) == sorted(map(str, BOX.blocks(4)))
    assert len(list(tmp_path.glob("loaded-*"))) <= workers
    inline = (tmp_path / f"loaded-{os.getpid()}").exists()
    assert inline == (workers == 1 and threads == 1)


@pytest.mark.parametrize(("block", "skip"), [(12, None), (4, lambda box: box.begin != (6, 4, 5))])
def test_one_block_needs_no_other_process(tmp_path: Path, block: int, skip: Callable[[Box], bool] | None) -> None:
    """Where one block is all there is to do, it is done inline, however many workers there may be."""
    run_blocks(Touch(tmp_path), BOX, block, Run(workers=3, progress=False), name="one", skip=skip)
    assert len(calls(tmp_path)) == 1
    assert [p.name for p in tmp_path.glob("loaded-*")] == [f"loaded-{os.getpid()}"]


def test_no_scheduler_is_left_for_another_thread_to_clear(tmp_path: Path) -> None:
    """daisy's complains on the terminal if any other thread than its own lets go of it."""
    gc.disable()
    try:
        run_blocks(Touch(tmp_path), BOX, 5, Run(progress=False), name="t")
        assert not any(isinstance(o, Schedule) and hasattr(o, "_scheduler") for o in gc.get_objects())
    finally:
        gc.enable()


def test_map_blocks_in_order(tmp_path: Path) -> None:
    """Results come in C order of blocks, whoever made them."""
    found = list(map_blocks(Touch(tmp_path), BOX, 4, Run(workers=2, progress=False), name="map"))
    assert [box for box, _ in found] == list(BOX.blocks(4))
    assert all(tuple(result[:3]) == box.begin and result[3] in (0, 1) for box, result in found)


def test_command_of_a_cluster(tmp_path: Path) -> None:
    """A command starts the workers; here one that changes their environment."""
    elsewhere = Cluster("here", "command", workers=1, options="env ASEM_TEST_LAUNCHED=yes", address="127.0.0.1")
    run = Run(progress=False, on=elsewhere, scratch=tmp_path / "scratch")
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
    """No space stops the run at once and says that finished blocks are kept, where there are any and they are."""
    run = Run(workers=workers, progress=False, scratch=tmp_path / "scratch")
    with pytest.raises(NoSpace, match="disk is full.*Finished blocks are kept"):
        run_blocks(Touch(tmp_path, (6, 4, 5), "space"), BOX, 4, run, name="bad")


@pytest.mark.parametrize("kept", [True, False])
def test_nothing_that_is_not_there_is_said_to_be_kept(tmp_path: Path, kept: bool) -> None:
    """Neither before the first block is finished, nor where results lie in a temporary folder."""
    run = Run(progress=False, scratch=tmp_path / "scratch" if kept else None)
    at = (2, 0, 1) if kept else (6, 4, 5)
    with pytest.raises(NoSpace, match="disk is full") as full:
        run_blocks(Touch(tmp_path, at, "space"), BOX, 4, run, name="bad")
    assert "kept" not in str(full.value)
    with pytest.raises(KeyboardInterrupt, match="^Interrupted.*un the same command again.$") as stop:
        run_blocks(Touch(tmp_path, at, "interrupt"), BOX, 4, run, name="stopped")
    assert "kept" not in str(stop.value)


def test_dying_worker(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A block that kills each process that tries it does not hang the run, which says how they ended, and what to do."""
    with pytest.raises(
        BlockFailed,
        match=r"deadly: 1 block is not done.*worker processes ended early \(killed by SIGKILL\).*memory.*same command",
    ):
        run_blocks(Touch(tmp_path, (8, 6, 7), "kill"), BOX, 6, Run(workers=2, progress=False), name="deadly")
    assert capfd.readouterr().err == ""
    assert calls(tmp_path).count("[8:12, 6:11, 7:13]") == 3


def test_a_worker_that_dies_once_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its block is done again, and one sentence tells of it."""
    mortal = Touch(
        tmp_path, (6, 4, 5), "kill once", wait=0.1
    )  # or the other worker has done the rest before it is told
    run_blocks(mortal, BOX, 4, Run(workers=2, progress=False), name="mortal")
    assert set(calls(tmp_path)) == set(map(str, BOX.blocks(4)))
    assert [r.message for r in caplog.records] == ["mortal: a worker ended early (killed by SIGKILL) and is replaced."]
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("workers", [1, 2])
def test_load_fails(tmp_path: Path, workers: int) -> None:
    """What goes wrong before the first block is said as it is."""
    with pytest.raises(BadInput, match="weights are missing"):
        run_blocks(Touch(tmp_path, how="load"), BOX, 4, Run(workers=workers, progress=False), name="unloadable")


@pytest.mark.parametrize("to_all", [True, False])
@pytest.mark.parametrize(("workers", "threads"), [(1, 1), (2, 1), (1, 2)])
def test_interrupt_stops_soon_and_resumes(tmp_path: Path, workers: int, threads: int, to_all: bool) -> None:
    """Ctrl-C ends the program without waiting for its blocks, with one sentence and with all its processes.

    Sent to all processes, as a terminal does, or to the main one. The rest, and only the rest, is done by the same run
    started again.
    """
    program = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from test_blocks import Touch, BOX\n"
        "from asem_core.blocks import Run, run_blocks\n"
        "import asem_core.cli as cli, typer\n"
        "app = typer.Typer(cls=cli._Commands)\n"
        "@app.command()\n"
        "def go() -> None:\n"
        f"    run_blocks(Touch(Path({str(tmp_path)!r}), wait=0.15, wait_more=600), BOX, 4, "
        f"Run(workers={workers}, progress=False, scratch=Path({str(tmp_path / 'scratch')!r})), name='slow', "
        f"threads={threads})\n"
        "@app.command()\n"
        "def other() -> None: ...\n"
        "cli.make_app = lambda command: app\n"
        "sys.argv[1:] = ['go']\n"
        "cli.main()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while len(calls(tmp_path)) < 4:
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.3)
    family = family_of(process.pid)
    assert len(family) == (1 + workers if workers * threads > 1 else 1)
    (os.killpg if to_all else os.kill)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    kept = re.fullmatch(
        r"Interrupted. Finished blocks \((\d+) of 27\) are kept: run the same command again to resume.\n", said
    )
    assert kept, said
    assert int(kept[1]) <= len(set(calls(tmp_path)))
    assert not living(family)
    before = calls(tmp_path)
    run = Run(workers=workers, progress=False, scratch=tmp_path / "scratch")
    run_blocks(Touch(tmp_path), BOX, 4, run, name="slow", threads=threads)
    everything = calls(tmp_path)
    assert set(everything) == set(map(str, BOX.blocks(4)))
    repeated = len(everything) - len(set(everything))
    at_once = workers * threads
    assert repeated <= 2 * at_once, f"{repeated} blocks were done twice, of {len(before)} done before the interrupt"


def test_a_program_that_ends_slowly_after_ctrl_c_is_quiet(tmp_path: Path) -> None:
    """A script takes its time to end, as on a busy machine: it still says its own exception only, and leaves no process."""
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys, time; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "from pathlib import Path; from test_blocks import Touch, BOX\n"
        "from asem_core.blocks import Run, run_blocks\n"
        "if __name__ == '__main__':\n"
        "    try:\n"
        f"        run_blocks(Touch(Path({str(tmp_path)!r}), wait=0.5), BOX, 4, Run(workers=2, progress=False), name='slow')\n"
        "    finally:\n"
        "        time.sleep(1.5)\n"
    )
    process = subprocess.Popen(
        [sys.executable, str(script)], stderr=subprocess.PIPE, text=True, preexec_fn=heed_interrupts, start_new_session=True
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not calls(tmp_path):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    family = family_of(process.pid)
    os.kill(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert said.count("Traceback") == 1
    assert said.rstrip().splitlines()[-1].startswith("KeyboardInterrupt: Interrupted")
    assert not living(family)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a process with its parent")
def test_a_worker_that_is_starting_ends_with_its_parent(tmp_path: Path) -> None:
    """Killed while a worker loads its libraries, long before it knows its run: the worker is gone, too."""
    (tmp_path / "numpy.py").write_text("import time; open('loading', 'w').close(); time.sleep(600)")
    program = (
        "import subprocess, sys\n"
        "subprocess.Popen([sys.executable, '-m', 'asem_core.engine.local_worker', '-', '0'], stdin=subprocess.PIPE,\n"
        "                 start_new_session=True).wait()"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    parent = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path, env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "loading").exists():
        assert time.monotonic() < deadline
        assert parent.poll() is None
        time.sleep(0.02)
    family = family_of(parent.pid)
    assert len(family) == 2
    parent.kill()
    parent.wait()
    assert not living(family)


def family_of(pid: int) -> list[psutil.Process]:
    """List a process and all that it started."""
    return [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]


def living(processes: list[psutil.Process], within: float = 60) -> list[psutil.Process]:
    """List those that have not ended after so many seconds; one that ended but was not waited for has ended."""

    def lives(process: psutil.Process) -> bool:
        try:
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    deadline = time.monotonic() + within
    while (found := [p for p in processes if lives(p)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def test_a_worker_that_comes_too_late_is_no_news(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some that start late find that all is done: they end by themselves, and nobody is told."""
    monkeypatch.setattr("asem_core.engine.crew.ENDS_WITHIN", 100)
    late = Touch(tmp_path, how="load late")
    run_blocks(late, Box((0, 0, 0), (4, 8, 8)), 4, Run(workers=4, progress=False), name="short")
    assert len(list(tmp_path.glob("ended-*"))) == len(list(tmp_path.glob("loaded-*"))) > 0
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("speed", "said"),
    [(0.4, "0.4 voxel/s"), (999.6, "1 kvoxel/s"), (2345.0, "2.35 kvoxel/s"), (9.65e6, "9.65 Mvoxel/s")],
)
def test_rates(speed: float, said: str) -> None:
    """Three digits in a fitting unit: never 0.00."""
    assert rate_of(speed, "voxel") == said


@pytest.mark.parametrize("done", [1, 5])
def test_numbers_are_whole_in_80_columns(
    done: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The name and the bar are shortened, not the counts, the rate, and the times, which are told from the first block on."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("FORCE_COLOR", "1")  # a terminal, for rich
    with Bar("predict-membrane-fibsem-10nm", Box((0, 0, 0), (640, 640, 640)), (64, 64, 64), True) as bar:
        for _ in range(done):
            time.sleep(0.02)
            bar.advance()
    line = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", capfd.readouterr().err.replace("\r", "\n")).splitlines()[-1]
    assert len(line.rstrip()) <= 80
    assert line.startswith("predict-")
    assert re.search(rf" {done}/1000 blocks [\d.]+ Mvoxel/s elapsed 0:00:00, left \d:\d\d:\d\d", line)


@pytest.mark.parametrize(
    ("error", "end"),
    [
        (None, r"predict: done in 0:00:00"),
        (KeyboardInterrupt(), r"predict: interrupted after 0:00:00, at 3/1000"),
        (ValueError("no"), r"predict: ended by an error \(ValueError\) after 0:00:00, at 3/1000"),
    ],
    ids=["done", "interrupted", "error"],
)
def test_a_log_has_plain_lines(
    error: BaseException | None, end: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal, long work says now and then how far it is, as plain lines, and at last what ended it."""
    monkeypatch.setattr("asem_core.progress.LINE_EVERY_S", 0.2)
    shown = Bar("predict", Box((0, 0, 0), (640, 640, 640)), (64, 64, 64), True)
    with contextlib.suppress(KeyboardInterrupt, ValueError), shown as bar:
        for _ in range(3):
            time.sleep(0.03)
            bar.advance()
        time.sleep(0.3)
        if error is not None:
            raise error
    first, *_, last = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"predict: 3/1000 blocks [\d.]+ Mvoxel/s elapsed 0:00:00, left \d:\d\d:\d\d", first)
    assert re.fullmatch(end, last)


def test_work_of_unknown_length_says_that_it_goes_on(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal: since when, now and then, and at last that it is done."""
    monkeypatch.setattr("asem_core.progress.LINE_EVERY_S", 0.1)
    with still_at("cut"):
        time.sleep(0.25)
    first, *_, last = capfd.readouterr().err.splitlines()
    assert (first, last) == ("cut: elapsed 0:00:00", "cut: done in 0:00:00")


def test_counted_work_says_how_much_is_done(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a terminal: how many of how many, and the time left; every item is gone through."""
    monkeypatch.setattr("asem_core.progress.LINE_EVERY_S", 0.1)
    for plane in (went := counted("movie", range(3), "planes")):
        time.sleep(0.25 if plane == 1 else 0)
    assert list(went) == []
    first, *_, last = capfd.readouterr().err.splitlines()
    assert re.fullmatch(r"movie: 1/3 planes elapsed 0:00:00, left .*", first)
    assert last == "movie: done in 0:00:00"


def test_short_work_leaves_a_log_alone(capfd: pytest.CaptureFixture[str]) -> None:
    """What is done before the first line is due says nothing."""
    with Bar("crop", Box((0, 0, 0), (8, 8, 8)), (4, 4, 4), True) as bar:
        bar.advance()
    assert capfd.readouterr().err == ""
