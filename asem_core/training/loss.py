"""The loss: cross-entropy, its classes weighted against their frequency, over the annotated voxels only; summed over heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import attrs

from asem_core.heads import Affinities, Contacts, Foreground, Head, LogOdds, OfClasses, Softmax, odds_of, settled
from asem_core.training.descriptors import local_shape_descriptors
from asem_core.training.options import LossOptions
from asem_core.training.regions import IGNORE
from asem_core.training.targets import SAME, Need, affinity_targets, contact_targets, needs_of_head
from asem_core.volume import as_zyx

LEAST_FREQUENCY = 0.01
"""What frequencies of voxels where objects touch are clipped to at least: they are rare, and nothing else tells objects apart."""

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


def total_loss(
    output: torch.Tensor, labels: Mapping[Need, torch.Tensor], stated: Sequence[Head], options: LossOptions
) -> torch.Tensor:
    """Add up the losses of a network's heads; a class that is unknown in a block adds nothing for it.

    Parameters
    ----------
    output : float (n, channels, z, y, x)
    labels : what the heads need, each int64 (n, z, y, x); ids reach beyond the output, alike at both sides
    stated : the network's heads; empty where the number of channels tells them
    """
    losses = [
        _loss_of_head(head, part, [labels[need] for need in needs_of_head(head)], options)
        for head, part in split(output, stated)
    ]
    return losses[0] if len(losses) == 1 else sum(losses[1:], losses[0])


def _loss_of_head(head: Head, part: torch.Tensor, needed: Sequence[torch.Tensor], options: LossOptions) -> torch.Tensor:
    import torch

    if isinstance(head, Softmax):
        return exclusive_loss(part, torch.stack(list(needed), 1), options)
    (labels,) = needed
    if isinstance(head, (Foreground, LogOdds)):
        return loss_of(as_logits(part, head), labels, options)
    margin = as_zyx([(n - m) // 2 for n, m in zip(labels.shape[1:], part.shape[2:], strict=True)])
    if isinstance(head, Contacts):
        near = torch.stack([contact_targets(ids, head.reach_vx, margin) for ids in labels])
        return head.weight * loss_of(as_logits(part, head), near, _for_rare(options))
    if isinstance(head, Affinities):
        target = torch.stack([affinity_targets(ids, head.offsets, margin) for ids in labels])
        return head.weight * affinity_loss(part.flatten(0, 1), target.flatten(0, 1), options)
    wanted = torch.stack([local_shape_descriptors(ids, head.sigma_vx, margin) for ids in labels])
    inside = labels[(slice(None), *(slice(m, n - m) for m, n in zip(margin, labels.shape[1:], strict=True)))] > 0
    errors = (part.float().sigmoid() - wanted).square().mean(1) * inside
    result: torch.Tensor = head.weight * errors.sum() / inside.sum().clamp(min=1)
    return result


def split(output: torch.Tensor, stated: Sequence[Head]) -> Iterator[tuple[Head, torch.Tensor]]:
    """Yield each head with its channels of a network's result (n, channels, z, y, x)."""
    first = 0
    for head in settled(stated, output.shape[1]):
        yield head, output[:, first : first + head.num_channels]
        first += head.num_channels


def class_odds(output: torch.Tensor, stated: Sequence[Head]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield each class whose place a network's result (n, channels, z, y, x) says, with its log-odds (n, z, y, x)."""
    for head, part in split(output, stated):
        if isinstance(head, OfClasses):
            yield from zip(head.maps, odds_of(head, part.unbind(1)), strict=True)


def as_logits(part: torch.Tensor, head: Head) -> torch.Tensor:
    """Turn the channels of a head of two classes into logits of background and foreground (n, 2, z, y, x)."""
    import torch

    return part if isinstance(head, Foreground) else torch.cat([torch.zeros_like(part), part], 1)


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
    from torch.nn import functional

    logits = logits.float()
    losses = functional.cross_entropy(logits, target, ignore_index=IGNORE, reduction="none")
    return _averaged(losses, target, logits.shape[1], options)


def affinity_loss(odds: torch.Tensor, kinds: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """Average the cross-entropy of affinities, each offset a map of its own.

    Where objects touch is the rarest of the three kinds of pairs, and all that the foreground does not tell already: the three are weighed against
    their frequencies.

    Parameters
    ----------
    odds : float (n, z, y, x)
    kinds : int64 (n, z, y, x), see `affinity_targets`

    Returns
    -------
    As `loss_of`
    """
    from torch.nn import functional

    losses = functional.binary_cross_entropy_with_logits(odds.float(), (kinds == SAME).float(), reduction="none")
    return _averaged(losses, kinds, 3, _for_rare(options))


def _for_rare(options: LossOptions) -> LossOptions:
    return attrs.evolve(options, least_frequency=min(options.least_frequency, LEAST_FREQUENCY))


def exclusive_loss(logits: torch.Tensor, labels: torch.Tensor, options: LossOptions) -> torch.Tensor:
    """Average how surprising it is what is known of each voxel: - log of the summed probability of all that it may be.

    A voxel of a class is that class (or one of those that claim it); another one may be background or any class that is unknown there.

    Parameters
    ----------
    logits : float (n, 1 + classes, z, y, x), the background first
    labels : int64 (n, classes, z, y, x): 0, 1 or `IGNORE`

    Returns
    -------
    As `loss_of`
    """
    import torch

    is_object = labels == 1
    claimed = is_object.any(1, keepdim=True)
    may_be = torch.cat([~claimed, torch.where(claimed, is_object, labels == IGNORE)], 1)
    logits = logits.float()
    losses = logits.logsumexp(1) - logits.masked_fill(~may_be, -torch.inf).logsumexp(1)
    target = torch.where(claimed[:, 0], is_object.long().argmax(1) + 1, 0)
    target = target.masked_fill((labels == IGNORE).all(1), IGNORE)
    return _averaged(losses, target, logits.shape[1], options)


def _averaged(losses: torch.Tensor, target: torch.Tensor, num_classes: int, options: LossOptions) -> torch.Tensor:
    """Weigh the loss of each voxel (n, z, y, x) by its class, and average over those that are annotated."""
    import torch

    losses = losses.flatten(1)
    if options.focus:
        own = torch.exp(-losses)  # the probability of the voxel's own class
        losses = losses * (1 - own).clamp(min=1e-6) ** options.focus
    known = target.flatten(1) != IGNORE
    if options.balance:
        per_block = class_weights(target, num_classes, options.least_frequency)
        weights = torch.gather(per_block, 1, target.flatten(1).where(known, 0)) * known
    else:
        weights = known.float()
    total = weights.sum(1)
    means = (losses * weights).sum(1) / total.clamp(min=1e-12)
    result: torch.Tensor = means.sum() / (total > 0).sum().clamp(min=1)
    return result
