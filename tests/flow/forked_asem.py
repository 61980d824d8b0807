"""The body of a forked process: it runs one `asem` command as the program would, without loading the libraries again.

Run by `test_faults_survived.py`, which says `WORDS`, `PLACE`, `TEMPORARY`, `SAID` and `ENVIRONMENT`. It leads a session and a process
group of its own, as a command that a terminal started.
"""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from typing import Any


def main(words: list[str], place: str, temporary: str, said: str, environment: dict[str, str]) -> None:
    os.setsid()
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell's background job ignores it, and under nohup SIGHUP
    for default in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(default, signal.SIG_DFL)
    os.chdir(place)
    os.environ.update(environment, TMPDIR=temporary)
    tempfile.tempdir = None
    for stream, where in ((1, os.devnull), (2, said)):
        os.dup2(os.open(where, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), stream)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", buffering=1, closefd=False) for n in (1, 2))
    sys.argv[:] = ["asem", *words]
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
