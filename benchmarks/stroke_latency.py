"""How long a brush stroke waits in the annotation window, while a network learns beside it and while none does.

    python benchmarks/stroke_latency.py [--strokes 100] [--no-learning]

Mouse events come every 16 ms, as from a hand: a stroke is a press, twelve moves and a release. The time of an event is that from
when it was due until it is painted on the screen (Xvfb, so that the processor draws); what the window does in between, such as
refreshing the map, delays it as it would delay the hand. The release writes the stroke to the disk. Beside it stands the processor
time of the window's process, with all threads that draw, which other work on the machine changes little. Data: fib25, 150 x 250 x 250.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from _data import hardware
from _window import annotation_window, mouse, virtual_screen, work_until, write_fib25

EVERY_S, MOVES = 0.016, 12
KINDS = ("press", *["move"] * MOVES, "release")
GOAL_MS = 50


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


def measure(panel: Any, num: int, what: str) -> None:
    """Paint strokes on plane after plane, and print how long their events took."""
    rng, events = np.random.default_rng(0), []
    for number in range(num):
        panel.viewer.dims.set_current_step(0, 30 + number % 40)
        panel.brush(1 + number % 2)
        events.append(stroke(panel, rng))
    assert panel.session.seeds.any(), "nothing was painted"
    took = np.array(events) * 1000  # strokes, events, (due, processor)
    middle, high = np.percentile(took[..., 0], [50, 95])
    parts = ", ".join(
        f"{kind} {np.median(took[:, [k == kind for k in KINDS], 0]):.0f}" for kind in ("press", "move", "release")
    )
    print(
        f"{what}: {num} strokes, an event takes {middle:.0f} ms ({parts}), 95th percentile {high:.0f} ms (goal {GOAL_MS}), longest "
        f"{took[..., 0].max():.0f} ms; processor {took[..., 1].mean():.0f} ms; load {os.getloadavg()[0]:.0f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strokes", type=int, default=100)
    parser.add_argument("--no-learning", action="store_true")
    options = parser.parse_args()
    with virtual_screen(), tempfile.TemporaryDirectory() as folder, annotation_window() as panel:
        write_fib25(cell := Path(folder) / "fib25.zarr", 150)
        panel.open(cell, "membrane")
        measure(panel, 10, "first strokes (compiling, caches)")
        measure(panel, options.strokes, "no learning")
        if not options.no_learning:
            panel.loop.learn.click()
            took = work_until(lambda: bool(panel.loop.loop.map.any()))
            print(f"the map is shown {took:.1f} s after learning was turned on", flush=True)
            measure(panel, options.strokes, "while a network learns")
            assert panel.loop.loop.learns, panel.status.text()
            print(panel.loop.state.text())
    print(hardware())


if __name__ == "__main__":
    main()
