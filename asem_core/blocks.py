"""Run a function over the blocks of a volume: on several processes, resumable, with progress.

A thin layer over daisy, which schedules the blocks, keeps done markers on disk and restarts workers that die.

One rule makes every stage safe: a block writes only its own voxels, and is marked done after they are written. So a
run can be killed at any moment and started again: finished blocks are not computed twice, and the result is the same.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, Self

import attrs
import numpy as np

from asem_core.engine.interrupt import run_stoppable, silenced
from asem_core.engine.machine import available_cores
from asem_core.engine.progress import Bar
from asem_core.engine.worker import ATTEMPTS, GIVE_UP_AFTER, Job, Load, Work, serve
from asem_core.errors import BlockFailed
from asem_core.volume import Box, Zyx, as_zyx

__all__ = ["Load", "Run", "Work", "map_blocks", "run_blocks", "worker_index"]

log = logging.getLogger("asem_core")


@attrs.frozen
class Run:
    """How a stage runs.

    Parameters
    ----------
    workers
        1 runs inline, in this process; more start as many local processes, but no more than there are blocks.
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
    unit: str = "voxel",
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
    unit
        What `box` counts, for the rate that the progress bar shows.

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
    skipped = None if skip is None else np.array([skip(tile) for tile in box.blocks(block)], bool)
    num_blocks = int(np.prod(_grid(box, block)) if skipped is None else np.count_nonzero(~skipped))
    run = attrs.evolve(run, workers=max(1, min(run.workers, num_blocks)))  # to start a process takes seconds
    with _notes_folder(run) as folder:
        job = Job(load, box, block, name, folder, run.workers)
        job.forget_failures()
        inline = run.workers <= 1 and threads == 1 and not run.launcher
        with Bar(name, box, block, shown=run.progress, unit=unit) as bar, _shared_cores(run.workers):
            try:
                states = _run_daisy(job, run, skipped, threads, inline, bar)
            except KeyboardInterrupt:  # daisy's own has words of daisy's
                raise KeyboardInterrupt from None
        job.raise_failures()
        if states.completed_count < states.total_block_count:
            cause = (states.last_worker_error or "a worker process died; was it killed for lack of memory?").strip()
            raise BlockFailed(f"{name}: {states.failed_count} blocks failed: {cause.splitlines()[-1]}")


def map_blocks(
    load: Load, box: Box, block: int | Zyx, run: Run, *, name: str, unit: str = "voxel"
) -> Iterator[tuple[Box, np.ndarray]]:
    """Run as `run_blocks`, and yield (block, the array `load()(block)` returned) in C order.

    Results wait on disk, in `run.scratch`, so only one is in memory at a time.
    """
    block = as_zyx(block)
    with _notes_folder(run) as folder:
        results = folder / f"{name}-{_key(box, block)}-results"
        results.mkdir(parents=True, exist_ok=True)
        scratch = run if run.scratch is not None else attrs.evolve(run, scratch=folder)
        run_blocks(_SaveResults(load, results), box, block, scratch, name=name, unit=unit)
        for tile in box.blocks(block):
            yield tile, np.load(_result_file(results, tile), allow_pickle=False)


def worker_index() -> int:
    """Number of this worker process, from 0: for example which GPU is its own. 0 outside of workers."""
    return int(os.environ.get("ASEM_WORKER", "0"))


# --- the parent's side ------------------------------------------------------------------------------------------


def _run_daisy(job: Job, run: Run, skipped: np.ndarray | None, threads: int, inline: bool, bar: Bar) -> Any:
    import daisy.v2 as daisy
    from daisy.logging import set_log_basedir, set_log_level

    set_log_basedir(None)  # daisy would make a folder of logs beside the user's data
    # Its warnings, for example of a worker that came up when the others had done all blocks, are no news to a user.
    # Failures do not come this way: they are noted in files, and raised.
    set_log_level(logging.NOTSET if log.isEnabledFor(logging.INFO) else logging.ERROR)
    mask = None if skipped is None else skipped.astype(np.uint8).reshape(_grid(job.box, job.block))
    total = daisy.Roi((0, 0, 0), job.box.shape)
    tile = daisy.Roi((0, 0, 0), job.block)
    job.folder.mkdir(parents=True, exist_ok=True)
    stopping = contextlib.ExitStack()
    task = daisy.Task(
        task_id=job.name,
        total_roi=total,
        read_roi=tile,
        write_roi=tile,
        process_function=_inline_function(job, bar, stopping)
        if inline
        else _worker_function(job, run.launcher, threads),
        read_write_conflict=False,
        fit="shrink",
        max_workers=run.workers,
        max_retries=ATTEMPTS - 1,
        max_worker_restarts=GIVE_UP_AFTER,
        timeout=None,
        tracking_path=str(job.folder / f"{job.name}-{_key(job.box, job.block)}"),
        skip_mask=mask,
    )
    if inline:
        with stopping:
            states = daisy.run_blockwise(task, multiprocessing=False, progress=False, summary=False, return_states=True)
    else:
        host = None if run.launcher else "127.0.0.1"
        run_on = partial(daisy.Server().run_blockwise, task, progress=bar, summary=False, host=host)
        states = run_stoppable(run_on)
    return states[job.name]


def _grid(box: Box, block: Zyx) -> Zyx:
    return as_zyx([-(-n // b) for n, b in zip(box.shape, block, strict=True)])


def _inline_function(job: Job, bar: Bar, stopping: contextlib.ExitStack) -> Callable[[Any], None]:
    work: Work | None = None

    def process(block: Any) -> None:
        nonlocal work
        import daisy.v2 as daisy

        if work is None:
            work = job.load()
        try:
            done = job.attempt(work, job.tile(block))
        except KeyboardInterrupt:
            stopping.enter_context(silenced())  # daisy would print the traceback
            raise
        if done:
            bar.advance()
        else:
            block.status = daisy.BlockStatus.FAILED

    return process


def _worker_function(job: Job, launcher: str, threads: int) -> Callable[..., None]:
    if not launcher:

        def start(*, context: Any) -> None:
            serve(job, context, threads)

        return start

    import cloudpickle

    payload = job.folder / f"{job.name}.job"
    job.folder.mkdir(parents=True, exist_ok=True)
    payload.write_bytes(cloudpickle.dumps((job, threads)))
    command = [*shlex.split(launcher), sys.executable, "-m", "asem_core.engine.worker", str(payload)]

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
