"""Everything that is to be known of the first GPU at hand, in ten minutes: is it right, does it fit, how fast is it?

    python benchmarks/gpu_check.py [--device cuda] [--minutes 10] [--only STEP ...] > gpu.jsonl
    python benchmarks/gpu_check.py --device cpu --small        # checks the script itself, where there is no GPU

Each step runs in a process of its own with a limit of time, so that one which hangs or loses the device costs no other; each
prints one line of JSON: `ok`, the seconds taken, and what was found. A step whose expectation does not hold has `ok` false and
says so in `wrong`; one that died has its last words in `error`. Networks: the published one with random weights whose
probabilities spread over (0, 1), and the shipped ones with theirs. Images are noise blurred to a grain of some voxels.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

import _gpu_prediction  # noqa: F401 - adds its steps
import _gpu_training  # noqa: F401
from _gpu_bench import STEPS, Bench, Found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true", help="sizes with which the script itself is checked")
    parser.add_argument("--minutes", type=float, default=10, help="for all steps together")
    parser.add_argument("--only", nargs="*", choices=list(STEPS), help="these steps")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.step:
        print(json.dumps(STEPS[given.step][0](Bench(given.device, given.small))))
        return
    end = time.monotonic() + 60 * given.minutes
    failed = False
    for name in given.only or STEPS:
        limit = STEPS[name][1] * (5 if given.small else 1)  # a CPU is slower
        found = run(name, given, min(limit, end - time.monotonic()))
        failed |= not found["ok"]
        print(json.dumps(found), flush=True)
    sys.exit(1 if failed else 0)


def run(name: str, given: argparse.Namespace, limit_s: float) -> Found:
    """Run a step in a process of its own, and say how it ended."""
    if limit_s < 5:
        return {"step": name, "ok": False, "error": "no time left"}
    command = [sys.executable, __file__, "--step", name, "--device", given.device, *["--small"][: given.small]]
    begun = time.monotonic()
    try:
        ended = subprocess.run(command, capture_output=True, text=True, timeout=limit_s)
    except subprocess.TimeoutExpired:
        return {"step": name, "ok": False, "error": f"not done within {limit_s:.0f} s"}
    took = {"step": name, "seconds": round(time.monotonic() - begun, 1)}
    if ended.returncode:
        return took | {"ok": False, "error": ended.stderr.strip()[-800:] or f"exit status {ended.returncode}"}
    found: Found = json.loads(ended.stdout.strip().splitlines()[-1])
    return took | {"ok": "wrong" not in found} | found


if __name__ == "__main__":
    main()
