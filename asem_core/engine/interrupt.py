"""What Ctrl-C does and says, and how the program ends then."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

STOPPED = "Interrupted. Run the same command again."


def stopped_at(finished: int, total: int) -> str:
    """Say what Ctrl-C left of a run over blocks whose finished ones stay on disk."""
    if not finished:
        return "Interrupted before the first block was finished: run the same command again."
    return f"Interrupted. Finished blocks ({finished} of {total}) are kept: run the same command again to resume."


def leave(code: int) -> None:
    """End the process now: large libraries take a second to take themselves down, which nobody needs."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back while something must not be cut in two; the function that is given tells whether it was pressed.

    Pressed a second time, it is raised at once. Outside of the main thread, where signals do not arrive, and where the
    program heeds SIGINT in its own way or ignores it, nothing changes.
    """
    pressed = False

    def note(_number: int, _frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
