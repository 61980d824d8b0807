"""What can be told of a recipe before the hours of work that would be wasted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from asem_core.errors import BadInput, OutsideVolume, RecipeError
from asem_core.prediction.preparation import expected_by, of_recipe, require_voxel_size
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.resample import on_grid_of, whole_factors

if TYPE_CHECKING:
    from asem_core.catalog import Catalog
    from asem_core.flow import EvaluateOptions, Flow
    from asem_core.training.options import RegionOptions, TrainOptions


def require_unseen(options: EvaluateOptions, truth: str, training: TrainOptions, name: str) -> None:
    """Refuse to score what is trained on: the box of `[evaluate]` and a training region's, in the same labels.

    Raises
    ------
    RecipeError
        They overlap; names the region.
    """
    for number, region in enumerate(training.regions, 1):
        common = _box(options.box) & _box(region.box)
        if region.labels == truth and not common.is_empty:
            raise RecipeError(
                f"{name} @ evaluate: the box {options.box or '(all of it)'} of {options.truth} overlaps that of the training "
                f"{_told(region, number)}: its scores would flatter. Give one of them another box."
            )


def require_apart(training: TrainOptions, name: str) -> None:
    """Refuse to validate on what is trained on, where boxes of the same labels tell it already.

    Raises
    ------
    RecipeError
        They overlap; names both regions.
    """
    if training.downsample != (1, 1, 1):  # boxes shrink to whole larger voxels; preflight looks at those
        return
    for number, tested in enumerate(training.validation, 1):
        for other, region in enumerate(training.regions, 1):
            common = _box(tested.box) & _box(region.box)
            if (tested.raw, tested.labels) == (region.raw, region.labels) and not common.is_empty:
                raise RecipeError(
                    f"{name} @ train: the validation {_told(tested, number)} overlaps the training {_told(region, other)}: "
                    "its scores would flatter. Give one of them another box."
                )


def require_voxels_expected(flow: Flow, image: Volume, catalog: Catalog) -> None:
    """Refuse an image of voxels that the recipe's weights do not expect, where that is known before `[[preprocess]]`.

    Raises
    ------
    VoxelSizeMismatch
        See `require_voxel_size`.
    """
    if flow.weights is None or flow.recipe.train is not None or flow.predict.resample:
        return
    if all(step.changes != "size" for step in flow.steps):
        expected = expected_by(catalog, flow.weights, flow.recipe.folder)
        require_voxel_size(image, expected, allow=flow.predict.allow_voxel_size, spell=of_recipe)


def evaluated_box(options: EvaluateOptions, truth: Labels, image: Volume) -> Box:
    """Say which part of the truth is compared: the box of `[evaluate]`, whose open sides end where truth and image do.

    Raises
    ------
    BadInput
        The box sticks out of the truth or of the image, or these do not meet.
    """
    covered = truth.box
    # Of a truth of larger voxels nothing is known yet: the prediction may get such, by [predict] resample.
    if whole_factors(image.voxel_size_nm, truth.voxel_size_nm) is not None:
        covered &= truth.box_of(on_grid_of(truth, image))
    if covered.is_empty:
        raise BadInput(
            f"evaluate: the truth {truth.path} and the image {image.path} do not meet. Correct the origin of one of them."
        )
    if options.box is None:
        return covered
    box = Box.parse(options.box, covered.end, covered.begin)
    if not covered.contains(box):
        raise OutsideVolume(
            f"evaluate: the box {options.box} sticks out of what truth and image share, {covered} in voxels of {truth.path}. "
            "Give a smaller box; an open side, as in 0:40,:,:, ends where they do."
        )
    return box


def _box(text: str | None) -> Box:
    return Box.parse(text or ":,:,:")


def _told(region: RegionOptions, number: int) -> str:
    return f"region '{region.name or number}' ({region.box or 'all of the labels'})"
