"""A whole command on a cluster: followed, gone on with where it is cut off, ended with what started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from asem_core.commands import words_of
from asem_core.engine.clusters import Cluster
from asem_core.engine.remote import run_on
from asem_core.errors import BadInput


def here(folder: Path, **options) -> Cluster:
    return Cluster("here", "command", options="env", address="127.0.0.1", folder=str(folder / "notes"), **options)


def never() -> None:
    raise AssertionError("the command was not cut off")


def test_a_command_is_followed_and_its_status_returned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    program = "import os, sys; print('here:', os.getcwd(), os.environ['OMP_NUM_THREADS']); sys.exit(3)"
    assert run_on(here(tmp_path, cores=5), ["-c", program], 1, never, said.append) == 3
    assert said == [f"here: {tmp_path} 5"]
    assert not list((tmp_path / "notes").iterdir())


def test_what_was_cut_off_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """With the words that the caller gives; where it gives none, that is said with the last line."""
    dies = ["-c", "import os; print('not enough memory', flush=True); os.kill(os.getpid(), 9)"]
    said: list[str] = []
    assert run_on(here(tmp_path), dies, 1, lambda: ["-c", "print('the rest')"], said.append) == 0
    assert said == ["not enough memory", "the rest"]
    assert "here: the job was cut off (not enough memory); another job resumes it." in caplog.text
    with pytest.raises(BadInput, match=r"cut off \(not enough memory\), and left nothing to resume from"):
        run_on(here(tmp_path), dies, 1, lambda: None, said.append)
    wrong = Cluster("wrong", "command", options="/no/such/program", address="127.0.0.1", folder=str(tmp_path / "notes"))
    with pytest.raises(BadInput, match=r"'wrong' cannot start jobs: /no/such/program"):
        run_on(wrong, dies, 1, never, said.append)


def test_it_ends_with_what_started_it(tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\nfrom asem_core.engine.clusters import Cluster\nfrom asem_core.engine.remote import run_on\n"
        f"here = Cluster('here', 'command', options='env', address='127.0.0.1', folder={str(tmp_path / 'notes')!r})\n"
        "job = 'import os, pathlib, time; pathlib.Path(%r).write_text(str(os.getpid())); time.sleep(60)'\n"
        f"run_on(here, ['-c', job % {str(tmp_path / 'pid')!r}], 1, lambda: None, print)"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    end = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        assert time.monotonic() < end
        time.sleep(0.1)
    os.killpg(parent.pid, signal.SIGKILL)
    parent.wait()
    process = Path("/proc", (tmp_path / "pid").read_text())
    while process.exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def test_commands_are_written_again_as_they_were_typed() -> None:
    import typer

    from asem_core.cli import train as commands

    seen: list[list[str]] = []
    app = typer.Typer()
    commands.mount(app)
    line = ["train", "a.zarr", "b.zarr", "--labels", "er", "--minutes", "3.0", "--overwrite", "--on", "lab:2", "-q"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "_train_on", lambda on, context, folder: seen.append(words_of(context, {"on"})))
        assert CliRunner().invoke(app, line).exit_code == 0
    assert seen == [["train", "a.zarr", "b.zarr", "--labels", "er", "--minutes", "3.0", "--overwrite", "--quiet"]]
