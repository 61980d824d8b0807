"""The whole flow of a recipe: source -> preprocess -> train -> predict -> segment -> evaluate -> analyze -> export."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.prepared import Prepared, note_prepared
from asem_core.cell.store import open_labels, open_volume
from asem_core.errors import AsemError, OutputExists, RecipeError
from asem_core.interfaces import Analyzer, Model, Preprocessor, Sampler, Source
from asem_core.prediction.preparation import (
    Trained,
    adapt,
    expected_by,
    load_for,
    mask_for,
    require_weights_of,
    warn_of_other_steps,
)
from asem_core.pretrained import find_weights, require_weights
from asem_core.recipe import Choice, Recipe, build, build_choice, expand
from asem_core.stages.import_ import import_volume
from asem_core.stages.predict import Prediction, predict
from asem_core.stages.prepare import layer_name
from asem_core.stages.preprocess import apply
from asem_core.stages.recipe_checks import evaluated_box, require_apart, require_unseen, require_voxels_expected
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.resample import on_grid_of

Say = Callable[[str], None]
"""Takes one line about what is being done; for people."""


@attrs.frozen
class EvaluateOptions:
    """The `[evaluate]` table: compare the prediction with one of the recipe's labels.

    Attributes
    ----------
    truth
        A name of `[labels]`.
    box
        The part of the truth to compare, "z0:z1,y0:y1,x0:x1"; what is trained on is refused. An open side ends where truth
        and image do.
    zone_vx, zone_nm
        Exclusion zone outwards and inwards, in voxels or in nm; by default the model's own.
    thresholds
        Probabilities of interest.
    """

    truth: str
    box: str | None = None
    zone_vx: tuple[int, int] | None = None
    zone_nm: tuple[float, float] | None = None
    thresholds: tuple[float, ...] = (0.5,)

    def __attrs_post_init__(self) -> None:
        if self.zone_vx is not None and self.zone_nm is not None:
            raise RecipeError("evaluate: zone_vx and zone_nm are both given; keep one.")
        if self.box is not None:
            Box.parse(self.box)
        if not self.thresholds:
            raise RecipeError("evaluate: thresholds is empty; give one, as in thresholds = [0.5].")
        for threshold in self.thresholds:
            if not 0 < threshold <= 1:
                raise RecipeError(f"evaluate: a threshold is a probability above 0 and at most 1, got {threshold:g}.")


@attrs.frozen
class PredictOptions(Prediction):
    """The `[predict]` table: how to predict, and what to do with an image that is not what the weights expect.

    Attributes
    ----------
    as_is
        Do none of the preprocessing that the weights expect and `[[preprocess]]` lacks.
    allow_voxel_size
        Accept voxels more than 15 % off those of the training images.
    resample
        Average voxels to that size first, where whole factors do.
    """

    as_is: bool = False
    allow_voxel_size: bool = False
    resample: bool = False

    @property
    def how(self) -> Prediction:
        """How to predict, once the image is right."""
        return Prediction(**{a.name: getattr(self, a.name) for a in attrs.fields(Prediction)})


@attrs.frozen
class ExportOptions:
    """The `[export]` table: write TIFF planes named and placed as the original stack.

    Attributes
    ----------
    layers
        Which results: "segmentation", "probability", or a layer of the run's cell such as "raw_clahe".
    """

    layers: tuple[str, ...] = ("segmentation",)


@attrs.frozen
class Flow:
    """A recipe with every plugin built and every table checked: nothing is left to go wrong by spelling."""

    recipe: Recipe
    source: Source
    labels: Mapping[str, Source]
    others: Mapping[str, Source]
    steps: Sequence[Preprocessor]
    model: Model | None
    weights: str | None
    sampler: Sampler
    predict: PredictOptions
    evaluate: EvaluateOptions | None
    analyzers: Sequence[Analyzer]
    export: ExportOptions | None


def build_flow(recipe: Recipe, catalog: Catalog) -> Flow:
    """Build every plugin of a recipe and check every table, before any work starts.

    Raises
    ------
    RecipeError
        The first mistake, with its place.
    """
    name = recipe.path.name

    def plugin(kind: str, choice: Choice, where: str) -> Any:
        return build_choice(catalog, kind, choice, f"{name} @ {where}", recipe.folder)

    model_options = dict(recipe.model.options) if recipe.model else {}
    weights = model_options.pop("weights", None)
    flow = Flow(
        recipe,
        plugin("source", recipe.source, "source"),
        {n: plugin("source", c, f"labels.{n}") for n, c in recipe.labels.items()},
        {n: plugin("source", c, f"others.{n}") for n, c in recipe.others.items()},
        [plugin("preprocessor", c, f"preprocess[{i}]") for i, c in enumerate(recipe.preprocess)],
        plugin("model", Choice(recipe.model.use, model_options), "model") if recipe.model else None,
        weights,
        plugin("sampler", recipe.sampler or Choice("balanced"), "sampler"),
        build(PredictOptions, recipe.predict, f"{name} @ predict"),
        build(EvaluateOptions, recipe.evaluate, f"{name} @ evaluate") if recipe.evaluate is not None else None,
        [plugin("analyzer", c, f"analyze[{i}]") for i, c in enumerate(recipe.analyze)],
        build(ExportOptions, recipe.export, f"{name} @ export") if recipe.export is not None else None,
    )
    _check_whole(flow, name)
    if recipe.train is not None:
        training = _planned(recipe)
        require_apart(training, name)
        if flow.evaluate is not None:
            require_unseen(flow.evaluate, _place_of(flow.evaluate.truth), training, name)
    return flow


def _check_whole(flow: Flow, name: str) -> None:
    recipe = flow.recipe
    needs_model = [t for t in ("train", "evaluate", "export") if getattr(recipe, t) is not None]
    if flow.model is None and (needs_model or recipe.analyze):
        raise RecipeError(
            f'{name}: [{(needs_model or ["analyze"])[0]}] needs a [model]: add use = "mitochondria", for example.'
        )
    if flow.others and flow.model is None:
        raise RecipeError(
            f'{name}: [others] are images to predict: add [model] with use = "mitochondria", for example.'
        )
    for layer in flow.labels:
        if Path(layer).name != layer or layer.startswith("."):
            raise RecipeError(
                f"{name}: labels.{layer} cannot be named so: it becomes a layer of the cell. Choose a plain name."
            )
    for other in flow.others:
        if other == "cell" or Path(other).name != other or other.startswith("."):
            raise RecipeError(
                f"{name}: others.{other} cannot be named so: it becomes the folder {other}.zarr beside cell.zarr, which is "
                "the recipe's own image. Choose another plain name."
            )
    if flow.model is not None and flow.weights is None and recipe.train is None:
        raise RecipeError(
            f'{name}: [model] has no weights: add weights = "NAME" (see asem models list) or a file, or a [train] table.'
        )
    if flow.weights is not None and not isinstance(flow.weights, str):
        raise RecipeError(f"{name}: option 'weights' @ model: expected a text in quotes, got {flow.weights!r}")
    if flow.evaluate is not None and flow.evaluate.truth not in flow.labels:
        known = ", ".join(flow.labels) or "none"
        raise RecipeError(f"{name}: evaluate.truth is '{flow.evaluate.truth}', but [labels] has: {known}.")
    if flow.export is not None:
        made = ["segmentation", "probability", "raw", *_layer_names(flow.steps), *(f"labels/{n}" for n in flow.labels)]
        for layer in flow.export.layers:
            if layer not in made:
                raise RecipeError(f"{name}: export.layers names '{layer}', but the run makes: {', '.join(made)}.")


def require_inputs(flow: Flow) -> None:
    """Check that the images and weights that a recipe names are there and fit, before any work; nothing is fetched.

    Raises
    ------
    RecipeError
        One is missing, or does not fit the model or the voxels that the recipe states; names its place in the recipe.
    """
    name = flow.recipe.path.name
    sources = {"source": flow.source}
    sources |= {f"labels.{n}": s for n, s in flow.labels.items()} | {f"others.{n}": s for n, s in flow.others.items()}
    opened = {place: _opened(source, f"{name} @ {place}") for place, source in sources.items()}
    if flow.model is not None and flow.recipe.train is not None:
        from asem_core.training.preflight import wrong_block

        if wrong := wrong_block(flow.model.network(), _planned(flow.recipe).block):
            raise RecipeError(f"{name} @ train: {wrong}")
    if flow.weights is not None:
        try:
            if flow.model is None or flow.recipe.train is not None:
                # Training may begin with weights of another organelle.
                require_weights(flow.weights, flow.recipe.folder)
            else:
                require_weights_of(flow.model.name, flow.weights, flow.recipe.folder)
        except AsemError as error:
            raise RecipeError(f"{name} @ model: {error}") from None
        if flow.recipe.train is None:
            expected = expected_by(flow.weights, flow.recipe.folder)
            steps = [{"name": step.name} for step in flow.steps if step.changes != "mask"]
            warn_of_other_steps("the recipe's image", steps, expected, as_is=flow.predict.as_is)
    for place in ("source", *(f"others.{n}" for n in flow.others)):
        try:
            require_voxels_expected(flow, opened[place])
        except AsemError as error:
            raise RecipeError(f"{name} @ {place}: {error}") from None


def _opened(source: Source, where: str) -> Volume:
    """Open a source: what it lacks, files or a voxel size, is told by itself."""
    try:
        return source.open()
    except AsemError as error:
        raise RecipeError(f"{where}: {error}") from None


def run_flow(flow: Flow, catalog: Catalog, output: Path, run: Run, say: Say, *, overwrite: bool = False) -> None:
    """Run every stage of a recipe into the folder `output`: `cell.zarr`, `training/`, `reports/`, `tiff/`, `<other>.zarr`.

    Stages that an equal run has finished are not repeated; one that was interrupted goes on where it stopped.
    """
    require_inputs(flow)
    cell = output / "cell.zarr"
    stage = _Stages(say)

    with stage("import"):
        image = import_volume(flow.source, cell / "raw", run, overwrite=overwrite)
        require_voxels_expected(flow, image)
        labels = {n: import_volume(s, cell / "labels" / n, run, overwrite=overwrite) for n, s in flow.labels.items()}
    with stage("preprocess"):
        image, mask = _preprocessed(flow, image, cell, run, overwrite)
        scored = _scored(flow, image, cell)
    if flow.model is None:
        return
    with stage("train" if flow.recipe.train is not None else "weights"):
        trained = _trained(flow, catalog, image, labels, output, run, overwrite)
    with stage("predict"):
        image, probability = _predict(flow, trained, catalog, image, mask, cell, run, overwrite)
    with stage("segment"):
        segmentation = _segment(flow, probability, cell, run, overwrite)
    for name, source in flow.others.items():
        with stage(f"predict {name}"):
            other = output / f"{name}.zarr"
            unseen = import_volume(source, other / "raw", run, overwrite=overwrite)
            unseen, inside = _preprocessed(flow, unseen, other, run, overwrite)
            _, found = _predict(flow, trained, catalog, unseen, inside, other, run, overwrite)
            say(f"{name}: {_segment(flow, found, other, run, overwrite).path}")
    if scored is not None:
        with stage("evaluate"):
            _evaluate(flow, catalog, probability, cell, scored, output / "reports" / "evaluation", run, say, overwrite)
    if flow.analyzers:
        with stage("analyze"):
            for analyzer in flow.analyzers:
                page = _analyze(analyzer, segmentation, image, output / "reports" / analyzer.name, run, overwrite)
                say(f"{analyzer.name}: {page}")
    if flow.export is not None:
        from asem_core.stages.export import export_tiff, is_exported

        with stage("export"):
            for layer in flow.export.layers:
                chosen = {"segmentation": segmentation, "probability": probability}.get(layer)
                chosen = chosen if chosen is not None else open_volume(cell / layer)
                planes = output / "tiff" / Path(layer).name
                if overwrite or not is_exported(chosen, planes, run):
                    export_tiff(chosen, planes, run, overwrite=True)
                say(f"{layer}: {planes}")


class _Stages:
    """Announces each stage, and says how long it took."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._name = ""
        self._start = 0.0

    def __call__(self, name: str) -> _Stages:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._say(f"{self._name}: done in {time.monotonic() - self._start:.1f} s")


def _preprocessed(flow: Flow, image: Volume, cell: Path, run: Run, overwrite: bool) -> tuple[Volume, Labels | None]:
    """Do the steps one after the other; returns the last image, and the mask that a step made of one."""
    mask = None
    for step, layer in zip(flow.steps, _layer_names(flow.steps), strict=True):
        made = apply(step, image, cell / layer, run, overwrite=overwrite)
        if step.changes == "mask":
            mask = open_volume(made.path, kind=Labels)
        else:
            image = made
    note_prepared(cell, Prepared(layer_name(image), None if mask is None else layer_name(mask)))
    return image, mask


def _layer_names(steps: Sequence[Preprocessor]) -> list[str]:
    """Name the layer of each step: `raw_clahe`, or `mask`; a second one of the same name gets a number."""
    names: list[str] = []
    for step in steps:
        name = "mask" if step.changes == "mask" else f"raw_{step.name}"
        same = sum(n == name or n.startswith(f"{name}_") for n in names)
        names.append(f"{name}_{same + 1}" if same else name)
    return names


def _trained(
    flow: Flow,
    catalog: Catalog,
    image: Volume,
    labels: Mapping[str, Volume],
    output: Path,
    run: Run,
    overwrite: bool,
) -> Trained:
    """Load the weights that the recipe names, or train them."""
    assert flow.model is not None
    if flow.recipe.train is None:
        assert flow.weights is not None  # _check_whole
        return load_for(catalog, flow.model, flow.weights, flow.recipe.folder)
    from asem_core.stages.train import TrainingRecipe, train

    places = {n: str(Path(v.path).resolve()) for n, v in labels.items()}
    options = _train_options(flow.recipe, str(Path(image.path).resolve()), places)
    folder = output / "training"
    started = (folder / "provenance.json").exists() and not overwrite
    try:
        made = train(
            TrainingRecipe(flow.model, flow.sampler, options, flow.recipe.folder, flow.recipe.path),
            catalog,
            folder,
            start_from=find_weights(flow.weights, flow.recipe.folder, "finetune_from") if flow.weights else None,
            resume=started,
            overwrite=overwrite,
            device=flow.predict.device,
            progress=run.progress,
            go_on_with="the same asem run again" + (", without --overwrite" if overwrite else ""),
        )
    except OutputExists as error:
        raise OutputExists(
            f"{folder} holds a training run that was made otherwise. Add --overwrite to train anew, or choose another folder with -o."
        ) from error
    return load_for(catalog, flow.model, made.chosen())


def _train_options(recipe: Recipe, image: str, labels: Mapping[str, str]) -> Any:
    """Build the `[train]` table; its regions may name the recipe's labels, and take its image unless they name one."""
    from asem_core.training.options import TrainOptions

    where = f"{recipe.path.name} @ train"
    table = dict(recipe.train or {})
    for part in ("regions", "validation"):
        regions = table.get(part, [])
        if isinstance(regions, list) and all(isinstance(r, Mapping) for r in regions):
            table[part] = [_region(r, image, labels, recipe.folder, where) for r in regions]
    return build(TrainOptions, table, where)


def _planned(recipe: Recipe) -> Any:
    """Build the `[train]` table before its image and labels are there: they are named for what they will be."""
    return _train_options(recipe, "[source]", {n: _place_of(n) for n in recipe.labels})


def _place_of(labels: str) -> str:
    return f"[labels] {labels}"


def _region(
    region: Mapping[str, Any], image: str, labels: Mapping[str, str], folder: Path, where: str
) -> dict[str, Any]:
    chosen = {"raw": image, **region}
    for key in ("labels", "mask", "exclusion"):
        place = chosen.get(key)
        if isinstance(place, str) and place in labels:
            chosen[key] = labels[place]
        elif isinstance(place, str) and not (folder / expand(place, where)).exists():
            known = ", ".join(labels) or "none"
            raise RecipeError(f"{where}: {key} = '{place}' is neither a name of [labels] ({known}) nor a path.")
    return chosen


def _predict(
    flow: Flow,
    trained: Trained,
    catalog: Catalog,
    image: Volume,
    mask: Labels | None,
    cell: Path,
    run: Run,
    overwrite: bool,
) -> tuple[Volume, Volume]:
    """Predict an image; returns it as the network saw it, and the probability."""
    assert flow.model is not None
    how = flow.predict
    image = adapt(
        image,
        trained,
        catalog,
        cell,
        run,
        as_is=how.as_is,
        allow_voxel_size=how.allow_voxel_size,
        resampled=how.resample,
        overwrite=overwrite,
    )
    details = {
        "model": flow.model.name,
        "weights": flow.weights or "trained here",
        "weights_sha256": trained.details["weights_sha256"],
    }
    output = cell / "predictions" / flow.model.name / "probability"
    inside = None if mask is None else mask_for(image, mask, catalog, run)
    made = predict(trained.network, image, output, run, how, mask=inside, details=details, overwrite=overwrite)
    return image, made


def _segment(flow: Flow, probability: Volume, cell: Path, run: Run, overwrite: bool) -> Labels:
    assert flow.model is not None
    target = cell / "predictions" / flow.model.name / "segmentation"
    if overwrite:  # a model's `segment` knows no such thing; what it makes is quick to make again
        shutil.rmtree(target, ignore_errors=True)
    return flow.model.segment(probability, target, run)


def _scored(flow: Flow, image: Volume, cell: Path) -> Box | None:
    """Say which part of the truth `[evaluate]` compares, before anything is trained or predicted."""
    if flow.evaluate is None:
        return None
    return evaluated_box(flow.evaluate, open_labels(cell / "labels" / flow.evaluate.truth), image)


def _evaluate(
    flow: Flow,
    catalog: Catalog,
    probability: Volume,
    cell: Path,
    part: Box,
    folder: Path,
    run: Run,
    say: Say,
    overwrite: bool,
) -> None:
    from asem_core.cell.provenance import made_by
    from asem_core.evaluation.report import sections
    from asem_core.evaluation.scores import exclusion_of, score
    from asem_core.report import require_free_report, write_report

    assert flow.model is not None
    assert flow.evaluate is not None
    options = flow.evaluate
    truth = open_labels(cell / "labels" / options.truth)
    probability = on_grid_of(truth, probability)
    zone = _zone(flow, catalog)
    part &= truth.box_of(probability)  # of voxels that were averaged, the last may be missing
    record = made_by("evaluate", inputs=[probability, truth], zone=zone, box=part, thresholds=options.thresholds)
    page = require_free_report(folder, record, overwrite=True)  # reports in the output are the recipe's own
    if page is None or overwrite:
        exclusion = exclusion_of(truth, zone, run) if zone is not None else None
        thin = bool(getattr(flow.model, "has_thin_truth", False))
        found = score(
            probability, truth, exclusion=exclusion, thresholds=options.thresholds, box=part, thin=thin, run=run
        )
        parts = sections({options.truth: found}, options.thresholds)
        page = write_report(folder, f"Evaluation: {options.truth}", parts, made_by=record)
    with (folder / "tables" / "scores.csv").open(encoding="utf-8") as table:
        for row in csv.DictReader(table):
            at, f1, precision, recall = (float(row[key] or "nan") for key in ("threshold", "f1", "precision", "recall"))
            say(f"{options.truth} at {at:g}: F1 {f1:.4f}, precision {precision:.4f}, recall {recall:.4f}")
    say(f"evaluation: {page}")


def _analyze(analyzer: Analyzer, segmentation: Labels, image: Volume, folder: Path, run: Run, overwrite: bool) -> Path:
    """Measure, or find the report of an equal run; one that may have read further files is made again."""
    from asem_core.report import require_free_report
    from asem_core.stages.analyze import analysis_record, analyze

    page = require_free_report(folder, analysis_record(analyzer, segmentation, image), overwrite=True)
    if page is None or overwrite or _may_name_files(analyzer):
        page = analyze(analyzer, segmentation, image, folder, run, overwrite=True)
    return page


def _may_name_files(analyzer: Any) -> bool:
    """Tell whether an option was given as text: a table of corrections, say, or further layers. They may have changed."""
    options = [a for a in attrs.fields(type(analyzer)) if a.init]
    given = [value for a in options if (value := getattr(analyzer, a.name)) != a.default]
    return any(isinstance(text, str) for value in given for text in (value if isinstance(value, tuple) else (value,)))


def _zone(flow: Flow, catalog: Catalog) -> Preprocessor | None:
    assert flow.model is not None
    assert flow.evaluate is not None
    options = flow.evaluate
    widths, unit = (options.zone_vx, "vx") if options.zone_nm is None else (options.zone_nm, "nm")
    if widths is None:
        return flow.model.exclusion_zone()
    outwards, inwards = widths
    exclusion_zone = catalog.get("preprocessor", "exclusion-zone")
    zone: Preprocessor = exclusion_zone(**{f"dilate_{unit}": outwards, f"erode_{unit}": inwards})
    return zone if outwards or inwards else None
