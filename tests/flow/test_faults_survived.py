"""Signals at any moment, and full disks: every command ends, by the same command again, as if nothing had happened.

`ASEM_KILLS` says how many signals are sent (200), in turn over all commands and ways to send them.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
import tifffile

pytestmark = pytest.mark.slow

TRAIN = """[model]
use = "membrane"
features = 16
factors = [[2, 2, 2]]
[train]
iterations = 6
checkpoint_every = 2
block = 8
readers = 0
[[train.regions]]
raw = "cell.zarr/raw"
labels = "cell.zarr/labels/a"
"""
COMMANDS = {
    "import": "import stack.tif --voxel-size 5 -o new.zarr --block 32 -j 2 -q",
    "import inline": "import stack.tif --voxel-size 5 -o new.zarr --block 16 -j 1 -q",
    "preprocess": "preprocess cell.zarr/raw --use clahe -o cell.zarr/raw_clahe --block 32 -j 2 -q",
    "segment": "segment cell.zarr/labels/a -t 0.5 -o cell.zarr/segmentation --block 32 -j 2 -q",
    "export planes": "export cell.zarr/raw -o planes -j 2 -q",
    "export file": "export cell.zarr/raw -o raw.tif -j 1 -q",
    "surfaces": "export cell.zarr/labels/a --mesh ply -o surfaces -j 1 -q",
    "to edit": "annotate export cell.zarr/labels/a -o edit.tif",
    "annotate": "annotate import cell.zarr labels.tif -o labels/new -q",
    "analyze": "analyze morphometry cell.zarr/labels/a -o report -j 2 -q",
    "evaluate": "evaluate cell.zarr/labels/a cell.zarr/labels/a -o scores -j 2 -q",
    "train": "train recipe.toml -o run --device cpu -q",
}
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)
TARGETS = ("parent", "group", "worker")
ONE_OF_A_KIND = (
    "zarr.json",
    "provenance.json",
    "made_by.json",
    "report.html",
    "metrics.jsonl",
    "state.pt",
    "numbers.json",
)
"""Files that note ids, times or paths."""


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a stack and a cell."""
    place = tmp_path_factory.mktemp("start")
    rng = np.random.default_rng(0)
    image = rng.integers(0, 255, (64, 64, 64)).astype(np.uint8)
    labels = np.zeros(image.shape, np.uint8)
    labels[8:24, 8:24, 8:24], labels[30:60, 30:60, 30:50] = 1, 1
    tifffile.imwrite(place / "stack.tif", image)
    tifffile.imwrite(place / "labels.tif", labels)
    (place / "recipe.toml").write_text(TRAIN)
    for words in (
        "import stack.tif --voxel-size 5 -o cell.zarr -q",
        "import labels.tif --voxel-size 5 -o cell.zarr --layer labels/a --kind labels -q",
    ):
        done = asem(words, place, place)
        assert done.returncode == 0, done.stderr
    return place


def asem(words: str, place: Path, temporary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "asem_core", *words.split()], cwd=place, capture_output=True, text=True, check=False,
        env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip


def contents(place: Path) -> dict[str, str]:
    """Sum every file that two equal runs write equally."""
    return {
        f.relative_to(place).as_posix(): ""
        if f.name.endswith(ONE_OF_A_KIND) or "tensorboard" in f.parts
        else hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted(place.rglob("*"))
        if f.is_file()
    }


@pytest.fixture(scope="module")
def unbroken(start: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[dict[str, str], float]]:
    """Run each command undisturbed: what is there then, and how long it takes."""
    found = {}
    for name, words in COMMANDS.items():
        place = tmp_path_factory.mktemp("unbroken") / "w"
        shutil.copytree(start, place)
        temporary = tmp_path_factory.mktemp("tmp")
        begun = time.monotonic()
        done = asem(words, place, temporary)
        assert done.returncode == 0, (name, done.stderr)
        assert not list(temporary.iterdir())
        found[name] = (contents(place), time.monotonic() - begun)
        shutil.rmtree(place)
    return found


def cases() -> list[tuple[int, str, signal.Signals, str]]:
    ways = itertools.cycle(itertools.product(COMMANDS, TARGETS, SIGNALS))
    return [(n, *way) for n, way in zip(range(int(os.environ.get("ASEM_KILLS", "200"))), ways, strict=False)]


@pytest.mark.parametrize(("number", "name", "target", "sent"), cases(), ids=str)
def test_a_signal(
    number: int, name: str, target: str, sent: signal.Signals, start: Path,
    unbroken: dict[str, tuple[dict[str, str], float]], tmp_path: Path,
) -> None:  # fmt: skip
    """No orphan after a second; the same command then ends as an unbroken run; nothing is left over."""
    expected, seconds = unbroken[name]
    place, temporary = tmp_path / "w", tmp_path / "tmp"
    shutil.copytree(start, place)
    temporary.mkdir()
    process = subprocess.Popen(
        [sys.executable, "-m", "asem_core", *COMMANDS[name].split()], cwd=place, start_new_session=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "TMPDIR": str(temporary)},
    )  # fmt: skip
    time.sleep(random.Random(number).uniform(0.3, 1.0) * seconds)
    family: list[psutil.Process] = []
    try:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        if target == "group":
            os.killpg(process.pid, sent)
        else:
            (family[-1] if target == "worker" else family[0]).send_signal(sent)
    except (psutil.NoSuchProcess, ProcessLookupError):
        pass  # it had ended
    _, said = process.communicate(timeout=300)
    assert "Traceback" not in said
    deadline = time.monotonic() + 1
    while (orphans := [p for p in family if lives(p)]) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not orphans
    done = asem(COMMANDS[name], place, temporary)
    assert done.returncode == 0, done.stderr
    assert contents(place) == expected
    assert not list(temporary.iterdir())
    shutil.rmtree(place)


def lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """Mount a small file system, or skip where that is not allowed."""
    folder, image = tmp_path / "disk", tmp_path / "image"
    folder.mkdir()
    if request.param == "tmpfs":
        made = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    else:
        if not shutil.which("mkfs.ext4"):
            pytest.skip("there is no mkfs.ext4")
        with image.open("wb") as file:
            file.truncate(24 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", str(image)], check=True)
        made = ["mount", "-o", "loop", str(image), str(folder)]
    if not shutil.which("mount") or subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", folder], check=True)


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(
    name: str, disk: Path, start: Path, unbroken: dict[str, tuple[dict[str, str], float]], tmp_path: Path
) -> None:
    """At 20 places: no SIGBUS, no traceback; with room made, the same command ends as an unbroken run."""
    expected, _ = unbroken[name]
    for place_of in range(20):
        place, filler = disk / "w", disk / "filler"
        shutil.copytree(start, place)
        room = (place_of * 40) << 10  # bytes that stay free: 0 to 760 KB
        with filler.open("wb") as file:
            size = max(0, shutil.disk_usage(disk).free - room)
            try:
                for begin in range(0, size, 1 << 14):
                    file.write(b"\1" * min(1 << 14, size - begin))
                    file.flush()
            except OSError:
                pass
        done = asem(COMMANDS[name], place, tmp_path)
        assert done.returncode in (0, 1), (room, done.returncode, done.stderr)
        assert "Traceback" not in done.stderr, (room, done.stderr)
        assert done.returncode == 0 or done.stderr.count("Error: ") == 1, (room, done.stderr)
        filler.unlink()
        done = asem(COMMANDS[name], place, tmp_path)
        assert done.returncode == 0, (room, done.stderr)
        assert contents(place) == expected, room
        shutil.rmtree(place)
