"""How long annotators take on a box: to prepare, to cut, to cut again after further strokes, and how much memory.

    python benchmarks/annotate_speed.py [--edge 200] [--methods graph-cut ...]

Data: fib25/raw_large (256 x 512 x 512 voxels), mirrored where the box is larger. Seeds: a ball in the middle and a shell
around it; then strokes on one more plane. Each method runs in a process of its own, so that memory is its own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from _data import data_path, hardware
from annotate_accuracy import METHODS

from asem_core.blocks import Run
from asem_core.volume import Volume


def measure(name: str, edge: int) -> None:
    raw = tifffile.imread(data_path("fib25/raw_large_256x512x512.tif"))
    image = Volume(np.pad(raw, [(0, max(0, edge - n)) for n in raw.shape], "reflect")[:edge, :edge, :edge].copy(), 10)
    method = METHODS[name]
    warm = image.crop(image.box.__class__((0, 0, 0), (24, 24, 24)))
    method.prepare(warm, warm.box, Run(progress=False))(strokes(24, 1))  # compiled code is loaded
    with tempfile.TemporaryDirectory() as folder:
        run = Run(progress=False, scratch=Path(folder))
        times, cpu = [time.perf_counter()], [time.process_time()]
        prepared = method.prepare(image, image.box, run)
        seeds, result = strokes(edge, 1), None
        for further in (None, 2):
            times.append(time.perf_counter())
            cpu.append(time.process_time())
            seeds = seeds if further is None else strokes(edge, further)
            result = prepared(seeds, result)
        times.append(time.perf_counter())
        cpu.append(time.process_time())
        method.prepare(image, image.box, run)
        times.append(time.perf_counter())
        cpu.append(time.process_time())
    wall, work = np.diff(times), np.diff(cpu)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(
        f"{name:28s} {edge}^3: prepare {wall[0]:6.1f} s (cpu {work[0]:5.1f}), first cut {wall[1]:5.2f} (cpu {work[1]:5.2f}), "
        f"after further strokes {wall[2]:5.2f} (cpu {work[2]:5.2f}), reopened {wall[3]:5.2f}, peak {peak:.1f} GiB",
        flush=True,
    )


def measure_saving(edge: int) -> None:
    """Time from the end of a stroke until it is on disk, in a box of a cell of 1024^3 voxels."""
    from asem_core.cell.store import create_volume, finish_volume
    from asem_core.volume import Box, Spec
    from asem_napari.session import Session

    with tempfile.TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.zarr"
        finish_volume(create_volume(cell / "raw", Spec((1024,) * 3, "uint8", 5), block=64, made_by={}), pyramid=False)
        session = Session.open(cell, "organelle", Box((300,) * 3, (300 + edge,) * 3))
        times = []
        for z in range(20):
            session.seeds[z * 5, 20:28, 20 : edge - 20] = 1
            begun = time.perf_counter()
            session.save_seeds()
            times.append(time.perf_counter() - begun)
        session.close()
    print(f"a stroke of 8 x {edge - 40} voxels is on disk after {np.median(times):.3f} s (longest {max(times):.3f})")


def strokes(edge: int, planes: int) -> np.ndarray:
    """A disk of object and a ring of background on as many planes about the middle."""
    seeds = np.zeros((edge,) * 3, np.uint8)
    y, x = np.mgrid[:edge, :edge] - edge // 2
    away = np.hypot(y, x)
    for plane in range(planes):
        z = edge // 2 + plane * edge // 8
        seeds[z][away < edge // 12] = 1
        seeds[z][(away > edge // 4) & (away < edge // 4 + 5)] = 2
    return seeds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=200)
    default = [name for name in METHODS if name != "random-walker"]  # minutes at this size
    parser.add_argument("--methods", nargs="*", default=default, choices=list(METHODS))
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    for name in options.methods:
        process = context.Process(target=measure, args=(name, options.edge))
        process.start()
        process.join()
    measure_saving(options.edge)
    print(hardware())


if __name__ == "__main__":
    main()
