"""The worker's side of `blocks`: try a block, note its failure, serve until there are no more blocks."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pickle
import shutil
import signal
import sys
import threading
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from asem_core import errors
from asem_core.errors import AsemError, BlockFailed, NoSpace
from asem_core.volume import Box, Zyx, as_zyx

Work = Callable[[Box], Any]
Load = Callable[[], Work]

ATTEMPTS = 3  # a failing block is tried once and retried twice
GIVE_UP_AFTER = 8  # this many failed blocks are a systematic fault: do not grind through the rest


@attrs.frozen
class Job:
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
            except Exception as error:  # a block function is a plugin's: tried again, then reported with its box
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


def serve(job: Job, context: Any, threads: int) -> None:
    """Work off blocks until there are none: the body of a worker process."""
    import daisy.v2 as daisy

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's Ctrl-C reaches us, too; the run ends us itself
    os.environ["ASEM_WORKER"] = str(max(0, int(context["worker_id"])) % max(1, job.workers))
    work: Work | None = None
    try:
        work = job.load()
    except Exception as error:  # loading is a plugin's code: the parent reports it
        job.note(error, None)

    def loop() -> None:
        try:
            client = daisy.Client(context)
        except ConnectionError:  # others have done all blocks, and the server is just closing
            return
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


def _main() -> None:
    """Serve as a worker that a launcher started: `python -m asem_core.engine.worker JOBFILE`, context in the environment."""
    import daisy.v2 as daisy

    # The job file is written by this user's own run, in this run's own scratch folder.
    job, threads = pickle.loads(Path(sys.argv[1]).read_bytes())
    serve(job, daisy.Context.from_env(), threads)


if __name__ == "__main__":
    _main()
