"""Try a model: on a piece of an image, or on a cell with ground truth. What a registry needs to know that weights are right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.node import layers
from asem_core.errors import BadInput, Option
from asem_core.prediction.blockwise import aligned
from asem_core.prediction.expected import as_expected, averages, choose_image, lazily
from asem_core.prediction.inference import Arithmetic, Predictor
from asem_core.prediction.trained import Trained
from asem_core.stages.evaluate import EvaluateOptions, Evaluation, Pair, evaluate, open_truth, part_in_common
from asem_core.stages.inputs import open_images_of
from asem_core.stages.predict import PredictOptions, predict_image
from asem_core.volume import Box, Zyx, as_zyx


def predict_piece(network: Any, image: np.ndarray) -> np.ndarray:
    """Predict one piece of an image on the CPU in float32, which is the same everywhere up to rounding.

    Parameters
    ----------
    image : uint8, uint16 or float in [0, 1] (z, y, x), of a shape that the network takes

    Returns
    -------
    float32, of `network.output_shape(image.shape)`: probability of the foreground
    """
    return Predictor(network, Arithmetic(output="float32"))(image)


def cut_piece(trained: Trained, source: str, at: Zyx | None, shape: Zyx, catalog: Catalog) -> np.ndarray:
    """Cut out what a network must see to predict a box of an image, after the preprocessing that it expects.

    Parameters
    ----------
    source : as `asem predict` takes it
    at : voxel in the middle of the box; by default the middle of the image. A box that would stick out is moved inwards
    shape : of the box

    Raises
    ------
    BadInput, VoxelSizeMismatch
        The image is not what the network expects, or is smaller than the box.
    """
    images = open_images_of(catalog, source)
    given = choose_image(images.volumes, trained, images.usual, resampled=averages(trained))
    image = as_expected(given, trained, catalog, lazily(Run(progress=False)))
    middle = at or as_zyx([n // 2 for n in image.shape])
    begin = [min(max(0, m - n // 2), max(0, whole - n)) for m, n, whole in zip(middle, shape, image.shape, strict=True)]
    box = Box(as_zyx(begin), as_zyx([b + n for b, n in zip(begin, shape, strict=True)]))
    if not image.box.contains(box):
        raise BadInput(f"{source} has {list(image.shape)} voxels; a sample of this model needs {list(shape)}.")
    # The grid of shifts is the piece's own: it is predicted by itself.
    return image.read(aligned(trained.network, box, [-b for b in box.begin]), outside="reflect")


def score_on(
    trained: Trained,
    cell: str,
    output: str,
    folder: Path,
    run: Run,
    catalog: Catalog,
    *,
    truth: str | None = None,
    box: str | None = None,
    device: str = "auto",
    overwrite: bool = False,
) -> Evaluation:
    """Predict the part of a cell that its truth covers, and compare both with the model's own exclusion zone.

    Parameters
    ----------
    output : layer of the cell for the prediction
    folder : of the report
    truth : layer of the cell; by default the labels that are named like the model
    box : of the truth, "z0:z1,y0:y1,x0:x1"

    Raises
    ------
    BadInput
        The cell has no such labels; see also `predict_image` and `evaluate`.
    """
    truth = truth or _labels_of(cell, trained.organelle)
    images, labels = open_images_of(catalog, cell), open_truth(f"{cell.rstrip('/')}/{truth}")
    options, image = EvaluateOptions(box=box), images.volumes[0]
    there = None
    if labels.voxel_size_nm == image.voxel_size_nm:
        there = image.box_of(labels.crop(part_in_common(options, labels, image)))
    made = predict_image(
        trained,
        attrs.evolve(images, mask=None),
        Path(cell) / output,
        run,
        PredictOptions(device=device),
        catalog,
        box=None if there is None else ",".join(f"{b}:{e}" for b, e in zip(there.begin, there.end, strict=True)),
        overwrite=overwrite,
    )
    pair, title = Pair(truth, made.probability, labels), f"Scores of {trained.title}"
    return evaluate([pair], options, run, catalog, model=trained.model, folder=folder, title=title, overwrite=overwrite)


def _labels_of(cell: str, organelle: str) -> str:
    there = [name for name in layers(cell) if name.startswith("labels/")]
    for name in (f"labels/{organelle}", f"labels/{organelle.replace('-', '_')}"):
        if name in there:
            return name
    if not there:
        raise BadInput(f"{cell} has no labels. Import some: asem annotate import")
    raise BadInput(
        f"{cell} has no labels/{organelle}. It has {', '.join(there)}. Name the labels to compare with: ",
        Option("truth", shown="labels/NAME"),
    )
