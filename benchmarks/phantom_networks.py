"""How well the shipped phantom networks do on phantoms they never saw, in both looks.

    python benchmarks/phantom_networks.py [mitochondria clathrin-coats nuclear-pores]

Voxel scores leave out the exclusion zone of each organelle; objects count as found if half of their voxels are predicted,
as false if they touch no true one. The reference is a threshold on the grey value, the best one for each image.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from _data import hardware
from _networks import segment_with, voxel_size_of
from scipy import ndimage

from asem_core.blocks import Run
from asem_core.evaluation.objects import score_objects
from asem_core.evaluation.scores import exclusion_of, score
from asem_core.pretrained import registry
from asem_core.volume import Labels, Volume
from asem_sources.phantom import Phantom

SCENES = {
    "mitochondria": {"scene": "corner", "size_nm": (1400, 2400, 2400), "mitochondria_fraction": 0.15},
    "clathrin-coats": {
        "scene": "membrane", "size_nm": (1400, 1000, 2400), "trace_nm": 10,
        "pits_per_um2": 8, "caveolae_per_um2": 4, "vesicles_per_um3": 4,
    },
    "nuclear-pores": {"scene": "nucleus", "size_nm": (1400, 2400, 2400), "trace_nm": 10},
}  # fmt: skip
SEEDS = {"cf": 101, "hpfs": 102}
LEARNT = {"nuclear-pores": "labels/pore-channels"}
"""Labels that a network learnt, where these are not the organelle's own."""


def main() -> None:
    print("organelle, look: F1, precision, recall | objects: true, found, false, merged | threshold F1 | Mvoxel/s")
    for organelle in sys.argv[1:] or [name for name in SCENES if f"{name}-phantom" in registry().names()]:
        for look, seed in SEEDS.items():
            voxel = voxel_size_of(f"{organelle}-phantom")
            phantom = Phantom(seed=seed, look=look, inverted=False, voxel_size_nm=voxel, **SCENES[organelle])
            measure(organelle, look, phantom)
    print(hardware())


def measure(organelle: str, look: str, phantom: Phantom) -> None:
    run = Run(progress=False)
    raw = phantom.open()
    image = Volume(raw.read(), raw.voxel_size_nm, path=raw.path)
    ids = phantom.open(LEARNT.get(organelle, f"instances/{organelle}"))
    true_ids = ids.read() if organelle not in LEARNT else ndimage.label(ids.read())[0].astype(np.uint32)
    truth = Labels(true_ids, ids.voxel_size_nm, path=ids.path)
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        model, found = segment_with(f"{organelle}-phantom", image, Path(folder))
        rate = image.box.size / (time.perf_counter() - start) / 1e6
        zone = exclusion_of(truth, model.exclusion_zone(), run)
        voxels = score(found, truth, exclusion=zone, run=run).at(0.5)
        objects = score_objects(found, truth, exclusion=zone, run=run)
    counts = objects.counts
    by_grey = max(
        score(threshold(image, t), truth, exclusion=zone, run=run).at(0.5).f1
        for t in np.percentile(image.data, [2, 5, 10, 20])
    )
    print(
        f"{organelle:15} {look:5}: {voxels.f1:.3f} {voxels.precision:.3f} {voxels.recall:.3f} | "
        f"{len(objects.truth_id):4d} {counts.true_positive:4d} {counts.false_positive:4d} {objects.num_merged:4d} | "
        f"{by_grey:.3f} | {rate:.2f}",
        flush=True,
    )


def threshold(image: Volume, grey: float) -> Labels:
    return Labels((np.asarray(image.data) < grey).astype(np.uint8), image.voxel_size_nm, path="threshold")


if __name__ == "__main__":
    main()
