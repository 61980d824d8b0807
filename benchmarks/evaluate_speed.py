"""Time `score` and `export_volume` on a layer on disk, against the plain way to do the same in memory.

`python benchmarks/evaluate_speed.py [EDGE]` (default 384). Synthetic data; needs 3 bytes of disk a voxel.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tifffile
from _data import hardware
from scipy import ndimage

from asem_core.blocks import Run
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.evaluation.scores import score
from asem_core.stages.export import as_is, export_volume
from asem_core.volume import Labels, Spec, Volume
from asem_sources.tiff_stack import TiffStack


def main() -> None:
    edge = int(sys.argv[1]) if len(sys.argv) > 1 else 384
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        truth, probability = make(folder / "cell.zarr", edge)
        voxels = edge**3 / 1e6

        def plain_score() -> float:
            p, t = probability.read() >= 128, truth.read() != 0
            return 2 * (p & t).sum() / (p.sum() + t.sum())

        ours = timed(lambda: score(probability, truth))
        plain = timed(plain_score)
        print(f"score, all thresholds: {voxels / ours:.0f} Mvoxel/s; numpy in memory, one threshold: "
              f"{voxels / plain:.0f} Mvoxel/s; ratio {plain / ours:.2f}")  # fmt: skip
        assert abs(score(probability, truth).at(0.5).f1 - plain_score()) < 1e-12

        def plain_export() -> None:
            (folder / "plain").mkdir(exist_ok=True)
            for z in range(edge):
                tifffile.imwrite(folder / "plain" / f"{z:05d}.tif", probability.data[z], compression="zlib")

        quiet = Run(progress=False)
        ours = timed(
            lambda: export_volume(
                TiffStack(str(folder / "ours")), probability, quiet, original=as_is(probability), overwrite=True
            )
        )
        plain = timed(plain_export)
        print(f"export to TIFF: {voxels / ours:.0f} Mvoxel/s; plane by plane from Zarr: {voxels / plain:.0f} Mvoxel/s; "
              f"ratio {plain / ours:.2f}")  # fmt: skip
    print(f"Peak memory of all of it: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB. {hardware()}")


def timed(do: Callable[[], object], times: int = 2) -> float:
    """Return the best of several times, in s."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        do()
        found.append(time.perf_counter() - start)
    return min(found)


def make(cell: Path, edge: int) -> tuple[Labels, Volume]:
    noise = ndimage.gaussian_filter(np.random.default_rng(0).random((edge,) * 3, np.float32), 6)
    truth = (noise > np.quantile(noise[::8, ::8, ::8], 0.85)).astype(np.uint8)
    grain = np.random.default_rng(1).integers(0, 60, truth.shape, np.uint8)
    for layer, array in (("labels/a", truth), ("predictions/a/probability", truth * 180 + grain)):
        out = create_volume(cell / layer, Spec(array.shape, np.uint8, 5.0), block=128, made_by={"stage": "benchmark"})
        out.data[:] = array
        finish_volume(out)
    return open_volume(cell / "labels/a", kind=Labels), open_volume(cell / "predictions/a/probability", kind=Volume)


if __name__ == "__main__":
    main()
