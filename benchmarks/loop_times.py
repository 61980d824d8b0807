"""How long the loop's answers take in the window: the first map, the network's, and that of a finished round.

    python benchmarks/loop_times.py [--planes 250] [--rounds 2] [--seconds 45]

Ten strokes of 40 voxels are painted on one plane of fib25 by the simulated annotator of `loop_accuracy.py`; then learning is turned on,
as it comes: nothing is prepared but what the window prepares by itself while one looks at it for 5 s. Times are those from the click
until the whole visible plane is shown; a round's, from when it was finished (its file was written). Beside them stands the processor
time of the process that learns (Linux), which other work on the machine changes little.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import tifffile
from _data import data_path, hardware
from _window import annotation_window, processor_s, virtual_screen, work_until, write_fib25
from loop_accuracy import strokes_on

from asem_core.volume import Box

PLANE = 60


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, default=250)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seconds", type=float, default=45.0)
    given = parser.parse_args()
    with virtual_screen(), tempfile.TemporaryDirectory() as folder, annotation_window() as panel:
        write_fib25(cell := Path(folder) / "fib25.zarr", given.planes)
        panel.open(cell, "membrane")
        panel.viewer.dims.set_current_step(0, PLANE)
        labels = tifffile.imread(data_path("fib25/membrane_z000-149.tif"), key=PLANE) > 0
        panel.session.seeds[PLANE] = strokes_on(labels.astype(np.uint8), None, 10, np.random.default_rng(0))
        panel.seeds.refresh()
        panel.save()
        hand = time.perf_counter() + 5
        work_until(lambda: time.perf_counter() > hand)
        section = panel.loop
        section.options = attrs.evolve(section.options, round_s=given.seconds)
        section.learn.click()
        begun, loop = time.time(), section.loop
        shown, learner = note_what_is_shown(loop), loop._learner._process.pid
        ready = processor_s(learner)
        plane = section._visible(panel.session)
        work_until(lambda: bool(loop.map[plane.slices].all()))
        print(
            f"first map of the visible plane after {time.time() - begun:.1f} s (goal 10), {processor_s(learner) - ready:.1f} s of a "
            f"processor; load {os.getloadavg()[0]:.0f}",
            flush=True,
        )
        for number in range(1, given.rounds + 1):
            file = cell / f"loop/membrane/rounds/{number:03}/round.json"
            work_until(file.exists, 1800)
            finished = file.stat().st_mtime
            work_until(lambda: any(at > finished and box & plane == plane for at, box in shown), 600)  # noqa: B023
            at = next(at for at, box in shown if at > finished and box & plane == plane)
            print(
                f"round {number}: finished {finished - begun:.1f} s after the click{' (goal 90)' if number == 1 else ''}, the visible plane "
                f"is refreshed {at - finished:.1f} s later (goal 5), {processor_s(learner) - ready:.0f} s of a processor so far; load {os.getloadavg()[0]:.0f}",
                flush=True,
            )
        work_until(lambda: len(loop.rounds) == given.rounds)
        print(section.state.text())
    print(hardware())


def note_what_is_shown(loop: Any) -> list[tuple[float, Box]]:
    """Note when which part of the map comes in."""
    found: list[tuple[float, Box]] = []
    show = loop._show

    def noted(where: Box, values: np.ndarray) -> None:
        show(where, values)
        found.append((time.time(), where))

    loop._show = noted
    return found


if __name__ == "__main__":
    main()
