"""Time live prediction of a view of 128^3 voxels: the first look, the second, and a plain prediction of the same box.

`python benchmarks/view_live.py`. A small network: 8 features, two poolings; speed does not depend on the weights.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from _data import hardware

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume
from asem_core.prediction.live import block_for, live_prediction, predictor_of_boxes
from asem_core.stages.predict import Prediction, predict
from asem_core.viewing.virtual_zarr import VirtualZarr
from asem_core.volume import Box, Spec, Volume


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.zarr"
        out = create_volume(cell / "raw", Spec((256,) * 3, np.uint8, 5.0), block=128, made_by={"stage": "benchmark"})
        out.data[:] = np.random.default_rng(0).integers(0, 255, out.shape, np.uint8)
        raw = finish_volume(out)
        model = load_catalog().get("model", "mitochondria")
        network = model(features=8, factors=((2, 2, 2), (2, 2, 2))).network().eval()
        block = block_for(network.context)
        compute = predictor_of_boxes(network, raw)
        compute(Box((0, 0, 0), (16, 16, 16)))  # libraries warm up
        live = live_prediction(compute, raw, cell / "live", block=block, details={"model": "benchmark"})
        offer = VirtualZarr("live", [Volume(live, raw.voxel_size_nm)])

        def look() -> None:
            for index in np.ndindex(*(128 // b for b in block)):
                assert offer.get("s0/c/" + "/".join(map(str, index)))

        box = Box((64, 64, 64), (192, 192, 192))
        first, second = timed(look), timed(look)
        run, how = Run(progress=False), Prediction(precision="float32")
        plain = timed(lambda: predict(network, raw, cell / "plain", run, how, box=box))
        live.close()
    print(f"128^3 voxels, blocks of {block}: first look {first:.2f} s, second {second * 1e3:.0f} ms; ", end="")
    print(f"asem predict of such a box {plain:.2f} s (ratio {plain / first:.2f}). {hardware()}")


def timed(do: Callable[[], object]) -> float:
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
