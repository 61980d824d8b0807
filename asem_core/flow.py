"""The whole flow of a recipe: source -> preprocess -> train -> predict -> segment -> evaluate -> analyze -> export."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import attrs

from asem_core.blocks import Run
from asem_core.built import Flow, with_options_of
from asem_core.catalog import Catalog
from asem_core.cell.apply import apply
from asem_core.cell.prepared import Prepared, note_prepared
from asem_core.cell.store import open_labels, open_volume
from asem_core.errors import OVERWRITE, BadInput, NothingToDo, OutputExists, RecipeError, spelled_for_recipe
from asem_core.interfaces import Source
from asem_core.paths import path_options, with_paths
from asem_core.prediction.trained import Trained, load_for, model_of_class
from asem_core.pretrained import find_weights
from asem_core.recipe import Choice
from asem_core.stages.evaluate import Pair, evaluate, part_in_common
from asem_core.stages.import_ import import_volume
from asem_core.stages.inputs import Images
from asem_core.stages.predict import predict_image
from asem_core.stages.preprocess import layer_name, layer_names
from asem_core.stages.recipe_checks import (
    classes_made,
    require_inputs,
    require_voxels_expected,
    train_options,
    train_table,
)
from asem_core.stages.segment import segment
from asem_core.stages.train import TrainingRecipe, read_training_recipe
from asem_core.training.options import is_open
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.known import Meaning

T = TypeVar("T")
Say = Callable[[str], None]
"""Takes one line about what is being done; for people."""


@spelled_for_recipe()
def run_flow(flow: Flow, catalog: Catalog, output: Path, run: Run, say: Say, *, overwrite: bool = False) -> None:
    """Run every stage of a recipe into the folder `output`: `cell.zarr`, `training/`, `reports/`, `export/`, `<other>.zarr`.

    Stages that an equal run has finished are not repeated; one that was interrupted goes on where it stopped.
    """
    require_inputs(flow, catalog)
    cell = output / "cell.zarr"
    stage = _Stages(flow.recipe.path.name, say)

    with stage("import"):
        image = _imported(flow.source, flow.recipe.source, cell / "raw", catalog, run, overwrite)
        require_voxels_expected(flow, image, catalog)
        labels = {
            name: _imported(source, flow.recipe.labels[name], cell / "labels" / name, catalog, run, overwrite)
            for name, source in flow.labels.items()
        }
    with stage("preprocess"):
        image, mask = _preprocessed(flow, image, cell, run, say, overwrite)
        scored = _scored(flow, image, cell)
    if flow.model is None:
        return
    with stage("train" if flow.recipe.train is not None else "weights"):
        trained = _trained(flow, catalog, image, labels, output, run, say, overwrite)
    with stage("predict"):
        image, maps = _predict(flow, trained, catalog, image, mask, cell, run, overwrite)
    with stage("segment"):
        segmentations = _segment(flow, catalog, maps, run, overwrite)
    for name, source in flow.others.items():
        with stage(f"predict {name}"):
            other = output / f"{name}.zarr"
            unseen = _imported(source, flow.recipe.others[name], other / "raw", catalog, run, overwrite)
            unseen, inside = _preprocessed(flow, unseen, other, run, say, overwrite)
            _, found = _predict(flow, trained, catalog, unseen, inside, other, run, overwrite)
            for made in _segment(flow, catalog, found, run, overwrite).values():
                say(f"{name}: {made.path}")
    if scored:
        with stage("evaluate"):
            for of, part in scored.items():
                _evaluate(
                    flow, catalog, maps, of, cell, part, output / "reports" / "evaluation" / of, run, say, overwrite
                )
    if flow.analyzers:
        from asem_core.stages.analyze import analyze

        with stage("analyze"):
            for choice, plugin in zip(flow.recipe.analyze, flow.analyzers, strict=True):
                analyzer = _with_own_layers(plugin, cell)
                for of in [choice.of] if choice.of is not None else segmentations:
                    folder = output / "reports" / analyzer.name / of
                    page = analyze(
                        analyzer, segmentations[of], image, folder, run, overwrite=True, anew=overwrite
                    )  # the recipe's own report: one of other things is replaced
                    say(f"{analyzer.name}{of and ', '}{of}: {page}")
    if flow.export is not None:
        from asem_core.stages.export import export_volume

        with stage("export"):
            results: dict[str, Volume] = {str(Path(of, "probability")): found for of, found in maps.items()}
            results |= {str(Path(of, "segmentation")): found for of, found in segmentations.items()}
            for layer in flow.export.layers:
                chosen = results.get(layer)
                chosen = chosen if chosen is not None else open_volume(cell / layer)
                name = layer.replace("/", "_") if layer in results else Path(layer).name
                target = output / "export" / f"{name}{flow.export.ending}"
                writer = flow.export.writer(catalog, str(target))
                say(f"{layer}: {export_volume(writer, chosen, run, overwrite=True)}")


class _Stages:
    """Announces each stage, and says how long it took; what is refused and an option of the recipe answers is told as its error."""

    def __init__(self, recipe: str, say: Say) -> None:
        self._recipe = recipe
        self._say = say
        self._name = ""
        self._start = 0.0

    def __call__(self, name: str) -> _Stages:
        self._name = name
        return self

    def __enter__(self) -> None:
        self._start = time.monotonic()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, *_: object) -> None:
        if isinstance(error, BadInput) and error.options:
            raise RecipeError.at(f"{self._recipe} @ {self._name}", error) from error
        if kind is None:
            self._say(f"{self._name}: done in {time.monotonic() - self._start:.1f} s")


def _imported(source: Source, choice: Choice, output: Path, catalog: Catalog, run: Run, overwrite: bool) -> Volume:
    """Copy what a table says of a source into a layer, whose name says whether it holds labels."""
    return import_volume(
        source,
        output,
        run,
        layer=choice.layer,
        box=choice.box,
        meaning=Meaning.of(choice.ignore, choice.background),
        done=choice.done,
        catalog=catalog,
        overwrite=overwrite,
    )


def _preprocessed(
    flow: Flow, image: Volume, cell: Path, run: Run, say: Say, overwrite: bool
) -> tuple[Volume, Labels | None]:
    """Do the steps one after the other; returns the last image, and the mask that a step made of one."""
    mask = None
    for step, layer in zip(flow.steps, layer_names(flow.steps), strict=True):
        try:
            made = apply(step, image, cell / layer, run, overwrite=overwrite)
        except NothingToDo as found:
            say(str(found))
            continue
        if step.changes == "mask":
            mask = open_labels(made.path)
        else:
            image = made
    note_prepared(cell, Prepared(layer_name(image), None if mask is None else layer_name(mask)))
    return image, mask


def _trained(
    flow: Flow,
    catalog: Catalog,
    image: Volume,
    labels: Mapping[str, Volume],
    output: Path,
    run: Run,
    say: Say,
    overwrite: bool,
) -> Trained:
    """Load the weights that the recipe names, or train them."""
    assert flow.model is not None
    if flow.recipe.train is None:
        assert flow.weights is not None  # _check_whole
        return load_for(catalog, flow.model, flow.weights, flow.recipe.folder)
    from asem_core.stages.train import train

    places = {n: str(Path(v.path).resolve()) for n, v in labels.items()}
    training = _training(flow, catalog, str(Path(image.path).resolve()), places, output, say, overwrite)
    folder = output / "training"
    started = (folder / "provenance.json").exists() and not overwrite
    try:
        made = train(
            training,
            catalog,
            folder,
            start_from=find_weights(flow.weights, flow.recipe.folder, "finetune_from") if flow.weights else None,
            resume=started,
            overwrite=overwrite,
            device=flow.predict.device,
            progress=run.progress,
            go_on_with="the same asem run again" + (f", without {OVERWRITE}" if overwrite else ""),
        )
    except OutputExists as error:
        raise OutputExists(
            f"{folder} contains a training run with other settings. Add ",
            OVERWRITE,
            " to train again, or choose another output.",
        ) from error
    return load_for(catalog, flow.model, made.chosen())


def _training(
    flow: Flow, catalog: Catalog, image: str, labels: Mapping[str, str], output: Path, say: Say, overwrite: bool
) -> TrainingRecipe:
    """Say what is trained; what the recipe leaves open is chosen from its labels."""
    from asem_core.stages.planned import completed, plan_beside

    recipe = flow.recipe
    assert flow.model is not None
    table, where = train_table(recipe, image, labels), recipe.path.name
    if not is_open(table, f"{where} @ train"):
        options = train_options(recipe, image, labels)
        return TrainingRecipe(flow.model, flow.sampler, options, recipe.folder, recipe.path)
    assert recipe.model is not None
    model = with_options_of(
        flow.weights, recipe.model.use, {k: v for k, v in recipe.model.options.items() if k != "weights"}, recipe
    )
    tables: dict[str, Any] = {"model": {"use": model.use, **model.options}, "train": table}
    if recipe.sampler is not None:
        tables["sampler"] = {"use": recipe.sampler.use, **recipe.sampler.options}
    target = plan_beside(output / "training")
    return read_training_recipe(
        completed(tables, recipe.folder, where, target, catalog, overwrite=overwrite, say=say), catalog
    )


def _predict(
    flow: Flow,
    trained: Trained,
    catalog: Catalog,
    image: Volume,
    mask: Labels | None,
    cell: Path,
    run: Run,
    overwrite: bool,
) -> tuple[Volume, Mapping[str, Volume]]:
    """Predict an image; returns the one on whose grid the maps are, and the map of each class."""
    assert flow.model is not None
    details = {
        **{key: trained.details[key] for key in ("model_options",) if key in trained.details},
        "model": flow.model.name,
        "weights": flow.weights or "trained here",
        "weights_sha256": trained.details["weights_sha256"],
    }
    output = cell / "predictions" / flow.model.name / "probability"
    images, options = Images([image], mask=mask), flow.predict
    found = predict_image(
        trained,
        images,
        output,
        run,
        _with_own_layers(options, cell),
        catalog,
        details=details,
        overwrite=overwrite,
    )
    return found.image, {of: found.maps[of] for of in classes_made(flow.model)}


def _own_layer(layer: str, cell: Path) -> str:
    """Resolve the name of a layer: one outside of any container is the run's own."""
    return layer if ".zarr" in layer or layer == "none" else str(cell / layer)


def _segment(
    flow: Flow, catalog: Catalog, maps: Mapping[str, Volume], run: Run, overwrite: bool
) -> Mapping[str, Labels]:
    """Segment each map, beside it, as the model of its class says."""
    assert flow.model is not None
    return {
        of: segment(
            probability,
            Path(probability.path).with_name("segmentation"),
            run,
            model_of_class(catalog, flow.model, of),
            overwrite=overwrite,
        )
        for of, probability in maps.items()
    }


def _scored(flow: Flow, image: Volume, cell: Path) -> Mapping[str, Box]:
    """Say which part of each truth `[evaluate]` compares, before anything is trained or predicted."""
    if flow.evaluate is None:
        return {}
    truths = {of: open_labels(cell / "labels" / name) for of, name in flow.evaluate.truths.items()}
    return {of: part_in_common(flow.evaluate, truth, image) for of, truth in truths.items()}


def _evaluate(
    flow: Flow,
    catalog: Catalog,
    maps: Mapping[str, Volume],
    of: str,
    cell: Path,
    part: Box,
    folder: Path,
    run: Run,
    say: Say,
    overwrite: bool,
) -> None:
    assert flow.evaluate is not None
    assert flow.model is not None
    name = flow.evaluate.truths[of]
    truth, values = of or name, flow.evaluate.values_of(of)
    labels = open_labels(cell / "labels" / name, values=values)
    pair = Pair(truth, maps[of], labels, part, values=values)
    options = _with_own_layers(flow.evaluate, cell)
    # Reports in the output are the recipe's own: one of other things is replaced.
    found = evaluate(
        [pair],
        options,
        run,
        catalog,
        model=model_of_class(catalog, flow.model, of),
        folder=folder,
        title=f"Evaluation: {truth}",
        overwrite=True,
        anew=overwrite,
    )
    for row in found.scores:
        f1, precision, recall = (row[key] for key in ("f1", "precision", "recall"))
        say(f"{truth} at {row['threshold']:g}: F1 {f1:.4f}, precision {precision:.4f}, recall {recall:.4f}")
    say(f"evaluation: {found.page}")


def _with_own_layers(options: T, cell: Path) -> T:
    """Let options that name layers of the recipe's own cell ("mask", "labels/er") name them from anywhere."""
    cls: Any = type(options)
    named = {name: getattr(options, name) for name in path_options(cls)}
    own = with_paths(named, cls, lambda text, what: _own_layer(text, cell) if what == "layer" else text)
    changed: T = attrs.evolve(options, **own)  # type: ignore[misc]
    return changed
