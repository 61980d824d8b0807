"""A signal that meets a command in the middle of its work, and what came of it."""

from __future__ import annotations

import os
import signal
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import attrs
import psutil

from asem_core.cli import INTERRUPTED

from .survival import Asem, Running, Unbroken

PATIENCE_S = 600
HALTED_BELOW_S = 1.0
"""Shorter work is always met just before a change of a file, as a clock is too coarse; longer work every second time."""
WHERE = ("parent", "group", "worker")
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP)


@attrs.frozen
class Way:
    """To which of its processes a command gets which signal."""

    target: str
    """The command itself (parent), all processes of its group (group), or its youngest process (worker)."""
    sent: signal.Signals

    def __str__(self) -> str:
        return f"{self.sent.name} to {self.target}"


@attrs.frozen
class Met:
    """A signal that a living process received between the first and the last change of a file of its command."""

    command: str
    way: Way
    part: float
    """Where in the work of an unbroken run the signal was to come, 0 to 1."""
    halted: bool
    """Whether it came just before a change of a file, for which the command waited."""
    changes: int
    """How many files this run had changed before."""
    ended_s: float
    """When the command had ended after the signal; of one whose worker was met when it had ended its work."""
    orphan_s: float
    """How long after its command the last of its processes ended."""


def interrupt(
    asem: Asem,
    name: str,
    words: str,
    place: Path,
    temporary: Path,
    way: Way,
    part: float,
    halted: bool,
    expected: Unbroken,
) -> Met | None:
    """Start a command and send it a signal when it has done a part of its work; None: it came too late, the work was done.

    Everything else that must hold is asserted: the signal had its effect, no traceback, no process that outlives the command.
    """
    halt_at = 1 + round(part * (expected.changes - 1)) if halted else 0
    running = asem.start(words, place, temporary, halt_at)
    _wait(running, expected.begun_s + part * (expected.ended_s - expected.begun_s), halted, way)
    changes = running.changes
    family = send(running, way)
    sent_s = time.monotonic()
    running.release()
    code, ended_s = running.join(PATIENCE_S), time.monotonic()
    orphan_s = last_end(family, temporary) - ended_s
    said = running.said()
    assert "Traceback" not in said, said
    if way.target == "worker":
        assert code in (0, 1), f"{way}: status {code}: {said}"
        assert code == 0 or said.count("Error: ") == 1, said
    if not family or (way.target != "worker" and expected.equals(place)):
        return None  # it was over, or nothing but its end was missing
    if way.target != "worker":
        died_of = {-way.sent, INTERRUPTED} if way.sent == signal.SIGTERM else {-way.sent}
        assert code in died_of, f"{way}: status {code}: {said}"
    return Met(name, way, part, halted, changes, ended_s - sent_s, max(0.0, orphan_s))


def _wait(running: Running, seconds: float, halted: bool, way: Way) -> None:
    """Wait until a command has begun to change files and the moment has come, or until it has ended."""
    while running.lives:
        if halted:
            if running.is_halted:
                return
        elif running.changes and running.age_s >= seconds and (way.target != "worker" or running.children()):
            return
        time.sleep(0.001)


def send(running: Running, way: Way) -> list[psutil.Process]:
    """Send a signal; give all processes that there were, or none if the one that it was for had ended."""
    try:
        parent = psutil.Process(running.pid)
        children = running.children()
        if not lives(parent) or (way.target == "worker" and not children):
            return []
        if way.target == "group":
            os.killpg(running.pid, way.sent)
        else:
            (children[-1] if way.target == "worker" else parent).send_signal(way.sent)
    except (psutil.NoSuchProcess, ProcessLookupError):
        return []
    return [parent, *children]


def last_end(family: Sequence[psutil.Process], temporary: Path) -> float:
    """Wait until the last process of a command has ended, those that it started after the signal included; tell when."""
    deadline = time.monotonic() + PATIENCE_S
    while any(map(lives, family)) or _started_with(temporary):
        assert time.monotonic() < deadline, "a process lives on"
        time.sleep(0.002)
    return time.monotonic()


def _started_with(temporary: Path) -> bool:
    """Tell whether any living process was started with this folder for temporary files: it is a command's own."""
    own = f"TMPDIR={temporary}\0".encode()
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            if own in Path("/proc", number, "environ").read_bytes() and lives(psutil.Process(int(number))):
                return True
        except (OSError, psutil.NoSuchProcess):
            continue
    return False


def lives(process: psutil.Process) -> bool:
    """Tell whether a process has not ended."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def table(met: Sequence[Met], commands: Sequence[str]) -> str:
    """Count signals by command, signal and target, and say how they were spread and how long processes lived on."""
    ways = [Way(target, sent) for sent in SIGNALS for target in WHERE]
    counted = Counter((m.command, m.way) for m in met)
    lines = ["command".ljust(18) + "".join(f"{w.sent.name[3:]} {w.target}".rjust(13) for w in ways)]
    for command in commands:
        lines.append(command.ljust(18) + "".join(str(counted[command, w]).rjust(13) for w in ways))
    lines.append("all".ljust(18) + "".join(str(sum(m.way == w for m in met)).rjust(13) for w in ways))
    lines.append(
        f"{len(met)} signals met {len({m.command for m in met})} commands at work, {sum(m.halted for m in met)} before a change"
    )
    tenths = Counter(min(9, int(m.part * 10)) for m in met)
    lines.append("in each tenth of the work: " + " ".join(str(tenths[n]) for n in range(10)))
    for what in ("orphan_s", "ended_s"):
        values = sorted(getattr(m, what) for m in met if what == "orphan_s" or m.way.target != "worker")
        if values:
            marks = ", ".join(
                f"{p} % {values[min(len(values) - 1, len(values) * p // 100)] * 1000:.0f} ms" for p in (50, 90, 99)
            )
            lines.append(f"{what}: {marks}, longest {values[-1] * 1000:.0f} ms of {len(values)}")
    return "\n".join(lines)
