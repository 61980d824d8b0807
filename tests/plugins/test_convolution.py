"""The convolution that trains fast on a CPU gives torch's results and gradients."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from asem_models._convolution import Convolution
from asem_models._unet import UNet

SHAPES = [
    (16, 16, (3, 3, 3), (3, 3, 3)),  # a single result
    (32, 48, (3, 3, 3), (9, 13, 22)),  # no edge is a multiple of a tile
    (64, 16, (3, 3, 3), (8, 10, 14)),  # every edge is
    (16, 32, (1, 3, 3), (5, 11, 15)),
    (128, 128, (1, 3, 3), (3, 6, 6)),
    (1, 32, (3, 3, 3), (7, 9, 16)),  # the image itself
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
        (Convolution(16, 16, 3).eval(), drawn(1, 16, 6, 6, 6)),
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


def test_evaluation_is_torchs_to_the_bit():
    network = UNet(features=16, factors=((2, 2, 2),)).eval()
    image = drawn(1, 1, *network.input_shape((6, 6, 6)))
    plain = UNet(features=16, factors=((2, 2, 2),)).eval()
    plain.load_state_dict(network.state_dict())
    for module in plain.modules():
        if isinstance(module, Convolution):
            module.__class__ = nn.Conv3d
    with torch.inference_mode():
        assert torch.equal(network(image), plain(image))
