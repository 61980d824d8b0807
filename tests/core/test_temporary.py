"""What killed processes leave behind is removed by the next run, and what living ones use is not."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import psutil
import pytest

from asem_core.temporary import _host, is_half, sweep, temporary_folder, write_whole


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Take a folder of this test's own as the temporary folder."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_folders(base: Path) -> None:
    """A folder goes with its context; that of a killed process with the next one; that of a living process stays."""
    program = (
        "import os, sys, tempfile; tempfile.tempdir = sys.argv[1]\n"
        "from asem_core.temporary import temporary_folder\n"
        "with temporary_folder() as folder: print(folder, flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, base], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    theirs = Path(process.stdout.readline().strip())
    (base / "asem-of-somebody").mkdir()
    dead = next(pid for pid in range(os.getpid() + 1, 10**7) if not psutil.pid_exists(pid))
    for pid in (dead, os.getpid()):
        (base / f".asem-{_host()}-{pid}-begun").mkdir()
        (base / f"asem-{_host()}-{pid}-half-removed/folder").mkdir(parents=True)
    with temporary_folder() as ours:
        assert theirs.exists()
        assert ours.stat().st_mode & 0o077 == 0
    assert not ours.exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert theirs.exists()
    sweep()
    assert not theirs.exists()
    assert sorted(p.name for p in base.iterdir()) == [
        f".asem-{_host()}-{os.getpid()}-begun",
        f"asem-{_host()}-{os.getpid()}-half-removed",
        "asem-of-somebody",
    ]


def test_no_other_temporary_folders() -> None:
    """Those that Python makes stay for ever when their process is killed: all are made by `temporary_folder`."""
    root = Path(__file__).parents[2]
    known = {"asem_core/temporary.py", "asem_core/cell/build.py"}  # the latter's lies in a folder that is swept
    found = [
        file.relative_to(root).as_posix()
        for part in ("asem_core", "plugins", "registry")
        for file in (root / part).rglob("*.py")
        if re.search(r"TemporaryDirectory|mkdtemp|NamedTemporaryFile", file.read_text(encoding="utf-8"))
    ]
    assert set(found) <= known


def test_half_files(base: Path) -> None:
    """A file appears whole or not at all; halves of processes that live no more are swept, others stay."""
    file = base / "state[1].pt"
    with write_whole(file) as half:
        half.write_text("half")
        assert not file.exists()
    assert file.read_text() == "half"
    mine = half.name
    dead = next(pid for pid in range(os.getpid() + 1, 10**7) if not psutil.pid_exists(pid))
    for pid in (dead, os.getppid()):
        (base / mine.replace(f"-{os.getpid()}.", f"-{pid}.")).touch()
    with pytest.raises(ValueError, match="no"), write_whole(file) as half:
        half.write_text("more")
        raise ValueError("no")
    assert file.read_text() == "half"
    assert sorted(p.name for p in base.iterdir()) == sorted(
        [file.name, mine.replace(f"-{os.getpid()}.", f"-{os.getppid()}.")]
    )


@pytest.mark.parametrize("alone", [False, True])
def test_folders_and_pieces_of_a_run(base: Path, alone: bool) -> None:
    """A folder, too, has its name once it is whole; what a killed process left in its place is not mixed in; a failure leaves none."""
    folder = base / "project"
    dead = next(pid for pid in range(os.getpid() + 1, 10**7) if not psutil.pid_exists(pid))
    left = base / (".project.half" if alone else f".project.{_host()}-{dead}.half")
    left.mkdir()
    (left / "old").touch()
    with pytest.raises(ValueError, match="no"), write_whole(folder, alone=alone) as half:
        half.mkdir()
        (half / "new").touch()
        raise ValueError("no")
    assert not list(base.iterdir())
    with write_whole(folder, alone=alone) as half:
        half.mkdir()
        (half / "new").touch()
        assert is_half(half)
        assert not folder.exists()
    assert [p.relative_to(base).as_posix() for p in base.rglob("*")] == ["project", "project/new"]


def test_pieces_look_for_no_others(base: Path) -> None:
    """There may be one for each block of an image: what is written of others is not touched."""
    (base / ".1.npy.half").touch()
    with write_whole(base / "0.npy", alone=True) as half:
        half.write_bytes(b"0")
    assert sorted(p.name for p in base.iterdir()) == [".1.npy.half", "0.npy"]
