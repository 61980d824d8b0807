"""What a GPU would be asked to do, traced without one: one device, no float64, few transfers, memory as planned, kernels that exist."""

from __future__ import annotations

import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
import torch

from asem_core.errors import TrainingStopped
from asem_core.interfaces import Region
from asem_core.prediction.blockwise import choose_block
from asem_core.prediction.inference import Arithmetic, Predictor
from asem_core.training.augment import Augment
from asem_core.training.devices import Processes
from asem_core.training.loop import make_optimizer, step, step_within_memory, to_device
from asem_core.training.options import OptimizerOptions, RegionOptions, TrainOptions
from asem_core.training.stream import BlockStream
from asem_core.volume import Box, Labels, Volume
from asem_models._unet import UNet

sys.path.insert(0, str(Path(__file__).parent))
from device_trace import ELSEWHERE, Trace, without_kernel

EVERYTHING = Augment(
    elastic_jitter_vx=(2.0, 2.0, 2.0), zoom=(0.8, 1.2), shift_probability=0.5, slip_probability=0.5, gamma=(0.7, 1.4),
    noise=0.1, blur_vx=2.0, missing_probability=0.3,
)  # fmt: skip


def predicted(network, precision="float16", block=(64, 64, 64), mirrors=False):
    work = Predictor(network, Arithmetic(str(ELSEWHERE), precision, mirrors))
    shape = network.input_shape(block)
    with Trace() as trace:
        grey = torch.empty(shape, dtype=torch.uint8, device=ELSEWHERE)
        trace.restart_peak()
        with torch.no_grad():  # as in inference mode, but composed operations are seen as what they are made of
            found = work._probabilities(grey, 255)
    return trace, found


@pytest.mark.parametrize("precision", ["float16", "bfloat16", "float32"])
def test_prediction_stays_on_the_device_and_has_kernels_everywhere(precision):
    network = UNet(features=16)
    trace, found = predicted(network, precision, mirrors=precision == "bfloat16")
    assert found.device == ELSEWHERE
    assert found.dtype == torch.uint8
    assert found.shape == network.output_shape(network.input_shape((64,) * 3))
    assert not trace.mixed
    assert (trace.to_device, trace.from_device) == (0, 0)
    assert trace.types <= {getattr(torch, precision), torch.float32}
    assert trace.operations["convolution.default"] > 20
    assert not without_kernel(trace.operations, "CUDA")
    assert not without_kernel(trace.operations, "MPS")


@pytest.mark.parametrize("edge", [96, 384])
def test_prediction_takes_the_memory_that_is_planned(edge):
    """What is alive at once of the published network is within 15 % of what block sizes are chosen by."""
    network = UNet()
    trace, _ = predicted(network, block=(edge,) * 3)
    planned = 2 * network.num_values(network.input_shape((edge,) * 3))
    assert planned == pytest.approx(trace.peak, rel=0.15)


def test_a_card_of_12_gb_runs_the_published_network_at_once():
    """With what a desktop leaves of it, in half precision and in float32; the block that is chosen is traced."""
    for itemsize in (2, 4):
        memory = 0.8 * 11e9
        block = choose_block(UNet(), (2000, 2000, 2000), "cuda", itemsize, memory)
        assert np.prod(block) >= 128**3
        trace, _ = predicted(UNet(), {2: "float16", 4: "float32"}[itemsize], block)
        assert 1.1 * trace.peak < 12e9


class Elsewhere:
    """`torch.Generator` knows only devices that compute."""

    def __new__(cls, device, kept=torch.Generator):
        return kept()


class Tight(torch.nn.Module):
    """A network on a device with memory for so many blocks at a time."""

    def __init__(self, network, room):
        super().__init__()
        self.network, self.room = network, room

    def forward(self, image):
        if len(image) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return self.network(image)


def test_training_takes_fewer_blocks_at_a_time_where_memory_is_short(caplog):
    """And learns the same; where even one is too much, or others would wait, it says what to do."""
    cpu, learnt = torch.device("cpu"), []
    for room in (4, 1):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network = Tight(UNet(features=4, factors=((2, 2, 2),)), room)
        options, cuts = prepared(network.network, batch=4)
        optimizer = make_optimizer(network, options.optimizer, cpu)
        _, after = step_within_memory(network, optimizer, cuts[:4], options, False, Processes(0, 1, cpu))
        assert (after.batch, after.accumulate) == {4: (4, 1), 1: (1, 4)}[room]
        learnt.append(torch.cat([p.detach().flatten() for p in network.parameters()]))
    assert torch.allclose(*learnt, atol=1e-6)
    assert "blocks at a time: 1, gradients summed over: 4; the result is the same" in caplog.text
    with pytest.raises(TrainingStopped, match=r"not enough memory on cpu for 2 blocks of \[.*\] voxels at once"):
        step_within_memory(
            Tight(network, 0), optimizer, cuts[:2], attrs.evolve(options, batch=2), False, Processes(0, 2, cpu)
        )


def prepared(network, **options):
    """Options of a training, and blocks for two steps of it."""
    block = network.output_shape(network.input_shape((28, 28, 28)))
    options = TrainOptions(
        [RegionOptions("raw", "labels")], block=block, optimizer=OptimizerOptions(clip_norm=1.0), **options
    )
    objects = np.zeros((160, 160, 160), np.uint8)
    objects[60:90, 60:90, 60:90] = 1
    region = Region("r", Volume(objects * 200, 5.0), Labels(objects, 5.0))
    stream = BlockStream(None, [region], options.block, network.context, EVERYTHING, seed=0)
    box = Box((60, 60, 60), tuple(60 + n for n in block))
    return options, [stream.cut(n, region, box) for n in range(2 * options.batch)]


def two_steps(network, half=False):
    """Two steps of training on the device, from the cut block to the weights."""
    options, cuts = prepared(network, batch=2)
    network = to_device(network, ELSEWHERE, half).train()
    with Trace() as trace:
        optimizer = make_optimizer(network, options.optimizer, ELSEWHERE)
        for n in range(2):
            loss = step(network, optimizer, cuts[2 * n : 2 * n + 2], options, half, ELSEWHERE)
    return trace, loss


def test_training_stays_on_the_device_and_has_kernels_everywhere(monkeypatch):
    """Every augmentation on. Nothing is read back within a step: the loss is read later.

    In float32: autocast knows only devices that compute.
    """
    monkeypatch.setattr(torch, "Generator", Elsewhere)
    trace, loss = two_steps(UNet(features=16, factors=((2, 2, 2), (2, 2, 2))))
    assert all(value.device == ELSEWHERE for value in loss.losses)
    assert not trace.mixed
    assert trace.from_device == 0
    # A block is brought over as its voxels and labels, and the numbers of its deformation.
    assert trace.to_device <= 2 * 2 * 13
    assert trace.types == {torch.float32}
    assert {"convolution_backward.default", "grid_sampler_3d.default"} <= set(trace.operations)
    assert not without_kernel(trace.operations, "CUDA")
    assert not without_kernel(trace.operations, "MPS")


class Wandering(UNet):
    """A mistake: a part of the work is done on the CPU."""

    def forward(self, image):
        result = super().forward(image)
        return result + torch.ones(2)[None, :, None, None, None].to(result.dtype).to(result.device)


class Exact(UNet):
    """A mistake: a Mac's GPU has no float64."""

    def forward(self, image):
        return super().forward(image).double()


def test_planted_mistakes_are_found():
    small = {"features": 4, "factors": ((2, 2, 2),), "kernels": ((1, 3, 3), (3, 3, 3)), "out_channels": 2}
    for network in (Wandering(**small), Exact(**small)):
        network.for_inference = lambda network=network: network
        trace, _ = predicted(network, "float32", (16, 16, 16))
        assert trace.to_device > 0 or torch.float64 in trace.types
    assert without_kernel(["_no_such_operation", "add.Tensor"], "CUDA") == ["_no_such_operation"]
