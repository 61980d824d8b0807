"""Annotated regions: open what a recipe names, and cut training blocks out of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.abilities import AveragesVoxels
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.apply import apply, apply_lazily
from asem_core.cell.elsewhere import require_steps, with_done
from asem_core.cell.prepared import is_cell, open_image, open_mask
from asem_core.cell.provenance import require_image, require_labels
from asem_core.cell.record import Record
from asem_core.cell.store import open_annotation, open_volume
from asem_core.errors import BadInput, RecipeError, VoxelSizeMismatch, spelled_for_recipe
from asem_core.evaluation.roles import require_roles
from asem_core.evaluation.scores import exclusion_of
from asem_core.interfaces import Model, Region
from asem_core.paths import expand
from asem_core.prediction.expected import mask_for
from asem_core.recipe import Choice, build_choice
from asem_core.training.options import Place, RegionOptions, TrainOptions
from asem_core.volume import Box, Labels, Volume, Zyx, as_zyx
from asem_core.voxels.boundaries import boundaries_of
from asem_core.voxels.components import has_ids
from asem_core.voxels.known import Meaning, both_known, extent_of_known, of_values, understood
from asem_core.voxels.resample import AnyVolume, on_grid_of, whole_factors
from asem_core.voxels.strokes import at_larger_voxels, holds_strokes, painted_over

IGNORE = 255
"""The target of a voxel that is not annotated."""

LARGEST_HELD_BYTES = 512 * 2**20
"""A smaller region is read into memory once: decoding its files for every block would take longer than training on it."""


@spelled_for_recipe()
def open_region(
    options: RegionOptions,
    name: str,
    catalog: Catalog,
    folder: Path,
    downsample: Zyx = (1, 1, 1),
    *,
    values: Sequence[int] | None = None,
    of_cells: bool = False,
) -> Region:
    """Open what a recipe says about a region; relative paths are relative to `folder`.

    Parameters
    ----------
    downsample : so many voxels (zyx) become one, in every volume of the region
    values : of the labels, that are objects; the others are background. None: all but 0
    of_cells : the labels are cells with an id each, and what is learnt are the boundaries between them

    Raises
    ------
    BadInput, ShapeMismatch, VoxelSizeMismatch, OutsideVolume
        A volume cannot be opened, or the labels do not lie inside the image.
    """
    name = options.name or name

    def opened(place: Place, what: str) -> Volume:
        return _open(place, catalog, folder, f"{name}, {what}")

    def resampled(labels: Labels) -> tuple[Labels, Zyx]:
        finer = whole_factors(raw.voxel_size_nm, labels.voxel_size_nm) if options.resample_labels else None
        if not finer:
            return labels, downsample
        return _downsampled(labels, finer, catalog), as_zyx(np.multiply(downsample, finer).tolist())

    require_steps(options.done, catalog)
    require_roles(_address(options.exclusion), _address(options.mask))
    image = opened(options.raw, "raw")
    require_image(image, "a network learns from an image")
    raw = _downsampled(with_done(image, options.done, catalog), downsample, catalog)
    stored = of_values(_labels(opened(options.labels, "labels"), options, values), values)
    labels = _downsampled(stored, downsample, catalog)
    if options.strokes is None:
        labels, factor = resampled(labels)
    labels = _between(labels, name) if of_cells else labels
    if options.strokes is not None:
        strokes = open_annotation(opened(options.strokes, "strokes").path)
        stored = strokes
        labels, factor = resampled(painted_over(labels, _downsampled(strokes, downsample, catalog)))
    if options.box is not None:
        part = _whole_voxels(Box.parse(options.box, stored.shape), factor)
        if part.is_empty:
            raise BadInput(
                f"{name}: the box {options.box} is smaller than one averaged voxel of {list(factor)} stored ones."
            )
        labels = labels.crop(part)
    labels = _annotated_part(labels, name)
    labels = _on_grid_of(raw, labels, name)
    place = raw.box_of(labels)
    inside = place & raw.box  # labels of the whole stack outreach a cropped image
    if inside.is_empty:
        raise BadInput(
            f"{name}: the labels {labels.path} lie at {place} of the image, which has the shape {list(raw.shape)}: they "
            "do not overlap. Correct an origin, or choose another box."
        )
    labels = labels.crop(inside.shift([-b for b in place.begin]))
    others = {}
    if options.mask is None and (of_cell := _mask_of_cell(options.raw, folder, name)) is not None:
        mask = mask_for(labels, of_cell, catalog, Run(progress=False))
        inside = mask.box_of(labels) & mask.box
        if inside.is_empty:
            raise BadInput(f"{name}: the labels {labels.path} lie outside of the cell's mask {mask.path}.")
        labels = labels.crop(inside.shift([-b for b in mask.box_of(labels).begin]))
        others["mask"] = mask.crop(inside)
    for kind in ("mask", "exclusion"):
        place = getattr(options, kind)
        if place is not None:
            found = _on_grid_of(raw, _downsampled(Labels.of(opened(place, kind)), downsample, catalog), name)
            others[kind] = found.crop(found.box_of(labels))
    known = both_known(labels.known, others.get("mask"))
    if known is not None:
        others["mask"] = Labels.of(known)
    return Region(name, raw, labels, others.get("mask"), others.get("exclusion"))


def is_painted(options: RegionOptions) -> bool:
    """Tell whether a region holds strokes: its labels are learnt as they were painted, and have no outlines to leave out."""
    return options.strokes is not None or (isinstance(options.labels, str) and holds_strokes(options.labels))


def _address(place: Place | None) -> str | None:
    """Give what names a place: its path, and the layer of one that holds several."""
    return place if place is None or isinstance(place, str) else f"{place.get('path', '')}/{place.get('layer') or ''}"


def _labels(volume: Volume, options: RegionOptions, values: Sequence[int] | None) -> Labels:
    """Read the labels by what their values mean; a layer of ours knows, and of `values` the recipe says it."""
    require_labels(volume, "a network learns from labels")
    meaning = Meaning.of(options.ignore, options.background)
    if meaning is None and Record.of(volume).made.noted:
        return open_annotation(volume.path)
    return understood(Labels.of(volume), meaning or Meaning(background=None if values is None else ()))


def _between(labels: Labels, name: str) -> Labels:
    """See the boundaries between cells; of a mask, all that is not object would be one."""
    if not has_ids(labels, Run(progress=False)):
        raise BadInput(
            f'{name}: labels_are = "cells", but {labels.path} holds one value besides 0: cells have an id each. If these are membranes, '
            'set labels_are = "membranes".'
        )
    return boundaries_of(labels)


def _annotated_part(labels: Labels, name: str) -> Labels:
    """Leave out what lies beyond all that was annotated: a layer as large as the cell may hold a few boxes."""
    extent = extent_of_known(labels)
    if extent.is_empty:
        raise BadInput(
            f"{name}: nothing of the labels {labels.path} is annotated there. Choose another box, or annotate."
        )
    return labels if extent == labels.box else labels.crop(extent)


def _on_grid_of(raw: Volume, labels: Labels, name: str) -> Labels:
    """See labels on the image's grid (see `on_grid_of`), or say how to bring them there."""
    try:
        return on_grid_of(raw, labels)
    except VoxelSizeMismatch as error:
        if whole_factors(raw.voxel_size_nm, labels.voxel_size_nm) is None:
            raise
        raise VoxelSizeMismatch(
            f"{name}: {labels.path} has voxels of {list(labels.voxel_size_nm)} nm, smaller than the {list(raw.voxel_size_nm)} nm "
            "of the image. To use the most frequent label within each voxel of the image, set resample_labels = "
            "true in the region's table."
        ) from error


def with_training_labels(
    region: Region, model: Model, container: Path, run: Run, *, clean: bool, painted: bool = False
) -> Region:
    """Clean up and thicken the labels as the model says (if `clean`), and add its exclusion zone if there is none.

    Labels that were `painted` stay as they are: cleaning would remove strokes, and where they end is no outline.

    New labels are written to the group `container`, or taken from there; the exclusion zone is worked out where it is read, from the labels as drawn.
    """
    if painted:
        return region
    labels, exclusion = region.labels, region.exclusion
    zone = model.exclusion_zone()
    if exclusion is None and zone is not None:
        exclusion = exclusion_of(labels, zone, run)
    for number, step in enumerate(model.label_steps() if clean else []):
        labels = Labels.of(apply(step, labels, container / f"{number}_{step.name}", run))
    return attrs.evolve(region, labels=labels, exclusion=exclusion)


def file_names(names: Sequence[str]) -> list[str]:
    """Make a file name of each region's name; of equal ones, the later get a number."""
    found: list[str] = []
    for name in names:
        plain = "".join(c if c.isalnum() else "_" for c in name)
        numbered = (plain if n == 1 else f"{plain}_{n}" for n in count(1))
        found.append(next(file for file in numbered if file not in found))
    return found


def hold(region: Region, reach: Zyx) -> Region:
    """Read a small region into memory; a large one stays on disk, and only its image is cropped to `reach` around it."""
    place = region.raw.box_of(region.labels)
    raw = _hold(region.raw.crop(place.grow(reach) & region.raw.box))

    def held(part: Region) -> Region:
        mask, exclusion = (None if v is None else _hold(v) for v in (part.mask, part.exclusion))
        inner = {name: held(one) for name, one in part.classes.items()}
        return Region(part.name, raw, _hold(part.labels), mask, exclusion, inner)

    return held(region)


def require_apart(regions: Sequence[Region], validation: Sequence[Region], options: TrainOptions) -> None:
    """Refuse to validate on voxels that are trained on.

    Raises
    ------
    BadInput
        A validation region overlaps a training region of the same image, or of the same labels, whatever the image.
    """
    for tested, held_out in zip(validation, options.validation, strict=True):
        for trained, learnt in zip(regions, options.regions, strict=True):
            if _resolved(tested.raw.path) == _resolved(trained.raw.path) or held_out.labels == learnt.labels:
                common = trained.raw.box_of(trained.labels) & trained.raw.box_of(tested.labels)
                if not common.is_empty:
                    raise BadInput(
                        f"The validation region '{tested.name}' overlaps the training region '{trained.name}' at {common} "
                        f"of {trained.raw.path}: its scores would be too good. Give one of them another box."
                    )


def _resolved(path: str) -> str:
    return path if "://" in path else str(Path(path).resolve())


def require_one_voxel_size(regions: Sequence[Region]) -> None:
    """Refuse regions of different voxel size: one network learns one scale."""
    first = regions[0]
    for other in regions[1:]:
        if not np.allclose(first.raw.voxel_size_nm, other.raw.voxel_size_nm, rtol=1e-3):
            raise VoxelSizeMismatch(
                f"Region '{first.name}' has voxels of {list(first.raw.voxel_size_nm)} nm but '{other.name}' has "
                f"{list(other.raw.voxel_size_nm)} nm. Resample one of them first, for example with 'downsample'."
            )


def read_target(region: Region, box: Box, *, exclude: bool) -> np.ndarray:
    """Read what the network should say in a box of the labels; the box may stick out.

    Returns
    -------
    uint8: 1 in the organelle, 0 elsewhere, `IGNORE` where there is no annotation, and in the exclusion zone if `exclude`
    """
    target = np.full(box.shape, IGNORE, np.uint8)
    inside = box & region.labels.box
    if inside.is_empty:
        return target
    known = (region.labels.read(inside) != 0).astype(np.uint8)
    if region.mask is not None:
        known[region.mask.read(inside) == 0] = IGNORE
    if exclude and region.exclusion is not None:
        known[region.exclusion.read(inside) != 0] = IGNORE
    target[inside.shift([-b for b in box.begin]).slices] = known
    return target


def _open(place: Place, catalog: Catalog, folder: Path, where: str) -> Volume:
    if isinstance(place, str):
        path = folder / expand(place, f"train @ {where}")
        return open_image(path) if is_cell(path) else open_volume(path)
    options = dict(place)
    use, layer = options.pop("use", None), options.pop("layer", None)
    if not isinstance(use, str):
        raise RecipeError(f'{where}: a table must say which source opens it: use = "tiff-stack", for example.')
    source = build_choice(catalog, "source", Choice(use, options), f"train @ {where}", folder)
    volume: Volume = source.open(layer)
    return volume


def _mask_of_cell(place: Place, folder: Path, name: str) -> Labels | None:
    """Open the mask that was prepared of a cell; None where one layer is named."""
    if not isinstance(place, str):
        return None
    cell = folder / expand(place, f"train @ {name}, raw")
    return open_mask(cell) if is_cell(cell) else None


def _downsampled(volume: AnyVolume, factor: Zyx, catalog: Catalog) -> AnyVolume:
    """Average voxels where they are read: the mean of images, the most frequent value of labels."""
    if factor == (1, 1, 1):
        return volume
    step = catalog.able("preprocessor", AveragesVoxels).by_factor(factor)
    made = apply_lazily(step, volume, Run(progress=False))
    if isinstance(volume, Labels) and holds_strokes(volume.path):  # thin ones are never the most frequent value
        made = at_larger_voxels(volume, made.spec)
    changed: dict[str, Any] = {"data": made.data, "voxel_size_nm": made.voxel_size_nm, "origin_nm": made.origin_nm}
    if isinstance(made, Labels):
        changed["known"] = made.known
    return attrs.evolve(volume, **changed)


def _whole_voxels(box: Box, factor: Zyx) -> Box:
    """Take the larger voxels that lie in a box of stored ones with all their parts."""
    begin = [-(-b // f) for b, f in zip(box.begin, factor, strict=True)]
    return Box(as_zyx(begin), as_zyx([max(b, e // f) for b, e, f in zip(begin, box.end, factor, strict=True)]))


def _hold(volume: AnyVolume) -> AnyVolume:
    if volume.box.size * volume.dtype.itemsize > LARGEST_HELD_BYTES:
        return volume
    return attrs.evolve(volume, data=volume.read())


def input_box(region: Region, box: Box, context: Zyx) -> Box:
    """Say which voxels of the image the network needs for a box of the labels; both ends may stick out."""
    return box.shift(region.raw.box_of(region.labels).begin).grow(context)


def labels_box(region: Region, box: Box) -> Box:
    """Turn a box of the image into a box of the labels."""
    return box.shift(as_zyx([-b for b in region.raw.box_of(region.labels).begin]))


def missing_context(region: Region, context: Zyx) -> Mapping[str, int]:
    """Say by how many voxels the image is too small on each side for the network to see all labels in context."""
    need = input_box(region, region.labels.box, context)
    sides = {}
    for axis, name in enumerate("zyx"):
        sides[f"before {name}"] = max(0, -need.begin[axis])
        sides[f"after {name}"] = max(0, need.end[axis] - region.raw.shape[axis])
    return {side: n for side, n in sides.items() if n}
