"""What Ctrl-C does: a run over blocks stops at once, its workers with it.

Nothing is lost by killing workers: a block is marked done only after its voxels are written, so one that was under way is
done again by the next run.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import psutil

T = TypeVar("T")

GOES_ON_AFTER = 5.0
"""Seconds: a program that has not ended so long after Ctrl-C goes on."""

STOPPED = "Stopped. Finished blocks are kept: run the same command again to go on."


def run_stoppable(function: Callable[[], T]) -> T:
    """Call a function that starts workers of daisy; at Ctrl-C they stop at once.

    Left to itself, daisy would take the signal, and wait for the blocks that workers have in hand, for seconds or minutes.
    So it runs in a thread of its own, whose children never see the signal. At Ctrl-C they are frozen, so that nothing is
    written any more, and killed: by `leave` or when the program ends, or, where it goes on, a little later in the
    background. Daisy has words of its own on killed workers; at the end of a program they are kept from the user.

    Outside of the main thread, where signals do not arrive, and where the program heeds SIGINT in its own way or ignores
    it, the function is only called.
    """
    if not _takes_interrupts():
        return function()
    import psutil

    result: Future[T] = Future()

    def call() -> None:
        if sys.platform != "win32":
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})  # of this thread, and of all that it starts
        try:
            result.set_result(function())
        except BaseException as error:  # it is raised again in the thread that waits
            result.set_exception(error)

    runner = threading.Thread(target=call, name="asem-blocks")

    def kill(frozen: list[psutil.Process]) -> None:
        _for_workers(psutil.Process.kill, frozen)  # others may be those of a new run by now
        while runner.is_alive():  # daisy starts others a few times before it gives up
            runner.join(0.05)
            _for_workers(psutil.Process.kill)
        atexit.unregister(_end_workers)

    def stop(*_: Any) -> None:
        frozen = psutil.Process().children()
        _for_workers(psutil.Process.suspend, frozen)
        later = threading.Timer(GOES_ON_AFTER, kill, [frozen])
        later.daemon = True
        later.start()
        atexit.register(_end_workers)
        raise KeyboardInterrupt

    runner.start()
    try:
        while runner.is_alive():
            signal.signal(signal.SIGINT, stop)  # again and again, since daisy puts its own handler there
            runner.join(0.05)
        return result.result()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Send what anything writes to standard error, also past Python, to nowhere."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def leave(code: int) -> None:
    """End the process now: large libraries take a second to take themselves down, which nobody needs."""
    import psutil

    sys.stdout.flush()
    sys.stderr.flush()
    with silenced():  # daisy's words on the end of its workers
        _for_workers(psutil.Process.kill)
        os._exit(code)


def _end_workers() -> None:
    """Kill the workers as the last thing that a program does: what is written to standard error from now on is lost."""
    import psutil

    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    _for_workers(psutil.Process.kill)


def _takes_interrupts() -> bool:
    ours = threading.current_thread() is threading.main_thread()
    return ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler


def _for_workers(act: Callable[[psutil.Process], None], among: list[psutil.Process] | None = None) -> None:
    import psutil

    for child in psutil.Process().children() if among is None else among:
        with contextlib.suppress(psutil.Error):
            if "daisy._subprocess_worker" in child.cmdline():
                for launched in child.children(recursive=True):  # srun, for example, ends its job then
                    launched.terminate()
                act(child)


@contextlib.contextmanager
def held_back() -> Iterator[Callable[[], bool]]:
    """Hold Ctrl-C back while something must not be cut in two; the function that is given tells whether it was pressed.

    Pressed a second time, it is raised at once. Outside of the main thread, where signals do not arrive, nothing changes.
    """
    pressed = False

    def note(_number: int, _frame: Any) -> None:
        nonlocal pressed
        if pressed:
            raise KeyboardInterrupt
        pressed = True

    if not _takes_interrupts():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: pressed
    finally:
        signal.signal(signal.SIGINT, before)
