"""Tens of thousands of touching objects: time, memory and what another threshold takes, by the commands that a user types.

    python benchmarks/segment_large.py                                   # 1000^3 voxels, 21,870 cells
    python benchmarks/segment_large.py --edge 512 --pitch 36 --workers 2 --folder runs/segment_large

The map is drawn: the faces between the nearest of points that lie near a cubic lattice, as the membranes between cells would be predicted. Each cell is
about `--pitch` voxels wide and touches about 15 others. Prints a line for each command, and how many cells were found; and how long a new table
from fragments to objects takes alone.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numba
import numpy as np
from _data import hardware
from preprocess_memory import ASEM, watch

from asem_core.blocks import Run
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.stages.instances import regions_of
from asem_core.volume import Box, Spec, as_zyx
from asem_core.voxels.regions import Watershed

BLOCK = 128
THICK_VX = 2.0


@numba.njit(cache=True)
def membranes(begin: np.ndarray, points: np.ndarray, pitch: float, out: np.ndarray) -> None:  # pragma: no cover
    """Draw the faces between points, one near each node of a lattice: uint8, 255 in the middle of a face."""
    edge = points.shape[0]
    for z in range(out.shape[0]):
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                here = (begin[0] + z, begin[1] + y, begin[2] + x)
                near, second = 1e30, 1e30
                for i in range(max(0, int(here[0] / pitch) - 1), min(edge, int(here[0] / pitch) + 2)):
                    for j in range(max(0, int(here[1] / pitch) - 1), min(edge, int(here[1] / pitch) + 2)):
                        for k in range(max(0, int(here[2] / pitch) - 1), min(edge, int(here[2] / pitch) + 2)):
                            point = points[i, j, k]
                            apart = (here[0] - point[0]) ** 2 + (here[1] - point[1]) ** 2 + (here[2] - point[2]) ** 2
                            if apart < near:
                                near, second = apart, near
                            elif apart < second:
                                second = apart
                depth = np.sqrt(second) - np.sqrt(near)
                out[z, y, x] = np.uint8(255 * max(0.0, 1 - depth / (2 * THICK_VX)))


def draw(cell: Path, edge: int, pitch: int) -> tuple[Path, int]:
    """Write the map, unless it is there; says where, and how many cells it has."""
    nodes = edge // pitch + 1
    rng = np.random.default_rng(0)
    lattice = np.stack(np.meshgrid(*[np.arange(nodes)] * 3, indexing="ij"), axis=-1) + 0.5
    points = (lattice + rng.uniform(-0.3, 0.3, lattice.shape)) * pitch
    layer = cell / "predictions/membrane/probability"
    if not layer.exists():
        spec = Spec(as_zyx(edge), np.dtype(np.uint8), 10.0)
        out = create_volume(layer, spec, block=BLOCK, made_by={"stage": "predict"}, about=Record("probability"))
        for box in Box.of_shape(spec.shape).blocks(BLOCK):
            part = np.empty(box.shape, np.uint8)
            membranes(np.array(box.begin), points, float(pitch), part)
            out.data[box.slices] = part  # type: ignore[index]
        finish_volume(out, pyramid=False)
    return layer, int((points < edge).all(axis=-1).sum())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edge", type=int, default=1000)
    parser.add_argument("--pitch", type=int, default=36)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path("runs/segment_large"))
    asked = parser.parse_args()
    cell = asked.folder / f"{asked.edge}.zarr"
    layer, there = draw(cell, asked.edge, asked.pitch)
    print(f"{asked.edge}^3 voxels, {there} cells, {asked.workers} workers; {hardware()}", flush=True)
    for merge_below in (0.5, 0.4):
        out = cell / f"labels/cells_{merge_below:g}".replace(".", "_")
        words = ("segment", layer, "--model", "membrane", "-s", "cells=true", "-s", f"merge_below={merge_below}")
        wall, cpu, memory = watch(
            (*ASEM, *map(str, words), "-o", str(out), "-j", str(asked.workers), "-q", "--overwrite")
        )
        made = open_volume(out)
        ids = set().union(*(np.unique(made.read(box)).tolist() for box in made.box.blocks(2 * BLOCK))) - {0}
        row = {
            "merge_below": merge_below,
            "wall_s": round(wall, 1),
            "processor_s": round(cpu, 1),
            "mvoxel_per_processor_s": round(asked.edge**3 / cpu / 1e6, 2),
            "peak_gb": round(memory / 1e9, 2),
            "objects": len(ids),
        }
        print(json.dumps(row), flush=True)
    begun = time.perf_counter()
    regions = regions_of(open_volume(layer), Run(progress=False), Watershed())  # kept beside the cell
    opened = time.perf_counter()
    num = int(regions.objects(0.45).max())
    row = {"merge_below": 0.45, "opened_s": round(opened - begun, 2), "table_s": round(time.perf_counter() - opened, 2)}
    print(json.dumps(row | {"fragments": len(regions), "objects": num}))


if __name__ == "__main__":
    main()
