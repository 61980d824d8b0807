"""How fast a volume is predicted on this machine, end to end, against the loop of the original programs.

    python benchmarks/predict_speed.py [--edge 384] [--block 192] [--reference-blocks 3] [--weights FILE]

The reference reads a block from Zarr, scales it, runs the network in float32 on contiguous tensors (204^3 in, 110^3
out), takes the softmax and writes it, one after the other. Some of its blocks are timed, and ours in between; both
with the same weights, Zarr to Zarr. Ours includes starting its process, trying the precision and building the pyramid.
Processor time (all cores) is given beside wall time: it is what can be compared on a machine that others use, too.
"""

from __future__ import annotations

import argparse
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from _data import data_path, hardware

from asem_core.blocks import Run
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.prediction.blockwise import aligned, predict_box
from asem_core.prediction.inference import Arithmetic, Predictor
from asem_core.stages.predict import Prediction, predict
from asem_core.volume import Box, Spec, Volume
from asem_core.weights import load_weights
from asem_models._unet import UNet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edge", type=int, default=384, help="of the volume, voxels")
    parser.add_argument("--block", type=int, default=None, help="of ours, voxels; default: chosen")
    parser.add_argument("--reference-blocks", type=int, default=3)
    parser.add_argument("--weights", type=Path, help="default: random, the strength of the signal kept")
    parser.add_argument("--precision", default="auto")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        compare(options, Path(folder) / "cell.zarr")


def compare(options: argparse.Namespace, cell: Path) -> None:
    network = load_weights(options.weights, UNet()) if options.weights else lively()
    volume = image(cell, options.edge)
    if not options.weights:
        spread(network, volume)
    reference = create_volume(
        cell / "reference", Spec(volume.shape, np.float32, 10.0), block=(8, 8, 8), made_by={"stage": "reference"}
    )
    edges = np.arange(0, max(1, options.edge - 109), 104)
    places = [Box((z, y, x), (z + 110, y + 110, x + 110)) for z in edges for y in edges for x in edges]
    chosen = [places[int(i)] for i in np.linspace(0, len(places) - 1, options.reference_blocks)]

    run = Run(block=(options.block,) * 3 if options.block else None, progress=False)
    how = Prediction(device="cpu", precision=options.precision)
    walls, cpus = [], []
    for number, box in enumerate(chosen):
        wall, cpu = timed(lambda box=box: reference_block(network, volume, reference, box))
        walls.append(wall / box.size)
        cpus.append(cpu / box.size)
        print(f"reference block {number}: {wall:.1f} s, {cpu:.1f} s of processor time", flush=True)
        if number == (len(chosen) - 1) // 2:
            ours_wall, ours_cpu = timed(lambda: predict(network, volume, cell / "p", run, how))
    layout = Record.of(open_volume(cell / "p")).layout
    assert layout is not None
    size = volume.box.size
    predictor = Predictor(network, Arithmetic("cpu", layout["precision"], output="float32"))
    worst = max(
        float(np.abs(predict_box(predictor, volume, b & volume.box) - reference.data[(b & volume.box).slices]).max())  # type: ignore[index]
        for b in chosen
    )
    print(
        f"machine: {hardware()}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f}, torch {torch.__version__}"
    )
    print(f"precision {layout['precision']}, blocks of {layout['block']}")
    print(f"reference: {1e-6 / np.mean(walls):.4f} Mvoxel/s (wall), {1e-6 / np.mean(cpus):.4f} (per processor second)")
    print(
        f"ours:      {1e-6 * size / ours_wall:.4f} Mvoxel/s (wall), {1e-6 * size / ours_cpu:.4f} (per processor second)"
    )
    print(
        f"ratio: {np.mean(walls) * size / ours_wall:.2f} (wall), {np.mean(cpus) * size / ours_cpu:.2f} (processor time); "
        f"largest difference of probability, before rounding to uint8: {worst:.1e}"
    )


def reference_block(network: UNet, volume: Volume, out: Volume, box: Box) -> None:
    """Do what the original does for one block of 204^3 -> 110^3; float32 is written so that it can be compared."""
    grey = volume.read(aligned(network, box), outside="reflect")
    with torch.no_grad():
        scaled = torch.from_numpy(grey.astype(np.float32) / 255 * 2 - 1)[None, None]
        probability = network(scaled).softmax(1)[0, 1].numpy()
    inside = box & volume.box
    out.data[inside.slices] = probability[tuple(slice(0, n) for n in inside.shape)]  # type: ignore[index]


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Measure wall time and processor time, of this process and of those it started, in seconds."""

    def used() -> float:
        return sum(
            u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    wall, cpu = time.perf_counter(), used()
    work()
    return time.perf_counter() - wall, used() - cpu


def image(cell: Path, edge: int) -> Volume:
    """A real image, repeated in mirrors to the wanted size; noise where the data are not installed."""
    import tifffile

    try:
        piece = tifffile.imread(data_path("fib25/raw_large_256x512x512.tif"))
    except (FileNotFoundError, SystemExit):
        piece = np.random.default_rng(0).integers(0, 256, (128, 128, 128), dtype=np.uint8)
    grey = Volume(piece, 10.0).read(Box((0, 0, 0), (edge, edge, edge)), outside="reflect")
    out = create_volume(cell / "raw", Spec(grey.shape, np.uint8, 10.0), block=64, made_by={"stage": "benchmark"})
    out.data[:] = grey  # type: ignore[index]
    return finish_volume(out)


def lively() -> UNet:
    """Random weights that keep the strength of the signal."""
    torch.manual_seed(0)
    network = UNet()
    for module in network.modules():
        if isinstance(module, torch.nn.Conv3d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            torch.nn.init.zeros_(module.bias)
    return network.eval()


def spread(network: UNet, volume: Volume) -> None:
    """Scale the last layer so that log-odds have mean 0 and deviation 2: probabilities over all of (0, 1)."""
    middle = [n // 2 for n in volume.shape]
    box = Box(tuple(m - 15 for m in middle), tuple(m + 15 for m in middle))
    with torch.no_grad():
        grey = volume.read(aligned(network, box), outside="reflect").astype(np.float32) / 127.5 - 1
        background, foreground = network(torch.from_numpy(grey)[None, None])[0]
        odds = foreground - background
        last = network.final_conv_pass.convolutions[0]
        last.bias.copy_(torch.tensor([float(odds.mean()), 0.0]))
        factor = 2 / float(odds.std())
        last.weight.mul_(factor)
        last.bias.mul_(factor)


if __name__ == "__main__":
    main()
