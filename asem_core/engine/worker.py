"""A worker process: it connects to the run that started it, works on the blocks it is given, and ends with that run.

Started as `python -m asem_core.engine.worker FILE INDEX`; what to do is read from the file, or from standard input (-).
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import sys
import threading
from multiprocessing.connection import Client, Connection
from pathlib import Path
from typing import Any

import attrs

from asem_core.engine.done import require_own_file
from asem_core.engine.job import Failure, Job, Work
from asem_core.engine.machine import keep_compiled_functions, set_up_torch
from asem_core.engine.parent import end_with_parent
from asem_core.errors import AsemError
from asem_core.volume import Box

WATCH = b"watch"
"""What a worker says first on the connection that only tells it when the run ends."""


@attrs.frozen
class Orders:
    """What a worker must know: where its run listens, the secret of the run, and the job, pickled, with its threads."""

    address: Any
    secret: bytes
    import_path: list[str]
    job: bytes
    parent: int | None
    """Process that started it; None where another machine may have."""


def serve(orders: Orders, index: int) -> None:
    """Work on blocks until there are none: the body of a worker process."""
    os.environ["ASEM_WORKER"] = str(index)
    if orders.parent is not None:
        end_with_parent()
        if os.getppid() != orders.parent:  # it has ended already
            os._exit(1)
    sys.path[:] = [*orders.import_path, *(p for p in sys.path if p not in orders.import_path)]
    watched = _connect(orders)
    watched.send_bytes(WATCH)
    threading.Thread(target=_end_with, args=[watched], daemon=True).start()
    job: Job
    job, threads = pickle.loads(orders.job)
    work: Work | None = None
    failure: Failure | None = None
    try:
        work = job.load()
    except Exception as error:  # loading is a plugin's code: the run reports it
        failure = Failure.of(error, None)
    slots = [threading.Thread(target=_work, args=[job, work, failure, _connect(orders)]) for _ in range(threads)]
    for slot in slots:
        slot.start()
    for slot in slots:
        slot.join()


def _connect(orders: Orders) -> Connection[Any, Any]:
    try:
        connection: Connection[Any, Any] = Client(orders.address, authkey=orders.secret)
    except OSError as error:
        where = ":".join(map(str, orders.address)) if isinstance(orders.address, tuple) else orders.address
        sys.exit(f"The worker cannot connect to its run at {where} ({error.strerror or error}): is that address right?")
    return connection


def _work(job: Job, work: Work | None, failure: Failure | None, run: Connection[Any, Any]) -> None:
    """Say whether loading succeeded; then answer each block with what failed, or nothing, until the run hangs up."""
    with contextlib.suppress(EOFError, OSError):
        _answer(run, failure)
        while work is not None:
            box = Box(*json.loads(run.recv_bytes()))
            _answer(run, job.attempt(work, box))
    run.close()


def _answer(run: Connection[Any, Any], failure: Failure | None) -> None:
    run.send_bytes(json.dumps(None if failure is None else attrs.asdict(failure)).encode())


def _end_with(watched: Connection[Any, Any]) -> None:
    """End this process at once when the run hangs up, because it ended in whatever way."""
    with contextlib.suppress(EOFError, OSError):
        watched.recv_bytes()
    os._exit(1)


def main() -> None:
    """Read the orders, and work until there is nothing more to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run ends us itself
    keep_compiled_functions()
    set_up_torch()
    file, index = sys.argv[1:]
    try:
        if file == "-":
            orders = pickle.loads(sys.stdin.buffer.read())
        else:
            require_own_file(Path(file))
            orders = pickle.loads(Path(file).read_bytes())
    except AsemError as error:
        sys.exit(str(error))
    serve(orders, int(index))


if __name__ == "__main__":
    main()
