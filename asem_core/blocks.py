"""Run a function over the blocks of a volume: on several processes, resumable, with progress.

daisy schedules the blocks; processes of this user, which a secret admits, work on them.

One rule makes every stage safe: a block writes only its own voxels, and is marked done after they are written. So a
run can be killed at any moment and started again: finished blocks are not computed twice, and the result is the same.
"""

from __future__ import annotations

import contextlib
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self

import attrs
import numpy as np

from asem_core.engine.clusters import Cluster
from asem_core.engine.crew import work_off
from asem_core.engine.done import DoneBlocks, private_folder
from asem_core.engine.interrupt import STOPPED, stopped_at
from asem_core.engine.job import GIVE_UP_AFTER, Job, Load, Work, full_disk_in_words, raise_failures
from asem_core.engine.machine import available_cores
from asem_core.engine.schedule import Schedule
from asem_core.errors import BadInput, BlockFailed, Option
from asem_core.progress import Bar
from asem_core.temporary import temporary_folder, write_whole
from asem_core.volume import LARGEST_EDGE, Box, Zyx, as_zyx

__all__ = ["Load", "Run", "Work", "is_worker", "map_blocks", "run_blocks", "temporary_folder", "worker_index"]


MOST_BLOCKS = 10**8
"""In one run: a file may state any shape, and each block takes a byte of memory."""


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
    on
        The cluster whose machines work; its number of workers counts, not `workers`. None: this machine.
    told
        Is told after each block: the name of the work, blocks done, blocks in all.
    """

    workers: int = 1
    block: Zyx | None = attrs.field(default=None, converter=attrs.converters.optional(as_zyx))

    @block.validator
    def _check_block(self, _: object, block: Zyx | None) -> None:
        if block is not None and not all(0 < edge <= LARGEST_EDGE for edge in block):
            raise BadInput(f"A block has 1 to {LARGEST_EDGE} voxels along an edge, not {list(block)}.")

    scratch: Path | None = attrs.field(default=None, converter=attrs.converters.optional(Path))
    progress: bool = True
    on: Cluster | None = None
    told: Callable[[str, int, int], None] | None = attrs.field(default=None, eq=False)

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
    BadInput
        There would be more than `MOST_BLOCKS`.
    """
    if box.is_empty:
        return
    block = as_zyx(block)
    if (num_tiles := math.prod(-(-n // b) for n, b in zip(box.shape, block, strict=True))) > MOST_BLOCKS:
        raise BadInput(
            f"{name}: a volume of {' x '.join(map(str, box.shape))} voxels has {num_tiles:.3g} blocks of {list(block)}; the "
            f"limit is {MOST_BLOCKS:.0e}. Is its stated shape right? If so, choose larger blocks (",
            Option("block"),
            ").",
        )
    with contextlib.ExitStack() as stack:
        stack.enter_context(full_disk_in_words(name, run.scratch or Path(tempfile.gettempdir())))
        folder = stack.enter_context(_notes_folder(run, name, box, block))
        job = Job(load, box, block, name)
        notes = DoneBlocks(folder / "done", box, block)
        leave_out = notes.read()
        num_before = int(np.count_nonzero(leave_out))
        if skip is not None:
            leave_out |= np.array([skip(tile) for tile in box.blocks(block)], bool).reshape(notes.grid)
        num_blocks = int(np.count_nonzero(~leave_out))
        if num_blocks == 0:
            return
        workers = max(1, min(run.on.workers if run.on else run.workers, num_blocks))  # to start a process takes seconds
        bar = stack.enter_context(
            Bar(name, box, block, shown=run.progress, unit=unit, done=leave_out.size - num_blocks)
        )
        patience = GIVE_UP_AFTER + (workers if run.on else 0)  # of many machines some may be lost at once

        def advance() -> None:
            bar.advance()
            if run.told is not None:
                run.told(name, leave_out.size - num_blocks + schedule.num_done, leave_out.size)

        schedule = Schedule(job, leave_out, stack.enter_context(notes.writing()), advance, patience)
        stack.callback(schedule.close)
        try:
            if workers == 1 and threads == 1 and run.on is None:
                _work_inline(job, schedule)
            else:
                stack.enter_context(_shared_cores(workers))
                work_off(
                    job,
                    schedule,
                    workers=workers,
                    threads=threads,
                    on=run.on,
                    folder=folder,
                )
        except KeyboardInterrupt:
            finished = num_before + schedule.num_done
            left = num_blocks - schedule.num_done
            raise KeyboardInterrupt(stopped_at(finished, finished + left) if run.scratch else STOPPED) from None
        kept = "Finished blocks are kept. " if run.scratch and num_before + schedule.num_done else ""
        raise_failures(name, folder, schedule.failures, kept)
        if undone := num_blocks - schedule.num_done:
            blocks = "1 block is" if undone == 1 else f"{undone} blocks are"
            what: list[str | Option] = [
                "with fewer workers (",
                Option("workers"),
                ") or smaller blocks (",
                Option("block"),
                ")",
            ]
            if run.on:
                what = [
                    f"with more memory for each worker of '{run.on.name}' or smaller blocks; their log files are in {folder / 'workers'}"
                ]
            raise BlockFailed(
                f"{name}: {blocks} not done, because worker processes ended early ({schedule.deaths[-1]}). Was there too little "
                f"memory? {kept}Run the same command again, ",
                *what,
                ".",
            )


def map_blocks(
    load: Load, box: Box, block: int | Zyx, run: Run, *, name: str, unit: str = "voxel"
) -> Iterator[tuple[Box, np.ndarray]]:
    """Run as `run_blocks`, and yield (block, the array `load()(block)` returned) in C order.

    Results wait on disk, in `run.scratch`, so only one is in memory at a time.
    """
    block = as_zyx(block)
    with contextlib.ExitStack() as stack:
        if run.scratch is None:
            stack.enter_context(_nothing_kept())
            run = attrs.evolve(run, scratch=stack.enter_context(_temporary(run)))
        results = stack.enter_context(_notes_folder(run, name, box, block)) / "results"
        results.mkdir(exist_ok=True)
        run_blocks(_SaveResults(load, results), box, block, run, name=name, unit=unit)
        for tile in box.blocks(block):
            yield tile, np.load(_result_file(results, tile), allow_pickle=False)


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(STOPPED) from None


def worker_index() -> int:
    """Number of this worker process, from 0: for example which GPU is its own. 0 outside of workers."""
    return int(os.environ.get("ASEM_WORKER", "0"))


def is_worker() -> bool:
    """Tell whether this process was started to work on blocks, and ends with them."""
    return "ASEM_WORKER" in os.environ


def _work_inline(job: Job, schedule: Schedule) -> None:
    work: Work | None = None
    while (tile := schedule.take()) is not None:
        work = work or job.load()
        failure = job.attempt(work, tile)
        if failure is None:
            schedule.done(tile)
        else:
            schedule.failed(failure, tile)


@contextlib.contextmanager
def _notes_folder(run: Run, name: str, box: Box, block: Zyx) -> Iterator[Path]:
    """Give the folder, closed to other users, for what one call notes: in the run's scratch folder, or a temporary one."""
    if run.scratch is None:
        with _temporary(run) as folder:
            yield folder
    else:
        yield private_folder(run.scratch / f"{name}-{zlib.crc32(repr((box, block)).encode()):08x}")


def _temporary(run: Run) -> contextlib.AbstractContextManager[Path]:
    """Make a temporary folder that all who work can see."""
    return temporary_folder(None if run.on is None else private_folder(Path(run.on.folder)))


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
            with write_whole(_result_file(self.folder, tile), alone=True) as half, half.open("wb") as file:
                np.save(file, work(tile), allow_pickle=False)

        return save


def _result_file(folder: Path, tile: Box) -> Path:
    return folder / ("-".join(map(str, tile.begin)) + ".npy")
