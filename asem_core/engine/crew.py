"""The run's side of worker processes: start them, give them blocks, start others when they die, end them all.

Nobody else can take part. Workers of this machine connect to a socket in a folder that only this user can open; those that a
launcher starts on other machines, to one address that the user named. Both must know a secret of this run.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pickle
import queue
import secrets
import shlex
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

_Event = Callable[[Schedule], None]
_Ask = Callable[[Box | None], None]
"""Asks a worker to do a block; None tells it to end."""


def work_off(
    job: Job, schedule: Schedule, *, workers: int, threads: int, launcher: str, address: str, folder: Path
) -> None:
    """Have worker processes do the blocks of a schedule; none of them lives when this returns or raises.

    Parameters
    ----------
    threads
        Blocks that each worker has in hand at once.
    launcher, address
        Command that starts a worker elsewhere, and the address of this machine that such a worker connects to; with an
        empty launcher workers start here.
    folder
        Private folder that workers elsewhere can read, too.
    """
    with _listening(launcher, address) as listener, _Crew(job, listener, threads, launcher, folder) as crew:
        crew.start(workers)
        while not schedule.over and crew.lives:
            with contextlib.suppress(queue.Empty):
                crew.events.get(timeout=0.5)(schedule)  # in short steps, so that Ctrl-C arrives on every platform
            while crew.idle and (tile := schedule.take()) is not None:
                crew.idle.pop()(tile)
        crew.orderly = not schedule.failures


@contextlib.contextmanager
def _listening(launcher: str, address: str) -> Iterator[Listener]:
    """Listen where only this user can connect, or, with a launcher, at the address that the user named."""
    with contextlib.ExitStack() as stack:
        listener = None
        if not launcher and hasattr(socket, "AF_UNIX"):
            place = stack.enter_context(temporary_folder()) / "run"
            with contextlib.suppress(OSError):  # its path is too long, or the file system has no sockets
                listener = Listener(str(place), backlog=128)
        if listener is None:
            try:
                listener = Listener((address if launcher else "127.0.0.1", 0), backlog=128)
            except OSError as error:
                raise BadInput(
                    f"{address} is no address of this machine that workers could connect to ({error})."
                ) from None
        yield stack.enter_context(listener)


@attrs.define(eq=False)
class _Crew:
    """Worker processes, the threads that keep each alive, and those that talk with each; they tell the run by events."""

    job: Job
    listener: Listener
    threads: int
    launcher: str
    folder: Path
    secret: bytes = attrs.field(factory=lambda: secrets.token_bytes(32))
    events: queue.SimpleQueue[_Event] = attrs.field(factory=queue.SimpleQueue)
    idle: list[_Ask] = attrs.field(factory=list)  # used by the thread of the run only
    orderly: bool = False
    _over: bool = False
    _starting: threading.Lock = attrs.field(factory=threading.Lock)
    _processes: dict[int, subprocess.Popen[bytes]] = attrs.field(factory=dict)
    _keepers: list[threading.Thread] = attrs.field(factory=list)
    _asks: list[_Ask] = attrs.field(factory=list)
    _watched: list[Connection[Any, Any]] = attrs.field(factory=list)
    _shown: set[str] = attrs.field(factory=set)

    @property
    def lives(self) -> bool:
        """Whether there is, or will be, any worker."""
        return any(keeper.is_alive() for keeper in self._keepers) or not self.events.empty()

    def start(self, workers: int) -> None:
        """Start that many workers."""
        threading.Thread(target=self._accept, daemon=True).start()
        command, orders = self._command_and_orders()
        for index in range(workers):
            keeper = threading.Thread(target=self._keep, args=[index, command, orders], daemon=True)
            self._keepers.append(keeper)
            keeper.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Let workers end that have nothing more to do; kill those that go on, and all of them where a run is broken off."""
        with self._starting:
            self._over = True
        for ask in list(self._asks):
            ask(None)
        patience = time.monotonic() + (ENDS_WITHIN if self.orderly else 0.0)
        for keeper in self._keepers:
            keeper.join(max(0.0, patience - time.monotonic()))
        for connection in self._watched:
            connection.close()
        for process in list(self._processes.values()):
            process.terminate() if self.launcher else process.kill()  # a launcher must end its job
        for keeper in self._keepers:
            keeper.join()
        with contextlib.suppress(OSError):  # the thread that waits for connections sees that it is over
            Client(self.listener.address).close()

    # --- processes

    def _command_and_orders(self) -> tuple[list[str], bytes]:
        import cloudpickle

        work = cloudpickle.dumps((self.job, self.threads))
        parent = None if self.launcher else os.getpid()
        orders = pickle.dumps(Orders(self.listener.address, self.secret, list(sys.path), work, parent))
        command = [*shlex.split(self.launcher), sys.executable, "-m", "asem_core.engine.worker"]
        if not self.launcher:
            return [*command, "-"], orders
        file = self.folder / f"{self.job.name}.job"  # a launcher may not pass standard input on
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
                log.warning("%s: a worker ended early (%s); another takes its place.", self.job.name, cause)
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

    def _pass_on(self, text: str) -> None:
        """Show what workers wrote, for example warnings, each line once."""
        for line in text.splitlines():
            if line not in self._shown:
                self._shown.add(line)
                print(line, file=sys.stderr)

    # --- conversations

    def _accept(self) -> None:
        while not self._over:
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


def _why(code: int, text: str) -> str:
    """Say why a process ended: by which signal, or the last words it wrote."""
    if code < 0:
        return f"killed by {signal.Signals(-code).name}"
    return text.splitlines()[-1] if text else f"exit status {code}"
