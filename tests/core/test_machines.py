"""Machines that lack something: locks, a place for compiled functions, many open files."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import tifffile

from asem_core.cell.outputs import one_writer
from asem_core.cell.place import lock, unlock
from asem_core.engine import machine
from asem_core.errors import OutputBusy
from asem_core.temporary import sweep, temporary_folder


@pytest.fixture(params=[errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, 524])
def no_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no file system know locks, as some that are mounted over a network."""

    def refuse(*_: object) -> None:
        raise OSError(request.param, "no locks available")

    monkeypatch.setattr("fcntl.flock", refuse)


@pytest.mark.usefixtures("no_locks")
def test_a_file_system_without_locks(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    """A file stands for the lock of a layer and of an export, which is said in a sentence; temporary folders work, too."""
    (tmp_path / "cell.zarr").mkdir()
    layer = tmp_path / "cell.zarr/raw"
    held = lock(layer)
    assert caplog.messages == [
        f"The file system of {tmp_path}/.cell.zarr-work does not support locks: do not write to this cell from another "
        "computer at the same time."
    ]
    with pytest.raises(OutputBusy, match="is being written or edited by another process"):
        lock(layer)
    unlock(layer, held)
    unlock(layer, lock(layer))
    with one_writer(tmp_path / "planes"), pytest.raises(OutputBusy), one_writer(tmp_path / "planes"):
        pass
    with temporary_folder() as folder:
        (folder / "a").touch()
    assert not folder.exists()
    assert not recwarn.list


def test_a_folder_in_use_stays_where_locks_are_missing_now(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that gets no locks does not take a living one's for free: it would hold one of another kind."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    with temporary_folder(tmp_path) as folder:
        monkeypatch.setattr("fcntl.flock", refuse)
        sweep(tmp_path)
        assert folder.exists()
        monkeypatch.undo()


def test_another_error_of_locks_is_no_missing_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what says that there are no locks is taken for that."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr("fcntl.flock", refuse)
    with pytest.raises(OSError, match="broken disk"):
        lock(tmp_path / "cell.zarr/raw")


@pytest.fixture
def nothing_writable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Have a temporary folder, and nothing else that can be written to."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(machine, "_is_writable", lambda folder: False)
    return tmp_path


def test_no_place_for_compiled_functions(nothing_writable: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are kept in the temporary folder, closed to other users: what is loaded from there is run."""
    monkeypatch.setenv("NUMBA_CACHE_DIR", "so that it is taken back")
    monkeypatch.delenv("NUMBA_CACHE_DIR")
    machine.keep_compiled_functions()
    folder = Path(os.environ["NUMBA_CACHE_DIR"])
    assert folder.parent == nothing_writable
    assert folder.stat().st_mode & 0o777 == 0o700


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can act as another user")
def test_numba_keeps_functions_there() -> None:
    """A user who can write nowhere else loads a function that is to be kept; without that numba finds "no locator"."""
    import numba

    def load(prepared: bool) -> str:
        tempfile.tempdir = place
        os.environ.pop("NUMBA_CACHE_DIR", None)
        os.environ.update(HOME="/nonexistent", XDG_CACHE_HOME="/nonexistent")
        if prepared:
            machine.keep_compiled_functions()
        numba.config.reload_config()
        file = "/nonexistent/kernel.py" if not prepared else __file__
        names: dict[str, object] = {"numba": numba, "__name__": "asem_core"}
        exec(compile("@numba.njit(cache=True)\ndef twice(n): return 2 * n", file, "exec"), names)
        return str(names["twice"](21))  # type: ignore[operator]

    from .test_strangers import as_nobody

    numba.njit(lambda n: 2 * n)(21)  # loads modules that another user may not read
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        assert "no locator available" in as_nobody(lambda: load(False))
        assert [as_nobody(lambda: load(True)) for _ in range(2)] == ["42", "42"]  # compiled, and as it was kept


def test_few_open_files(tmp_path: Path) -> None:
    """With 20 open files, more than which a shell may forbid, an import works or says what to do."""
    tifffile.imwrite(tmp_path / "stack.tif", np.zeros((40, 40, 40), np.uint8))
    for z in range(40):
        tifffile.imwrite(tmp_path / f"z{z:03}.tif", np.zeros((40, 40), np.uint8))
    for source in ("stack.tif", "z*.tif"):
        done = subprocess.run(
            [sys.executable, "-m", "asem_core", "import", source, "--voxel-size", "5", "-o", f"{source[0]}.zarr", "-q", "-j", "1"],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20)),
        )  # fmt: skip
        assert "Traceback" not in done.stderr, done.stderr
        assert done.returncode == 0 or done.stderr.startswith("Error: "), done.stderr
