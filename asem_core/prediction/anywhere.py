"""Predict any box of an image at its own voxels, whatever voxels the network works at."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.errors import BadInput
from asem_core.heads import maps_of, stated_by
from asem_core.prediction.expected import lazily, resample
from asem_core.prediction.live import predictor_of_boxes
from asem_core.prediction.trained import Trained
from asem_core.volume import ArrayLike, Box, Volume
from asem_core.voxels.resample import box_behind, read_finer


def predictor_anywhere(
    trained: Trained, image: Volume, catalog: Catalog, device: str = "auto"
) -> Callable[[Box], np.ndarray]:
    """Return the function that predicts a box of an image: uint8 of the box's shape, 255 = 1.

    If the network was trained at larger voxels, by whole factors, the image is averaged where it is read, and probabilities are
    interpolated between the larger voxels.

    Raises
    ------
    BadInput
        The network predicts several maps.
    """
    if len(maps := maps_of(stated_by(trained.network))) > 1:
        raise BadInput(
            f"The network predicts several maps ({', '.join(maps)}), and this takes one: predict them first: asem predict"
        )
    seen = resample(image, trained, catalog, lazily(Run(progress=False)))
    return at_voxels_of(image, seen, predictor_of_boxes(trained.network, seen, device))


def at_voxels_of(image: Volume, seen: Volume, predict: Callable[[Box], np.ndarray]) -> Callable[[Box], np.ndarray]:
    """Turn what predicts boxes of an averaged image, of one map or several, into what predicts boxes of the image itself."""
    if seen is image:
        return predict

    def found(box: Box) -> np.ndarray:
        behind = box_behind(seen, image, box)
        values, place = predict(behind), seen.crop(behind)
        maps = [read_finer(attrs.evolve(place, data=m), image, box) for m in values.reshape(-1, *behind.shape)]
        return np.stack(maps).reshape(*values.shape[:-3], *box.shape)

    return found


def predictor_mirrored(
    trained: Trained, image: Volume, catalog: Catalog, device: str = "auto"
) -> Callable[[Box], np.ndarray]:
    """Return the function that predicts a box as it is seen in a mirror, left and right exchanged.

    Where this differs from `predictor_anywhere`, the network is not sure.
    """
    turned = attrs.evolve(image, data=_Mirror(image.data))
    predict, last = predictor_anywhere(trained, turned, catalog, device), image.shape[2]

    def found(box: Box) -> np.ndarray:
        there = Box((*box.begin[:2], last - box.end[2]), (*box.end[:2], last - box.begin[2]))
        return predict(there)[:, :, ::-1]

    return found


@attrs.frozen(eq=False)
class _Mirror:
    """A lazy array, left and right exchanged."""

    array: ArrayLike

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        z, y, x = key
        begin, end, _ = x.indices(self.shape[2])
        return np.asarray(self.array[z, y, self.shape[2] - end : self.shape[2] - begin])[:, :, ::-1]
