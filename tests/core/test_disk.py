"""Disks fill up and folders are read-only: said clearly, and nothing finished is lost. Uses a small real file system."""

from __future__ import annotations

import contextlib
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from asem_core import run_folder
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.errors import NoSpace, is_full_disk
from asem_core.files import mapped_array
from asem_core.run_folder import RunFolder

IMAGE = np.random.default_rng(0).integers(0, 256, (130, 150, 150)).astype(np.uint8)


@pytest.fixture
def planes(tmp_path: Path) -> Path:
    """Write a stack that does not compress."""
    tifffile.imwrite(tmp_path / "stack.tif", IMAGE)
    return tmp_path / "stack.tif"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Mount a file system of 2 MB in memory, or skip where that is not allowed."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = shutil.which("mount")
    made = mount and subprocess.run(
        [mount, "-t", "tmpfs", "-o", "size=2m", "tmpfs", folder], capture_output=True, check=False
    )
    if not made or made.returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


def asem_import(planes: Path, output: Path) -> subprocess.CompletedProcess[str]:
    words = ["import", str(planes), "--voxel-size", "5", "-o", str(output), "-q", "--block", "64", "-j", "1"]
    return subprocess.run([sys.executable, "-m", "asem_core", *words], capture_output=True, text=True, check=False)


def test_full_disk_then_room(planes: Path, disk: Path) -> None:
    """A full disk ends the import with advice; with room made, the same command completes it exactly."""
    done = asem_import(planes, disk / "cell.zarr")
    assert done.returncode == 1
    assert "the disk is full" in done.stderr
    assert "GB are needed" in done.stderr
    assert "run the same command again" in done.stderr
    assert "Traceback" not in done.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    done = asem_import(planes, disk / "cell.zarr")
    assert done.returncode == 0, done.stderr
    np.testing.assert_array_equal(open_volume(disk / "cell.zarr" / "raw").read(), IMAGE)


def test_files_mapped_into_memory(planes: Path, disk: Path, tmp_path: Path) -> None:
    """Where a write through a map would end the process (SIGBUS), the room is taken before: a full disk is an error in time."""
    with pytest.raises(OSError, match="No space left on device") as told:
        mapped_array(disk / "a.npy", np.uint8, IMAGE.shape)
    assert told.value.filename == str(disk / "a.npy")
    cell = tmp_path / "cell.zarr"
    assert asem_import(planes, cell).returncode == 0
    words = ["export", str(cell / "raw"), "-o", str(disk / "raw.mrc"), "-q"]
    done = CliRunner().invoke(make_app("export"), words)
    assert done.exit_code == 1
    assert done.stderr.count("Error: ") == 1
    assert "is full: the export needs up to 0.0 GB" in done.stderr
    assert not [file for file in disk.rglob("*") if file.is_file() and file.stat().st_size > 4096]
    subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
    done = CliRunner().invoke(make_app("export"), words)
    assert done.exit_code == 0, done.output
    assert [p.name for p in disk.iterdir() if not p.name.startswith(".")] == ["raw.mrc"]


def test_no_other_files_are_mapped_to_be_written() -> None:
    """Each takes its room first: by `mapped_array`, or by `take_room` where another library makes the map."""
    root = Path(__file__).parents[2]
    found = {
        file.relative_to(root).as_posix()
        for part in ("asem_core", "plugins", "registry")
        for file in (root / part).rglob("*.py")
        if re.search(r"open_memmap|new_mmap|memmap\([^)]*[\"'][rw]\+", file.read_text(encoding="utf-8"))
    }
    assert found == {"asem_core/files.py", "plugins/asem_sources/mrc.py"}


def test_read_only(planes: Path, disk: Path) -> None:
    """A read-only folder is said, with what to do."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = asem_import(planes, disk / "cell.zarr")
    assert done.returncode == 1
    assert "Cannot write to" in done.stderr
    assert "Choose another place, or" in done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("count", [1, 1_000_000])
def test_a_state_that_does_not_fit_is_told(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever torch makes of the system's error, it is told as a full disk."""
    monkeypatch.setattr(run_folder, "write_whole", lambda path: contextlib.nullcontext(Path("/dev/full")))
    with pytest.raises(NoSpace, match="The disk is full: .*state.pt could not be written"):
        RunFolder(tmp_path).save_state({"weights": torch.zeros(count)})


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_libraries_errors_of_a_full_disk_are_known(tmp_path: Path) -> None:
    """numpy's short write, torch's file, the system's own; another error of them is none."""

    for write in (
        lambda file: torch.save({"weights": torch.zeros(1_000_000)}, file),
        lambda file: np.save(file, np.zeros(100_000)),
        lambda file: file.write(bytes(1_000_000)),
    ):
        with pytest.raises((OSError, RuntimeError)) as raised, open("/dev/full", "wb") as file:
            write(file)
        assert is_full_disk(raised.value)
    with pytest.raises(FileNotFoundError) as raised:
        np.load(tmp_path / "nothing.npy")
    assert not is_full_disk(raised.value)
