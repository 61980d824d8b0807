"""How well are touching organelles parted by their shape? UroCell's instances, made binary, against themselves.

    python benchmarks/segment_by_shape.py

UroCell's labels (CC BY-NC-SA) are only measured here; nothing of them enters the project.
"""

from __future__ import annotations

import tempfile

import numpy as np
import tifffile
from _data import data_path, hardware

from asem_core.blocks import Run
from asem_core.evaluation.objects import number_objects, score_objects
from asem_core.stages.instances import regions_of
from asem_core.volume import Labels, Volume
from asem_core.voxels.regions import Watershed


def main() -> None:
    how = Watershed(by_shape=True, outside_above=0.5)
    run = Run(progress=False)
    for kind in ("mito", "fv"):
        for name in ("fib1-0-0-0", "fib1-3-3-0"):
            truth = Labels(tifffile.imread(data_path(f"urocell_labels/{name}_{kind}_instances.tif")), 16.0)
            mask = (truth.read() > 0).astype(np.uint8)
            pieces = score_objects(number_objects(Labels(mask, 16.0), truth, run), truth).instances
            print(
                f"{name} {kind}: {pieces.num_truth} objects; panoptic quality of pieces {pieces.panoptic_quality:.3f}"
            )
            with tempfile.TemporaryDirectory() as folder:
                map_ = Volume(mask * np.uint8(255), 16.0, path=f"{folder}/{name}")
                regions = regions_of(map_, run, how)
                for below in (0.4, 0.5, 0.6, 0.7):
                    found = Labels(regions.read(regions.box, regions.objects(below)).astype(np.uint32), 16.0)
                    scores = score_objects(found, truth).instances
                    print(
                        f"  split below {below}: {scores.panoptic_quality:.3f}, {scores.num_predicted} objects",
                        flush=True,
                    )
    print(hardware())


if __name__ == "__main__":
    main()
