"""Processes of the window's own: what takes long is done there, at low priority, so that a stroke never waits. They end with it."""

from __future__ import annotations

import _thread
import contextlib
import multiprocessing
import os
import queue
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from asem_core.errors import AsemError

Message = tuple[Any, ...]
"""What is told or asked first, then of what."""

STOP: Message = ("stop",)
NICE = 10
ENDS_WITHIN_S = 10.0
"""A child that was told to stop may save what it has done until then."""


class Line:
    """The child's end of the line to the window; several threads may tell."""

    def __init__(self, connection: Connection) -> None:
        self._connection, self._telling = connection, threading.Lock()

    def tell(self, what: str, *content: Any) -> None:
        """Tell the window something. If it is gone, nobody hears."""
        with self._telling, contextlib.suppress(OSError):
            self._connection.send((what, *content))

    def asked(self, wait_s: float | None) -> Message | None:
        """Return what the window asks, None if it asks nothing for so long, `STOP` if it is gone."""
        try:
            return self._connection.recv() if self._connection.poll(wait_s) else None
        except (EOFError, OSError):
            return STOP

    def interrupt_at_end(self) -> None:
        """Read the line no more: have the work interrupted, as by Ctrl-C, when the window says stop or is gone."""
        threading.Thread(target=self._wait_for_end, daemon=True).start()

    def _wait_for_end(self) -> None:
        while self.asked(None) != STOP:
            pass
        last = threading.Timer(ENDS_WITHIN_S, os._exit, [1])
        last.daemon = True
        last.start()
        _thread.interrupt_main()


Work = Callable[..., None]
"""What a child does: called with its line, and with what it is about."""


class Child:
    """A process at work. None of its methods waits for it.

    Parameters
    ----------
    work, about : `work(line, *about)`, importable; it reads its line, or calls `Line.interrupt_at_end`
    """

    def __init__(self, work: Work, *about: Any) -> None:
        self._connection, other = multiprocessing.Pipe()
        self._heard: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self._gone = threading.Event()
        self._start(work, other, about)
        threading.Thread(target=self._hear, daemon=True).start()

    def _start(self, work: Work, other: Connection, about: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_serve, args=(work, other, about), daemon=True)
        self._process.start()
        other.close()

    def _hear(self) -> None:
        """Read in a thread: a message is large, and the child may be slow to send it."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                self._heard.put(self._connection.recv())
        self._gone.set()

    def ask(self, what: str, *content: Any) -> None:
        """Ask for something; small, because the line holds little while nobody reads."""
        with contextlib.suppress(OSError):
            self._connection.send((what, *content))

    def told(self, most: int = 16) -> list[Message]:
        """Take what was told, at most so many messages."""
        found: list[Message] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < most:
                found.append(self._heard.get_nowait())
        return found

    @property
    def is_over(self) -> bool:
        """Whether the child is gone and everything that it told was taken."""
        return self._gone.is_set() and self._heard.empty()

    def stop(self) -> None:
        """Have the child stop: it saves what it has done, or else ends in `ENDS_WITHIN_S`."""
        self.ask(*STOP)


def _serve(work: Work, connection: Connection, about: tuple[Any, ...]) -> None:
    if hasattr(os, "nice"):
        os.nice(NICE)
    do(work, Line(connection), about)


def do(work: Work, line: Line, about: tuple[Any, ...]) -> None:
    """Do the work of a child, and tell the window what went wrong: a sentence, never a traceback."""
    try:
        work(line, *about)
    except KeyboardInterrupt:
        pass
    except AsemError as error:
        line.tell("failed", str(error))
    except Exception as error:  # a plugin's own fault must reach the window, not end in a dead process
        line.tell("failed", f"{type(error).__name__}: {error}")
