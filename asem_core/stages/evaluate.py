"""Evaluate predictions against the truth: the one way in for commands, recipes and Python."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs

from asem_core.abilities import FindsObjects, LearnsBoundaries, MakesZones, MergesFragments, ZoneShape
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.provenance import kind_by_name, made_by, require_labels, what_it_holds
from asem_core.cell.store import open_annotation, open_labels, open_volume
from asem_core.errors import BadInput, Option, OutsideVolume, RecipeError
from asem_core.evaluation.objects import number_objects, score_objects
from asem_core.evaluation.report import sections
from asem_core.evaluation.roles import require_roles
from asem_core.evaluation.scores import exclusion_of, matched, score
from asem_core.interfaces import Column, Model, Preprocessor
from asem_core.paths import LayerPath
from asem_core.prediction.trained import model_behind
from asem_core.progress import tell_reused
from asem_core.report import find_finished_report, write_report
from asem_core.stages.proofread import warn_of_edits
from asem_core.training.settings import LEAST_TOUCHING
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.boundaries import boundaries_of
from asem_core.voxels.components import has_ids, value_range
from asem_core.voxels.known import Meaning
from asem_core.voxels.meetings import CELLS_FILL, filled, touch
from asem_core.voxels.resample import on_grid_of, whole_factors

log, remarks = logging.getLogger("asem_core"), logging.getLogger("asem_core.remarks")


@attrs.frozen
class EvaluateOptions:
    """How to compare predictions with the truth.

    Attributes
    ----------
    box
        The part of the truth to compare, "z0:z1,y0:y1,x0:x1".
    zone_vx, zone_nm
        Exclusion zone outwards and inwards, in voxels or in nm; by default the model's own.
    zone_shape
        Of the zone, also of the model's own: "diamond", as published, or "ball"; scores with balls are higher.
    exclusion
        Layer of voxels to ignore, instead of a zone.
    mask
        Layer of annotated voxels; the others are ignored.
    objects
        Count objects, too; by default as the model says, and where prediction and truth have ids.
    thresholds
        Probabilities of interest, above 0 and at most 1.
    """

    box: str | None = None
    zone_vx: tuple[float, float] | None = None
    zone_nm: tuple[float, float] | None = None
    zone_shape: ZoneShape | None = None
    exclusion: LayerPath | None = None
    mask: LayerPath | None = None
    objects: bool | None = None
    thresholds: tuple[float, ...] = (0.5,)

    def __attrs_post_init__(self) -> None:
        if self.zone_vx is not None and self.zone_nm is not None:
            raise RecipeError("give the zone in voxels (zone_vx) or in nm (zone_nm), not both.")
        if self.exclusion is not None and (self.zone_vx or self.zone_nm):
            raise RecipeError("give an exclusion layer or the widths of a zone, not both.")
        if self.box is not None:
            Box.parse(self.box)
        if not self.thresholds:
            raise RecipeError("thresholds is empty; give one, as in thresholds = [0.5].")
        for threshold in self.thresholds:
            if not 0 < threshold <= 1:
                raise RecipeError(f"a threshold is a probability above 0 and at most 1, got {threshold:g}.")
        require_roles(self.exclusion, self.mask)


@attrs.frozen
class Pair:
    """A prediction and its truth.

    Attributes
    ----------
    name : what reports call it
    prediction : probabilities or labels, see `open_prediction`
    truth : may lie on another grid, if that is coarser or finer by whole factors
    part : compare no more of the truth than this, and only where the prediction is; by default all that the options say
    meaning, values : how the values of the truth were understood, and which were taken for object, for the record
    """

    name: str
    prediction: Volume
    truth: Labels
    part: Box | None = None
    meaning: Meaning | None = None
    values: Sequence[int] | None = None


@attrs.frozen
class Evaluation:
    """What a comparison found: rows of numbers by their names, one for each region and threshold; and the report.

    `objects` and `instances` have a row for each region, or none where objects were not counted.
    """

    scores: Sequence[Mapping[str, Any]]
    objects: Sequence[Mapping[str, Any]] = ()
    instances: Sequence[Mapping[str, Any]] = ()
    page: Path | None = None


def evaluate(
    pairs: Sequence[Pair],
    options: EvaluateOptions,
    run: Run,
    catalog: Catalog,
    *,
    model: Model | None = None,
    folder: Path | None = None,
    title: str = "Evaluation",
    overwrite: bool = False,
    anew: bool = False,
) -> Evaluation:
    """Score predictions against the truth, each pair by itself and all pooled.

    Parameters
    ----------
    model : whose exclusion zone and kind of object to take, where the options do not say
    folder : where the report goes; one that was made of the same is not made again, unless `anew`
    overwrite : replace a report that was made of something else

    Raises
    ------
    OutputExists
        `folder` holds something else, or a report of other things and `overwrite` is False.
    BadInput
        Nothing was annotated in a part that is to be compared; a layer is not what it is given for.
    VoxelSizeMismatch, ShapeMismatch, OutsideVolume
        See `asem_core.evaluation.scores.score`.
    """
    step = None if options.exclusion is not None else _zone(options, model, catalog)
    exclusion = None if options.exclusion is None else open_truth(options.exclusion, "exclusion")
    mask = None if options.mask is None else open_truth(options.mask, "mask")
    count = options.objects
    if count is None:
        count = (
            (isinstance(model, FindsObjects) and model.objects)
            or (isinstance(model, MergesFragments) and model.merges())
            or any(_both_have_ids(pair, run) for pair in pairs)
        )
    pairs = [_as_learnt(pair, catalog, run) for pair in pairs]
    read = [volume for pair in pairs for volume in (pair.prediction, pair.truth)]
    record = made_by(
        "evaluate",
        inputs=[*read, *(v for v in (exclusion, mask) if v is not None)],
        given=[exclusion is not None, mask is not None],
        zone=step,
        box=[pair.part or options.box for pair in pairs],
        meaning=[pair.meaning for pair in pairs],
        values=[pair.values and list(pair.values) for pair in pairs],
        thresholds=options.thresholds,
        objects=count,
    )
    if folder is not None:
        page = find_finished_report(folder, record, overwrite=overwrite)
        if page is not None and not anew:
            tell_reused(page, shown=run.progress)
            return _read(folder, page)
    scores, counted = {}, {}
    for pair in pairs:
        if isinstance(pair.prediction, Labels) and (question := warn_of_edits(pair.prediction)):
            log.warning("%s", question)
        part = pair.part or (Box.parse(options.box, pair.truth.shape) if options.box else pair.truth.box)
        prediction, truth, within, zone, part = matched(pair.prediction, pair.truth, mask, exclusion, part)
        if pair.part is not None:
            part &= truth.box_of(prediction)  # of voxels that were averaged, the last may be missing
        if step is not None:
            zone = exclusion_of(truth, step, run)
        limits: dict[str, Any] = {"exclusion": zone, "mask": within, "box": part, "run": run}
        thin = model is not None and model.has_thin_truth
        scores[pair.name] = score(prediction, truth, thresholds=options.thresholds, thin=thin, **limits)
        if count:
            first = options.thresholds[0]
            ids = [number_objects(v, truth, run, threshold=first, box=part) for v in (prediction, truth)]
            counted[pair.name] = score_objects(*ids, **limits)
    parts = sections(scores, options.thresholds, counted)
    page = None if folder is None else write_report(folder, title, parts, made_by=record)
    return _evaluation({name: _rows(table) for part in parts for name, table in part.tables.items()}, page)


def _both_have_ids(pair: Pair, run: Run) -> bool:
    return isinstance(pair.prediction, Labels) and has_ids(pair.prediction, run) and has_ids(pair.truth, run)


def _as_learnt(pair: Pair, catalog: Catalog, run: Run) -> Pair:
    """Compare a map, or a mask, of what lies between cells with the boundaries between them, where the truth are cells with an id each."""
    maker = model_behind(catalog, pair.prediction)
    if not isinstance(maker, LearnsBoundaries) or not has_ids(pair.truth, run):
        return pair
    if isinstance(pair.prediction, Labels) and has_ids(pair.prediction, run):  # cells, not what lies between them
        return pair
    if not (maker.learns_from_cells() or _are_cells(pair.truth)):
        return pair
    remarks.info("%s: the truth are the boundaries between these cells.", pair.truth.path)
    return attrs.evolve(pair, truth=boundaries_of(pair.truth))


def _are_cells(truth: Labels) -> bool:
    """Tell cells with an id each, many that touch or fill most of what was annotated, from classes of tissue."""
    share = filled((truth.read(box), truth.known_in(box)) for box in truth.box.blocks(128))
    return share > CELLS_FILL or (share > 0 and touch(truth, LEAST_TOUCHING))


def open_prediction(path: str, *, segmentation: bool = False) -> Volume:
    """Open what is to be scored; as labels what says that it holds labels, and anything if it is said to be a `segmentation`.

    Raises
    ------
    BadInput
        It is an image; a probability map that is said to be a segmentation; or a map of 0 and 1 of which neither is said.
    """
    held = what_it_holds(open_volume(path))
    if held == "image":
        raise BadInput(
            f"{path} is an image; a prediction is a probability map or labels. "
            "If it is one after all, import it as such: asem import ... --layer predictions/NAME --kind probability (or labels)"
        )
    if held == "probability" and segmentation:
        raise BadInput(f"{path} is a probability map: leave out ", Option("segmentation"))
    if segmentation or (held or kind_by_name(path)) == "labels":
        return open_labels(path)
    found: Volume = open_volume(path)
    if held is None and found.dtype.kind in "biu" and value_range(found, Run(progress=False))[1] == 1:
        raise BadInput(
            f"{path} does not say what it holds, and its values are 0 and 1. As probabilities (the largest value of the type = 1) "
            "that would be background everywhere: if it is a segmentation, add ",
            Option("segmentation", True),
        )
    return found


def open_truth(
    path: str, role: str = "truth", meaning: Meaning | None = None, values: Sequence[int] | None = None
) -> Labels:
    """Open the labels to compare with, or a mask or zone; `role` says which in messages.

    Raises
    ------
    BadInput
        It is an image or a probability map.
    """
    require_labels(open_volume(path), f"the {role} is made of labels, and the order is PREDICTION TRUTH")
    return open_annotation(path, meaning, values)


def part_in_common(options: EvaluateOptions, truth: Labels, image: Volume) -> Box:
    """Say which part of the truth can be compared with a prediction of an image: open sides end where truth and image do.

    Raises
    ------
    BadInput
        Truth and image do not meet.
    OutsideVolume
        The box of the options extends beyond what they share.
    """
    covered = truth.box
    # Of a truth of larger voxels nothing is known yet: the prediction may get such, by [predict] resample.
    if whole_factors(image.voxel_size_nm, truth.voxel_size_nm) is not None:
        covered &= truth.box_of(on_grid_of(truth, image))
    if covered.is_empty:
        raise BadInput(
            f"evaluate: the truth {truth.path} and the image {image.path} do not overlap. Correct the origin of one of them."
        )
    if options.box is None:
        return covered
    box = Box.parse(options.box, covered.end, covered.begin)
    if not covered.contains(box):
        raise OutsideVolume(
            f"evaluate: the box {options.box} extends beyond the overlap of truth and image, {covered} in voxels of {truth.path}. "
            "Give a smaller box; an open side, as in 0:40,:,:, ends where the overlap ends."
        )
    return box


def _zone(options: EvaluateOptions, model: Model | None, catalog: Catalog) -> Preprocessor | None:
    """Choose the step that makes the exclusion zone."""
    unit: Literal["vx", "nm"] = "vx" if options.zone_nm is None else "nm"
    widths = options.zone_vx if options.zone_nm is None else options.zone_nm
    step = None if model is None else model.exclusion_zone()
    if widths is not None:
        maker: type[MakesZones] = catalog.able("preprocessor", MakesZones)
        step = maker.of_widths(*widths, unit) if any(widths) else None
    if options.zone_shape is None:
        return step
    if not isinstance(step, MakesZones):
        raise BadInput(
            "zone_shape says how a zone is made, and there is none: give the widths of one (zone_vx or zone_nm), or a model."
        )
    return step.of_shape(options.zone_shape)


def _rows(table: Mapping[str, Column]) -> list[dict[str, Any]]:
    columns = [column.values.tolist() for column in table.values()]
    return [dict(zip(table, row, strict=True)) for row in zip(*columns, strict=True)]


def _read(folder: Path, page: Path) -> Evaluation:
    """Read what a report says that was made of the same."""
    from pyarrow import parquet

    tables = {}
    for name in ("scores", "objects", "instances"):
        if (file := folder / "tables" / f"{name}.parquet").exists():
            rows = parquet.read_table(file).to_pylist()
            tables[name] = [{key: math.nan if v is None else v for key, v in row.items()} for row in rows]
    return _evaluation(tables, page)


def _evaluation(tables: Mapping[str, Sequence[Mapping[str, Any]]], page: Path | None) -> Evaluation:
    return Evaluation(tables["scores"], tables.get("objects", ()), tables.get("instances", ()), page)
