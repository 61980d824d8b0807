"""How well `align` finds shifts that were put into real stacks, by fractions of a voxel or whole ones.

    python benchmarks/align_accuracy.py               # two stacks, two random sets each; several minutes
    python benchmarks/align_accuracy.py --sets 3

Errors are distances from the shifts put in, along the worse axis, up to one common shift of the stack. What the planes
of the stacks are off as they are counts as error, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
import tifffile
from _data import data_path, hardware
from scipy import ndimage

from asem_core.blocks import Run
from asem_core.volume import Volume
from asem_preprocessors.align import Align

RIM = 16  # voxels cut off after shifting, so that what comes in at the border tells nothing

Shifts = Callable[[np.random.Generator, int], np.ndarray]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sets", type=int, default=2)
    sets = parser.parse_args().sets
    planes = sorted(data_path("fib25/raw").glob("*.tif"))
    stacks = {
        "fib25, 250 planes": np.stack([tifffile.imread(path) for path in planes]),
        "another block, 256 planes": tifffile.imread(data_path("fib25/raw_large_256x512x512.tif"))[:, 131:381, 131:381],
    }
    cases: dict[str, Shifts] = {
        "whole, up to 10": lambda rng, n: rng.integers(-10, 11, (n, 2)),
        "fractions, up to 10": lambda rng, n: rng.uniform(-10, 10, (n, 2)),
        "fractions, up to 3": lambda rng, n: rng.uniform(-3, 3, (n, 2)),
        "fractions, up to 1": lambda rng, n: rng.uniform(-1, 1, (n, 2)),
        "fractions, up to 0.3": lambda rng, n: rng.uniform(-0.3, 0.3, (n, 2)),
        "up to 1, and drift of 0.1 a plane": lambda rng, n: rng.uniform(-1, 1, (n, 2)) + 0.1 * np.arange(n)[:, None],
        "up to 1, and a sine of 5 over 100 planes": lambda rng, n: (
            rng.uniform(-1, 1, (n, 2)) + 5 * np.sin(np.arange(n) * 2 * np.pi / 100)[:, None]
        ),
    }
    begin, num = time.process_time(), 0
    for name, stack in stacks.items():
        print(name)
        alone = Align().plane_positions(Volume(stack, 8), Run(progress=False))
        print(f"  {'aligned as it is':42} moved by up to {np.abs(alone).max():.2f} voxels", flush=True)
        for case, shifts_of in cases.items():
            errors = [errors_of(stack, shifts_of(np.random.default_rng(seed), len(stack))) for seed in range(sets)]
            error = np.concatenate(errors)
            num += error.size
            print(
                f"  {case:42} rms {np.sqrt((error**2).mean()):.2f}  99 % within {np.quantile(error, 0.99):.2f}  "
                f"largest {error.max():.2f}  within 0.5: {100 * (error <= 0.5).mean():.0f} %",
                flush=True,
            )
    print(f"{1e3 * (time.process_time() - begin) / num:.0f} ms of processor time a plane; {hardware()}")


def errors_of(stack: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    order = 0 if shifts.dtype.kind == "i" else 3
    moved = [
        ndimage.shift(p.astype(np.float32), s, order=order, mode="mirror") for p, s in zip(stack, shifts, strict=True)
    ]
    inner = np.rint(np.clip(np.stack(moved), 0, 255)).astype(np.uint8)[:, RIM:-RIM, RIM:-RIM]
    found = Align().plane_positions(Volume(inner, 8), Run(progress=False)) - shifts
    return np.abs(found - np.median(found, axis=0)).max(axis=1)


if __name__ == "__main__":
    main()
