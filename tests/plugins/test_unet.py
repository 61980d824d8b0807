"""The network is the published one, and what it says of its geometry holds."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from asem_core.errors import BadInput
from asem_core.weights import load_weights
from asem_models._unet import UNet
from asem_models._unet_inference import InferenceUNet

THIN = {"features": 4, "factors": ((2, 2, 2),) * 2, "kernels": (((3, 3, 3),), ((3, 3, 3),) * 2, ((3, 3, 3),) * 2)}
FLAT = {
    "features": 4,
    "factors": ((1, 2, 2), (1, 2, 2), (2, 2, 2)),
    "kernels": (((1, 3, 3),) * 2, ((1, 3, 3),) * 2, ((3, 3, 3),) * 2, ((3, 3, 3),) * 2),
}


def lively(network: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Draw weights that keep the signal's strength through all layers, as trained ones do."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.named_parameters():
        fan_in = tensor[0].numel() if tensor.dim() > 1 else 1
        scale = (2 / fan_in) ** 0.5 if tensor.dim() > 1 else 0.1
        tensor.data = torch.randn(tensor.shape, generator=generator) * scale
        del name
    return network.eval()


def published_forward(tensors: dict[str, torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    """The network as the description of the authors' checkpoints has it, written plainly."""

    def convolve(image, name, activate=True):
        image = functional.conv3d(image, tensors[f"{name}.weight"], tensors[f"{name}.bias"])
        return functional.relu(image) if activate else image

    def centre(image, edge):
        first = (image.shape[-1] - edge) // 2
        return image[:, :, first : first + edge, first : first + edge, first : first + edge]

    def level(image, i):
        image = convolve(convolve(image, f"unet.l_conv.{i}.conv_pass.0"), f"unet.l_conv.{i}.conv_pass.2")
        if i == 3:
            return image
        below = functional.interpolate(level(functional.max_pool3d(image, 2), i + 1), scale_factor=2, mode="nearest")
        product = {0: 8, 1: 4, 2: 2}[i]
        edge = max(s for s in range(5, below.shape[-1] + 1) if (s - 4) % product == 0)
        both = torch.cat([centre(image, edge), centre(below, edge)], dim=1)
        return convolve(convolve(both, f"unet.r_conv.0.{i}.conv_pass.0"), f"unet.r_conv.0.{i}.conv_pass.2")

    return convolve(level(image, 0), "final_conv_pass.conv_pass.0", activate=False)


@pytest.mark.parametrize(
    ("edge", "expected", "features"),
    [
        (140, 46, 8),
        pytest.param(140, 46, 32, marks=pytest.mark.slow),
        pytest.param(204, 110, 32, marks=pytest.mark.slow),
    ],
)
def test_forward_equals_the_published_network(edge, expected, features):
    """Equal to 1e-5 with an independent implementation, for logits of the size that trained networks have."""
    network = lively(UNet(features=features))
    image = torch.rand(1, 1, edge, edge, edge, generator=torch.Generator().manual_seed(1)) * 2 - 1
    with torch.inference_mode():
        found = network(image)
        right = published_forward(network.state_dict(), image)
    assert found.shape == (1, 2, expected, expected, expected)
    assert right.abs().max() > 0.1
    assert (found - right).abs().max() <= 1e-5 * max(1, right.abs().max())


def test_it_has_the_published_size():
    network = UNet()
    assert sum(p.numel() for p in network.parameters()) == 5_837_730
    assert network.context == (47, 47, 47)
    assert network.alignment == (8, 8, 8)
    assert network.output_shape((204, 204, 204)) == (110, 110, 110)
    assert network.output_shape((140, 204, 212)) == (46, 110, 118)
    assert network.input_shape((110, 46, 47)) == (204, 140, 148)


def test_a_checkpoint_of_the_authors_loads_name_by_name(tmp_path):
    """A file with the original's 30 names, and the optimizer beside them, loads and gives the same tensors."""
    widths = [(1, 32), (32, 64), (64, 128), (128, 256)]
    tensors = {}
    for i, (before, after) in enumerate(widths):
        tensors |= _layer(f"unet.l_conv.{i}.conv_pass.0", before, after)
        tensors |= _layer(f"unet.l_conv.{i}.conv_pass.2", after, after)
    for i, (before, after) in enumerate([(96, 32), (192, 64), (384, 128)]):
        tensors |= _layer(f"unet.r_conv.0.{i}.conv_pass.0", before, after)
        tensors |= _layer(f"unet.r_conv.0.{i}.conv_pass.2", after, after)
    tensors |= _layer("final_conv_pass.conv_pass.0", 32, 2)
    assert len(tensors) == 30
    file = tmp_path / "model_checkpoint_1847_mito_CF.pt"
    torch.save(
        {"model_state_dict": tensors, "optimizer_state_dict": {"state": {}, "param_groups": [{"lr": 3e-5}]}}, file
    )
    loaded = load_weights(file, UNet()).state_dict()
    assert set(loaded) == set(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(loaded[name], tensor)


def _layer(name, before, after):
    return {f"{name}.weight": torch.randn(after, before, 3, 3, 3), f"{name}.bias": torch.randn(after)}


@pytest.mark.parametrize("options", [{"features": 4}, FLAT, {"features": 6, "factors": ((2, 2, 2),)}], ids=str)
def test_shifting_by_the_alignment_shifts_the_result(options):
    """A shift by the alignment shifts the result exactly; by one voxel less it does not (where it can be less)."""
    network = lively(UNet(**options))
    step = network.alignment
    shape = network.input_shape((24, 24, 24))
    image = torch.rand(1, 1, *[n + s for n, s in zip(shape, step, strict=True)]) * 2 - 1
    with torch.inference_mode():
        first = network(image[:, :, : shape[0], : shape[1], : shape[2]])
        second = network(image[:, :, step[0] :, step[1] :, step[2] :])
        off = network(image[:, :, : shape[0], : shape[1], step[2] - 1 : step[2] - 1 + shape[2]])
    same = slice(0, -step[0]), slice(0, -step[1]), slice(0, -step[2])
    inner = first[:, :, step[0] :, step[1] :, step[2] :]
    assert (inner - second[(..., *same)]).abs().max() < 1e-5
    assert (first[..., step[2] - 1 :] - off[..., : 1 - step[2]]).abs().max() > 1e-3


@pytest.mark.parametrize(
    "options",
    [{"features": 4}, FLAT, THIN, {"features": 4, "factors": ((2, 2, 2),), "feature_factor": 3}],
    ids=str,
)
@pytest.mark.parametrize("slab", [8, 48])
def test_the_arrangement_for_prediction_gives_the_same(options, slab):
    """Log-odds of the rearranged network = difference of the two logits, however thin the slabs."""
    network = lively(UNet(**options))
    image = torch.rand(1, 1, *network.input_shape((20, 30, 26))) * 2 - 1
    assert InferenceUNet.fits(network)
    with torch.inference_mode():
        background, foreground = network(image)[0]
        found = InferenceUNet(network, slab)(image)
    assert found.shape[1] == 1
    assert (found[0, 0] - (foreground - background)).abs().max() < 1e-5 * max(1, foreground.abs().max())


def test_a_network_that_cannot_be_rearranged_predicts_as_it_is():
    network = UNet(features=2, out_channels=3, factors=((2, 2, 2),))
    assert network.for_inference() is network


def test_an_input_that_does_not_fit_is_refused_with_one_that_does():
    with pytest.raises(BadInput, match=r"cannot take an input of \[200, 204, 204\] voxels; \[204, 204, 204\] would do"):
        UNet(features=2)(torch.zeros(1, 1, 200, 204, 204))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernels": ((2, 3, 3),)}, "Kernels must be odd"),
        ({"factors": ((3, 3, 3),), "kernels": ((3, 3, 3),)}, "off the centre"),
        ({"kernels": (((3, 3, 3),),) * 3}, "has 4 levels; kernels are given for 3"),
    ],
)
def test_a_geometry_that_cannot_be_is_refused(options, message):
    with pytest.raises(BadInput, match=message):
        UNet(features=2, **options)


def test_the_spec_rebuilds_the_network():
    network = UNet(**FLAT)
    again = UNet(**network.spec())
    assert [t.shape for t in again.state_dict().values()] == [t.shape for t in network.state_dict().values()]
    assert again.context == network.context


def test_gradients_are_those_of_the_plain_network():
    """Pooling and cropping share one gradient; it is that of both, added up."""
    network = lively(UNet(features=2))
    image = torch.rand(1, 1, 140, 140, 140, generator=torch.Generator().manual_seed(1)) * 2 - 1
    tensors = {name: tensor.detach().clone().requires_grad_(True) for name, tensor in network.named_parameters()}
    found, right = network(image), published_forward(tensors, image)
    slope = torch.randn(found.shape, generator=torch.Generator().manual_seed(2))
    found.backward(slope)
    right.backward(slope)
    for name, own in network.named_parameters():
        expected = tensors[name].grad
        assert torch.allclose(own.grad, expected, atol=1e-4 * float(expected.abs().max())), name
