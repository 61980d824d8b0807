"""The loss: cross-entropy, its classes weighted against their frequency, over the annotated voxels only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asem_core.training.options import LossOptions
from asem_core.training.regions import IGNORE

if TYPE_CHECKING:
    import torch


def class_weights(target: torch.Tensor, num_classes: int, least_frequency: float) -> torch.Tensor:
    """Weigh each class of each block by the inverse of its clipped frequency among the annotated voxels.

    Parameters
    ----------
    target : int64 (n, z, y, x), class or `IGNORE`
    least_frequency : frequencies are clipped to [this, 1 - this]

    Returns
    -------
    float32 (n, num_classes)
    """
    import torch

    flat = target.flatten(1)
    counts = torch.stack([(flat == c).sum(1) for c in range(num_classes)], 1).float()
    frequency = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return 1 / frequency.clamp(least_frequency, 1 - least_frequency)


def loss_of(logits: torch.Tensor, target: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """Average the cross-entropy over each block's annotated voxels, then over the blocks that have any.

    Parameters
    ----------
    logits : float (n, classes, z, y, x)
    target : int64 (n, z, y, x), class or `IGNORE`

    Returns
    -------
    float32 scalar; 0 (with zero gradients) if no voxel is annotated
    """
    import torch
    from torch.nn import functional

    logits = logits.float()
    losses = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none").flatten(1)
    if options.focus:
        own = torch.exp(-losses)  # the probability of the voxel's own class
        losses = losses * (1 - own).clamp(min=1e-6) ** options.focus
    known = target.flatten(1) != IGNORE
    if options.balance:
        per_block = class_weights(target, logits.shape[1], options.least_frequency)
        weights = torch.gather(per_block, 1, target.flatten(1).where(known, 0)) * known
    else:
        weights = known.float()
    total = weights.sum(1)
    means = (losses * weights).sum(1) / total.clamp(min=1e-12)
    result: torch.Tensor = means.sum() / (total > 0).sum().clamp(min=1)
    return result
