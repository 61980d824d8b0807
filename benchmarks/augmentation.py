"""Augmented training blocks: ASEM's against gunpowder's, the same deformations and the same sizes, in turn.

    python benchmarks/augmentation.py [--gunpowder PYTHON] [--blocks 4] [--rounds 3] [--device cpu]

`PYTHON` is an interpreter whose environment has gunpowder (pip install gunpowder, 1.4). A block: 204^3 voxels of image
read from memory, mirrored and transposed, jittered every 32 voxels, rotated by 0-90 degrees, planes shifted, mirrored and
transposed again, brightness and contrast changed; and the 110^3 labels in its middle.
"""

from __future__ import annotations

import argparse
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from _data import hardware

from asem_core.interfaces import Region
from asem_core.training.augment import Augment
from asem_core.training.stream import BlockStream
from asem_core.volume import Labels, Volume
from asem_samplers.uniform import Uniform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gunpowder", type=Path, help="interpreter that has gunpowder")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device = torch.device(options.device)

    rng = np.random.default_rng(0)
    raw = Volume(rng.integers(0, 255, (420, 420, 420), dtype=np.uint8), 5.0)
    labels = Labels((rng.random((320, 320, 320)) < 0.1).astype(np.uint8), 5.0, (250.0, 250.0, 250.0))
    stream = BlockStream(Uniform(), [Region("r", raw, labels)], (110,) * 3, (47,) * 3, Augment(), seed=0)
    cuts = stream.cuts(0)

    ours, theirs = [], []
    for _ in range(options.rounds):
        for _ in range(options.blocks + 1):
            begun, cpu = time.perf_counter(), time.process_time()
            image, _ = next(cuts).to_tensors(device)
            if device.type == "cuda":
                torch.cuda.synchronize()
            ours.append((time.perf_counter() - begun, time.process_time() - cpu))
        ours.pop(-options.blocks - 1)  # the first block of a round warms up
        if options.gunpowder:
            script = Path(__file__).with_name("_gunpowder_blocks.py")
            command = [str(options.gunpowder), str(script), str(options.blocks + 1)]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            theirs += [tuple(map(float, line.split())) for line in done.stdout.splitlines()[1:]]

    wall, cpu = np.median(ours, axis=0)
    print(f"ASEM: {wall:.2f} s a block ({cpu:.2f} s of processor time), {image.shape[-1]}^3 voxels, {options.device}")
    if theirs:
        their_wall, their_cpu = np.median(theirs, axis=0)
        print(f"gunpowder: {their_wall:.2f} s a block ({their_cpu:.2f} s of processor time)")
        print(f"ratio: {their_wall / wall:.1f} by the clock, {their_cpu / cpu:.1f} by processor time")
    print(f"{hardware()}, torch {torch.__version__} with {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
