"""Signals at any moment, and full disks: every command ends, by the same command again, as if nothing had happened.

`ASEM_FULL_DISKS` says at how many places each command meets a full disk (20), `ASEM_KILLS` at how many changes of a file at most
a short one is killed (30). See `survival.py` for the commands.
"""

from __future__ import annotations

import functools
import http.server
import multiprocessing
import os
import random
import re
import shutil
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from asem_core.cli import INTERRUPTED

from .interruption import HALTED_BELOW_S, SIGNALS, WHERE, Met, Way, interrupt, last_end, send, table
from .survival import COMMANDS, LOADED, LONG, Asem, SlowServer, Unbroken, contents, fill, make_start, size_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork"),
    pytest.mark.timeout(3600),
]

KILL = Way("parent", signal.SIGKILL)
MOST_KILLS = int(os.environ.get("ASEM_KILLS", "30"))
WITH_WORKERS = ("import", "segment", "run")
"""Commands that meet a full disk in their workers, too; to start some takes seconds, so the others do all themselves there."""
FULL_DISKS = int(os.environ.get("ASEM_FULL_DISKS", "20"))


@pytest.fixture(scope="module")
def asem(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Asem]:
    """Load the libraries once, and start a server."""
    served, said = (tmp_path_factory.mktemp(name) for name in ("served", "said"))
    (said / "tmp").mkdir()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(SlowServer, directory=str(served)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    forks = multiprocessing.get_context("forkserver")
    forks.set_forkserver_preload(LOADED)
    yield Asem(forks, f"http://127.0.0.1:{server.server_address[1]}", served, said / "said")
    server.shutdown()


@pytest.fixture(scope="module")
def start(asem: Asem, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with all that the commands read."""
    place = tmp_path_factory.mktemp("start") / "w"
    make_start(asem, place)
    return place


@pytest.fixture(scope="module")
def unbroken(asem: Asem, start: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Unbroken]:
    """Run a command undisturbed, the first time that it is asked for."""

    @functools.cache
    def of(name: str) -> Unbroken:
        found, begun = [], 0.0
        for _ in range(2):
            place, temporary = tmp_path_factory.mktemp("unbroken") / "w", tmp_path_factory.mktemp("tmp")
            shutil.copytree(start, place)
            before = size_of(place)
            # Receipts note times to the second, archives to two: runs that begin three apart differ in every file with a time.
            time.sleep(max(0.0, begun + 3 - time.monotonic()))
            begun = time.monotonic()
            running = asem.work(COMMANDS[name], place, temporary)
            seconds = time.monotonic() - begun
            left = contents(place), size_of(place) - before
            found.append((seconds, running.work_s, running.changes, running.num_children, *left))
            shutil.rmtree(place)
        *_, first, _ = found[0]
        *_, second, written = found[1]
        assert sorted(first) == sorted(second)
        files = {n: total if second[n] == total else "" for n, total in first.items()}
        seconds, (begun_s, ended_s), changes, num_children, *_ = min(found)
        return Unbroken(files, seconds, begun_s, ended_s, changes, num_children, written)

    return of


@pytest.mark.parametrize("name", COMMANDS)
def test_undisturbed(name: str, unbroken: Callable[[str], Unbroken]) -> None:
    """Two runs leave the same files, and most of them are equal to the byte."""
    found = unbroken(name)
    volatile = [f for f, total in found.files.items() if not total]
    print(
        f"{name}: {found.seconds:.2f} s, {found.changes} changes from {found.begun_s:.2f} to {found.ended_s:.2f} s, "
        f"{found.num_children} processes, {found.written >> 10} KiB {volatile}"
    )
    assert len(found.files) > len(volatile)


@pytest.fixture(scope="module")
def met() -> Iterator[list[Met]]:
    """Signals that met a command in the middle of its work; they are told in the end."""
    met: list[Met] = []
    yield met
    print("\n" + table(met, list(COMMANDS)))


@pytest.mark.parametrize("turn", range(3))
@pytest.mark.parametrize("name", COMMANDS)
def test_signals(
    name: str, turn: int, asem: Asem, start: Path, unbroken: Callable[[str], Unbroken], met: list[Met], tmp_path: Path
) -> None:
    """A command that is interrupted three times, each time in another way, goes on each time and ends as an unbroken run.

    Each signal meets it in the middle of its work. No process outlives it by a second, and nothing is left over.
    """
    expected = unbroken(name)
    place, temporary = tmp_path / "w", tmp_path / "tmp"
    temporary.mkdir()
    shutil.copytree(start, place)
    random_numbers = random.Random(f"{name} {turn}")
    most = 1.0
    for target, sent in zip(WHERE[turn:] + WHERE[:turn], SIGNALS, strict=True):
        way = Way(target, sent)
        if target == "worker" and not expected.num_children:
            continue
        for _ in range(10):
            halted = target != "worker" and (expected.seconds < HALTED_BELOW_S or random_numbers.random() < 0.5)
            part = random_numbers.uniform(0, most)
            found = interrupt(asem, name, COMMANDS[name], place, temporary, way, part, halted, expected)
            if found:
                met.append(found)
                print(f"met: {found}")
            most = 0.7 if found else 1.0  # what is left is less; a command that was done is begun again
            if not found or target == "worker":
                if not expected.equals(place):  # `asem loop`, given again, learns another round
                    asem.work(COMMANDS[name], place, temporary)
                expected.require_equal(place)
                shutil.rmtree(place)
                shutil.copytree(start, place)
            if found:
                break
        else:
            pytest.fail(f"{way} never met it at work")
    asem.work(COMMANDS[name], place, temporary)
    expected.require_equal(place)
    shutil.rmtree(place)


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in LONG])
def test_killed_before_each_change(
    name: str, asem: Asem, start: Path, unbroken: Callable[[str], Unbroken], met: list[Met], tmp_path: Path
) -> None:
    """A short command that is killed just before a change of a file, any of them, ends by the same command as an unbroken run."""
    expected = unbroken(name)
    temporary, wrong = tmp_path / "tmp", []
    temporary.mkdir()
    for number in range(1, expected.changes + 1, -(-expected.changes // MOST_KILLS)):
        place = tmp_path / "w"
        shutil.copytree(start, place)
        part = (number - 1) / max(1, expected.changes - 1)
        found = interrupt(asem, name, COMMANDS[name], place, temporary, KILL, part, True, expected)
        met += [found] if found else []
        try:
            asem.work(COMMANDS[name], place, temporary)
            expected.require_equal(place)
        except AssertionError as error:
            wrong.append(f"killed before change {number} of {expected.changes}: {error}")
            print(wrong[-1])
        shutil.rmtree(place)
        for left in temporary.iterdir():
            shutil.rmtree(left)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("sent", SIGNALS, ids=str)
@pytest.mark.parametrize("target", ["parent", "group"])
def test_signals_to_the_viewer(target: str, sent: signal.Signals, asem: Asem, start: Path, tmp_path: Path) -> None:
    """It ends with all its processes, leaves nothing, and the same command, with the same port, shows the cell again."""
    before = contents(start)
    with http.server.HTTPServer(("127.0.0.1", 0), SlowServer) as free:
        port = free.server_address[1]
    for way in (Way(target, sent), Way("parent", signal.SIGINT)):
        running = asem.start(f"view cell.zarr --no-browser --port {port}", start, tmp_path)
        deadline = time.monotonic() + 60
        while not answers(port):
            assert running.lives, running.said()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        family = send(running, way)
        assert family, "it had ended"
        code = running.join()
        last_end(family, tmp_path)
        assert "Traceback" not in running.said()
        assert not list(tmp_path.iterdir())
    assert code in (0, INTERRUPTED)  # the latter where the address answers and is not yet printed
    assert contents(start) == before


def answers(port: int) -> bool:
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=5)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


@pytest.fixture(scope="module", params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Mount a small file system, or skip where that is not allowed."""
    folder = tmp_path_factory.mktemp("disk")
    image = tmp_path_factory.mktemp("image") / "image"
    if request.param == "tmpfs":
        made = ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(folder)]
    else:
        if not shutil.which("mkfs.ext4"):
            pytest.skip("there is no mkfs.ext4")
        with image.open("wb") as file:
            file.truncate(48 << 20)
        subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", "-N", "8192", str(image)], check=True)
        made = ["mount", "-o", "loop", str(image), str(folder)]
    if not shutil.which("mount") or subprocess.run(made, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def crash_notes(folder: Path) -> str:
    return "\n".join(note.read_text() for note in folder.glob("asem-error-*"))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_full_disk(
    name: str, disk: Path, asem: Asem, start: Path, unbroken: Callable[[str], Unbroken], tmp_path: Path
) -> None:
    """At 20 places: no SIGBUS, no traceback; with some more room each time, the same command goes on, and ends as an unbroken run.

    At every second place the temporary folder is on the full disk, too.
    """
    words = COMMANDS[name] if name in WITH_WORKERS else COMMANDS[name].replace("-j 2", "-j 1")
    expected, ended, temporary = unbroken(name), [], tmp_path / "tmp"
    place = disk / "w"
    for left in (place, disk / "tmp"):  # of a test that failed
        shutil.rmtree(left, ignore_errors=True)
    (disk / "filler").unlink(missing_ok=True)
    shutil.copytree(start, place)
    for folder in (tmp_path, disk):
        (folder / "tmp").mkdir()
    before, room = size_of(place), 0
    for number in range(FULL_DISKS):
        temporary = (disk if number % 2 else tmp_path) / "tmp"
        fill(disk / "filler", max(0, room - size_of(place) + before))
        code, said = asem(words, place, temporary)
        ended.append(code)
        assert code in (0, 1), f"{name}, {room >> 10} KiB of room, status {code}: {said}"
        assert not re.search("Traceback|asem-error", said), (
            f"{name}, {room >> 10} KiB of room: {said}{crash_notes(temporary)}"
        )
        assert code == 0 or said.count("Error: ") == 1, said
        room += max(expected.written // FULL_DISKS, 1 << 12)
        if code == 0:
            expected.require_equal(place)
            (disk / "filler").unlink(
                missing_ok=True
            )  # ext4 gives back the blocks of what was deleted only after a while
            shutil.rmtree(place)
            shutil.copytree(start, place)
            room = expected.written // FULL_DISKS // 2
    (disk / "filler").unlink(missing_ok=True)
    asem.work(words, place, temporary)
    expected.require_equal(place)
    print(f"{name}: {len(ended)} full disks, {ended.count(1)} times too full")
    for folder in (place, disk / "tmp"):
        shutil.rmtree(folder, ignore_errors=True)
    assert 1 in ended
