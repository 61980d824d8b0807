"""A whole command on a cluster: a job, or one for each node, that is followed from here and ends with this process.

Started as `python -m asem_core.engine.remote FILE INDEX` it is what runs there: it reads the command from the file, runs it,
and notes how it ended, so that a job that was cut off is told from one that ended.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import attrs

from asem_core.engine.clusters import Cluster
from asem_core.engine.crew import WAITING_TOLD_S
from asem_core.engine.done import private_folder, require_own_file
from asem_core.errors import AsemError, BadInput
from asem_core.temporary import temporary_folder, write_whole

log = logging.getLogger("asem_core")

GRACE_S = 20.0
"""How long a command has to end by itself after Ctrl-C."""


def run_on(
    on: Cluster, words: Sequence[str], nodes: int, again: Callable[[], Sequence[str] | None], say: Callable[[str], None]
) -> int:
    """Run `python WORDS` on a cluster, with a process for each GPU asked for; return its exit status.

    Parameters
    ----------
    words : for example -m asem_core train RECIPE
    nodes
        How many jobs; the processes of several find each other with `torchrun`, at this machine's address in the profile.
    again
        Asked when a job was cut off, at its time limit or with its machine: the words to go on with, or None to give up.
    say : is given what the first job writes

    Raises
    ------
    BadInput
        The cluster refuses jobs, or one was cut off and there is nothing to go on with.
    """
    with temporary_folder(private_folder(Path(on.folder))) as folder:
        while True:
            status = _attempt(on, words, nodes, folder, say)
            if status is not None:
                return status
            what = f"{on.name}: the job was cut off ({_last_line(folder / '0.log') or 'it wrote nothing'})"
            found = again()
            if found is None:
                raise BadInput(
                    f"{what}, and left nothing to resume from. Give it more time, or more memory: asem clusters list"
                )
            log.warning("%s; another job resumes it.", what)
            words = found


def _attempt(on: Cluster, words: Sequence[str], nodes: int, folder: Path, say: Callable[[str], None]) -> int | None:
    """Run the jobs of one try; None where one was cut off."""
    store, place = _meeting_place(on) if nodes > 1 else (None, "")
    command = [sys.executable, *_launcher(on, nodes, place), *words]
    orders = folder / "orders.json"
    orders.touch(mode=0o600)
    orders.write_text(json.dumps({"folder": os.getcwd(), "command": command}), encoding="utf-8")
    for status in folder.glob("*.status"):
        status.unlink()
    guard = subprocess.Popen(
        [sys.executable, "-m", "asem_core.engine.guard"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # it lives on for as long as it takes to cancel what is left
    )
    assert guard.stdin is not None
    assert guard.stdout is not None
    remote = [sys.executable, "-m", "asem_core.engine.remote", str(orders)]
    about = {"cluster": attrs.asdict(on), "command": remote, "name": "train", "logs": str(folder)}
    log_file, read = folder / "0.log", (folder / "0.log").stat().st_size if (folder / "0.log").exists() else 0
    told, ended = time.monotonic(), 0
    try:
        for order in (about, *({"start": index} for index in range(nodes))):
            guard.stdin.write(json.dumps(order) + "\n")
        guard.stdin.flush()
        for line in guard.stdout:
            said = json.loads(line)
            if "refused" in said:
                raise BadInput(
                    f"'{on.name}' cannot start jobs: {said['refused']}. Check its settings: asem clusters list"
                )
            read = _pass_on(log_file, read, say)
            if said.get("waiting") and time.monotonic() - told > WAITING_TOLD_S:
                told = time.monotonic()
                log.warning("%s: %d of %d jobs wait in the queue (%s). Ctrl-C cancels them.", on.name, said["waiting"], nodes, ", ".join(said["jobs"]))  # fmt: skip
            if "ended" in said:
                ended += 1
                if _status(folder, said["ended"]) is None:
                    return None
                if ended == nodes:
                    break
    except KeyboardInterrupt:
        guard.stdin.close()
        _wait_for(folder, nodes, GRACE_S)
        _pass_on(log_file, read, say)
        raise
    finally:
        if not guard.stdin.closed:
            guard.stdin.close()
        guard.wait()
        del store
    _pass_on(log_file, read, say)
    return max(_status(folder, index) or 0 for index in range(nodes))


def _launcher(on: Cluster, nodes: int, place: str) -> list[str]:
    """Say what starts the processes of one node: nothing where there is one process in all."""
    if nodes == 1 and on.gpus <= 1:
        return []
    each = ["-m", "torch.distributed.run", "--nproc-per-node", str(max(1, on.gpus))]
    if nodes == 1:
        return [*each, "--standalone"]
    return [
        *each, "--nnodes", str(nodes), "--rdzv-backend", "c10d", "--rdzv-endpoint", place, "--rdzv-conf", "is_host=0",
        "--rdzv-id", secrets.token_hex(16),
    ]  # fmt: skip


def _meeting_place(on: Cluster) -> tuple[object, str]:
    """Open the store at which the nodes find each other; returns it, and its address."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(on.address, 0, None, is_master=True, wait_for_workers=False)
    return store, f"{on.address}:{store.port}"


def _pass_on(file: Path, read: int, say: Callable[[str], None]) -> int:
    """Give on the whole lines that were added to a file; returns how far it was read."""
    if not file.exists():
        return read
    with file.open("rb") as opened:
        opened.seek(read)
        added = opened.read()
    whole = added[: added.rfind(b"\n") + 1]
    for line in whole.decode(errors="replace").splitlines():
        say(line)
    return read + len(whole)


def _last_line(file: Path) -> str:
    lines = file.read_text(errors="replace", encoding="utf-8").split("\n") if file.exists() else []
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _status(folder: Path, index: int) -> int | None:
    """Read how a command ended; None where it was cut off."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        return int((folder / f"{index}.status").read_text(encoding="utf-8"))
    return None


def _wait_for(folder: Path, nodes: int, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and len(list(folder.glob("*.status"))) < nodes:
        time.sleep(0.1)


def _main() -> None:
    file, index = Path(sys.argv[1]), sys.argv[2]
    try:
        require_own_file(file)
    except AsemError as error:
        sys.exit(str(error))
    orders = json.loads(file.read_text(encoding="utf-8"))
    asked_to_end = False

    def note(*_: object) -> None:  # the command is asked, too: signals go to all processes of a job
        nonlocal asked_to_end
        asked_to_end = True

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    code = subprocess.run(orders["command"], cwd=orders["folder"], stdin=subprocess.DEVNULL, check=False).returncode
    with write_whole(file.with_name(f"{index}.status")) as half:
        half.write_text("cut off" if asked_to_end or code < 0 else str(code), encoding="utf-8")


if __name__ == "__main__":
    _main()
