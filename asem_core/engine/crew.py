"""The run's side of worker processes: start them, give them blocks, start others when they die, end them all.

Nobody else can take part. Workers of this machine connect to a socket in a folder that only this user can open; those of a
cluster, to one address that the user named. Both must know a secret of this run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import queue
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener, answer_challenge, deliver_challenge
from pathlib import Path
from typing import IO, Any, Self

import attrs

from asem_core.engine.clusters import Cluster
from asem_core.engine.job import Failure, Job
from asem_core.engine.schedule import Schedule
from asem_core.engine.worker import WATCH, Orders
from asem_core.errors import BadInput
from asem_core.temporary import temporary_folder
from asem_core.volume import Box

log = logging.getLogger("asem_core")

ENDS_WITHIN = 10.0
"""Seconds that a worker has to end by itself after its last block."""
LARGEST_ANSWER = 1 << 24  # bytes
WAITING_TOLD_S = 60.0
"""How often it is said that no worker of a cluster has come yet."""

_Event = Callable[[Schedule], None]
_Ask = Callable[[Box | None], None]
"""Asks a worker to do a block; None tells it to end."""


def work_off(job: Job, schedule: Schedule, *, workers: int, threads: int, on: Cluster | None, folder: Path) -> None:
    """Have worker processes do the blocks of a schedule; none of them lives when this returns or raises.

    Parameters
    ----------
    threads
        Blocks that each worker has in hand at once.
    on
        Where workers run; None starts them here.
    folder
        Private folder that workers elsewhere can read, too.
    """
    with _listening(on) as listener, _Crew(job, listener, threads, on, folder) as crew:
        crew.start(workers)
        while not schedule.over and crew.lives:
            crew.tell_of_waiting()
            with contextlib.suppress(queue.Empty):
                crew.events.get(timeout=0.5)(schedule)  # in short steps, so that Ctrl-C arrives on every platform
            while crew.idle and (tile := schedule.take()) is not None:
                crew.idle.pop()(tile)
        crew.orderly = not schedule.failures


@contextlib.contextmanager
def _listening(on: Cluster | None) -> Iterator[Listener]:
    """Listen where only this user can connect, or, for the workers of a cluster, at the address that the user named."""
    with contextlib.ExitStack() as stack:
        listener = None
        if on is None and hasattr(socket, "AF_UNIX"):
            place = stack.enter_context(temporary_folder()) / "run"
            with contextlib.suppress(OSError):  # its path is too long, or the file system has no sockets
                listener = Listener(str(place), backlog=128)
        if listener is None:
            try:
                listener = Listener((on.address if on else "127.0.0.1", 0), backlog=1024)
            except OSError as error:
                where = on.address if on else "127.0.0.1"
                raise BadInput(
                    f"{where} is not an address of this machine that workers could connect to ({error})."
                ) from None
        yield stack.enter_context(listener)


@attrs.define(eq=False)
class _Crew:
    """Worker processes, the threads that keep each alive, and those that talk with each; they tell the run by events."""

    job: Job
    listener: Listener
    threads: int
    on: Cluster | None
    folder: Path
    secret: bytes = attrs.field(factory=lambda: secrets.token_bytes(32))
    events: queue.SimpleQueue[_Event] = attrs.field(factory=queue.SimpleQueue)
    idle: list[_Ask] = attrs.field(factory=list)  # used by the thread of the run only
    orderly: bool = False
    _over: bool = False
    _closed: bool = False
    _starting: threading.Lock = attrs.field(factory=threading.Lock)
    _processes: dict[int, subprocess.Popen[bytes]] = attrs.field(factory=dict)
    _keepers: list[threading.Thread] = attrs.field(factory=list)
    _asks: list[_Ask] = attrs.field(factory=list)
    _watched: list[Connection[Any, Any]] = attrs.field(factory=list)
    _shown: set[str] = attrs.field(factory=set)
    _guard: subprocess.Popen[str] | None = None
    _began_s: float = attrs.field(factory=time.monotonic)
    _told_s: float = attrs.field(factory=time.monotonic)
    _queued: str = ""

    @property
    def lives(self) -> bool:
        """Whether there is, or will be, any worker."""
        return any(keeper.is_alive() for keeper in self._keepers) or not self.events.empty()

    def start(self, workers: int) -> None:
        """Start that many workers."""
        threading.Thread(target=self._accept, daemon=True).start()
        command, orders = self._command_and_orders()
        if self.on is not None:
            self._start_keeper(self._keep_elsewhere, self.on, workers, command)
            return
        for index in range(workers):
            self._start_keeper(self._keep, index, command, orders)

    def _start_keeper(self, keep: Callable[..., None], *args: Any) -> None:
        keeper = threading.Thread(target=keep, args=args, daemon=True)
        self._keepers.append(keeper)
        keeper.start()

    def tell_of_waiting(self) -> None:
        """Say now and then that no worker of a cluster has come yet."""
        now = time.monotonic()
        if self.on is None or self._asks or now - self._told_s < WAITING_TOLD_S:
            return
        self._told_s = now
        log.warning(
            "%s: no worker of '%s' has started yet, after %.0f min (%s). Still waiting; their log files are in %s. Ctrl-C cancels them.",
            self.job.name, self.on.name, (now - self._began_s) / 60, self._queued or "being submitted", self._logs,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let workers end that have nothing more to do; kill those that go on, and all of them where a run is broken off."""
        with self._starting:
            self._over = True
        for ask in list(self._asks):
            ask(None)
        self._tell_guard(finish=ENDS_WITHIN if self.orderly else 0.0)
        patience = time.monotonic() + (ENDS_WITHIN if self.orderly else 0.0)
        for keeper in self._keepers:
            keeper.join(max(0.0, patience - time.monotonic()))
        for connection in self._watched:
            connection.close()
        for process in list(self._processes.values()):
            process.kill()
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(OSError):
                self._guard.stdin.close()
        for keeper in self._keepers:
            keeper.join()
        self._closed = True
        with contextlib.suppress(OSError):  # the thread that waits for connections sees that it is closed
            Client(self.listener.address).close()

    # --- processes

    def _command_and_orders(self) -> tuple[list[str], bytes]:
        import cloudpickle

        work = cloudpickle.dumps((self.job, self.threads))
        parent = os.getpid() if self.on is None else None
        orders = pickle.dumps(Orders(self.listener.address, self.secret, list(sys.path), work, parent))
        command = [sys.executable, "-m", "asem_core.engine.worker"]
        if self.on is None:
            return [sys.executable, "-m", "asem_core.engine.local_worker", "-"], orders
        file = self.folder / f"{self.job.name}.job"  # a queue does not pass standard input on
        file.touch(mode=0o600)
        file.write_bytes(orders)
        return [*command, str(file)], b""

    def _keep(self, index: int, command: list[str], orders: bytes) -> None:
        """Keep one worker process alive until there is nothing more to do."""
        while not self._over:
            with tempfile.TemporaryFile() as said:
                try:
                    code = self._run(index, command, orders, said)
                except OSError as error:
                    failure = Failure.of(error, None)
                    self.events.put(lambda schedule, failure=failure: schedule.failed(failure))  # type: ignore[misc]
                    return
                said.seek(0)
                text = said.read().decode(errors="replace").strip()
            if self._over:
                self._pass_on(text if code == 0 else "")
            else:
                cause = _why(code, text)
                log.warning("%s: a worker ended early (%s) and is replaced.", self.job.name, cause)
                self.events.put(lambda schedule, cause=cause: schedule.died(cause))  # type: ignore[misc]

    def _run(self, index: int, command: list[str], orders: bytes, said: IO[bytes]) -> int:
        with self._starting:
            if self._over:
                return 0
            process = self._processes[index] = subprocess.Popen(
                [*command, str(index)],
                stdin=subprocess.PIPE,
                stdout=said,
                stderr=said,
                start_new_session=True,  # a terminal's Ctrl-C is for the run, which ends its workers
                creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        with contextlib.suppress(BrokenPipeError):
            process.communicate(orders)
        del self._processes[index]
        return process.returncode

    @property
    def _logs(self) -> Path:
        return self.folder / "workers"

    def _keep_elsewhere(self, on: Cluster, workers: int, command: list[str]) -> None:
        """Have workers started on a cluster, and others in their places, until there is nothing more to do."""
        self._logs.mkdir(mode=0o700, exist_ok=True)
        with self._starting:
            if self._over:
                return
            self._guard = subprocess.Popen(
                [sys.executable, "-m", "asem_core.engine.guard"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # it lives on for as long as it takes to cancel what is left
            )
        about = {"cluster": attrs.asdict(on), "command": command, "name": self.job.name, "logs": str(self._logs)}
        self._tell_guard(**about)
        for index in range(workers):
            self._tell_guard(start=index)
        assert self._guard.stdout is not None
        done_before: dict[int, int] = {}
        for line in self._guard.stdout:
            said = json.loads(line)
            if "refused" in said:
                message = f"'{on.name}' cannot start workers: {said['refused']}. Check its settings: asem clusters list"
                self.events.put(
                    lambda schedule, message=message: schedule.failed(  # type: ignore[misc]
                        Failure(None, "BadInput", [message], True, False, message)
                    )
                )
            elif "waiting" in said:
                jobs = f", among them {', '.join(said['jobs'])}" if said["jobs"] else ""
                self._queued = f"{said['waiting']} waiting in the queue{jobs}; {said['running']} running"
            elif self._over:
                self._pass_on(said["said"] if said["code"] in (0, None) else "")
            else:
                self.events.put(lambda schedule, said=said: self._ended(schedule, on, said, done_before))  # type: ignore[misc]
        if not self._over:
            lost = Failure(
                None, "BadInput", [f"the process that looks after the workers of '{on.name}' ended"], True, False, ""
            )
            self.events.put(lambda schedule: schedule.failed(lost))
        self._guard.wait()

    def _ended(self, schedule: Schedule, on: Cluster, said: dict[str, Any], done_before: dict[int, int]) -> None:
        """Have another worker take the place of one that ended; at its time limit that is no fault, if any block was done."""
        index = said["ended"]
        cause = _why(said["code"], said["said"].strip())
        words = said["said"].upper()
        at_limit = "TIME LIMIT" in words or "TERM_RUNLIMIT" in words or 0 < 54 * on.minutes <= said["ran_s"]
        if at_limit and schedule.num_done > done_before.get(index, 0):
            log.warning("%s: a worker reached its time limit and is replaced.", self.job.name)
        else:
            log.warning(
                "%s: a worker ended early (%s; %s) and is replaced.",
                self.job.name, cause, self._logs / f"{index}.log",
            )  # fmt: skip
            schedule.died(cause)
        done_before[index] = schedule.num_done
        if not schedule.over:
            self._tell_guard(start=index)

    def _tell_guard(self, **order: Any) -> None:
        if self._guard is not None and self._guard.stdin is not None:
            with contextlib.suppress(OSError), self._starting:
                self._guard.stdin.write(json.dumps(order) + "\n")
                self._guard.stdin.flush()

    def _pass_on(self, text: str) -> None:
        """Show what workers wrote, for example warnings, each line once."""
        for line in text.splitlines():
            if line not in self._shown:
                self._shown.add(line)
                print(line, file=sys.stderr)

    # --- conversations

    def _accept(self) -> None:
        """Let workers connect, also when all is done: one that was still starting learns by that there is nothing to do."""
        while not self._closed:
            try:
                connection = self.listener.accept()
            except OSError:  # a stranger who hung up at once, or too many open files
                time.sleep(0.1)
                continue
            threading.Thread(target=self._talk, args=[connection], daemon=True).start()

    def _talk(self, connection: Connection[Any, Any]) -> None:
        """Let in who knows the secret, and pass blocks and answers to and fro until one side hangs up."""
        try:
            deliver_challenge(connection, self.secret)
            answer_challenge(connection, self.secret)
            said = connection.recv_bytes(LARGEST_ANSWER)
        except (AuthenticationError, EOFError, OSError):
            connection.close()
            return
        if said == WATCH:
            self._watched.append(connection)
            return
        tiles: queue.SimpleQueue[Box | None] = queue.SimpleQueue()
        self._asks.append(tiles.put)
        self._report(tiles.put, None, said)
        with connection:
            while not self._over and (tile := tiles.get()) is not None:
                try:
                    connection.send_bytes(json.dumps([tile.begin, tile.end]).encode())
                    said = connection.recv_bytes(LARGEST_ANSWER)
                except (EOFError, OSError):  # the worker died
                    self._report(None, tile)
                    return
                self._report(tiles.put, tile, said)

    def _report(self, ask: _Ask | None, tile: Box | None, said: bytes = b"null") -> None:
        """Tell the run that a worker has loaded, has ended a block, or, without `ask`, has died."""
        answer = json.loads(said)

        def event(schedule: Schedule) -> None:
            if answer is not None:
                schedule.failed(Failure(**answer), tile)
            elif tile is not None:
                (schedule.done if ask else schedule.lost)(tile)
            if ask is not None:
                self.idle.append(ask)

        self.events.put(event)


def _why(code: int | None, text: str) -> str:
    """Say why a process ended: by which signal, or the last words it wrote; `code` is None where only a queue knows it."""
    if code is None:
        return text.splitlines()[-1] if text else "without a message"
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return text.splitlines()[-1] if text else f"exit status {code}"
