"""How well `align` finds shifts that were put into real stacks, by fractions of a voxel or whole ones.

    python benchmarks/align_accuracy.py               # two stacks, two random sets each; several minutes
    python benchmarks/align_accuracy.py --sets 3

Errors are distances from the shifts put in, along the worse axis, up to one common shift of the stack. What the planes
of the stacks are off as they are counts as error, too. Beside them, in brackets: what no linear estimate could better
that knows how large random fractions are and how the content of this stack drifts (`least_errors`).
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable

import numpy as np
import tifffile
from _data import data_path, hardware
from scipy import ndimage
from scipy.linalg import toeplitz

from asem_core.blocks import Run
from asem_core.volume import Volume
from asem_preprocessors._registration import find_shift
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
        "whole, up to 1": lambda rng, n: rng.integers(-1, 2, (n, 2)),
        "fractions, up to 0.5": lambda rng, n: rng.uniform(-0.5, 0.5, (n, 2)),
        "fractions, up to 0.3": lambda rng, n: rng.uniform(-0.3, 0.3, (n, 2)),
        "up to 1, and drift of 0.1 a plane": lambda rng, n: rng.uniform(-1, 1, (n, 2)) + 0.1 * np.arange(n)[:, None],
        "up to 1, and a sine of 5 over 100 planes": lambda rng, n: (
            rng.uniform(-1, 1, (n, 2)) + 5 * np.sin(np.arange(n) * 2 * np.pi / 100)[:, None]
        ),
    }
    largest = {f"fractions, up to {n:g}": n for n in (10, 3, 1, 0.5, 0.3)}
    begin, num = time.process_time(), 0
    for name, stack in stacks.items():
        print(name)
        alone = Align().plane_positions(Volume(stack, 8), Run(progress=False))
        print(f"  {'aligned as it is':42} moved by up to {np.abs(alone).max():.2f} voxels", flush=True)
        inner = stack[:, RIM:-RIM, RIM:-RIM].astype(np.float32)
        drift = np.array([find_shift(a, b, 50)[:2] for a, b in itertools.pairwise(inner)])
        for case, shifts_of in cases.items():
            errors = [errors_of(stack, shifts_of(np.random.default_rng(seed), len(stack))) for seed in range(sets)]
            error = np.concatenate(errors)
            num += error.size
            print(f"  {case:42} {summary(error)}", flush=True)
            if case in largest:
                print(f"  {'':42} ({summary(least_errors(drift, largest[case]))})", flush=True)
    print(f"{1e3 * (time.process_time() - begin) / num:.0f} ms of processor time a plane; {hardware()}")


def summary(error: np.ndarray) -> str:
    return (
        f"rms {np.sqrt((error**2).mean()):.2f}  99 % within {np.quantile(error, 0.99):.2f}  "
        f"largest {error.max():.2f}  within 0.5: {100 * (error <= 0.5).mean():.0f} %"
    )


def least_errors(drift: np.ndarray, largest: float) -> np.ndarray:
    """Draw errors of the best linear estimate (Wiener) of random shifts of up to `largest`, which content hides.

    `drift`, (n, 2), is what content moves by from plane to plane where nothing is shifted; its autocovariance is taken as
    known (over up to 40 planes, with Parzen's window), its mean and the position of the stack as unknown.
    """
    num, reach, draws = len(drift) + 1, 40, 400
    lag = np.arange(reach) / reach
    window = np.where(lag < 0.5, 1 - 6 * lag**2 + 6 * lag**3, 2 * (1 - lag) ** 3)
    plane = np.arange(num) - (num - 1) / 2
    summed = np.tril(np.ones((num, num - 1)), -1)
    variance = largest**2 / 3
    rng = np.random.default_rng(0)
    errors = []
    for rates in (drift - drift.mean(axis=0)).T:
        likeness = window * [(rates[k:] * rates[: len(rates) - k]).mean() for k in range(reach)]
        content = summed @ toeplitz(np.pad(likeness, (0, num - 1 - reach))) @ summed.T
        content += 1e4 * np.outer(plane, plane) + 1e6
        left = variance * np.eye(num) - variance**2 * np.linalg.inv(content + variance * np.eye(num))
        errors.append(rng.multivariate_normal(np.zeros(num), (left + left.T) / 2, draws, check_valid="ignore"))
    error = np.stack(errors)
    return np.abs(error - np.median(error, axis=2, keepdims=True)).max(axis=0).ravel()


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
