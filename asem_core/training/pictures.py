"""Pictures for the eye: one plane of a validation tile, as image, truth, prediction and error."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from asem_core.run_folder import write_whole
from asem_core.training.regions import IGNORE
from asem_core.training.validate import Forward, Tile, read_tile, to_probability
from asem_core.volume import Zyx

if TYPE_CHECKING:
    import torch

_GREEN, _RED, _BLUE, _GREY = (0, 150, 80), (210, 40, 40), (30, 110, 220), (128, 128, 128)


def fullest_tile(tiles: Sequence[Tile], context: Zyx) -> Tile:
    """Choose the tile with the most foreground: there is something to see."""
    return max(tiles, key=lambda tile: int((read_tile(tile, context)[1] == 1).sum()))


def write_picture(path: Path, forward: Forward, tile: Tile, context: Zyx, device: torch.device) -> None:
    """Write the plane with the most foreground of a tile as PNG: image | truth | probability | error.

    Truth: grey = not annotated. Error: green = found, red = false, blue = missed, grey = not annotated or in the exclusion zone.
    """
    import torch
    from PIL import Image

    image, target, scored = read_tile(tile, context)
    with torch.no_grad():
        probability = to_probability(forward(torch.from_numpy(image).to(device)[None, None]).float())
    z = int((target == 1).sum(axis=(1, 2)).argmax())
    begin = [(n - m) // 2 for n, m in zip(image.shape, target.shape, strict=True)]
    plane = image[begin[0] + z, begin[1] : begin[1] + target.shape[1], begin[2] : begin[2] + target.shape[2]]
    panels = [np.clip((plane + 1) * 127.5, 0, 255), _truth(target[z]), probability[z]]
    row = np.concatenate([*(_rgb(p) for p in panels), _error(probability[z] >= 128, target[z], scored[z])], axis=1)
    scale = max(1, round(256 / target.shape[1]))
    picture = Image.fromarray(row.repeat(scale, axis=0).repeat(scale, axis=1))
    write_whole(path, lambda half: picture.save(half, format="png"))


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
