"""Batch normalisation while training, gone afterwards: what is saved is a plain network with the same output.

A deep network of convolutions and ReLUs learns slowly at first, since the scale of every map depends on all layers
above it. Normalising each map over the block (Ioffe and Szegedy 2015) takes that away. In evaluation the normalisation is
one factor and one offset a map, which the convolution before it can hold itself. So checkpoints, cards and prediction
know nothing of it, and blocks are still predicted independently of each other.

While learning, a step is normalised by its own blocks. Prediction needs means and variances that hold anywhere: at every
checkpoint they are measured anew, with the weights as they are, over the last blocks as the image shows them. Running
averages would lag behind, and blocks that augmentation has changed have other means than what is predicted.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

    from asem_core.training.devices import Processes

NUM_MEASURED = 24
"""Blocks that means and variances are measured over."""


def add_normalisation(network: nn.Module) -> nn.Module:
    """Put a batch normalisation between every 3D convolution and the ReLU that follows it in a `Sequential`, in place."""
    from torch import nn

    from asem_core.training.normalised_relu import NormalisedReLU

    for sequence in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            convolution = sequence[index]
            if isinstance(convolution, nn.Conv3d) and isinstance(sequence[index + 1], nn.ReLU):
                norm = NormalisedReLU(convolution.out_channels)
                if convolution.bias is not None:
                    convolution.bias.requires_grad_(False)  # what it adds, the normalisation takes away again
                sequence[index] = nn.Sequential(convolution, norm.to(convolution.weight.device))
                sequence[index + 1] = nn.Identity()  # the normalisation is the ReLU, too
    return network


def measure_normalisation(
    network: nn.Module,
    forward: Callable[[torch.Tensor], torch.Tensor],
    images: Iterable[torch.Tensor],
    processes: Processes,
) -> None:
    """Measure the means and variances that evaluation uses over `images`, and average them over the processes."""
    import torch
    from torch import nn

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    for norm in norms:
        norm.momentum = None  # torch's word for: all steps weigh alike
        norm.reset_running_stats()
    network.train()
    with torch.no_grad():
        for image in images:
            forward(image)
        for norm in norms:
            for average in (norm.running_mean, norm.running_var):
                assert average is not None
                (total,) = processes.add_up(average.cpu().numpy())
                average.copy_(torch.from_numpy(total / processes.size))


def keep_output(
    network: nn.Module,
    forward: Callable[[torch.Tensor], torch.Tensor],
    images: Iterable[torch.Tensor],
    processes: Processes,
) -> None:
    """Set the factors and offsets of normalisations so that `images` give what they gave without: the start of fine-tuning."""
    import torch
    from torch import nn

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    # Maps are passed on as they are, so that those of deeper layers are measured, too, as if nothing had been put between.
    passing = [norm.register_forward_hook(lambda _, maps, __: maps[0].relu()) for norm in norms]
    measure_normalisation(network, forward, images, processes)
    for hook in passing:
        hook.remove()
    with torch.no_grad():
        for norm in norms:
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.weight.copy_(torch.sqrt(norm.running_var + norm.eps))
            norm.bias.copy_(norm.running_mean)


def without_normalisation(network: nn.Module) -> nn.Module:
    """Copy a network with every normalisation folded into its convolution: in evaluation, the same output."""
    from torch import nn

    plain = copy.deepcopy(network)
    for sequence in [m for m in plain.modules() if isinstance(m, nn.Sequential)]:
        for index, part in enumerate(sequence):
            if isinstance(part, nn.Sequential) and isinstance(part[-1], nn.BatchNorm3d):
                sequence[index], sequence[index + 1] = _folded(*part), nn.ReLU(inplace=True)
    return plain


def _folded(convolution: nn.Conv3d, norm: nn.BatchNorm3d) -> nn.Conv3d:
    import torch

    with torch.no_grad():
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        bias = convolution.bias if convolution.bias is not None else torch.zeros_like(norm.running_mean)
        folded = copy.deepcopy(convolution)
        folded.weight.mul_(factor.view(-1, 1, 1, 1, 1))
        folded.bias = type(folded.weight)((bias - norm.running_mean) * factor + norm.bias)
    return folded
