"""A small cell for the tests of the annotation window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from asem_core.cell.store import create_volume, finish_volume
from asem_core.testing import example_image, example_labels
from asem_core.volume import Box, Spec

BOX = Box((4, 0, 0), (40, 44, 48))


def make_cell(cell: Path) -> Path:
    """Make a cell with a small image and a layer of labels, away from the origin."""
    image = example_image()
    spec = Spec(image.shape, "uint8", (10, 5, 5), (100, 200, 300))
    for layer, values in (("raw", image.read()), ("labels/known", example_labels().read().astype(np.uint8))):
        out = create_volume(cell / layer, spec, block=32, made_by={"test": 1})
        out.data[:] = values
        finish_volume(out)
    return cell


def raising(error: Exception) -> Callable[..., None]:
    def fails(*_: Any) -> None:
        raise error

    return fails
