"""How many voxels a second are read, mirrored, handed over, written and halved around a network that takes no time.

    python benchmarks/predict_chain.py [--edge 512] [--block 256] [--device cpu] [--context 47]

On a fast GPU prediction is bound by what surrounds the network. Here it is replaced by a copy of the block's middle, with the
published network's context, so that all the rest is measured: Zarr to Zarr, with the pyramid, in one worker. Given beside it: a
plain copy of the same array by zarr alone, in the same chunks, in the same run.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
import zarr
from _data import hardware
from predict_speed import image, timed

from asem_core.blocks import Run
from asem_core.cell.store import open_volume
from asem_core.stages.predict import Prediction, predict
from asem_core.volume import Zyx, as_zyx


class Copy(torch.nn.Module):
    """A network whose log-odds are the grey values of the middle; it looks as far as the published one."""

    def __init__(self, context: int) -> None:
        super().__init__()
        self.context, self.alignment = as_zyx(context), as_zyx(8)

    def input_shape(self, output: Zyx) -> Zyx:
        return as_zyx([-(-n // a) * a + 2 * c for n, a, c in zip(output, self.alignment, self.context, strict=True)])

    def output_shape(self, shape: Zyx) -> Zyx:
        return as_zyx([n - 2 * c for n, c in zip(shape, self.context, strict=True)])

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        z, y, x = (slice(c, n - c) for c, n in zip(self.context, image.shape[2:], strict=True))
        return image[:, :, z, y, x]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edge", type=int, default=512, help="of the volume, voxels")
    parser.add_argument("--block", type=int, default=256, help="voxels")
    parser.add_argument("--context", type=int, default=47, help="voxels on each side")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.zarr"
        volume = image(cell, options.edge)
        wall, cpu = timed(lambda: copied(cell))
        report("plain copy by zarr", volume.box.size, wall, cpu)
        how = Prediction(device=options.device, precision="float32")
        run = Run(block=(options.block,) * 3, progress=False)
        wall, cpu = timed(lambda: predict(Copy(options.context), volume, cell / "p", run, how))
        report("chain of prediction", volume.box.size, wall, cpu)
        middle = as_zyx(options.edge // 2)
        at = tuple(slice(m, m + 8) for m in middle)
        odds = volume.data[at].astype(np.float32) / 127.5 - 1
        assert np.abs(open_volume(cell / "p").data[at] - 255 / (1 + np.exp(-odds))).max() <= 1
        print(f"machine: {hardware()}, {torch.get_num_threads()} threads, torch {torch.__version__}")


def copied(cell: Path) -> None:
    source = zarr.open_array(cell / "raw" / "s0", mode="r")
    out = zarr.create_array(cell / "copy", shape=source.shape, chunks=source.chunks, dtype=source.dtype)
    out[:] = source[:]


def report(what: str, size: int, wall: float, cpu: float) -> None:
    print(
        f"{what}: {1e-6 * size / wall:.1f} Mvoxel/s (wall), {1e-6 * size / cpu:.1f} (per processor second)", flush=True
    )


if __name__ == "__main__":
    main()
