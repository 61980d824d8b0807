"""The convolution that trains fast on a CPU gives torch's results and gradients."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional

from asem_models._convolution import Convolution
from asem_models._convolution.layer import fast_module
from asem_models._unet import UNet

SHAPES = [
    (16, 16, (3, 3, 3), (3, 3, 3)),  # a single result
    (32, 48, (3, 3, 3), (9, 13, 22)),  # no edge is a multiple of a tile
    (64, 16, (3, 3, 3), (8, 10, 14)),  # every edge is
    (16, 32, (1, 3, 3), (5, 11, 15)),
    (128, 128, (1, 3, 3), (3, 6, 6)),
    (1, 32, (3, 3, 3), (7, 9, 16)),  # the image itself
    (1, 48, (1, 3, 3), (2, 5, 27)),  # with lines longer than what is added up at a time
    (32, 64, (2, 2, 2), (9, 13, 22)),
    (48, 16, (1, 2, 2), (2, 8, 11)),
    (16, 16, (2, 2, 2), (2, 2, 2)),
]


def drawn(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def far(found, right):
    """The largest difference, as a part of the largest value."""
    assert found.shape == right.shape
    return float((found.detach().double() - right.detach()).abs().max() / right.detach().abs().max())


@pytest.mark.parametrize(("channels", "features", "kernel", "shape"), SHAPES, ids=str)
def test_results_and_gradients_are_those_of_torch(channels, features, kernel, shape):
    """Within a few roundings of float32 of what torch finds in float64, for two images at once."""
    layer = Convolution(channels, features, kernel)
    image = drawn(2, channels, *shape).requires_grad_(channels > 1)
    found = layer(image)
    exact = [tensor.detach().double().requires_grad_() for tensor in (image, layer.weight, layer.bias)]
    right = functional.conv3d(*exact)
    assert layer._fits(image)
    assert far(found, right) < 3e-5

    change = drawn(*right.shape, seed=1)
    found.backward(change)
    right.backward(change.double())
    for tensor, other in zip((image, layer.weight, layer.bias), exact, strict=True):
        assert tensor.grad is None or far(tensor.grad, other.grad) < 3e-5
    assert torch.equal(image, drawn(2, channels, *shape))


def test_it_is_the_same_every_time():
    """Sums are added up in one order, whichever thread is done first."""
    layer, image = Convolution(32, 32, (3, 3, 3)), drawn(1, 32, 14, 30, 30)

    def learnt():
        layer.zero_grad()
        result = layer(image)
        result.square().sum().backward()
        return result, layer.weight.grad.clone()

    (first, once), (second, again) = learnt(), learnt()
    assert torch.equal(first, second)
    assert torch.equal(once, again)


def test_a_view_is_read_where_it_lies():
    """A part of larger maps, with other strides, gives the same as its copy."""
    layer, whole = Convolution(16, 16, (3, 3, 3)), drawn(1, 48, 9, 12, 17)
    part = whole.contiguous(memory_format=torch.channels_last_3d)[:, 16:32, 1:, 2:, :-1]
    with torch.no_grad():
        assert torch.equal(layer(part), layer(part.clone()))


@pytest.mark.parametrize(
    ("layer", "image"),
    [
        (Convolution(16, 16, 3, padding=1), drawn(1, 16, 6, 6, 6)),
        (Convolution(16, 16, 3, stride=2), drawn(1, 16, 7, 7, 7)),
        (Convolution(16, 16, 3, groups=2), drawn(1, 16, 6, 6, 6)),
        (Convolution(16, 16, (3, 3, 1)), drawn(1, 16, 6, 6, 6)),
        (Convolution(12, 16, 3), drawn(1, 12, 6, 6, 6)),
        (Convolution(16, 2, 3), drawn(1, 16, 6, 6, 6)),
        (Convolution(1, 16, 3), drawn(1, 1, 6, 6, 6).requires_grad_()),
        (Convolution(16, 16, 3).double(), drawn(1, 16, 6, 6, 6).double()),
    ],
    ids=str,
)
def test_all_else_is_left_to_torch(layer, image):
    right = functional.conv3d(image, layer.weight, layer.bias, layer.stride, layer.padding, 1, layer.groups)
    assert torch.equal(layer(image), right)


def test_half_precision_is_left_to_torch():
    layer, image = Convolution(16, 16, 3), drawn(1, 16, 6, 6, 6)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(image).dtype == torch.bfloat16


@pytest.mark.parametrize("factors", [((2, 2, 2), (2, 2, 2)), ((1, 2, 2), (2, 2, 2))], ids=str)
def test_a_network_learns_as_with_torch(factors):
    """All gradients of a network agree, through crops, pooling, upsampling and the joining of maps.

    Not to the last digit: where a map is nearly zero, or two voxels are nearly equal, rounding decides who learns.
    """
    kernels = [[(1, 3, 3) if f[0] == 1 else (3, 3, 3)] * 2 for f in (*factors, (2, 2, 2))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(features=16, factors=factors, kernels=kernels).train()
    assert isinstance(network.unet.encoders[0].conv_pass[0], Convolution)
    image = drawn(1, 1, *network.input_shape((8, 8, 8)))

    def gradients():
        network.zero_grad()
        (network(image) * drawn(1, 2, 1, 1, 1)).square().mean().backward()
        return [parameter.grad.double() for parameter in network.parameters()]

    found = gradients()
    for module in network.modules():
        if isinstance(module, nn.Conv3d):
            module.eval()
    for one, right in zip(found, gradients(), strict=True):
        assert (one - right).norm() < 1e-2 * right.norm()


@pytest.mark.parametrize("factors", [((2, 2, 2), (2, 2, 2)), ((1, 2, 2), (2, 2, 2))], ids=str)
def test_a_network_predicts_as_with_torch(factors):
    """Probabilities agree to some millionths with torch's, and from piece to piece to the bit."""
    kernels = [[(1, 3, 3) if f[0] == 1 else (3, 3, 3)] * 2 for f in (*factors, (2, 2, 2))]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = UNet(features=16, factors=factors, kernels=kernels).eval()
    plain = copy.deepcopy(network)
    for module in plain.modules():
        if isinstance(module, Convolution):
            module.__class__ = nn.Conv3d
    image = drawn(1, 1, *network.input_shape((44, 76, 12)))
    with torch.inference_mode():
        logits = plain(image)[0]
        odds = network.for_inference()(image)[0, 0]
    assert (odds.sigmoid() - logits.softmax(0)[1]).abs().max() < 1e-5


def test_results_below_zero_can_be_left_out():
    layer, image = Convolution(16, 16, 3), drawn(1, 16, 6, 7, 8)
    image[0, 0, 0, 0, 0] = torch.nan
    with torch.no_grad():
        found, right = layer.forward_relu(image), functional.conv3d(image, layer.weight, layer.bias).relu()
    assert found[0, :, 2:].min() == 0
    assert far(found[:, :, 2:], right[:, :, 2:]) < 3e-5
    assert found[0, 0, 0, 0, 0].isnan()  # what is no number is not hidden


def test_where_it_cannot_be_compiled_torch_is_used_and_it_is_said_once(tmp_path):
    """numba is broken: one line, and torch's results."""
    (tmp_path / "numba.py").write_text("raise ImportError('no LLVM here\\nand more')")
    code = """
import torch
from asem_models._convolution import Convolution
torch.manual_seed(0)
layer, image = Convolution(16, 16, 3), torch.randn(1, 16, 6, 6, 6)
for _ in range(2):
    assert torch.equal(layer(image), torch.nn.functional.conv3d(image, layer.weight, layer.bias))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONOPTIMIZE": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("cannot be compiled here (no LLVM here)") == 1


@pytest.mark.parametrize("features", [{}, {"avx2": True}, {"fma": True, "avx": True}])
def test_processors_without_wide_vectors_that_multiply_and_add_use_torch(features, monkeypatch, caplog):
    """Nothing is compiled there, and nothing is said."""
    monkeypatch.setattr("llvmlite.binding.get_host_cpu_features", lambda: features)
    assert fast_module.__wrapped__() is None
    assert not caplog.text
