"""How soon `asem` answers where no network runs: processor time of whole processes, and of an empty Python beside them.

The commands take turns, so that whatever else the machine does slows all of them alike.

    python benchmarks/startup.py [repeats]
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence

from _data import hardware

EMPTY = "python -c pass"
COMMANDS = {
    EMPTY: ["-c", "pass"],
    "asem --help": ["-m", "asem_core", "--help"],
    "asem plugins list": ["-m", "asem_core", "plugins", "list"],
    "asem models list": ["-m", "asem_core", "models", "list"],
}


def main() -> None:
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else 10
    for words in COMMANDS.values():  # the first run of each compiles modules and fills the disk's cache
        seconds(words)
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(repeats):
        for name, words in COMMANDS.items():
            measured[name].append(seconds(words))
    empty = min(processor for processor, _ in measured[EMPTY])
    for name, runs in measured.items():
        processor, wall = zip(*runs, strict=True)
        print(
            f"{name:18}  processor {min(processor):.3f} s (median {statistics.median(processor):.3f}), "
            f"wall {min(wall):.3f} s (median {statistics.median(wall):.3f}), {min(processor) / empty:.0f} x {EMPTY}"
        )
    print(f"{repeats} runs each; {hardware()}; load {os.getloadavg()[0]:.0f}")


def seconds(words: Sequence[str]) -> tuple[float, float]:
    """Run Python once with these words; return user and system time, and wall time."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *words], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime, wall


if __name__ == "__main__":
    main()
