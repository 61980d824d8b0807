"""Validation: the loss and the scores on hold-out regions, tile by tile, without augmentation."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.evaluation.scores import Scores
from asem_core.heads import Foreground, Head, Softmax, class_maps
from asem_core.interfaces import Region
from asem_core.training.loss import class_odds, split, total_loss
from asem_core.training.options import LossOptions
from asem_core.training.regions import IGNORE, input_box, read_target
from asem_core.training.targets import Need, needs_of, read_need
from asem_core.volume import Box, Zyx, full_range

if TYPE_CHECKING:
    import torch

Forward = Callable[["torch.Tensor"], "torch.Tensor"]


@attrs.frozen
class Tile:
    """A block to validate, in voxels of its region's labels; it may stick out."""

    region: Region
    box: Box


@attrs.frozen(eq=False)
class Validation:
    """What one validation found."""

    loss: float
    by_map: Mapping[str, Scores]

    def to_metrics(self) -> dict[str, Any]:
        """Turn into plain numbers: scores at probability 0.5, and the best F1 of any threshold.

        Of several maps, the mean over those that were annotated, and the numbers of each by its name.
        """
        each = {name: _numbers(scores) for name, scores in self.by_map.items()}
        if len(each) == 1:
            return {"loss": self.loss, **next(iter(each.values()))}
        means = {}
        for key in next(iter(each.values())):
            known = [value for numbers in each.values() if (value := numbers[key]) is not None]
            means[key] = round(float(np.mean(known)), 5) if known else None
        return {"loss": self.loss, **means, "maps": each}


def _numbers(scores: Scores) -> dict[str, float | None]:
    half, threshold = scores.at(0.5), scores.best()
    numbers = {"precision": half.precision, "recall": half.recall, "f1": half.f1, "jaccard": half.jaccard}
    numbers |= {"best_f1": scores.at(threshold).f1, "best_threshold": threshold}
    return {k: None if np.isnan(v) else round(v, 5) for k, v in numbers.items()}


def tiles_of(regions: Sequence[Region], shape: Zyx, most: int) -> list[Tile]:
    """Tile regions by blocks of `shape`; at most so many (0 = all) that hold annotations, evenly spread."""
    tiles = []
    for region in regions:
        for part in region.labels.box.blocks(shape):
            tile = Tile(region, Box.of_shape(shape).shift(part.begin))
            if (read_target(region, tile.box, exclude=True) != IGNORE).any():
                tiles.append(tile)
    if most and len(tiles) > most:
        return [tiles[i] for i in np.linspace(0, len(tiles) - 1, most).round().astype(int)]
    return tiles


def read_tile(
    tile: Tile, context: Zyx, needs: Sequence[Need] = (Need(),)
) -> tuple[np.ndarray, dict[Need, np.ndarray], dict[Need, np.ndarray]]:
    """Read a tile: image (float32 from -1 to 1, of the network's input), labels, labels without the exclusion zone."""
    image = tile.region.raw.read(input_box(tile.region, tile.box, context), outside="reflect")
    scaled = image.astype(np.float32) * (2 / full_range(image.dtype)) - 1
    boxes = {need: tile.box.grow(need.margin(context)) for need in needs}
    drawn, scored = (
        {need: read_need(tile.region, need, box, exclude=exclude) for need, box in boxes.items()}
        for exclude in (False, True)
    )
    return scaled, drawn, scored


def validate(
    forward: Forward,
    tiles: Sequence[Tile],
    context: Zyx,
    options: LossOptions,
    device: torch.device,
    stated: Sequence[Head] = (),
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the network on tiles.

    Parameters
    ----------
    stated : the network's heads; empty where the number of channels tells them

    Returns
    -------
    sums : float64 (2,): sum of the tiles' losses, and their number
    counts : int64 (classes, 2, 256): background and foreground voxels by probability (255 = 1), the exclusion zone left out
    """
    import torch

    sums, counts = np.zeros(2), np.zeros((len(class_maps(stated)), 2, 256), np.int64)
    for tile in tiles:
        image, drawn, scored = read_tile(tile, context, needs_of(stated))
        with torch.no_grad():
            output = forward(torch.from_numpy(image).to(device)[None, None]).float()
        learnt = scored if options.ignore_exclusion else drawn
        expected = {need: torch.from_numpy(values).to(device).long()[None] for need, values in learnt.items()}
        sums += total_loss(output, expected, stated, options).item(), 1
        for number, (name, odds) in enumerate(class_odds(output, stated)):
            target = scored[Need(name)]
            known = target != IGNORE
            levels = to_probability(odds)[known] + 256 * target[known].astype(np.int64)
            counts[number] += np.bincount(levels, minlength=512).reshape(2, 256)
    return sums, counts


def mirrored(forward: Forward, stated: Sequence[Head] = ()) -> Forward:
    """Average the probabilities of the eight mirror images, as prediction does; returns what gives them, as a network would."""
    import torch

    def probabilities(image: torch.Tensor) -> torch.Tensor:
        heads = split(forward(image).float(), stated)
        return torch.cat(
            [part.softmax(1) if isinstance(head, (Foreground, Softmax)) else part.sigmoid() for head, part in heads], 1
        )

    def averaged(image: torch.Tensor) -> torch.Tensor:
        total: Any = 0
        for number in range(8):
            axes = [a + 2 for a in range(3) if number >> a & 1]
            total = total + probabilities(image.flip(axes)).flip(axes)
        mean = (total / 8).clamp(min=1e-9)
        return torch.cat(
            [
                part.log() if isinstance(head, (Foreground, Softmax)) else part.logit(1e-6)
                for head, part in split(mean, stated)
            ],
            1,
        )

    return averaged


def summarise(sums: np.ndarray, counts: np.ndarray, *, stated: Sequence[Head] = ()) -> Validation:
    """Turn what `validate` gathered (perhaps added up over processes) into a loss and scores."""
    levels = np.arange(256) / 255
    by_map = {name: Scores(levels, own[1], own[0]) for name, own in zip(class_maps(stated), counts, strict=True)}
    return Validation(float(sums[0] / max(sums[1], 1)), by_map)


def to_probability(odds: torch.Tensor) -> np.ndarray:
    """Turn the log-odds of one block, (1, z, y, x), into the probability of foreground: uint8 (z, y, x), 255 = 1."""
    probability = odds[0].sigmoid().mul(255).round().clamp(0, 255)
    result: np.ndarray = probability.byte().cpu().numpy()
    return result
