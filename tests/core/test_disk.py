"""Disks fill up and folders are read-only: said clearly, and nothing finished is lost. Uses a small real file system."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from asem_core.cell.store import open_volume

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


def test_read_only(planes: Path, disk: Path) -> None:
    """A read-only folder is said, with what to do."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    done = asem_import(planes, disk / "cell.zarr")
    assert done.returncode == 1
    assert "Cannot write to" in done.stderr
    assert "Choose another place, or" in done.stderr
