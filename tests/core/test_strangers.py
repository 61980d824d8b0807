"""Who else can reach a run: other users of the machine can neither do its blocks nor say that they are done."""

from __future__ import annotations

import contextlib
import os
import pickle
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest

from asem_core.blocks import Run, run_blocks
from asem_core.engine.clusters import Cluster
from asem_core.engine.done import DoneBlocks, private_folder, require_own_file
from asem_core.errors import BadInput
from asem_core.volume import Box

from .test_blocks import BOX, Touch, calls

needs_users = pytest.mark.skipif(not hasattr(os, "getuid"), reason="this system's files belong to no user")
needs_root = pytest.mark.skipif(
    not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can act as another user"
)
NOBODY = 65534


@contextlib.contextmanager
def run_of(folder: Path, run: Run) -> Iterator[None]:
    """Have a run under way, and check that it does every block, and ends."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            run_blocks(Touch(folder, wait=0.2), BOX, 4, run, name="watched")
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not calls(folder) and thread.is_alive() and time.monotonic() < deadline:
            time.sleep(0.02)
        yield
    finally:
        thread.join()
    assert not failed
    assert sorted(calls(folder)) == sorted(map(str, BOX.blocks(4)))


def listening() -> list[tuple[str, int]]:
    """Where this process and its children listen on the network."""
    family = [psutil.Process(), *psutil.Process().children(recursive=True)]
    return [tuple(c.laddr) for p in family for c in p.net_connections("tcp") if c.status == psutil.CONN_LISTEN]


def test_workers_of_this_machine_need_no_network(tmp_path: Path) -> None:
    """Nothing listens on a port."""
    before = listening()
    with run_of(tmp_path, Run(workers=2, progress=False)):
        assert listening() == before


def test_a_stranger_takes_no_blocks(tmp_path: Path) -> None:
    """A client of the scheduler that connects where a run listens for workers of other machines gets no block and does no harm.

    The same client, in the version of daisy before, took all blocks and gave them back as done: an image of zeros.
    """
    import daisy.v2 as daisy

    before = listening()
    elsewhere = Cluster("here", "command", workers=2, options="env ASEM_TEST=1", address="127.0.0.1")
    run = Run(progress=False, on=elsewhere, scratch=tmp_path / "scratch")
    taken = []
    with run_of(tmp_path, run):
        ((host, port),) = set(listening()) - set(before)
        assert host == "127.0.0.1"
        with socket.create_connection((host, port)):  # one that says nothing
            context = daisy.Context(hostname=host, port=port, task_id="watched", worker_id=0)

            def intrude() -> None:
                with contextlib.suppress(Exception), daisy.Client(context).acquire_block() as block:
                    taken.append(block)

            intruder = threading.Thread(target=intrude, daemon=True)
            intruder.start()
            intruder.join(2)
    assert not [block for block in taken if block is not None]


@needs_root
def test_another_user_cannot_even_connect(tmp_path: Path) -> None:
    """The socket of local workers lies where other users cannot go; root may be anybody, so it tries as one."""
    with run_of(tmp_path, Run(workers=2, progress=False)):
        (place,) = {c.laddr for c in psutil.Process().net_connections("unix") if str(c.laddr).endswith("/run")}
        refused = as_nobody(lambda: str(socket.socket(socket.AF_UNIX).connect(place)))
    assert "PermissionError" in refused


@needs_users
def test_notes_that_others_could_write_are_not_believed(tmp_path: Path) -> None:
    """Blocks that are done say so in a folder of mode 0700; in one that was open, they are done again."""
    run = Run(progress=False, scratch=tmp_path / "scratch")
    run_blocks(Touch(tmp_path), BOX, 4, run, name="forged")
    (folder,) = (tmp_path / "scratch").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    (tmp_path / "calls").unlink()
    run_blocks(Touch(tmp_path), BOX, 4, run, name="forged")
    assert not calls(tmp_path)
    folder.chmod(0o777)
    run_blocks(Touch(tmp_path), BOX, 4, run, name="forged")
    assert len(calls(tmp_path)) == len(list(BOX.blocks(4)))


@needs_root
def test_notes_of_another_user(tmp_path: Path) -> None:
    """They are replaced where that is allowed; else they are named, with what to do."""
    theirs = tmp_path / "shared" / "done"
    theirs.mkdir(parents=True)
    (theirs / "done").write_bytes(b"\0" * 8)
    os.chown(theirs, NOBODY, NOBODY)
    theirs.chmod(0o700)
    assert not list(private_folder(theirs).iterdir())
    theirs.rmdir()
    theirs.mkdir(mode=0o700)
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o755)
        (Path(place) / "done").mkdir(mode=0o700)

        def ask() -> str:
            with pytest.raises(BadInput) as refused:
                private_folder(Path(place) / "done")
            return str(refused.value)

        assert "another user's run" in (said := as_nobody(ask))
        assert "Have that user finish the run or remove the folder." in said


def as_nobody(call: Callable[[], str]) -> str:
    """Call a function as a user without rights, and return what it returns or the name of what it raises."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            said = call()
        except BaseException as error:
            said = repr(error)
        os.write(write, said.encode())
        os._exit(0)
    os.close(write)
    os.waitpid(child, 0)
    with os.fdopen(read) as said_to_us:
        return said_to_us.read()


def test_half_a_note_is_none(tmp_path: Path) -> None:
    """What a killed process wrote by half is left out, and the next notes are read right."""
    notes = DoneBlocks(tmp_path / "done", Box((0, 0, 0), (8, 8, 8)), (4, 4, 4))
    with notes.writing() as note:
        note(Box((4, 0, 4), (8, 4, 8)))
    with notes.file.open("ab") as file:
        file.write(b"\1\0\0")
    assert np.argwhere(notes.read()).tolist() == [[1, 0, 1]]
    with notes.writing() as note:
        note(Box((0, 4, 0), (4, 8, 4)))
    assert np.argwhere(notes.read()).tolist() == [[0, 1, 0], [1, 0, 1]]


@needs_users
@pytest.mark.parametrize("what", ["file", "folder", "owner", "link"])
def test_a_job_that_others_could_write_is_not_run(tmp_path: Path, what: str) -> None:
    """A worker of a cluster loads code from a file: only from its own user's, which nobody else can write."""
    folder = tmp_path / "private"
    folder.mkdir(mode=0o700)
    file = folder / "a.job"
    file.write_bytes(pickle.dumps("never loaded"))
    file.chmod(0o600)
    require_own_file(file)
    if what == "owner":
        if os.getuid() != 0:
            pytest.skip("only root can give a file away")
        os.chown(file, NOBODY, NOBODY)
    elif what == "link":
        file.rename(folder / "b.job")
        file.symlink_to("b.job")
    else:
        (file if what == "file" else folder).chmod(0o770)
    with pytest.raises(BadInput, match=r"could have been written by another user, so this worker does not run it\."):
        require_own_file(file)
    done = subprocess.run(
        [sys.executable, "-m", "asem_core.engine.worker", file, "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "could have been written by another user" in done.stderr


def test_an_address_that_is_not_of_this_machine(tmp_path: Path) -> None:
    """It is said, not replaced by all addresses."""
    elsewhere = Cluster("away", "command", options="env", address="203.0.113.7")
    run = Run(progress=False, on=elsewhere, scratch=tmp_path / "scratch")
    with pytest.raises(BadInput, match=r"203\.0\.113\.7 is not an address of this machine"):
        run_blocks(Touch(tmp_path), BOX, 4, run, name="elsewhere")
