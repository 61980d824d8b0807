"""Pictures for the eye: one plane of a validation tile, as image, truth, prediction and error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asem_core.heads import Head
from asem_core.run_folder import saved_whole
from asem_core.training.loss import class_odds
from asem_core.training.regions import IGNORE, read_target
from asem_core.training.targets import Need, needs_of
from asem_core.training.validate import Forward, Tile, read_tile, to_probability
from asem_core.volume import Zyx

if TYPE_CHECKING:
    import torch

_GREEN, _RED, _BLUE, _GREY = (0, 150, 80), (210, 40, 40), (30, 110, 220), (128, 128, 128)


def fullest_tile(tiles: Sequence[Tile]) -> Tile:
    """Choose the tile with the most foreground: there is something to see."""
    return max(tiles, key=lambda tile: int((read_target(tile.region, tile.box, exclude=False) == 1).sum()))


def write_picture(
    path: Path, forward: Forward, tile: Tile, context: Zyx, device: torch.device, stated: Sequence[Head] = ()
) -> None:
    """Write the plane with the most foreground of a tile as PNG: image | truth | probability | error; a row for each map.

    Truth: grey = not annotated. Error: green = found, red = false, blue = missed, grey = not annotated or in the exclusion zone.
    """
    import torch
    from PIL import Image

    image, drawn, scored = read_tile(tile, context, needs_of(stated))
    with torch.no_grad():
        output = forward(torch.from_numpy(image).to(device)[None, None]).float()
    maps = [(to_probability(odds), Need(name)) for name, odds in class_odds(output, stated)]
    z = int(sum((drawn[need] == 1).sum(axis=(1, 2)) for _, need in maps).argmax())
    shape = drawn[maps[0][1]].shape
    begin = [(n - m) // 2 for n, m in zip(image.shape, shape, strict=True)]
    plane = image[begin[0] + z, begin[1] : begin[1] + shape[1], begin[2] : begin[2] + shape[2]]
    rows = []
    for probability, need in maps:
        target = drawn[need]
        panels = [np.clip((plane + 1) * 127.5, 0, 255), _truth(target[z]), probability[z]]
        rows += [*(_rgb(p) for p in panels), _error(probability[z] >= 128, target[z], scored[need][z])]
    row = np.concatenate([np.concatenate(rows[n : n + 4], axis=1) for n in range(0, len(rows), 4)])
    scale = max(1, round(256 / shape[1]))
    picture = Image.fromarray(row.repeat(scale, axis=0).repeat(scale, axis=1))
    with saved_whole(path) as half:
        picture.save(half, format="png")


def _rgb(grey: np.ndarray) -> np.ndarray:
    """Turn a grey plane into RGB with a white line at its right."""
    result = np.repeat(grey.astype(np.uint8)[:, :, None], 3, axis=2)
    return np.pad(result, ((0, 0), (0, 1), (0, 0)), constant_values=255)


def _truth(target: np.ndarray) -> np.ndarray:
    """Draw a target (uint8): object white, background black, what is not annotated grey."""
    return np.where(target == IGNORE, _GREY[0], (target == 1) * 255)


def _error(predicted: np.ndarray, target: np.ndarray, scored: np.ndarray) -> np.ndarray:
    result = np.zeros((*target.shape, 3), np.uint8)
    result[predicted & (target == 1)] = _GREEN
    result[predicted & (target == 0)] = _RED
    result[~predicted & (target == 1)] = _BLUE
    result[scored == IGNORE] = _GREY
    return result
