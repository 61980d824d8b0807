"""CLAHE against scikit-image's, on a real volume of 250^3 voxels: difference and speed, one thread each, in turns.

python benchmarks/clahe.py
"""

from __future__ import annotations

import os

os.environ.update(OMP_NUM_THREADS="1", NUMBA_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import tifffile
from _data import data_path, hardware
from skimage.exposure import equalize_adapthist

from asem_core.blocks import Run
from asem_core.cell.apply import apply_in_memory
from asem_core.volume import Volume
from asem_preprocessors.clahe import Clahe

QUIET = Run(progress=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    raw = np.stack([tifffile.imread(path) for path in sorted(data_path("fib25/raw").glob("*.tif"))])
    volume = Volume(raw, 10)
    apply_in_memory(Clahe(), volume.crop(volume.box.grow(-80)), QUIET)  # compile
    ours, theirs = [], []
    for _ in range(rounds):
        seconds, made = processor_time(lambda: apply_in_memory(Clahe(), volume, QUIET).read())
        ours.append(raw.size / seconds / 1e6)
        seconds, wanted = processor_time(lambda: equalize_adapthist(raw, 128, 0.02, 256))
        theirs.append(raw.size / seconds / 1e6)
    difference = np.abs(made - np.rint(wanted * 255))
    print(f"mean absolute difference {difference.mean():.5f} grey levels of 255, greatest {difference.max():.0f}")
    print(
        f"clahe         {statistics.median(ours):7.2f} Mvoxel/s of processor time (both passes, {raw.shape} {raw.dtype})"
    )
    print(f"scikit-image  {statistics.median(theirs):7.2f} Mvoxel/s")
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    print(f"ratio {statistics.median(ratios):.0f} ({min(ratios):.0f} to {max(ratios):.0f} over {rounds} rounds)")
    print(hardware())


def processor_time(work: Callable[[], np.ndarray]) -> tuple[float, np.ndarray]:
    """Time in seconds of this process on a processor: waiting for a busy machine does not count."""
    begin = time.process_time()
    result = work()
    return time.process_time() - begin, result


if __name__ == "__main__":
    main()
