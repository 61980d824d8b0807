"""How long a brush stroke waits in the annotation window, while a network learns beside it and, in turns with it, while that is held.

    python benchmarks/stroke_latency.py [--strokes 50] [--no-learning]

Mouse events come every 16 ms, as from a hand: a stroke is a press, twelve moves and a release. The time of an event is that from
when it was due until it is painted on the screen (Xvfb, so that the processor draws); what the window does in between, such as
refreshing the map, delays it as it would delay the hand. The release writes the stroke to the disk. Beside it stands the processor
time of the window's process, with all threads that draw, which other work on the machine changes little. Other work of the same
load meets both kinds of turns; where Linux groups processes by session (`/proc/sys/kernel/sched_autogroup_enabled`), `nice` changes
nothing, but `echo -20 > /proc/self/autogroup` in a session of its own (`setsid`) does. Data: fib25, 150 x 250 x 250.
"""

from __future__ import annotations

import argparse
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _data import hardware
from _window import annotation_window, mouse, processor_s, virtual_screen, work_until, write_fib25

EVERY_S, MOVES = 0.016, 12
KINDS = ("press", *["move"] * MOVES, "release")
GOAL_MS = 50
TURN = 5


def stroke(panel: Any, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Paint one stroke; for each event the seconds from when it was due, and the processor time since the event before."""
    from qtpy.QtWidgets import QApplication

    points = rng.uniform(30, 220, 2) + np.cumsum(rng.normal(0, 3, (len(KINDS), 2)), axis=0)
    points, took = np.clip(points, 5, 244), []
    QApplication.processEvents()  # the plane is drawn, and the hand begins
    due, worked = time.perf_counter() + EVERY_S, time.process_time()
    for kind, (row, col) in zip(KINDS, points, strict=True):
        while time.perf_counter() < due:
            QApplication.processEvents()
            time.sleep(0.001)
        mouse(panel, kind, row, col)
        QApplication.processEvents()
        now, work = time.perf_counter(), time.process_time()
        took.append((now - due, work - worked))
        worked = work
        due = max(due + EVERY_S, now)  # a hand does not hurry to catch up
    return took


def paint(panel: Any, num: int, rng: np.random.Generator) -> list[list[tuple[float, float]]]:
    """Paint strokes on plane after plane; what each of their events took (see `stroke`)."""
    events = []
    for number in range(num):
        panel.viewer.dims.set_current_step(0, int(rng.integers(30, 70)))
        panel.brush(1 + number % 2)
        events.append(stroke(panel, rng))
    assert panel.session.seeds.any(), "nothing was painted"
    return events


def tell(what: str, events: list[list[tuple[float, float]]]) -> None:
    """Print how long the events of strokes took."""
    took = np.array(events) * 1000  # strokes, events, (due, processor)
    middle, high = np.percentile(took[..., 0], [50, 95])
    parts = ", ".join(
        f"{kind} {np.median(took[:, [k == kind for k in KINDS], 0]):.0f}" for kind in ("press", "move", "release")
    )
    print(
        f"{what}: {len(events)} strokes, an event takes {middle:.0f} ms ({parts}), 95th percentile {high:.0f} ms (goal {GOAL_MS}), "
        f"longest {took[..., 0].max():.0f} ms; processor {took[..., 1].mean():.0f} ms; load {os.getloadavg()[0]:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strokes", type=int, default=50)
    parser.add_argument("--no-learning", action="store_true")
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with virtual_screen(), tempfile.TemporaryDirectory() as folder, annotation_window() as panel:
        write_fib25(cell := Path(folder) / "fib25.zarr", 150)
        panel.open(cell, "membrane")
        tell("first strokes (compiling, caches)", paint(panel, 10, rng))
        if options.no_learning:
            tell("no learning", paint(panel, options.strokes, rng))
        else:
            panel.loop.learn.click()
            took = work_until(lambda: bool(panel.loop.loop.map.any()))
            print(f"the map is shown {took:.1f} s after learning was turned on", flush=True)
            beside, held = in_turns(panel, options.strokes, rng)
            tell("while a network learns", beside)
            tell("while it is held", held)
            assert panel.loop.loop.learns, panel.status.text()
            print(panel.loop.state.text())
    print(hardware())


def in_turns(panel: Any, num: int, rng: np.random.Generator) -> tuple[list[Any], list[Any]]:
    """Paint so many strokes while the process that learns is at work, and as many while it is stopped."""
    learner = panel.loop.loop._learner._process.pid
    beside, held, begun = [], [], processor_s(learner)
    for _ in range(-(-num // TURN)):
        beside += paint(panel, TURN, rng)
        os.kill(learner, signal.SIGSTOP)
        held += paint(panel, TURN, rng)
        os.kill(learner, signal.SIGCONT)
    print(f"meanwhile, the network learnt for {processor_s(learner) - begun:.0f} s of a processor", flush=True)
    return beside, held


if __name__ == "__main__":
    main()
