"""Validation: the loss and the scores on hold-out regions, tile by tile, without augmentation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import numpy as np

from asem_core.evaluation.scores import Scores
from asem_core.interfaces import Region
from asem_core.training.loss import loss_of
from asem_core.training.options import LossOptions
from asem_core.training.regions import IGNORE, input_box, read_target
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
    scores: Scores

    def to_metrics(self) -> dict[str, Any]:
        """Turn into plain numbers: scores at probability 0.5, and the best F1 of any threshold."""
        half, threshold = self.scores.at(0.5), self.scores.best()
        numbers = {"precision": half.precision, "recall": half.recall, "f1": half.f1, "jaccard": half.jaccard}
        numbers |= {"best_f1": self.scores.at(threshold).f1, "best_threshold": threshold}
        return {"loss": self.loss, **{k: None if np.isnan(v) else round(v, 5) for k, v in numbers.items()}}


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


def read_tile(tile: Tile, context: Zyx) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Read a tile: image (float32 from -1 to 1, of the network's input), target, target without the exclusion zone."""
    image = tile.region.raw.read(input_box(tile.region, tile.box, context), outside="reflect")
    scaled = image.astype(np.float32) * (2 / full_range(image.dtype)) - 1
    return scaled, read_target(tile.region, tile.box, exclude=False), read_target(tile.region, tile.box, exclude=True)


def validate(
    forward: Forward, tiles: Sequence[Tile], context: Zyx, options: LossOptions, device: torch.device
) -> tuple[np.ndarray, np.ndarray]:
    """Measure the network on tiles.

    Returns
    -------
    sums : float64 (2,): sum of the tiles' losses, and their number
    counts : int64 (2, 256): background and foreground voxels by probability (255 = 1), the exclusion zone left out
    """
    import torch

    sums, counts = np.zeros(2), np.zeros((2, 256), np.int64)
    for probability, logits, target, scored in _predictions(forward, tiles, context, device):
        trained = scored if options.ignore_exclusion else target
        expected = torch.from_numpy(trained).to(device).long()[None]
        sums += loss_of(logits, expected, options).item(), 1
        known = scored != IGNORE
        levels = probability[known] + 256 * scored[known].astype(np.int64)
        counts += np.bincount(levels, minlength=512).reshape(2, 256)
    return sums, counts


def mirrored(forward: Forward) -> Forward:
    """Average the probabilities of the eight mirror images, as prediction does; returns their logarithms as logits."""

    def averaged(image: torch.Tensor) -> torch.Tensor:
        total: Any = 0
        for number in range(8):
            axes = [a + 2 for a in range(3) if number >> a & 1]
            total = total + forward(image.flip(axes)).float().softmax(1).flip(axes)
        result: torch.Tensor = (total / 8).clamp(min=1e-9).log()
        return result

    return averaged


def summarise(sums: np.ndarray, counts: np.ndarray) -> Validation:
    """Turn what `validate` gathered (perhaps added up over processes) into a loss and scores."""
    return Validation(float(sums[0] / max(sums[1], 1)), Scores(np.arange(256) / 255, counts[1], counts[0]))


def _predictions(
    forward: Forward, tiles: Sequence[Tile], context: Zyx, device: torch.device
) -> Iterator[tuple[np.ndarray, torch.Tensor, np.ndarray, np.ndarray]]:
    """Yield each tile's probability (uint8), logits, target, and target without the exclusion zone."""
    import torch

    for tile in tiles:
        image, target, scored = read_tile(tile, context)
        with torch.no_grad():
            logits = forward(torch.from_numpy(image).to(device)[None, None]).float()
        yield to_probability(logits), logits, target, scored


def to_probability(logits: torch.Tensor) -> np.ndarray:
    """Turn the logits of one block into the probability of foreground: uint8 (z, y, x), 255 = 1."""
    probability = logits.softmax(1)[0, 1].mul(255).round().clamp(0, 255)
    result: np.ndarray = probability.byte().cpu().numpy()
    return result
