"""What a network should say in a block: which labels its heads need, read from a region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import attrs
import numpy as np

from asem_core.heads import Affinities, Contacts, Descriptors, Head, learnt_by
from asem_core.interfaces import Region
from asem_core.training.descriptors import reach_of
from asem_core.training.regions import IGNORE, labels_box, read_target
from asem_core.volume import Box, Zyx, as_zyx

if TYPE_CHECKING:
    import torch

UNKNOWN = -1
"""The id of a voxel that is not annotated."""

OUTSIDE, SAME, APART = 0, 1, 2
"""What two voxels are to each other: one of them belongs to no object, both to one object, each to another."""


@attrs.frozen
class Need:
    """Labels that heads learn from: those of one class, as 0, 1 and `IGNORE`; or its ids, 0 and `UNKNOWN`.

    `reach` says how many voxels beyond the network's result are looked at, as far as the network itself sees.
    """

    of: str = ""
    ids: bool = False
    reach: Zyx = attrs.field(default=(0, 0, 0), eq=False)

    def margin(self, context: Sequence[int]) -> Zyx:
        """Say by how much the labels are larger than the network's result at each side."""
        return as_zyx([min(r, c) for r, c in zip(self.reach, context, strict=True)])


def needs_of(heads: Sequence[Head]) -> tuple[Need, ...]:
    """List the labels that heads need, each once; those of a network that states no heads are its only ones."""
    found: dict[Need, Zyx] = {}
    for head in heads:
        for need in needs_of_head(head):
            before = found.get(need, (0, 0, 0))
            found[need] = as_zyx(np.maximum(before, need.reach).tolist())
    return tuple(attrs.evolve(need, reach=reach) for need, reach in found.items()) or (Need(),)


def needs_of_head(head: Head) -> tuple[Need, ...]:
    """Say which labels a head learns from."""
    if isinstance(head, Affinities):
        return (Need(head.of, ids=True, reach=as_zyx(np.abs(head.offsets).max(axis=0).tolist())),)
    if isinstance(head, Contacts):
        return (Need(head.of, ids=True, reach=head.reach_vx),)
    if isinstance(head, Descriptors):
        return (Need(head.of, ids=True, reach=reach_of(head.sigma_vx)),)
    return tuple(Need(name) for name in learnt_by(head))


def part_of(region: Region, name: str) -> Region | None:
    """Find a class of a region as a region of its own; None where it was not annotated there."""
    return region.classes.get(name) if region.classes else region


def parts_of(region: Region) -> list[Region]:
    """List the classes of a region that were annotated, or the region itself where it knows none."""
    return list(region.classes.values()) or [region]


def read_need(region: Region, need: Need, box: Box, *, exclude: bool) -> np.ndarray:
    """Read labels in a box of the region's labels, which may stick out. A class unknown here is not annotated anywhere.

    Returns
    -------
    uint8, see `read_target`; or of ids int32, numbered anew from 1 in this box. What tells objects apart lies at their outlines:
    of ids, the exclusion zone is never left out.
    """
    part = part_of(region, need.of)
    if part is None:
        return np.full(box.shape, UNKNOWN, np.int32) if need.ids else np.full(box.shape, IGNORE, np.uint8)
    if part is not region:
        box = labels_box(part, box.shift(region.raw.box_of(region.labels).begin))
    target = read_target(part, box, exclude=exclude and not need.ids)
    if not need.ids:
        return target
    ids = np.full(box.shape, UNKNOWN, np.int32)
    inside = box & part.labels.box
    if not inside.is_empty:
        values = part.labels.read(inside)
        found, number = np.unique(values, return_inverse=True)
        first = 0 if found[0] == 0 else 1
        ids[inside.shift([-b for b in box.begin]).slices] = number.reshape(values.shape) + first
        ids[target == IGNORE] = UNKNOWN
    return ids


def affinity_targets(ids: torch.Tensor, offsets: Sequence[Zyx], margin: Zyx) -> torch.Tensor:
    """Say for each offset what a voxel and the one there are to each other.

    Parameters
    ----------
    ids : int64 (z, y, x): 0 is no object, `UNKNOWN` not annotated; beyond, nothing is
    margin : voxels at each side that are only looked at

    Returns
    -------
    int64 (offsets, z, y, x): `OUTSIDE`, `SAME` or `APART`, and `IGNORE` where one of both is not annotated
    """
    import torch

    wide, begin, shape = _with_reach(ids, np.abs(offsets).max(axis=0).tolist(), margin)

    def at(offset: Sequence[int]) -> torch.Tensor:
        return wide[tuple(slice(b + o, b + o + n) for b, o, n in zip(begin, offset, shape, strict=True))]

    own = at((0, 0, 0))
    made = []
    for offset in offsets:
        other = at(offset)
        kind = torch.where(own == other, SAME, APART).masked_fill((own == 0) | (other == 0), OUTSIDE)
        made.append(kind.masked_fill((own == UNKNOWN) | (other == UNKNOWN), IGNORE))
    return torch.stack(made)


def contact_targets(ids: torch.Tensor, reach: Zyx, margin: Zyx) -> torch.Tensor:
    """Say where another object lies within `reach` voxels along each axis (a box around each voxel).

    Parameters
    ----------
    ids, margin : as of `affinity_targets`

    Returns
    -------
    int64 (z, y, x): 1 and 0 in objects; `IGNORE` outside, and where what is not annotated is as near and no other object is
    """
    import torch
    from torch.nn import functional

    wide, begin, shape = _with_reach(ids, reach, margin)
    around = tuple(slice(b - r, b + n + r) for b, n, r in zip(begin, shape, reach, strict=True))
    own = wide[tuple(slice(b, b + n) for b, n in zip(begin, shape, strict=True))]
    near = wide[around].float()

    def largest(values: torch.Tensor) -> torch.Tensor:
        return functional.max_pool3d(values[None, None], [2 * r + 1 for r in reach], stride=1)[0, 0]

    most, least = largest(near), -largest(-near.where(near > 0, torch.inf))
    other = (most != own) | (least != own)
    unclear = (own <= 0) | (~other & (largest((near == UNKNOWN).float()) > 0))
    return other.long().masked_fill(unclear, IGNORE)


def _with_reach(ids: torch.Tensor, reach: Sequence[int], margin: Zyx) -> tuple[torch.Tensor, list[int], list[int]]:
    """Pad ids with `UNKNOWN` where the margin is smaller than what is looked at; returns them, and begin and shape of what is asked for."""
    from torch.nn import functional

    shape = [n - 2 * m for n, m in zip(ids.shape, margin, strict=True)]
    more = [max(0, r - m) for r, m in zip(reach, margin, strict=True)]
    wide = functional.pad(ids, [n for m in reversed(more) for n in (m, m)], value=UNKNOWN)
    return wide, [a + b for a, b in zip(more, margin, strict=True)], shape
