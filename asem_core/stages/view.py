"""Look at a cell: its layers, what a model predicts where somebody looks, and the errors of predictions."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import attrs

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.errors import BadInput
from asem_core.viewing.scene import Layer, colour_of, errors_layer, open_layers


@attrs.frozen(kw_only=True)
class ViewOptions:
    """What is shown of a cell.

    Parameters
    ----------
    layers : patterns such as `raw` or `labels/*`; None takes all
    model, weights : what predicts where somebody looks, see `load_trained`; None: nothing does
    image : the layer to predict from; None takes what was prepared, or raw
    device : where the model runs: auto, cpu, cuda, mps
    truth : labels of the same cell to compare every prediction with, which adds a layer of errors each
    threshold : the probability from which a prediction counts, in these
    """

    layers: Sequence[str] | None = None
    model: str | None = None
    weights: Path | None = None
    image: str | None = None
    device: str = "auto"
    truth: str | None = None
    threshold: float = 0.5

    def __attrs_post_init__(self) -> None:
        if not 0 < self.threshold <= 1:
            raise BadInput(f"A threshold is a probability above 0 and at most 1, not {self.threshold:g}.")


def view(cell: str | Path, options: ViewOptions, catalog: Catalog) -> list[Layer]:
    """Open what is shown of a cell, or of one layer of it.

    Raises
    ------
    UnknownName
        A pattern fits no layer, or no weights have this name.
    BadInput
        There is no image; or it is not what the network expects and cannot be made so.
    OutputBusy
        Another viewer computes this prediction.
    """
    shown = open_layers(cell, options.layers, catalog)
    if options.model is not None or options.weights is not None:
        live = _live(cell, options, catalog)
        shown = [*(x for x in shown if x.name not in {layer.name for layer in live}), *live]
    if options.truth is None:
        return shown
    (true,) = open_layers(re.split(r"(?<=\.zarr)/", str(cell))[0], [options.truth], catalog)
    predicted = [x for x in shown if x.kind == "probability" or x.name.endswith("segmentation")]
    return [*shown, *(errors_layer(true, x, options.threshold) for x in predicted)]


def _live(cell: str | Path, options: ViewOptions, catalog: Catalog) -> list[Layer]:
    """Open a layer for each class of a network; what tells objects apart is computed with them and not shown."""
    from asem_core.cell.place import cell_of
    from asem_core.heads import class_maps, stated_by
    from asem_core.prediction.trained import load_trained
    from asem_core.stages.inputs import open_images_of
    from asem_core.stages.predict import map_path, predict_live

    trained = load_trained(catalog, options.model, options.weights)
    container = cell_of(Path(cell))
    layer = f"predictions/live-{Path(options.weights or options.model or '').stem}/probability"
    images = open_images_of(catalog, str(container), options.image)
    found = predict_live(trained, images, container / layer, Run(progress=False), catalog, device=options.device)
    return [
        Layer(map_path(layer, of).as_posix(), "probability", [found[of]], colour_of(of or trained.organelle, catalog))
        for of in class_maps(stated_by(trained.network))
    ]
