"""Run a function over the blocks of a volume: on several processes, resumable, with progress.

A thin layer over daisy, which schedules the blocks, keeps done markers on disk and restarts workers that die.

One rule makes every stage safe: a block writes only its own voxels, and is marked done after they are written. So a
run can be killed at any moment and started again: finished blocks are not computed twice, and the result is the same.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import traceback
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import attrs
import numpy as np

from asem_core import errors
from asem_core.errors import AsemError, BlockFailed, NoSpace
from asem_core.machine import available_cores
from asem_core.volume import Box, Zyx, as_zyx

Work = Callable[[Box], Any]
Load = Callable[[], Work]

ATTEMPTS = 3  # a failing block is tried once and retried twice
GIVE_UP_AFTER = 8  # this many failed blocks are a systematic fault: do not grind through the rest


@attrs.frozen
class Run:
    """How a stage runs.

    Parameters
    ----------
    workers
        1 runs inline, in this process; more start as many local processes.
    block
        Block shape in voxels; None leaves the choice to the stage.
    scratch
        Folder for done markers and intermediate results. Kept, it makes the run resumable; None takes a temporary one.
    progress
        Show a bar with rate and time left on standard error.
    launcher
        A command that starts a worker elsewhere (for example `srun -n1 --gres=gpu:1`); empty starts it here.
    """

    workers: int = 1
    block: Zyx | None = attrs.field(default=None, converter=attrs.converters.optional(as_zyx))
    scratch: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    progress: bool = True
    launcher: str = ""

    def within(self, name: str) -> Self:
        """Return the same run with its scratch folder one level deeper."""
        return self if self.scratch is None else attrs.evolve(self, scratch=self.scratch / name)


def run_blocks(
    load: Load,
    box: Box,
    block: int | Zyx,
    run: Run,
    *,
    name: str,
    skip: Callable[[Box], bool] | None = None,
    threads: int = 1,
) -> None:
    """Call `load()(b)` for every block `b` of `box`.

    Parameters
    ----------
    load
        Called once in every worker process (to load a network, open a volume); returns the function of blocks.
        It travels to other processes, so it must pickle.
    box, block
        What to tile and the shape of a tile, in voxels. Tiles start at `box.begin`; the last of an axis may be smaller.
    name
        What the progress bar and messages call this work, and the folder of its done markers in `run.scratch`.
    skip
        Says, before the run starts, which blocks to leave out.
    threads
        Blocks that one worker has in hand at once, each in its own thread, so that reading, computing and writing
        overlap. With more than one even a single worker is a process of its own.

    Raises
    ------
    BlockFailed
        A block failed three times. The others are finished (unless eight failed: then the run stops early).
    NoSpace
        The disk is full. Finished blocks stay.
    """
    if box.is_empty:
        return
    block = as_zyx(block)
    with _notes_folder(run) as folder:
        job = _Job(load, box, block, name, folder, run.workers)
        job.forget_failures()
        inline = run.workers <= 1 and threads == 1 and not run.launcher
        with _Bar(name, box, block, shown=run.progress) as bar, _shared_cores(run.workers):
            states = _run_daisy(job, run, skip, threads, inline, bar)
        job.raise_failures()
        if states.completed_count < states.total_block_count:
            cause = (states.last_worker_error or "a worker process died; was it killed for lack of memory?").strip()
            raise BlockFailed(f"{name}: {states.failed_count} blocks failed: {cause.splitlines()[-1]}")


def map_blocks(load: Load, box: Box, block: int | Zyx, run: Run, *, name: str) -> Iterator[tuple[Box, np.ndarray]]:
    """Run as `run_blocks`, and yield (block, the array `load()(block)` returned) in C order.

    Results wait on disk, in `run.scratch`, so only one is in memory at a time.
    """
    block = as_zyx(block)
    with _notes_folder(run) as folder:
        results = folder / f"{name}-{_key(box, block)}-results"
        results.mkdir(parents=True, exist_ok=True)
        scratch = run if run.scratch is not None else attrs.evolve(run, scratch=folder)
        run_blocks(_SaveResults(load, results), box, block, scratch, name=name)
        for tile in box.blocks(block):
            yield tile, np.load(_result_file(results, tile), allow_pickle=False)


def worker_index() -> int:
    """Number of this worker process, from 0: for example which GPU is its own. 0 outside of workers."""
    return int(os.environ.get("ASEM_WORKER", "0"))


# --- the parent's side ------------------------------------------------------------------------------------------


def _run_daisy(job: _Job, run: Run, skip: Callable[[Box], bool] | None, threads: int, inline: bool, bar: _Bar) -> Any:
    import daisy.v2 as daisy
    from daisy.logging import set_log_basedir

    set_log_basedir(None)  # daisy would make a folder of logs beside the user's data
    grid = as_zyx([-(-n // b) for n, b in zip(job.box.shape, job.block, strict=True)])
    mask = None
    if skip is not None:
        mask = np.array([skip(tile) for tile in job.box.blocks(job.block)], np.uint8).reshape(grid)
    total = daisy.Roi((0, 0, 0), job.box.shape)
    tile = daisy.Roi((0, 0, 0), job.block)
    job.folder.mkdir(parents=True, exist_ok=True)
    task = daisy.Task(
        task_id=job.name,
        total_roi=total,
        read_roi=tile,
        write_roi=tile,
        process_function=_inline_function(job, bar) if inline else _worker_function(job, run.launcher, threads),
        read_write_conflict=False,
        fit="shrink",
        max_workers=max(1, run.workers),
        max_retries=ATTEMPTS - 1,
        max_worker_restarts=GIVE_UP_AFTER,
        timeout=None,
        tracking_path=str(job.folder / f"{job.name}-{_key(job.box, job.block)}"),
        skip_mask=mask,
    )
    if inline:
        states = daisy.run_blockwise(task, multiprocessing=False, progress=False, summary=False, return_states=True)
    else:
        host = None if run.launcher else "127.0.0.1"
        states = daisy.Server().run_blockwise(task, progress=bar, summary=False, host=host)
    return states[job.name]


def _inline_function(job: _Job, bar: _Bar) -> Callable[[Any], None]:
    work: Work | None = None

    def process(block: Any) -> None:
        nonlocal work
        import daisy.v2 as daisy

        if work is None:
            work = job.load()
        if job.attempt(work, job.tile(block)):
            bar.advance()
        else:
            block.status = daisy.BlockStatus.FAILED

    return process


def _worker_function(job: _Job, launcher: str, threads: int) -> Callable[..., None]:
    if not launcher:

        def serve(*, context: Any) -> None:
            _serve(job, context, threads)

        return serve

    import cloudpickle

    payload = job.folder / f"{job.name}.job"
    job.folder.mkdir(parents=True, exist_ok=True)
    payload.write_bytes(cloudpickle.dumps((job, threads)))
    command = [*shlex.split(launcher), sys.executable, "-m", "asem_core.blocks", str(payload)]

    def launch(*, context: Any) -> None:
        subprocess.run(command, env={**os.environ, "DAISY_CONTEXT": context.to_env()}, check=True)

    return launch


@contextlib.contextmanager
def _notes_folder(run: Run) -> Iterator[Path]:
    if run.scratch is not None:
        yield run.scratch
    else:
        folder = tempfile.mkdtemp(prefix="asem-")
        try:
            yield Path(folder)
        finally:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _shared_cores(workers: int) -> Iterator[None]:
    """Let the numeric libraries of each worker use its share of the cores, unless the user has set them."""
    share = str(max(1, available_cores() // max(1, workers)))
    names = [n for n in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS") if n not in os.environ]
    if workers > 1:
        os.environ.update(dict.fromkeys(names, share))
    try:
        yield
    finally:
        for n in names if workers > 1 else ():
            os.environ.pop(n, None)


class _Bar:
    """Progress in voxels, with rate and time left; also daisy's observer, which calls `on_*` with all counts."""

    def __init__(self, name: str, box: Box, block: Zyx, shown: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f} blocks"),
            TextColumn("{task.fields[rate]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        total = int(np.prod([-(-n // b) for n, b in zip(box.shape, block, strict=True)]))
        self._progress = Progress(*columns, console=Console(stderr=True), disable=not shown, transient=False)
        self._task = self._progress.add_task(name, total=total, rate="")
        self._voxels = box.size / total

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self) -> None:
        self._show(int(self._progress.tasks[0].completed) + 1)

    def on_start(self, states: dict[str, Any]) -> None:
        self.on_progress(states)

    def on_progress(self, states: dict[str, Any]) -> None:
        for state in states.values():
            self._show(int(state.completed_count))

    def on_finish(self, states: dict[str, Any]) -> None:
        self.on_progress(states)

    def _show(self, completed: int) -> None:
        speed = self._progress.tasks[0].speed
        rate = f"{speed * self._voxels / 1e6:.2f} Mvoxel/s" if speed else ""
        self._progress.update(self._task, completed=completed, rate=rate)


# --- the worker's side ------------------------------------------------------------------------------------------


@attrs.frozen
class _Job:
    """What a worker must know. Failures are noted in files, since workers may run on other machines."""

    load: Load
    box: Box
    block: Zyx
    name: str
    folder: Path
    workers: int

    @property
    def _failures(self) -> Path:
        return self.folder / f"{self.name}-failures"

    def tile(self, block: Any) -> Box:
        roi = block.write_roi
        return Box(as_zyx(tuple(roi.begin)), as_zyx(tuple(roi.end))).shift(self.box.begin)

    def attempt(self, work: Work, tile: Box) -> bool:
        """Run one block, retrying twice; note the failure and return False if it does not succeed."""
        for left in reversed(range(ATTEMPTS)):
            if self._note_file(tile).exists() or self._stopped():
                return False
            try:
                work(tile)
                return True
            except Exception as error:
                if left == 0 or _is_fatal(error):
                    self.note(error, tile)
                    return False
        return False

    def note(self, error: Exception, tile: Box | None) -> None:
        self._failures.mkdir(parents=True, exist_ok=True)
        record = {
            "box": str(tile) if tile is not None else None,
            "type": type(error).__name__,
            "message": str(error) or repr(error),
            "fatal": tile is None or _is_fatal(error),
            "no_space": _is_no_space(error),
            "traceback": traceback.format_exc(),
        }
        with contextlib.suppress(OSError):  # a full disk cannot take the note either; an empty file still says "stop"
            self._note_file(tile).write_text(json.dumps(record))

    def _note_file(self, tile: Box | None) -> Path:
        return self._failures / ("load.json" if tile is None else "-".join(map(str, tile.begin)) + ".json")

    def _stopped(self) -> bool:
        if not self._failures.exists():
            return False
        records = self._records()
        return len(records) >= GIVE_UP_AFTER or any(r["fatal"] for r in records)

    def _records(self) -> list[dict[str, Any]]:
        found = []
        for file in sorted(self._failures.glob("*.json")):
            text = file.read_text()
            full = {"box": None, "type": "OSError", "message": "", "fatal": True, "no_space": True, "traceback": ""}
            try:
                found.append(json.loads(text))
            except json.JSONDecodeError:
                found.append(full)
        return found

    def forget_failures(self) -> None:
        shutil.rmtree(self._failures, ignore_errors=True)

    def raise_failures(self) -> None:
        records = self._records()
        if not records:
            return
        if any(r["no_space"] for r in records):
            raise NoSpace(
                f"{self.name}: the disk is full ({self.folder}). Finished blocks are kept: make room, then run the same "
                "command again to go on."
            )
        first = records[0]
        ours = getattr(errors, first["type"], None)  # an AsemError says itself what to do
        where = f" (block {first['box']})" if first["box"] else ""
        if ours is not None:
            raise ours(f"{self.name}: {first['message']}{where}")
        if not where:
            raise BlockFailed(f"{self.name}: a worker could not start: {first['type']}: {first['message']}")
        more = f" {len(records) - 1} more blocks failed too." if len(records) > 1 else ""
        raise BlockFailed(
            f"{self.name}: block {first['box']} failed {ATTEMPTS} times: {first['type']}: {first['message'].rstrip('.')}.{more} "
            "Finished blocks are kept; run the same command again to retry the rest."
        ) from RuntimeError(first["traceback"])


def _serve(job: _Job, context: Any, threads: int) -> None:
    """Work off blocks until there are none: the body of a worker process."""
    import daisy.v2 as daisy

    os.environ["ASEM_WORKER"] = str(max(0, int(context["worker_id"])) % max(1, job.workers))
    work: Work | None = None
    try:
        work = job.load()
    except Exception as error:
        job.note(error, None)

    def loop() -> None:
        client = daisy.Client(context)
        while True:
            with client.acquire_block() as block:
                if block is None:
                    return
                if work is None or not job.attempt(work, job.tile(block)):
                    block.status = daisy.BlockStatus.FAILED

    others = [threading.Thread(target=loop) for _ in range(threads - 1)]
    for thread in others:
        thread.start()
    loop()
    for thread in others:
        thread.join()


def _is_no_space(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, NoSpace) or (isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)):
            return True
        error = error.__cause__ or error.__context__
    return False


def _is_fatal(error: BaseException) -> bool:
    """Tell an error that no retry can mend."""
    return _is_no_space(error) or isinstance(error, AsemError)


@attrs.frozen
class _SaveResults:
    load: Load
    folder: Path

    def __call__(self) -> Work:
        work = self.load()

        def save(tile: Box) -> None:
            target = _result_file(self.folder, tile)
            half = target.with_suffix(".half")
            with half.open("wb") as file:
                np.save(file, work(tile), allow_pickle=False)
            half.replace(target)

        return save


def _result_file(folder: Path, tile: Box) -> Path:
    return folder / ("-".join(map(str, tile.begin)) + ".npy")


def _key(box: Box, block: Zyx) -> str:
    return f"{zlib.crc32(repr((box, block)).encode()):08x}"


def _main() -> None:
    """Serve as a worker that a launcher started: `python -m asem_core.blocks JOBFILE`, context in the environment."""
    import daisy.v2 as daisy

    # The job file is written by this user's own run, in this run's own scratch folder.
    job, threads = pickle.loads(Path(sys.argv[1]).read_bytes())
    _serve(job, daisy.Context.from_env(), threads)


if __name__ == "__main__":
    _main()
