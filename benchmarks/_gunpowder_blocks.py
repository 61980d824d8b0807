"""Time gunpowder's augmentation; run by `augmentation.py` with the interpreter of an environment that has gunpowder.

    python benchmarks/_gunpowder_blocks.py NUMBER_OF_BLOCKS

Prints the seconds of each block, one a line. Nodes, order and numbers: Gallusser et al. 2022.
"""

from __future__ import annotations

import sys
import time
import warnings

import gunpowder as gp
import numpy as np
from funlib.persistence import Array

warnings.filterwarnings("ignore")
rng = np.random.default_rng(0)
raw, labels = gp.ArrayKey("RAW"), gp.ArrayKey("LABELS")
shape = (420, 420, 420)
image = Array(rng.integers(0, 255, shape, dtype=np.uint8).astype(np.float32) / 255, voxel_size=(5, 5, 5))
truth = Array((rng.random(shape) < 0.1).astype(np.uint8), voxel_size=(5, 5, 5))
pipeline = (
    (gp.ArraySource(raw, image, True), gp.ArraySource(labels, truth, False))  # noqa: RUF005 - gunpowder joins nodes by +
    + gp.MergeProvider()
    + gp.RandomLocation()
    + gp.SimpleAugment()
    + gp.ElasticAugment(
        (32, 32, 32), (2, 2, 2), (0, np.pi / 2), prob_slip=0, prob_shift=0.05, max_misalign=2, subsample=4
    )
    + gp.SimpleAugment()
    + gp.IntensityAugment(raw, 0.9, 1.1, -0.1, 0.1)
    + gp.IntensityScaleShift(raw, 2, -1)
)
request = gp.BatchRequest()
request.add(raw, gp.Coordinate(204, 204, 204) * 5)
request.add(labels, gp.Coordinate(110, 110, 110) * 5)
with gp.build(pipeline):
    for _ in range(int(sys.argv[1])):
        begun, cpu = time.perf_counter(), time.process_time()
        pipeline.request_batch(request)
        print(time.perf_counter() - begun, time.process_time() - cpu, flush=True)
