"""Batch normalisation while training, gone afterwards: what is saved is a plain network with the same output.

A deep network of convolutions and ReLUs learns slowly at first, since the scale of every map depends on all layers
above it. Normalising each map over the block (Ioffe and Szegedy 2015) takes that away. In evaluation the normalisation is
one factor and one offset a map, which the convolution before it can hold itself. So checkpoints, cards and prediction
know nothing of it, and blocks are still predicted independently of each other.

Prediction uses means and variances that are averaged over many blocks; those of the last few would be of a few places
and a few augmentations only.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

MOMENTUM = 0.01
"""Weight of the newest step in the running means and variances, once there have been as many steps as to average."""


def add_normalisation(network: nn.Module) -> nn.Module:
    """Put a batch normalisation between every 3D convolution and the ReLU that follows it in a `Sequential`, in place."""
    from torch import nn

    for sequence in [m for m in network.modules() if isinstance(m, nn.Sequential)]:
        for index in range(len(sequence) - 1):
            convolution = sequence[index]
            if isinstance(convolution, nn.Conv3d) and isinstance(sequence[index + 1], nn.ReLU):
                norm = nn.BatchNorm3d(convolution.out_channels)
                sequence[index] = nn.Sequential(convolution, norm.to(convolution.weight.device))
    return network


def start_step(network: nn.Module, step: int) -> None:
    """Switch a network to training for a step, counted from 1."""
    from torch import nn

    network.train()
    for part in network.modules():
        if isinstance(part, nn.BatchNorm3d):
            part.momentum = max(MOMENTUM, 1 / step)


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
