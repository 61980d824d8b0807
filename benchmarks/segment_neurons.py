"""How well are neurons told apart by their membranes? Fragments merged at several thresholds, against fib25's truth.

    python benchmarks/segment_neurons.py cell.zarr/predictions/membrane-fibsem-10nm/probability [--last 120 150]

The layer is what `asem predict` makes of fib25's images with `--model membrane-fibsem-10nm`.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tifffile
from _data import data_path, hardware

from asem_core.blocks import Run
from asem_core.cell.store import open_volume
from asem_core.evaluation.objects import score_objects
from asem_core.stages.instances import regions_of
from asem_core.volume import Box, Labels
from asem_core.voxels.regions import Watershed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("map")
    parser.add_argument("--last", type=int, nargs=2, default=(120, 150), help="planes to score on")
    asked = parser.parse_args()
    truth = tifffile.imread(data_path("fib25/neurons_z000-149.tif"))
    boundary = open_volume(asked.map).crop(Box((0, 0, 0), truth.shape))
    box = Box((asked.last[0], 0, 0), (asked.last[1], *truth.shape[1:]))
    part = truth[box.slices]
    rest = np.where(part == np.bincount(part[part > 0]).argmax(), 0, part)
    with tempfile.TemporaryDirectory() as folder:
        begun, used = time.perf_counter(), time.process_time()
        regions = regions_of(boundary, Run(progress=False, scratch=Path(folder)), Watershed())
        seconds, cpu = time.perf_counter() - begun, time.process_time() - used
        print(
            f"{len(regions)} fragments, {len(regions.edges)} edges: {seconds:.1f} s, {truth.size / cpu / 1e6:.2f} Mvoxel/s of processor time"
        )
        for threshold in (0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6):
            found = Labels(regions.read(box, regions.objects(threshold)).astype(np.uint32), 10.0)
            rows = [score_objects(found, Labels(t, 10.0)).instances for t in (part, rest)]
            scores = [f"{s.adapted_rand_error:.3f} {s.voi:.3f}" for s in rows]
            print(f"merged below {threshold}: adapted Rand error, VOI {scores[0]}; without the largest {scores[1]}")
    print(hardware())


if __name__ == "__main__":
    main()
