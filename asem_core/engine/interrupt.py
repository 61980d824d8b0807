"""What Ctrl-C says, and how the program ends then."""

from __future__ import annotations

import os
import sys

STOPPED = "Stopped. Finished blocks are kept: run the same command again to go on."


def leave(code: int) -> None:
    """End the process now: large libraries take a second to take themselves down, which nobody needs."""
    sys.stdout.flush()
    sys.stderr.flush()
<<<<<<< HEAD
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
=======
    os._exit(code)
>>>>>>> main
