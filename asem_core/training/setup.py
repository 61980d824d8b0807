"""What a training run is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs

from asem_core.heads import Head, stated_by
from asem_core.interfaces import Region, Sampler
from asem_core.training.options import TrainOptions
from asem_core.volume import Zyx

if TYPE_CHECKING:
    import torch


@attrs.frozen
class TrainingSetup:
    """Everything a run is made from, checked and opened."""

    network: torch.nn.Module
    sampler: Sampler
    regions: Sequence[Region]
    validation: Sequence[Region]
    options: TrainOptions
    fine_tuning: bool = False
    thin_truth: bool = False  # so that an exclusion zone which takes most of it is meant
    by_threshold: bool = False  # whether the model has a threshold, to be chosen by what is watched
    metadata: Mapping[str, Any] = attrs.field(factory=dict)  # travels with every checkpoint
    greys_before: Sequence[float] = ()  # of the images behind the weights that it starts from (see `grey_percentiles`)

    @property
    def heads(self) -> Sequence[Head]:
        """What the network states of its channels; empty where their number tells it."""
        return stated_by(self.network)

    @property
    def context(self) -> Zyx:
        context: Zyx = self.network.context  # type: ignore[assignment]
        return context
