"""How right are volume, surface, length, area, thickness and extent of bodies with a formula? Each at random places and turns.

python benchmarks/analyze_shapes.py [--repeats 10] [--uneven] [--voxel 8 4 4]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator

import attrs
import cc3d
import numpy as np
from _data import hardware
from scipy.ndimage import gaussian_filter, map_coordinates

from asem_analyzers.morphometry import Morphometry
from asem_core.blocks import Run
from asem_core.volume import Labels, ZyxNm

Inside = Callable[..., np.ndarray]
COLUMNS = {
    "volume": ("volume_um3", 1e9),
    "surface": ("surface_um2", 1e6),
    "length": ("length_nm", 1.0),
    "area": ("sheet_area_um2", 1e6),
    "thickness": ("thickness_nm", 1.0),
    "extent": ("extent_nm", 1.0),
}


@attrs.frozen
class Body:
    name: str
    half_nm: float  # space it needs around its centre
    inside: Inside  # of positions z, y, x in nm
    true: dict[str, float]  # measure -> value in nm, nm2, nm3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--uneven", action="store_true", help="tapered, rough and bent tubes, and sheets")
    parser.add_argument("--voxel", type=float, nargs=3, default=(5.0, 5.0, 5.0), metavar="NM")
    asked = parser.parse_args()
    z, y, x = asked.voxel
    print("relative error, %: mean (largest); kinds and branches that were found; seconds for one")
    for number in range(len(list(bodies(np.random.default_rng(0), asked.uneven)))):
        rng = np.random.default_rng(0)
        rows, kinds, begun = [], set(), time.perf_counter()
        for _ in range(asked.repeats):
            body = list(bodies(rng, asked.uneven))[number]
            labels = Labels(draw(body, rng, (z, y, x)), (z, y, x))
            table = Morphometry().analyze(labels, None, Run(progress=False)).tables["objects"]
            found = {name: table[column].values[0] * unit for name, (column, unit) in COLUMNS.items()}
            rows.append([100 * (found[name] / value - 1) for name, value in body.true.items()])
            kinds.add(f"{table['kind'].values[0]} {table['num_branches'].values[0]:g}")
        error = np.array(rows).T
        parts = [f"{n} {e.mean():+.1f} ({np.abs(e).max():.1f})" for n, e in zip(body.true, error, strict=True)]
        seconds = (time.perf_counter() - begun) / asked.repeats
        print(f"{body.name:34s} {'  '.join(parts)}   {', '.join(sorted(kinds))}   {seconds:.2f} s", flush=True)
    print(hardware())


def bodies(rng: np.random.Generator, uneven: bool) -> Iterator[Body]:
    pi = np.pi
    if not uneven:
        for r in (25.0, 50.0, 100.0, 200.0):
            true = {"volume": 4 / 3 * pi * r**3, "surface": 4 * pi * r**2, "length": 2 * r}
            yield Body(f"ball, radius {r:g}", r, lens(r, r), true)
        for r, length in ((20.0, 400.0), (40.0, 400.0), (100.0, 800.0)):
            true = {"volume": pi * r**2 * length, "surface": 2 * pi * r * (length + r), "length": length}
            yield Body(f"tube, radius {r:g}, length {length:g}", np.hypot(r, length / 2), disk(r, length), true)
        for ring, r in ((100.0, 25.0), (150.0, 40.0)):
            true = {"volume": 2 * pi**2 * ring * r**2, "surface": 4 * pi**2 * ring * r, "length": 2 * pi * ring}
            yield Body(f"torus, ring {ring:g}, radius {r:g}", ring + r, torus(ring, r), true)
        return
    yield Body("tube, radius 20, length 200", 105, disk(20, 200), {"length": 200})
    yield Body("bent tube, radius 25", 240, bent_tube(150, 25, 2.5), {"length": 150 * 2.5 + 50})
    for r in (25, 40, 50):
        yield Body(f"spindle, radius {r} to {r / 4:g}", 165, cone(r, r / 4, 300, both=True), {"length": 300})
    yield Body("cone, radius 40 to 15", 210, cone(40, 15, 400, both=False), {"length": 400})
    for r, height in ((40, 0.1), (40, 0.15), (30, 0.15)):
        yield Body(f"rough tube, radius {r}, lumps {height:.0%}", 215, rough(r, 400, height, rng), {"length": 400})
    for r, t in ((100, 15), (100, 30), (150, 40)):
        true = {"area": pi * r**2, "thickness": t, "extent": 2 * r}
        yield Body(f"disk, radius {r}, {t} thick", r + 5, disk(r, t), true)
    for a in (20, 40):
        yield Body(f"lens, {2 * a} x 200", 105, lens(a, 100), {"area": pi * 1e4, "extent": 200})
    true = {"area": 170 * 2.2 * 205, "thickness": 25, "extent": np.hypot(170 * 2.2, 205)}
    yield Body("bent sheet, 25 thick", 260, bent_sheet(170, 25, 2.2, 205), true)


def disk(radius: float, height: float) -> Inside:
    return lambda z, y, x: (np.hypot(y, x) <= radius) & (np.abs(z) <= height / 2)


def lens(a: float, radius: float) -> Inside:
    return lambda z, y, x: (z / a) ** 2 + (y**2 + x**2) / radius**2 <= 1


def torus(ring: float, radius: float) -> Inside:
    return lambda z, y, x: (np.hypot(y, x) - ring) ** 2 + z**2 <= radius**2


def cone(thick: float, thin: float, length: float, *, both: bool) -> Inside:
    def inside(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        part = 1 - 2 * np.abs(z) / length if both else z / length + 0.5
        return (np.hypot(y, x) <= thin + (thick - thin) * part) & (np.abs(z) <= length / 2)

    return inside


def rough(radius: float, length: float, height: float, rng: np.random.Generator) -> Inside:
    """A tube with lumps of half its radius; `height` is their standard deviation, in radii."""
    lumps = gaussian_filter(rng.normal(size=(40, 40, 40)), 1.0, mode="wrap")
    lumps /= lumps.std()

    def inside(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        at = (np.stack([z, y, x]) * 2 / radius) % 40
        swollen = radius * (1 + height * map_coordinates(lumps, at, order=1, mode="grid-wrap"))
        return (np.hypot(y, x) <= swollen) & (np.abs(z) <= length / 2)

    return inside


def bent_tube(bend: float, radius: float, angle: float) -> Inside:
    def inside(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        at = np.clip(np.arctan2(y, z + bend), -angle / 2, angle / 2)
        return (z + bend - bend * np.cos(at)) ** 2 + (y - bend * np.sin(at)) ** 2 + x**2 <= radius**2

    return inside


def bent_sheet(bend: float, thick: float, angle: float, width: float) -> Inside:
    def inside(z: np.ndarray, y: np.ndarray, x: np.ndarray) -> np.ndarray:
        in_arc = np.abs(np.arctan2(y, z + bend)) <= angle / 2
        return (np.abs(np.hypot(z + bend, y) - bend) <= thick / 2) & in_arc & (np.abs(x) <= width / 2)

    return inside


def draw(body: Body, rng: np.random.Generator, voxel_nm: ZyxNm) -> np.ndarray:
    """Draw a body at a random turn and place; its largest piece."""
    axes = []
    for size in voxel_nm:
        num = int(2 * body.half_nm / size) + 8
        axes.append((np.arange(num) - num / 2 - rng.uniform(-0.5, 0.5)) * size)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    mask = body.inside(*np.tensordot(rotation, np.stack(np.meshgrid(*axes, indexing="ij")), 1))
    return np.asarray(cc3d.largest_k(mask.astype(np.uint8), k=1, connectivity=26) > 0).astype(np.uint8)


if __name__ == "__main__":
    main()
