"""Predict an image: the one door of recipe, command, live view and Python, which all ask for the same of an image."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.elsewhere import recognised, require_steps, with_done
from asem_core.cell.place import cell_of
from asem_core.cell.provenance import steps_done
from asem_core.cell.store import open_labels
from asem_core.errors import BadInput, Option, VoxelSizeMismatch, as_flag
from asem_core.heads import class_maps, maps_of, stated_by
from asem_core.paths import LayerPath
from asem_core.prediction.blockwise import Prediction, map_path, predict, predict_maps
from asem_core.prediction.expected import (
    as_expected,
    averages,
    can_be_averaged,
    choose_image,
    into_layers,
    lazily,
    mask_for,
    missing_steps,
    require_voxel_size,
    warn_of_greys,
    warn_of_other_steps,
)
from asem_core.prediction.trained import Trained, expected_by
from asem_core.pretrained import registry
from asem_core.stages.inputs import Images
from asem_core.volume import Box, Labels, Volume, as_zyx
from asem_core.voxels.resample import box_covering, whole_factors

__all__ = ["PredictOptions", "Predicted", "Prediction", "map_path", "predict", "predict_image", "predict_live"]


@attrs.frozen
class PredictOptions(Prediction):
    """How to predict an image, and what to do with one that is not what the weights expect: `[predict]` of a recipe.

    Attributes
    ----------
    as_is
        Do none of the preprocessing that the weights expect and the image lacks.
    done
        Preprocessing that the image has had already; by default what its attributes or its name say.
    allow_voxel_size
        Accept voxels more than 15 % off those of the training images.
    resample
        Average voxels to that size first, where whole factors do.
    mask
        Layer: predict only where it is not 0; by default the mask of the cell, if it has one. "none": everywhere.
    """

    as_is: bool = False
    done: tuple[str, ...] | None = None
    allow_voxel_size: bool = False
    resample: bool = False
    mask: LayerPath | None = None

    @property
    def how(self) -> Prediction:
        """How to predict, once the image is right."""
        return Prediction(**{a.name: getattr(self, a.name) for a in attrs.fields(Prediction)})


@attrs.frozen
class Predicted:
    """What was predicted, and of what.

    Attributes
    ----------
    maps : probability maps by class ("" for a network of one)
    image : the image on whose grid they are
    seen : the image as the network saw it; its voxels may be averages of those of `image`
    mask : that they were predicted within
    """

    maps: Mapping[str, Volume]
    image: Volume
    seen: Volume
    mask: Labels | None

    @property
    def probability(self) -> Volume:
        """The map of a network of one; of several classes the first one's."""
        return next(iter(self.maps.values()))


def require_voxels_before_fetching(
    images: Images, model: str | None, options: PredictOptions, catalog: Catalog
) -> None:
    """Refuse an image of other voxels than a registered model was trained on, before its weights are downloaded.

    Raises
    ------
    VoxelSizeMismatch
        None of the cell's images has them, and they were not asked to be resampled or taken as they are.
    """
    if model is None or options.resample or options.allow_voxel_size or model not in registry().names():
        return
    expected = expected_by(catalog, model)
    if not options.as_is and any(can_be_averaged(volume, expected) for volume in images.volumes):
        return
    for volume in images.volumes[1:]:
        with contextlib.suppress(VoxelSizeMismatch):
            require_voxel_size(volume, expected)
            return
    require_voxel_size(images.volumes[0], expected)


def predict_image(
    trained: Trained,
    images: Images,
    output: Path,
    run: Run,
    options: PredictOptions,
    catalog: Catalog,
    *,
    box: str | None = None,
    details: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> Predicted:
    """Predict an image with a trained network, after all that the network expects of it has been done.

    Parameters
    ----------
    output : the layer to write, of several maps see `map_path`; images that are made for the whole lie in the same cell
    box : only this part, in voxels of the image as it was given (see `Box.parse`); only what it needs is prepared, and not kept
    details : what to record of the network; by default what `trained` says of itself

    Raises
    ------
    BadInput, VoxelSizeMismatch
        The image is not what the network expects and cannot be made so.
    OutputExists, OutputBusy, NoSpace, OutsideVolume
        See `predict`.
    """
    require_steps(options.done, catalog)
    usual = () if options.as_is else images.usual
    volumes = [recognised(volume, catalog) for volume in images.volumes]
    resampled = options.resample or (averages(trained) and not (options.as_is or options.allow_voxel_size))
    given = with_done(choose_image(volumes, trained, usual, resampled=resampled), options.done, catalog)
    part = given.crop(Box.parse(box, given.shape)) if box else None
    mask = images.mask if options.mask is None else None
    if options.mask not in (None, "none"):
        mask = open_labels(options.mask)
    warn_of_other_steps(given.path, steps_done(given), trained, as_is=options.as_is)
    # Of a large image, only what a box needs is prepared.
    do = lazily(run) if part is not None else into_layers(cell_of(output), run, overwrite=overwrite)
    image = as_expected(
        given,
        trained,
        catalog,
        do,
        as_is=options.as_is,
        allow_voxel_size=options.allow_voxel_size,
        resampled=resampled,
    )
    covering = None if part is None else box_covering(image, part)
    warn_of_greys(image if covering is None else image.crop(covering & image.box), trained)
    onto = given if _may_be_enlarged(trained, image, given) else None
    noted = dict(trained.details if details is None else details)
    if image is not given and part is not None:
        noted["prepared"] = [list(image.voxel_size_nm), [] if options.as_is else missing_steps(given, trained)]
    made = predict_maps(
        trained.network,
        image,
        output,
        run,
        attrs.evolve(options.how, mirrors=trained.mirrors if options.mirrors is None else options.mirrors),
        box=covering if onto is None or part is None else onto.box_of(part),
        onto=onto,
        mask=None if mask is None else mask_for(image if onto is None else onto, mask, catalog, run),
        details=noted,
        made_of=None if part is None else given,
        overwrite=overwrite,
    )
    return Predicted(made, image if onto is None else onto, image, mask)


def _may_be_enlarged(trained: Trained, image: Volume, given: Volume) -> bool:
    """Tell whether maps are written with the voxels of the image that was given, of which the network's are averages.

    Affinities and contacts speak of neighbours at the network's voxels, and all maps of a network share one grid.
    """
    stated = stated_by(trained.network)
    return image.voxel_size_nm != given.voxel_size_nm and maps_of(stated) == class_maps(stated)


def layer_to_write(source: str, output: str | Path | None, model: str) -> Path:
    """Say which layer a prediction is written to: of a cell (that of the image, unless another is named), `predictions/MODEL/probability`.

    Raises
    ------
    BadInput
        No cell is named: neither as output, nor by the image.
    """
    if output is None and "://" in source:
        raise BadInput(f"{source} is not on this machine: say where to write, ", Option("output", "cell.zarr"))
    cell = cell_of(source) if output is None else Path(output)
    if cell.suffix != ".zarr":
        if output is not None and cell_of(output).suffix == ".zarr":
            return Path(output)
        raise BadInput(
            "Say where to write: ", Option("output", "cell.zarr"), ", or cell.zarr/predictions/NAME/probability."
        )
    return cell / "predictions" / model.partition("@")[0] / "probability"


def predict_live(
    trained: Trained, images: Images, output: Path, run: Run, catalog: Catalog, *, device: str = "auto"
) -> dict[str, Volume]:
    """Open layers that are predicted where somebody looks, one for each map, by name; the image is the one that `predict_image` takes.

    `output` is the layer of a single map, "", see `map_path`. What the network expects of it is done where it is read. Where the cell has a mask, the map is 0 outside.

    Raises
    ------
    BadInput, VoxelSizeMismatch
        The image is not what the network expects and cannot be made so.
    OutputBusy
        Another viewer computes this layer.
    """
    from asem_core.prediction.anywhere import at_voxels_of
    from asem_core.prediction.live import block_for, live_predictions, predictor_of_boxes, within

    volumes = [recognised(volume, catalog) for volume in images.volumes]
    given = with_done(choose_image(volumes, trained, images.usual, resampled=averages(trained)), None, catalog)
    try:
        image = as_expected(given, trained, catalog, lazily(run))
    except BadInput as error:
        raise type(error)(error.told(_predict_first)) from None
    missing = missing_steps(given, trained)
    if not missing:  # what is done where it is read would be done for nothing
        warn_of_greys(image, trained)
    places = {name: map_path(output, name) for name in maps_of(stated_by(trained.network))}
    shown, block = image, block_for(as_zyx(trained.network.context))
    predict = predictor_of_boxes(trained.network, image, device, mirrors=trained.mirrors)
    if _may_be_enlarged(trained, image, given):
        shown, predict = given, at_voxels_of(given, image, predict)
        factor = whole_factors(image.voxel_size_nm, given.voxel_size_nm) or (1, 1, 1)
        block = as_zyx([b * f for b, f in zip(block, factor, strict=True)])
    if images.mask is not None:
        predict = within(mask_for(shown, images.mask, catalog, run), shown, predict, len(places))
    arrays = live_predictions(
        predict,
        shown,
        places,
        block=block,
        made_of=given,
        details={
            **trained.details,
            "model": trained.organelle,
            "steps": missing,
            "mask": images.mask,
            "mirrors": trained.mirrors,
        },
    )
    return {
        name: Volume(array, shown.voxel_size_nm, shown.origin_nm, str(places[name])) for name, array in arrays.items()
    }


def _predict_first(option: Option) -> str:
    return f"predict it first, asem predict {as_flag(option)}"
