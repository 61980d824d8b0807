"""The body of a forked process: it runs one `asem` command as the program would, without loading the libraries again.

Run by `survival.Asem`, which says `ORDERS`. It leads a session and a process group of its own, as a command that a terminal started.
"""

from __future__ import annotations

import itertools
import mmap
import os
import signal
import sys
import tempfile
import time
from typing import Any

CHANGES, HALT_AT, HALTED, STARTED_NS, FIRST_NS, LAST_NS, CHILDREN = range(7)
"""Numbers shared with who started the command: changes of files so far, at which of them to wait, whether it waits, when it started
and when it made its first and last change, and how many processes it started."""
NUMBERS = 7
_CHANGES = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink")
_STARTS = ("subprocess.Popen", "os.fork", "os.posix_spawn")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def note_changes(shared: memoryview, place: str, temporary: str) -> None:
    """Note each file that Python opens for writing, makes, renames or removes in two folders, and wait before one if asked to.

    Of temporary files only ours count: Python tries whether it can write there before any work.
    """
    numbers = itertools.count(1)

    def note(event: str, args: tuple[Any, ...]) -> None:
        if event in _STARTS:
            shared[CHILDREN] += 1
        if event not in _CHANGES or isinstance(args[0], int) or (event == "open" and not args[2] & _WRITES):
            return
        path = os.path.abspath(os.fsdecode(args[0]))
        if not path.startswith(place) and not (path.startswith(temporary) and "asem-" in path):
            return
        number = next(numbers)
        now = time.monotonic_ns()
        shared[FIRST_NS], shared[LAST_NS], shared[CHANGES] = shared[FIRST_NS] or now, now, number
        if number == shared[HALT_AT]:
            shared[HALTED] = 1
            while shared[HALTED]:
                time.sleep(0.0005)

    sys.addaudithook(note)


def main(words: list[str], place: str, temporary: str, said: str, shared: str, environment: dict[str, str]) -> None:
    os.setsid()
    # Whoever started the tests may ignore signals (nohup, a shell's background job): a command that a terminal started does not.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for default in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(default, signal.SIG_DFL)
    os.chdir(place)
    os.environ.update(environment, TMPDIR=temporary)
    tempfile.tempdir = None
    for stream, where in ((1, os.devnull), (2, said)):
        os.dup2(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    sys.argv[:] = ["asem", *words]
    with open(shared, "r+b") as file:
        numbers = memoryview(mmap.mmap(file.fileno(), 0)).cast("q")
    numbers[STARTED_NS] = time.monotonic_ns()
    note_changes(numbers, place, temporary)
    from asem_core.cli import main as asem

    code: Any = 0
    try:
        asem()
    except SystemExit as end:
        code = end.code
    sys.stderr.flush()
    os._exit(int(code or 0))


if __name__ == "__main__":
    main(**globals()["ORDERS"])
