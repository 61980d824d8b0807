"""Predict any box of an image at its own voxels, whatever voxels the network works at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.apply import apply_lazily
from asem_core.interfaces import AveragesVoxels
from asem_core.prediction.live import predictor_of_boxes
from asem_core.prediction.trained import Trained
from asem_core.volume import Box, Volume, Zyx, as_zyx


def predictor_anywhere(
    trained: Trained, image: Volume, catalog: Catalog, device: str = "auto"
) -> Callable[[Box], np.ndarray]:
    """Return the function that predicts a box of an image: uint8 of the box's shape, 255 = 1.

    If the network was trained at larger voxels, by whole factors, the image is averaged where it is read, and each of its
    voxels gets the probability of the larger one that it lies in.
    """
    size = trained.voxel_size_nm or image.voxel_size_nm
    factor = as_zyx([max(1, round(t / s)) for t, s in zip(size, image.voxel_size_nm, strict=True)])
    if factor == (1, 1, 1):
        return predictor_of_boxes(trained.network, image, device)
    step = catalog.able("preprocessor", AveragesVoxels).by_factor(factor)
    coarse = predictor_of_boxes(trained.network, apply_lazily(step, image, Run(progress=False)), device)
    return lambda box: _enlarged(coarse, box, factor)


def _enlarged(coarse: Callable[[Box], np.ndarray], box: Box, factor: Zyx) -> np.ndarray:
    begin = as_zyx([b // f for b, f in zip(box.begin, factor, strict=True)])
    end = as_zyx([-(-e // f) for e, f in zip(box.end, factor, strict=True)])
    values = coarse(Box(begin, end))
    index = [np.arange(b, e) // f - o for b, e, f, o in zip(box.begin, box.end, factor, begin, strict=True)]
    return values[np.ix_(*index)]
