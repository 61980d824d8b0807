"""Whether prediction's memory grows with the volume: peak resident size of the worker for volumes of several sizes.

    python benchmarks/predict_memory.py [--edges 256 1024]

With a small network, so that it ends; the image is written block by block, too.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

from _data import hardware

CHILD = """
import resource, sys, time
import numpy as np
import torch
from asem_core.blocks import Run, run_blocks
from asem_core.stages.predict import Prediction, predict
from asem_core.cell.store import create_volume, finish_volume
from asem_core.volume import Spec
from asem_models._unet import UNet

edge, folder = int(sys.argv[1]), sys.argv[2]
if __name__ == "__main__":
    out = create_volume(folder + "/c.zarr/raw", Spec((edge,) * 3, np.uint8, 5.0), block=128, made_by={})
    for box in out.box.blocks(128):
        out.data[box.slices] = np.random.default_rng(box.begin).integers(0, 256, box.shape, dtype=np.uint8)
    volume = finish_volume(out, pyramid=False)
    network = UNet(features=2, factors=((2, 2, 2),), kernels=((3, 3, 3),)).eval()
    start = time.perf_counter()
    how = Prediction(device="cpu", precision="float32")
    predict(network, volume, folder + "/c.zarr/p", Run(block=(128,) * 3, progress=False), how)
    used = [resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    seconds = time.perf_counter() - start
    print(f"{edge}^3: parent {used[0]:.2f} GB, worker {used[1]:.2f} GB, {edge**3 / seconds / 1e6:.2f} Mvoxel/s")
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edges", type=int, nargs="+", default=[256, 1024])
    for edge in parser.parse_args().edges:
        with tempfile.TemporaryDirectory() as folder:
            script = Path(folder) / "child.py"
            script.write_text(CHILD)
            subprocess.run([sys.executable, str(script), str(edge), folder], check=True)
    print(hardware())


if __name__ == "__main__":
    main()
