"""The processes of the window, in threads of the test: the same work, or a script of what it tells, over the same line."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any

from asem_napari import _beside
from asem_napari._children import STOP, Child, Line, Work, do


class _LineOfThread(Line):
    """A thread is not interrupted: it ends when its work does."""

    def interrupt_at_end(self) -> None:
        pass


class InThread(Child):
    """The same work with the same line, in a thread of this process; who learns makes one round."""

    def _start(self, work: Work, other: Any, about: tuple[Any, ...]) -> None:
        once = partial(work, seconds=0.0) if work is _beside.learn else work

        def serve() -> None:
            do(once, _LineOfThread(other), about)
            other.close()

        threading.Thread(target=serve, daemon=True).start()


def scripted(*messages: tuple[Any, ...]) -> Callable[..., Child]:
    """A child that tells these things, and ends when it is told to."""

    def work(line: Line, *_: Any) -> None:
        for message in messages:
            line.tell(*message)
        if messages[-1][0] != "failed":
            while line.asked(None) != STOP:
                pass

    return lambda _work, *about: InThread(work, *about)
