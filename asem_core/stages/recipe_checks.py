"""What can be told of a recipe before the hours of work that would be wasted."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from asem_core.abilities import SeveralClasses
from asem_core.catalog import Catalog
from asem_core.cell.provenance import describe_plugin
from asem_core.cell.store import open_volume
from asem_core.errors import AsemError, BadInput, RecipeError, spelled_for_recipe
from asem_core.interfaces import Model, Source
from asem_core.paths import expand, named_paths
from asem_core.prediction.expected import averages, require_voxel_size, warn_of_other_steps
from asem_core.prediction.trained import expected_by, network_of, require_weights_of
from asem_core.pretrained import require_weights
from asem_core.recipe import Choice, Recipe, build
from asem_core.stages.preprocess import layer_names
from asem_core.volume import Box, Volume

if TYPE_CHECKING:
    from asem_core.built import EvaluateTable, Flow
    from asem_core.catalog import Catalog
    from asem_core.training.options import RegionOptions, TrainOptions


def require_whole(flow: Flow, name: str) -> None:
    """Refuse a recipe whose tables do not fit each other.

    Raises
    ------
    RecipeError
        The first mistake.
    """
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
        if not layer or Path(layer).name != layer or layer.startswith("."):
            raise RecipeError(
                f"{name}: labels.{layer} is not a possible name, because it becomes a layer of the cell. Choose a plain name."
            )
    for other in flow.others:
        if not other or other == "cell" or Path(other).name != other or other.startswith("."):
            raise RecipeError(
                f"{name}: others.{other} is not a possible name, because it becomes the folder {other}.zarr beside cell.zarr, which is "
                "the recipe's own image. Choose another plain name."
            )
    if flow.model is not None and flow.weights is None and recipe.train is None:
        raise RecipeError(
            f'{name}: [model] has no weights: add weights = "NAME" (asem models list) or a file, or a [train] table.'
        )
    if flow.weights is not None and not isinstance(flow.weights, str):
        raise RecipeError(f"{name}: option 'weights' @ model: expected text in quotes, got {flow.weights!r}")
    classes = classes_made(flow.model)
    if flow.evaluate is not None:
        for of, truth in flow.evaluate.truths.items():
            if of not in classes:
                raise RecipeError(f"{name}: {_classes_to_evaluate(flow.model, classes)}")
            if truth not in flow.labels:
                known = ", ".join(flow.labels) or "none"
                raise RecipeError(f"{name}: evaluate.truth is '{truth}', but [labels] has: {known}.")
    for number, choice in enumerate(recipe.analyze):
        if choice.of is not None and choice.of not in classes:
            known = ", ".join(filter(None, classes)) or "no classes"
            raise RecipeError(f"{name}: analyze[{number}]: of is '{choice.of}', but the model has: {known}.")
    if flow.export is not None:
        results = [str(Path(of, kind)) for of in classes for kind in ("segmentation", "probability")]
        made = [*results, "raw", *layer_names(flow.steps), *(f"labels/{n}" for n in flow.labels)]
        for layer in flow.export.layers:
            if layer not in made:
                raise RecipeError(f"{name}: export.layers names '{layer}', but the run makes: {', '.join(made)}.")


def classes_made(model: Model | None) -> tuple[str, ...]:
    """Name the classes that a model predicts a map of, each; ("",) where it is one organelle's."""
    return tuple(model.classes) if isinstance(model, SeveralClasses) else ("",)


def _classes_to_evaluate(model: Model | None, classes: Sequence[str]) -> str:
    """Say how `[evaluate]` names what is compared."""
    if classes == ("",):
        assert model is not None
        return f'the model {model.name} has no classes: [evaluate] takes one of [labels], truth = "NAME".'
    return (
        f"the model has the classes {', '.join(classes)}: in [evaluate], say which labels are the truth of each, "
        f'truth = {{ {classes[0]} = "NAME" }}, or the values of each in one of [labels], values = {{ {classes[0]} = [1] }}.'
    )


@spelled_for_recipe()
def require_inputs(flow: Flow, catalog: Catalog) -> None:
    """Check that the images and weights that a recipe names are there and fit, before any work; nothing is fetched.

    Raises
    ------
    RecipeError
        One is missing, or does not fit the model or the voxels that the recipe states; names its place in the recipe.
    """
    name = flow.recipe.path.name
    sources = {"source": flow.source}
    sources |= {f"labels.{n}": s for n, s in flow.labels.items()} | {f"others.{n}": s for n, s in flow.others.items()}
    choices = {"source": flow.recipe.source}
    choices |= {f"labels.{n}": c for n, c in flow.recipe.labels.items()}
    choices |= {f"others.{n}": c for n, c in flow.recipe.others.items()}
    _require_paths(flow, sources)
    if flow.export is not None:
        try:
            flow.export.writer(catalog, f"result{flow.export.ending}")
        except AsemError as error:
            raise RecipeError.at(f"{name} @ export", error) from None
    opened = {place: _opened(source, choices[place], f"{name} @ {place}") for place, source in sources.items()}
    if flow.model is not None and flow.recipe.train is not None:
        from asem_core.training.preflight import wrong_block

        if wrong := wrong_block(network_of(flow.model), planned_training(flow.recipe).block):
            raise RecipeError(f"{name} @ train: {wrong}")
    if flow.weights is not None:
        try:
            if flow.model is None or flow.recipe.train is not None:
                # Training may begin with weights of another organelle.
                require_weights(flow.weights, flow.recipe.folder)
            else:
                require_weights_of(flow.model.name, flow.weights, flow.recipe.folder)
        except AsemError as error:
            raise RecipeError.at(f"{name} @ model", error) from None
        if flow.recipe.train is None:
            expected = expected_by(catalog, flow.weights, flow.recipe.folder)
            steps = [describe_plugin(step) for step in flow.steps]
            warn_of_other_steps("the recipe's image", steps, expected, as_is=flow.predict.as_is)
    for place in ("source", *(f"others.{n}" for n in flow.others)):
        try:
            require_voxels_expected(flow, opened[place], catalog)
        except AsemError as error:
            raise RecipeError.at(f"{name} @ {place}", error) from None


def _require_paths(flow: Flow, sources: Mapping[str, Source]) -> None:
    plugins: dict[str, Any] = dict(sources)
    plugins |= {f"preprocess[{i}]": step for i, step in enumerate(flow.steps)}
    plugins |= {f"analyze[{i}]": analyzer for i, analyzer in enumerate(flow.analyzers)}
    plugins |= {"predict": flow.predict} | ({} if flow.evaluate is None else {"evaluate": flow.evaluate})
    made = [*_layers_made(flow), "none"]
    for place, plugin in plugins.items():
        try:
            require_paths(plugin, later=made.__contains__)
        except AsemError as error:
            named = f"{plugin.name}, " if plugin is not flow.predict and plugin is not flow.evaluate else ""
            raise RecipeError(f"{flow.recipe.path.name} @ {place}: {named}", *error.args) from None


def require_paths(options: Any, later: Callable[[str], bool] = lambda _: False) -> None:
    """Check that what the options of a plugin or a stage name is there; `later` tells of a layer that it will be made first.

    Raises
    ------
    BadInput
        One is not; names the option.
    """
    for name, what, text in named_paths(options):
        if "://" in text or (what == "layer" and later(text)):
            continue
        if what == "layer":
            try:
                open_volume(text)
            except AsemError as error:
                raise BadInput(f"option '{name}': ", *error.args) from None
        elif not Path(text).exists():
            raise BadInput(f"option '{name}': {text} does not exist.")


def _layers_made(flow: Flow) -> list[str]:
    """Name the layers that a run makes in the recipe's own cell."""
    made = ["raw", *layer_names(flow.steps), *(f"labels/{n}" for n in flow.labels)]
    if flow.model is not None:
        folders = [Path("predictions", flow.model.name, of) for of in classes_made(flow.model)]
        made += [str(folder / layer) for folder in folders for layer in ("probability", "segmentation")]
    return made


def _opened(source: Source, choice: Choice, where: str) -> Volume:
    """Open what a recipe takes of a source: what it lacks, files or a voxel size, is told by itself."""
    try:
        volume = source.open(choice.layer)
        known = source.layers()
        if choice.box is not None:
            volume = volume.crop(Box.parse(choice.box, volume.shape))
    except AsemError as error:
        raise RecipeError.at(where, error) from None
    if " @ labels." in where and choice.layer is None and len(known) > 1:
        raise RecipeError(
            f'{where}: the source holds the layers {", ".join(known)}. Choose one: layer = "{known[-1]}".'
        )
    return volume


def train_options(recipe: Recipe, image: str, labels: Mapping[str, str]) -> TrainOptions:
    """Build the `[train]` table (see `train_table`); what it leaves open is as published."""
    from asem_core.training.options import TrainOptions, is_open, options_alone

    where, table = f"{recipe.path.name} @ train", train_table(recipe, image, labels)
    is_open(table, where)
    return build(TrainOptions, options_alone(table), where)


def train_table(recipe: Recipe, image: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Give the `[train]` table; its regions may name the recipe's labels, and take its image unless they name one."""
    where = f"{recipe.path.name} @ train"
    table = dict(recipe.train or {})
    for part in ("regions", "validation"):
        regions = table.get(part, [])
        if isinstance(regions, list) and all(isinstance(r, Mapping) for r in regions):
            table[part] = [_region(r, image, labels, recipe.folder, where) for r in regions]
    return table


def planned_training(recipe: Recipe) -> Any:
    """Build the `[train]` table before its image and labels are there: they are named for what they will be."""
    return train_options(recipe, "[source]", {n: place_of(n) for n in recipe.labels})


def place_of(labels: str) -> str:
    """Name labels of a recipe before they are there."""
    return f"[labels] {labels}"


def _region(
    region: Mapping[str, Any], image: str, labels: Mapping[str, str], folder: Path, where: str
) -> dict[str, Any]:
    def found(place: Any, key: str) -> Any:
        if isinstance(place, Mapping) and "use" not in place:  # a volume for each class
            return {name: found(one, f"{key}.{name}") for name, one in place.items()}
        if isinstance(place, str) and place in labels:
            return labels[place]
        if isinstance(place, str) and not (folder / expand(place, where)).exists():
            known = ", ".join(labels) or "none"
            raise RecipeError(f"{where}: {key} = '{place}' is neither a name of [labels] ({known}) nor a path.")
        return place

    own = {key: found(region[key], key) for key in ("labels", "mask", "exclusion") if key in region}
    return {"raw": image, **region, **own}


def require_unseen(options: EvaluateTable, truth: str, training: TrainOptions, name: str) -> None:
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
                f"{_named(region, number)}: its scores would be too good. Give one of them another box."
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
                    f"{name} @ train: the validation {_named(tested, number)} overlaps the training {_named(region, other)}: "
                    "its scores would be too good. Give one of them another box."
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
        if averages(expected) and not flow.predict.as_is:
            return
        require_voxel_size(image, expected, allow=flow.predict.allow_voxel_size)


def _box(text: str | None) -> Box:
    return Box.parse(text or ":,:,:")


def _named(region: RegionOptions, number: int) -> str:
    return f"region '{region.name or number}' ({region.box or 'all of the labels'})"
