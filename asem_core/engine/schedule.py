"""Which block is next: daisy's scheduler, and what came of the blocks that it gave."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from asem_core.engine.job import ATTEMPTS, GIVE_UP_AFTER, Failure, Job
from asem_core.volume import Box, as_zyx


class Schedule:
    """Blocks to be done, until all are done, one fails fatally, or too many fail. For use by one thread.

    daisy decides which block is next, and gives one out again whose worker died. Its server, which would listen for any
    local user, and its own notes of what is done are not used.
    """

    def __init__(
        self,
        job: Job,
        skipped: np.ndarray,
        note: Callable[[Box], None],
        tell: Callable[[], None],
        patience: int = GIVE_UP_AFTER,
    ) -> None:
        """`note` is called for each block that is done, then `tell`; `skipped` is bool, in the shape of the grid of blocks.

        After more dead workers than `patience` it is over.
        """
        import daisy.v2 as daisy

        tile = daisy.Roi((0, 0, 0), job.block)
        task = daisy.Task(
            task_id=job.name,
            total_roi=daisy.Roi((0, 0, 0), job.box.shape),
            read_roi=tile,
            write_roi=tile,
            process_function=None,
            read_write_conflict=False,
            fit="shrink",
            max_retries=ATTEMPTS - 1,
            timeout=None,
            skip_mask=skipped.astype(np.uint8),
        )
        self.failures: list[Failure] = []
        self.deaths: list[str] = []
        """Why workers ended before their time."""
        self.num_done = 0
        self.over = False
        self._scheduler, self._status = daisy.Scheduler(task), daisy.BlockStatus
        self._job, self._note, self._tell = job, note, tell
        self._patience = patience
        self._under_way: dict[Box, Any] = {}
        self._given_up: set[Box] = set()

    def close(self) -> None:
        """Let go of daisy's scheduler, which only the thread that made it may do; whoever holds this may hold it in a circle."""
        del self._scheduler

    def take(self) -> Box | None:
        """Take a block to do; None if there is none now. It is over when there is none and none is under way."""
        while not self.over:
            block = self._scheduler.acquire_block(self._job.name)
            if block is None:
                self.over = not self._under_way
                return None
            begin, end = as_zyx(tuple(block.write_roi.begin)), as_zyx(tuple(block.write_roi.end))
            tile = Box(begin, end).shift(self._job.box.begin)
            self._under_way[tile] = block
            if tile not in self._given_up:
                return tile
            self._release(tile, self._status.FAILED)
        return None

    def done(self, tile: Box) -> None:
        """Note a block whose voxels are written."""
        self._note(tile)
        self.num_done += 1
        self._tell()
        self._release(tile, self._status.SUCCESS)

    def failed(self, failure: Failure, tile: Box | None = None) -> None:
        """Note why a block, or the loading of what works on blocks, failed."""
        self.failures.append(failure)
        self.over = self.over or failure.fatal or len(self.failures) >= GIVE_UP_AFTER
        if tile is not None:
            self._given_up.add(tile)  # it was tried as often as it may be
            self._release(tile, self._status.FAILED)

    def lost(self, tile: Box) -> None:
        """Take back a block whose worker died: another may try it."""
        self._release(tile, self._status.FAILED)

    def died(self, cause: str) -> None:
        """Count a worker that ended before its time."""
        self.deaths.append(cause)
        self.over = self.over or len(self.deaths) > self._patience

    def _release(self, tile: Box, status: Any) -> None:
        block = self._under_way.pop(tile)
        block.status = status
        self._scheduler.release_block(block)
