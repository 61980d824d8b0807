"""What it costs to hand out a block, have it noted and attested: processor time of the run, blocks a second, memory.

    python benchmarks/schedule_speed.py [--workers 200] [--blocks 50000] [--seconds 0.1]

The work of a block is to sleep: what is measured is the run that only schedules, as on the head node of a cluster. Workers load
no torch; they are started by a command, as a cluster's are, and connect over the network.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path

import psutil
from _data import hardware

from asem_core.blocks import Run, run_blocks
from asem_core.engine.clusters import Cluster
from asem_core.volume import Box


class Sleep:
    """Work that takes its time and no processor."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __call__(self):  # type: ignore[no-untyped-def]
        return lambda box: time.sleep(self.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=200)
    parser.add_argument("--blocks", type=int, default=50_000)
    parser.add_argument("--seconds", type=float, default=0.1, help="that the work of a block takes")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(
            "here", "command", workers=options.workers, options="env", address="127.0.0.1", folder=f"{folder}/shared"
        )
        run = Run(on=cluster, progress=False, scratch=Path(folder) / "scratch")
        memory: dict[int, float] = {}
        for blocks in (options.workers, options.blocks // 10, options.blocks):
            begun, cpu = time.perf_counter(), time.process_time()
            run_blocks(Sleep(options.seconds), Box((0, 0, 0), (blocks, 1, 1)), 1, run, name=f"sleep{blocks}")
            wall, cpu = time.perf_counter() - begun, time.process_time() - cpu
            memory[blocks] = psutil.Process().memory_info().rss / 1e6
            print(
                f"{blocks} blocks, {options.workers} workers: {wall:.1f} s with starting them, {1000 * cpu / blocks:.2f} ms of this "
                f"process's time a block, {memory[blocks]:.0f} MB",
                flush=True,
            )
    print(f"machine: {hardware()}, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
