"""Training iterations of the published network: ASEM's step against a plain float32 loop, in turn, in one process.

    python benchmarks/train_speed.py [--block 46] [--rounds 3] [--device cpu] [--precision auto]

The plain loop: the same network of torch's own convolutions, the same blocks, loss and Adam in float32, contiguous memory, no
augmentation. ASEM's step: its own convolutions, `precision = "auto"` (bfloat16 where the hardware has it) unless told otherwise, with the whole
published augmentation. `--block 110` is the published size (an input of 204^3).
"""

from __future__ import annotations

import argparse
import copy
import time
from itertools import islice

import numpy as np
import torch
from _data import hardware

from asem_core.interfaces import Region
from asem_core.training.augment import Augment
from asem_core.training.devices import half_precision
from asem_core.training.loop import initialise, make_optimizer, step, to_device
from asem_core.training.options import RegionOptions, TrainOptions
from asem_core.training.stream import BlockStream
from asem_core.volume import Labels, Volume
from asem_models.mitochondria import Mitochondria
from asem_samplers.uniform import Uniform


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--block", type=int, default=46)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["auto", "float32", "bfloat16"], default="auto")
    given = parser.parse_args()
    device = torch.device(given.device)
    rng = np.random.default_rng(0)
    raw = Volume(rng.integers(0, 255, (300, 420, 420), dtype=np.uint8), 5.0)
    labels = Labels((rng.random((180, 300, 300)) < 0.1).astype(np.uint8), 5.0, (300.0, 300.0, 300.0))
    block = (given.block,) * 3

    def cuts(augment: Augment) -> object:
        return BlockStream(Uniform(), [Region("r", raw, labels)], block, (47,) * 3, augment, seed=0).cuts(0)

    options = TrainOptions(regions=(RegionOptions("", ""),), block=block, precision=given.precision)
    network = Mitochondria().network()
    initialise(network, options)
    half = half_precision(options, device)
    plain_network = of_torch_alone(network).to(device).train()
    fast_network = to_device(network, device, half).train()
    plain_adam, fast_adam = (make_optimizer(n, options.optimizer, device) for n in (plain_network, fast_network))
    still, moved = cuts(Augment.none()), cuts(Augment())

    def plain() -> None:
        image, target = next(still).to_tensors(device)  # type: ignore[call-overload]
        plain_adam.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain_network(image[None]), next(iter(target.values()))[None])
        loss.backward()
        plain_adam.step()
        loss.item()

    def fast() -> None:
        _ = step(fast_network, fast_adam, list(islice(moved, 1)), options, half, device).value  # type: ignore[call-overload]

    times: dict[str, list[tuple[float, float]]] = {"plain": [], "asem": []}
    for _ in range(given.rounds + 1):
        for name, run in (("plain", plain), ("asem", fast)):
            begun, cpu = time.perf_counter(), time.process_time()
            run()
            times[name].append((time.perf_counter() - begun, time.process_time() - cpu))
    (plain_wall, plain_cpu), (wall, cpu) = (np.median(times[name][1:], axis=0) for name in ("plain", "asem"))
    print(f"plain float32 loop: {plain_wall:.2f} s an iteration ({plain_cpu:.2f} s of processor time)")
    print(f"ASEM, {'bfloat16' if half else 'float32'}, augmented: {wall:.2f} s ({cpu:.2f} s of processor time)")
    print(f"ratio: {plain_wall / wall:.2f} by the clock, {plain_cpu / cpu:.2f} by processor time")
    print(f"blocks of {given.block}^3, {given.device}, {hardware()}, torch {torch.__version__}")


def of_torch_alone(network: torch.nn.Module) -> torch.nn.Module:
    """Copy a network with torch's own convolutions and ReLUs in the places of ours."""
    plain = copy.deepcopy(network)
    for sequence in [m for m in plain.modules() if isinstance(m, torch.nn.Sequential)]:
        for n, layer in enumerate(sequence):
            if isinstance(layer, torch.nn.Conv3d):
                sequence[n] = torch.nn.Conv3d(layer.in_channels, layer.out_channels, layer.kernel_size)  # type: ignore[arg-type]
                sequence[n].load_state_dict(layer.state_dict())
            elif isinstance(layer, torch.nn.ReLU):
                sequence[n] = torch.nn.ReLU()
    return plain


if __name__ == "__main__":
    main()
