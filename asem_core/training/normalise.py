"""Batch normalisation while training, gone afterwards: what is saved is a plain network with the same output.

A deep network of convolutions and ReLUs learns slowly at first, since the scale of every map depends on all layers
above it. Normalising each map over the block (Ioffe and Szegedy 2015) takes that away. In evaluation the normalisation is
one factor and one offset a map, which the convolution before it can hold itself. So checkpoints, cards and prediction
know nothing of it, and blocks are still predicted independently of each other.

With a single block a step, what the network learns leans on that block's own mean and variance, which prediction does not
have. So these are used for the first half of a run only; in the second half they are fixed at their running averages,
and the network learns as it will be used.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MOMENTUM = 0.02
"""Weight of the newest block in the running mean and variance that evaluation uses."""


def add_normalisation(network: nn.Module) -> nn.Module:
    """Put a batch normalisation between every 3D convolution and the ReLU that follows it in a `Sequential`, in place."""
    from torch import nn

    for sequence in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            convolution = sequence[index]
            if isinstance(convolution, nn.Conv3d) and isinstance(sequence[index + 1], nn.ReLU):
                norm = nn.BatchNorm3d(convolution.out_channels, momentum=MOMENTUM)
                sequence[index] = nn.Sequential(convolution, norm.to(convolution.weight.device))
    return network


def start_learning(network: nn.Module, *, fixed: bool) -> None:
    """Switch a network to training; `fixed` keeps what its normalisations have found so far."""
    from torch import nn

    network.train()
    if fixed:
        for part in network.modules():
            if isinstance(part, nn.BatchNorm3d):
                part.eval()


def without_normalisation(network: nn.Module) -> nn.Module:
    """Copy a network with every normalisation folded into its convolution: in evaluation, the same output."""
    from torch import nn

    plain = copy.deepcopy(network)
    for sequence in [m for m in plain.modules() if isinstance(m, nn.Sequential)]:
        for index, part in enumerate(sequence):
            if isinstance(part, nn.Sequential) and isinstance(part[-1], nn.BatchNorm3d):
                sequence[index] = _folded(*part)
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
