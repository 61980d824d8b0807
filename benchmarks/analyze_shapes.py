"""How right are volume, surface and length of balls, tubes and rings at 5 nm? Each shape at random places and turns.

python benchmarks/analyze_shapes.py [--repeats 10]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable

import numpy as np
from _data import hardware

from asem_analyzers.morphometry import Morphometry
from asem_core.blocks import Run
from asem_core.volume import Labels

Measures = tuple[float, float, float]  # volume nm3, surface nm2, length nm


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    repeats = parser.parse_args().repeats
    print("relative error, % (mean, largest): volume, surface, length; skimage's plain marching cubes for comparison")
    for name, half, inside, true in shapes():
        rng = np.random.default_rng(0)
        found, plain, begun = [], [], time.perf_counter()
        for _ in range(repeats):
            mask = draw(half, inside, rng)
            table = Morphometry().analyze(Labels(mask, 5.0), None, Run(progress=False)).tables["objects"]
            row = [table[c].values[0] for c in ("volume_um3", "surface_um2", "length_nm")]
            found.append([row[0] * 1e9 / true[0] - 1, row[1] * 1e6 / true[1] - 1, row[2] / true[2] - 1])
            plain.append(staircase(mask) / true[1] - 1)
        error = 100 * np.array(found)
        parts = [f"{e.mean():+.1f} ({np.abs(e).max():.1f})" for e in error.T]
        print(
            f"{name:32s} volume {parts[0]:>12s}  surface {parts[1]:>12s}  length {parts[2]:>12s}   "
            f"plain surface {100 * np.mean(plain):+.1f}   {(time.perf_counter() - begun) / repeats:.2f} s",
            flush=True,
        )
    print(hardware())


def shapes() -> list[tuple[str, float, Callable[..., np.ndarray], Measures]]:
    found: list[tuple[str, float, Callable[..., np.ndarray], Measures]] = []
    for r in (25.0, 50.0, 100.0, 200.0):
        true = (4 / 3 * np.pi * r**3, 4 * np.pi * r**2, 2 * r)
        found.append((f"ball, radius {r:g} nm", r, lambda z, y, x, r=r: z**2 + y**2 + x**2 <= r**2, true))
    for r, length in ((20.0, 400.0), (40.0, 400.0), (100.0, 800.0)):
        true = (np.pi * r**2 * length, 2 * np.pi * r * (length + r), length)
        found.append(
            (
                f"tube, radius {r:g}, length {length:g} nm",
                float(np.hypot(r, length / 2)),
                lambda z, y, x, r=r, n=length: (np.hypot(y, x) <= r) & (np.abs(z) <= n / 2),
                true,
            )
        )
    for ring, r in ((100.0, 25.0), (150.0, 40.0)):
        true = (2 * np.pi**2 * ring * r**2, 4 * np.pi**2 * ring * r, 2 * np.pi * ring)
        found.append(
            (
                f"torus, ring {ring:g}, radius {r:g} nm",
                ring + r,
                lambda z, y, x, ring=ring, r=r: (np.hypot(y, x) - ring) ** 2 + z**2 <= r**2,
                true,
            )
        )
    return found


def draw(half_nm: float, inside: Callable[..., np.ndarray], rng: np.random.Generator) -> np.ndarray:
    num = int(2 * half_nm / 5) + 8
    axes = [(np.arange(num) - num / 2 - rng.uniform(-0.5, 0.5)) * 5.0 for _ in range(3)]
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    return inside(*np.tensordot(rotation, np.stack(np.meshgrid(*axes, indexing="ij")), 1)).astype(np.uint8)


def staircase(mask: np.ndarray) -> float:
    from skimage.measure import marching_cubes, mesh_surface_area

    vertices, faces, _, _ = marching_cubes(mask.astype(np.float32), 0.5, spacing=(5.0,) * 3)
    return float(mesh_surface_area(vertices, faces))


if __name__ == "__main__":
    main()
