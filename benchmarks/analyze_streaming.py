"""Does an analysis of many small objects in a huge volume read only the boxes around them?

    python benchmarks/analyze_streaming.py                               # 10,000 objects in 2000^3 voxels
    python benchmarks/analyze_streaming.py --edge 500 --objects 200 --workers 2
    python benchmarks/analyze_streaming.py --analyzer clathrin-coats --objects 1000

Balls and rods of known volume and surface (as shells for coats, with an image of their membranes) lie scattered in a volume
at 5 nm; chunks without any are not stored. Prints wall and processor time, the peak memory of all processes, and,
with one worker, how many voxels were read beside the one pass over the segmentation, per voxel of the objects' own boxes.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from _data import hardware
from preprocess_memory import watch

from asem_analyzers.clathrin_coats import ClathrinCoats
from asem_analyzers.morphometry import Morphometry
from asem_core.blocks import Run
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.interfaces import Analyzer
from asem_core.volume import Box, Labels, Spec, Volume, as_zyx

SIZE_NM = 5.0
REACH_NM = 60.0
"""How far around each object the image is drawn."""
ANALYZERS: dict[str, type[Analyzer]] = {"morphometry": Morphometry, "clathrin-coats": ClathrinCoats}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edge", type=int, default=2000)
    parser.add_argument("--objects", type=int, default=10_000)
    parser.add_argument("--analyzer", choices=ANALYZERS, default="morphometry")
    parser.add_argument("--no-skeleton", action="store_true", help="leave out morphometry's lengths and branches")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, help="where an earlier call has written the cell, or shall")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        measure(options)
        return
    with tempfile.TemporaryDirectory(prefix="asem-benchmark-") as temporary:
        folder = options.folder or Path(temporary)
        if not (folder / "truth.npy").exists():
            draw(options.edge, options.objects, folder, shells=options.analyzer == "clathrin-coats")
        command = [sys.executable, __file__, *sys.argv[1:], "--folder", str(folder), "--child"]
        wall, processor, memory = watch(tuple(command))
        report(json.loads((folder / "found.json").read_text()), np.load(folder / "truth.npy"))
    print(
        f"{options.analyzer}, {options.objects} objects in {options.edge}^3 voxels, {options.workers} workers: {wall:.0f} s wall, "
        f"{processor:.0f} s processor ({1000 * processor / options.objects:.0f} ms an object), peak {memory / 1e9:.2f} GB"
    )
    print(hardware())


def draw(edge: int, num: int, folder: Path, shells: bool) -> None:
    """Write the cell and the truth: rows of radius and length of the straight part, nm."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    per_axis = math.ceil(num ** (1 / 3))
    step = edge / per_axis
    cells = rng.permutation(per_axis**3)[:num]
    corners = np.stack(np.unravel_index(np.sort(cells), (per_axis,) * 3), axis=1) * step
    radius = rng.uniform(30, 60, num)
    length = np.where(rng.random(num) < 0.5, 0.0, rng.uniform(40, 120, num) * (not shells))
    spec = Spec((edge,) * 3, "u2", SIZE_NM)
    labels = create_volume(folder / "cell.zarr/labels/objects", spec, block=64, made_by={})
    raw = create_volume(folder / "cell.zarr/raw", Spec(spec.shape, "u1", SIZE_NM), block=64, made_by={}, fill=180)
    for n in range(num):
        middle = (corners[n] + step / 2 + rng.uniform(-3, 3, 3)) * SIZE_NM
        axis = rng.normal(size=3)
        axis /= np.linalg.norm(axis)
        reach = radius[n] + length[n] / 2 + REACH_NM
        low, high = np.floor((middle - reach) / SIZE_NM), np.ceil((middle + reach) / SIZE_NM)
        box = Box(as_zyx(low.astype(int).tolist()), as_zyx(high.astype(int).tolist())) & Box.of_shape(spec.shape)
        at = np.stack(
            np.meshgrid(*[np.arange(b, e) * SIZE_NM for b, e in zip(box.begin, box.end, strict=True)], indexing="ij")
        )
        at -= middle[:, None, None, None]
        along = np.clip(np.tensordot(axis, at, 1), -length[n] / 2, length[n] / 2)
        distance = np.linalg.norm(at - along * axis[:, None, None, None], axis=0) - radius[n]
        inside = np.abs(distance) <= 6 if shells else distance <= 0
        block = labels.data[box.slices]
        labels.data[box.slices] = np.where(inside, n + 1, block)
        if shells:
            grey = 180 - 120 * np.exp(-0.5 * (distance / 6.5) ** 2) + rng.normal(0, 4, distance.shape)
            raw.data[box.slices] = np.minimum(raw.data[box.slices], grey.clip(0, 255).astype(np.uint8))
    for volume in (labels, raw):
        finish_volume(volume, pyramid=False)
    np.save(folder / "truth.npy", np.column_stack([radius, length]))


def measure(options: argparse.Namespace) -> None:
    """Analyse the cell, and note what was found and what was read."""
    layers = {"labels": ("labels/objects", Labels), "raw": ("raw", Volume)}
    opened = {
        name: open_volume(options.folder / "cell.zarr" / path, kind=kind) for name, (path, kind) in layers.items()
    }
    counted = {name: Counted(volume.data) for name, volume in opened.items()}
    labels, raw = Labels(counted["labels"], SIZE_NM), Volume(counted["raw"], SIZE_NM)
    coats = options.analyzer == "clathrin-coats"
    analyzer = ClathrinCoats(num_gallery=0) if coats else Morphometry(objects="ids", skeleton=not options.no_skeleton)
    analysis = analyzer.analyze(labels, raw if coats else None, Run(workers=options.workers, progress=False))
    table = {name: column.values for name, column in next(iter(analysis.tables.values())).items()}
    found: dict[str, Any] = {name: table[name].tolist() for name in ("object_id", "volume_um3", *_sizes(coats))}
    found["read"] = {name: array.num_read for name, array in counted.items()} if options.workers == 1 else {}
    found["pass"] = math.prod(labels.shape)
    found["boxes"] = sum(b.size for b in _boxes(labels, table))
    (options.folder / "found.json").write_text(json.dumps(found))


def _sizes(coats: bool) -> tuple[str, ...]:
    return ("major_nm", "minor_nm") if coats else ("surface_um2",)


def _boxes(labels: Labels, table: dict[str, np.ndarray]) -> list[Box]:
    from asem_analyzers._objects import list_ids

    if "begin_z_vx" in table:
        ends = [np.column_stack([table[f"{side}_{a}_vx"] for a in "zyx"]).tolist() for side in ("begin", "end")]
        return [Box(as_zyx(b), as_zyx(e)) for b, e in zip(*ends, strict=True)]
    found = list_ids(labels, Run(progress=False))
    return [found.box(k) for k in range(len(found))]


class Counted:
    """An array that counts the voxels read from it, in this process."""

    def __init__(self, array: Any) -> None:
        self.array, self.shape, self.dtype, self.num_read = array, array.shape, array.dtype, 0

    def __getitem__(self, key: Any) -> np.ndarray:
        part = np.asarray(self.array[key])
        self.num_read += part.size
        return part


def report(found: dict[str, Any], truth: np.ndarray) -> None:
    radius, length = truth[np.array(found["object_id"]) - 1].T
    formulas = {
        "volume_um3": (np.pi * radius**2 * length + 4 / 3 * np.pi * radius**3) * 1e-9,
        "surface_um2": (2 * np.pi * radius * length + 4 * np.pi * radius**2) * 1e-6,
        "major_nm": 2 * radius,
        "minor_nm": 2 * radius,
    }
    print(f"{len(radius)} of {len(truth)} objects found")
    for name in found:
        if name in formulas and not (name == "volume_um3" and "major_nm" in found):
            error = 100 * (np.array(found[name], float) / formulas[name] - 1)
            print(
                f"  {name}: median error {np.median(error):+.2f} %, 99 % within {np.quantile(np.abs(error), 0.99):.1f} %"
            )
    if found["read"]:
        again = found["read"]["labels"] - found["pass"]
        print(
            f"  voxels of the segmentation, {found['pass']:.3g}, read once; of the objects' boxes, {found['boxes']:.3g} together, "
            f"{again / found['boxes']:.1f} times as many after that; of the image {found['read']['raw'] / found['boxes']:.1f} times"
        )


if __name__ == "__main__":
    main()
