"""The steps of `gpu_check.py` about training: its speed, a batch that is too large, a state that goes to another device."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from _gpu_bench import Bench, Found, grain, step


def training_of(bench: Bench, precision: str, block: int, batch: int = 1) -> tuple[Any, ...]:
    """A network on the device, its optimizer, options, and an endless stream of augmented blocks."""
    import torch

    from asem_core.interfaces import Region
    from asem_core.training.augment import Augment
    from asem_core.training.devices import half_precision
    from asem_core.training.loop import initialise, make_optimizer, to_device
    from asem_core.training.options import RegionOptions, TrainOptions
    from asem_core.training.stream import BlockStream
    from asem_core.volume import Labels, Volume
    from asem_models._unet import UNet
    from asem_samplers.uniform import Uniform

    edge = block + 240
    raw = Volume(grain(edge), 5.0)
    labels = Labels((raw.data[60:-60, 60:-60, 60:-60] > 140).astype(np.uint8), 5.0, (300.0,) * 3)
    options = TrainOptions([RegionOptions("", "")], block=(block,) * 3, batch=batch, precision=precision)  # type: ignore[arg-type]
    network = UNet(features=4, factors=((2, 2, 2),)) if bench.small else UNet()
    initialise(network, options)
    device = torch.device(bench.device)
    half = half_precision(options, device)
    network = to_device(network, device, half).train()
    optimizer = make_optimizer(network, options.optimizer, device)
    stream = BlockStream(Uniform(), [Region("r", raw, labels)], options.block, network.context, Augment(), seed=0)
    return network, optimizer, options, half, device, stream.cuts(0)


@step(150)
def training(bench: Bench) -> Found:
    """Iterations a second of the published network in the published block, its memory, and that the loss falls alike."""
    from itertools import islice

    from asem_core.training.loop import step as train_step

    found: Found = {}
    for precision in ("bfloat16", "float32"):
        network, optimizer, options, half, device, cuts = training_of(bench, precision, bench.size(110, 14))
        losses: list[Any] = []

        def some(count: int, network: Any = network, optimizer: Any = optimizer, cuts: Any = cuts, losses: Any = losses,
                 options: Any = options, half: Any = half, device: Any = device) -> None:  # fmt: skip
            for _ in range(count):
                losses.append(train_step(network, optimizer, list(islice(cuts, 1)), options, half, device))
                if len(losses) > 1:
                    losses[-2].value  # noqa: B018  read one step late, as the loop does
            bench.wait()

        some(bench.size(20, 2))
        bench.peak()
        count = bench.size(150, 2)
        begun = time.perf_counter()
        some(count)
        peak = bench.peak()
        found[precision] = {
            "iterations_s": count / (time.perf_counter() - begun),
            "peak_gb": peak and peak / 1e9,
            "loss": [round(float(np.mean([v.value for v in part])), 4) for part in (losses[:10], losses[-10:])],
        }
    return found


@step(60)
def backoff(bench: Bench) -> Found:
    """Training on a card of 12 GB: a batch that is too large is split, and goes on."""
    from itertools import islice

    from asem_core.training.devices import Processes
    from asem_core.training.loop import step_within_memory

    if not bench.is_cuda:
        return {"skipped": "memory of a GPU is limited"}
    bench.act_as_card_of(12e9)
    network, optimizer, options, half, device, cuts = training_of(bench, "bfloat16", 110, batch=16)
    loss, after = step_within_memory(network, optimizer, list(islice(cuts, 16)), options, half, Processes(0, 1, device))
    found = {"batch": after.batch, "accumulate": after.accumulate, "loss": loss.value}
    return found | ({} if after.batch * after.accumulate == 16 else {"wrong": "blocks were lost"})


@step(120)
def resume(bench: Bench) -> Found:
    """A state of training made on this device is loaded on the CPU and back, with the same weights."""
    import io
    from itertools import islice

    import torch

    from asem_core.training.loop import step as train_step

    network, optimizer, options, half, device, cuts = training_of(bench, "float32", 14)
    train_step(network, optimizer, list(islice(cuts, 1)), options, half, device)
    kept = io.BytesIO()
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, kept)
    for where in ("cpu", bench.device):
        kept.seek(0)
        state = torch.load(kept, map_location=where, weights_only=True)
        other, its_optimizer, *_ = training_of(Bench(where, bench.small), "float32", 14)
        other.load_state_dict(state["network"])
        its_optimizer.load_state_dict(state["optimizer"])
        train_step(other, its_optimizer, list(islice(cuts, 1)), options, False, torch.device(where))
        if not all(bool(p.isfinite().all()) for p in other.parameters()):
            return {"wrong": f"weights that are not finite on {where}"}
    return {"loaded_on": ["cpu", bench.device]}
