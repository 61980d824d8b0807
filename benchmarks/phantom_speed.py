"""How fast phantoms are drawn, on one core.

    python benchmarks/phantom_speed.py

The reference is reading the same block from memory through a copy: what a loader would cost at best.
"""

from __future__ import annotations

import time

import numpy as np
from _data import hardware

from asem_core.volume import Box
from asem_sources.phantom import Phantom

BLOCK = Box((0, 0, 0), (64, 256, 256))


def rate(volume, repeats: int = 2) -> tuple[float, float]:
    """Best Mvoxel/s of wall time and of processor time."""
    volume.read(Box((0, 0, 0), (8, 8, 8)))  # compiled, and the scene built
    best = [0.0, 0.0]
    for _ in range(repeats):
        wall, cpu = time.perf_counter(), time.process_time()
        volume.read(BLOCK)
        best[0] = max(best[0], BLOCK.size / (time.perf_counter() - wall) / 1e6)
        best[1] = max(best[1], BLOCK.size / (time.process_time() - cpu) / 1e6)
    return best[0], best[1]


def main() -> None:
    held = np.random.default_rng(0).integers(0, 256, BLOCK.shape, dtype=np.uint8)
    start = time.perf_counter()
    held.copy()
    memory = BLOCK.size / (time.perf_counter() - start) / 1e6
    print(f"reference: a copy in memory {memory:.0f} Mvoxel/s")
    print("scene, layer: Mvoxel/s of wall time, of processor time, share of the reference")
    for scene in ("corner", "cytoplasm", "nucleus", "membrane"):
        phantom = Phantom(size_nm=(640, 1600, 1600), scene=scene, seed=3)
        for layer in ("raw", "labels/mitochondria", "labels/nuclear-pores"):
            wall, cpu = rate(phantom.open(layer))
            print(f"  {scene:10} {layer:22} {wall:6.2f} {cpu:6.2f} {cpu / memory:8.4f}")
    start = time.perf_counter()
    phantom = Phantom(size_nm=(10_000, 10_000, 10_000), scene="cell", seed=1)
    num = {name: len(phantom.truth(name)["id"]) for name in ("nuclear-pores", "clathrin-coats", "mitochondria")}
    print(f"placing everything in a cell of 2000^3 voxels: {time.perf_counter() - start:.1f} s, {num}")
    print(hardware())


if __name__ == "__main__":
    main()
