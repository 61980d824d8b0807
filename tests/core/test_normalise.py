"""Batch normalisation while training, folded away afterwards."""

from __future__ import annotations

import torch

from asem_core.training.devices import Processes
from asem_core.training.normalise import add_normalisation, keep_output, measure_normalisation, without_normalisation
from asem_models._unet import UNet


def small_network() -> UNet:
    torch.manual_seed(0)
    return UNet(features=3, factors=[[1, 2, 2]], kernels=[[[1, 3, 3]], [[3, 3, 3], [1, 3, 3]]])


def test_the_saved_network_is_plain_and_says_the_same():
    """Same tensors as a network without; same output as the normalised one in evaluation."""
    plain = small_network()
    names = {name: tensor.shape for name, tensor in plain.state_dict().items()}
    learner = add_normalisation(small_network())
    assert len(learner.state_dict()) > len(names)
    optimizer = torch.optim.Adam(learner.parameters(), 0.05)
    image = torch.randn(2, 1, *plain.input_shape((4, 8, 8)))
    for _ in range(5):
        optimizer.zero_grad()
        learner(image * 3 + 1).square().mean().backward()
        optimizer.step()
    folded = without_normalisation(learner.eval())
    assert {name: tensor.shape for name, tensor in folded.state_dict().items()} == names
    plain.load_state_dict(folded.state_dict())
    with torch.no_grad():
        expected = learner(image)
        assert torch.allclose(plain(image), expected, atol=1e-4 * float(expected.abs().max()))
    assert not torch.allclose(expected, small_network()(image), atol=0.1)


def test_only_convolutions_before_a_relu_are_normalised():
    """The last convolution gives log-odds: it has no ReLU, and stays as it is."""
    learner = add_normalisation(small_network())
    assert sum(isinstance(m, torch.nn.BatchNorm3d) for m in learner.modules()) == 4
    assert isinstance(learner.final_conv_pass.conv_pass[0], torch.nn.Conv3d)


def test_evaluation_uses_means_over_all_blocks_given():
    """Whatever was found while learning is forgotten; every block weighs alike."""
    learner = add_normalisation(small_network())
    shape = small_network().input_shape((4, 8, 8))
    images = [torch.randn(1, 1, *shape) + offset for offset in range(3)]
    with torch.no_grad():
        learner.train()(torch.randn(1, 1, *shape) + 100)
        measure_normalisation(learner, learner, images, Processes(0, 1, torch.device("cpu")))
        convolution, norm = next(
            m for m in learner.modules() if isinstance(getattr(m, "1", None), torch.nn.BatchNorm3d)
        )
        found = torch.stack([convolution(image).mean((0, 2, 3, 4)) for image in images])
    assert torch.allclose(norm.running_mean, found.mean(0), atol=1e-5)


def test_fine_tuning_starts_from_what_the_weights_say():
    """Whatever the image's greys are, normalisations can be set to change nothing, while learning and afterwards."""
    plain = small_network()
    learner = add_normalisation(small_network())
    image = torch.randn(1, 1, *plain.input_shape((4, 8, 8))) * 5 + 2
    keep_output(learner, learner, [image], Processes(0, 1, torch.device("cpu")))
    with torch.no_grad():
        assert torch.allclose(learner.eval()(image), plain(image), atol=1e-4)
        # While learning, variances are divided by the number of voxels, and by one less when they are kept.
        assert torch.allclose(learner.train()(image), plain(image), atol=5e-3)
