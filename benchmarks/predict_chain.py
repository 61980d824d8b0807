"""How many voxels a second one core reads, mirrors, hands over, writes and halves around a network that takes no time.

    python benchmarks/predict_chain.py [--edge 512] [--block 256] [--context 47] [--repeats 2]

On a fast GPU prediction is bound by what surrounds the network. Here the network is a copy of the block's middle, with the
published network's context, and all the rest is measured: Zarr to Zarr in this process, with done notes, pyramid and finishing, in two ways.

- beside a GPU: scaling, log-odds, sigmoid and rounding are the GPU's, and the copies to and from it are made;
- on a CPU: the processor computes these, too.

Given beside it: a plain copy of the same array by zarr alone, in the same chunks, in the same run. Processor seconds are those of all threads.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
import zarr
from _data import hardware
from predict_speed import image, timed

from asem_core.blocks import Run
from asem_core.cell.record import Record
from asem_core.cell.store import open_volume
from asem_core.cell.together import create_volumes, fill_volumes
from asem_core.prediction.blockwise import _Work
from asem_core.prediction.inference import Arithmetic, Predictor
from asem_core.volume import Spec, Volume, Zyx, as_zyx


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


def copied_to_and_fro(predictor: Predictor, grey: torch.Tensor, _: float) -> torch.Tensor:
    """Do what the processor does for a GPU: copy the block to pinned memory, and the result from there."""
    pinned = grey.clone()
    back = predictor.geometry(pinned[None, None])[0, 0].contiguous()
    return back.clone()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edge", type=int, default=512, help="of the volume, voxels")
    parser.add_argument("--block", type=int, default=256, help="voxels")
    parser.add_argument("--context", type=int, default=47, help="voxels on each side")
    parser.add_argument("--repeats", type=int, default=2, help="each is printed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    network = Copy(options.context)
    with tempfile.TemporaryDirectory() as folder:
        cell = Path(folder) / "cell.zarr"
        volume = image(cell, options.edge)
        beside = mock.patch.object(Predictor, "_probabilities", copied_to_and_fro)
        for attempt in range(options.repeats):
            report("plain copy by zarr", volume, lambda: copied(cell))
            with beside:
                report("chain beside a GPU", volume, chain(network, volume, cell / f"gpu{attempt}", options.block))
            report("chain on a CPU", volume, chain(network, volume, cell / f"cpu{attempt}", options.block))
        middle = as_zyx(options.edge // 2)
        at = tuple(slice(m, m + 8) for m in middle)
        grey = volume.data[at]
        assert np.array_equal(open_volume(cell / "gpu0").data[at], grey)
        odds = grey.astype(np.float32) / 127.5 - 1
        assert np.abs(open_volume(cell / "cpu0").data[at] - 255 / (1 + np.exp(-odds))).max() <= 1
        print(f"machine: {hardware()}, {torch.get_num_threads()} threads, torch {torch.__version__}")


def chain(network: Copy, volume: Volume, output: Path, edge: int) -> Callable[[], object]:
    """Prepare what `predict` does once blocks and arithmetic are chosen, in this process: to start another takes seconds."""

    def run() -> None:
        block = as_zyx(edge)
        spec = Spec(volume.shape, np.dtype(np.uint8), volume.voxel_size_nm)
        outs = create_volumes({str(output): {"stage": "benchmark"}}, spec, block=block, about=Record("probability"))
        work = _Work(network, volume, outs, [False], volume.box.begin, None, Arithmetic(), block)
        fill_volumes(outs, work, block, Run(progress=False), name="chain", threads=1)

    return run


def copied(cell: Path) -> None:
    source = zarr.open_array(cell / "raw" / "s0", mode="r")
    out = zarr.create_array(cell / "copy", shape=source.shape, chunks=source.chunks, dtype=source.dtype, overwrite=True)
    out[:] = source[:]


def report(what: str, volume: Volume, work: Callable[[], object]) -> None:
    wall, cpu = timed(work)
    size = 1e-6 * volume.box.size
    print(
        f"{what}: {size / wall:.1f} Mvoxel/s (wall), {size / cpu:.1f} per processor second ({1e3 * cpu / size:.0f} ns a voxel)",
        flush=True,
    )


if __name__ == "__main__":
    main()
