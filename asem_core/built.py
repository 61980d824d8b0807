"""A recipe, built: every plugin and every table of it, checked before any work starts."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import attrs

from asem_core.abilities import WritesVolumes
from asem_core.catalog import Catalog
from asem_core.errors import AsemError
from asem_core.interfaces import Analyzer, Model, Preprocessor, Sampler, Source
from asem_core.paths import resolved, with_paths
from asem_core.recipe import Choice, Recipe, build, build_choice
from asem_core.stages.evaluate import EvaluateOptions
from asem_core.stages.predict import PredictOptions
from asem_core.stages.recipe_checks import (
    place_of,
    planned_training,
    require_apart,
    require_unseen,
    require_whole,
)
from asem_core.stages.train import model_table
from asem_core.training.options import is_open

T = TypeVar("T")


@attrs.frozen(kw_only=True)
class EvaluateTable(EvaluateOptions):
    """The `[evaluate]` table: compare the prediction with the recipe's labels.

    What is trained on is refused; an open side of the box ends where truth and image do.

    Attributes
    ----------
    truth
        A name of `[labels]`; of a model of several classes a table with one for each class that is compared.
    values
        Values of the truth that are the object, where it holds others, too; of several classes a table as in `[[train.regions]]`.
    """

    truth: str | Mapping[str, str]
    values: tuple[int, ...] | Mapping[str, tuple[int, ...]] | None = None

    @property
    def truths(self) -> Mapping[str, str]:
        """The labels that each class is compared with; "" is a model's only one."""
        if not isinstance(self.truth, str):
            return self.truth
        return dict.fromkeys(self.values, self.truth) if isinstance(self.values, Mapping) else {"": self.truth}

    def values_of(self, name: str) -> tuple[int, ...] | None:
        """The label values of a class; None where all but 0 are."""
        return self.values.get(name) if isinstance(self.values, Mapping) else self.values


@attrs.frozen
class ExportOptions:
    """The `[export]` table: write results in the place of the original stack.

    Attributes
    ----------
    layers
        Which results: "segmentation", "probability", of several classes "mitochondria/segmentation"; or a layer of the run's cell
        such as "raw_clahe".
    ending
        Of the files' names, which says the format: ".h5", ".mrc". Without one, planes named as the original's.
    use
        Source plugin that writes them; None: as the ending says.
    """

    layers: tuple[str, ...] = ("segmentation",)
    ending: str = ""
    use: str | None = None

    def writer(self, catalog: Catalog, path: str) -> WritesVolumes:
        """Build the plugin that writes to a path."""
        from asem_core.stages.export import choose_writer

        return choose_writer(catalog, path, self.use, {})


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
    evaluate: EvaluateTable | None
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
    predict = dict(recipe.predict)
    if recipe.train is not None and is_open(recipe.train, f"{name} @ train"):
        predict.setdefault("resample", True)  # at which voxel size the network works is chosen with the rest
    flow = Flow(
        recipe,
        plugin("source", recipe.source, "source"),
        {n: plugin("source", c, f"labels.{n}") for n, c in recipe.labels.items()},
        {n: plugin("source", c, f"others.{n}") for n, c in recipe.others.items()},
        [plugin("preprocessor", c, f"preprocess[{i}]") for i, c in enumerate(recipe.preprocess)],
        plugin("model", with_options_of(weights, recipe.model.use, model_options, recipe), "model")
        if recipe.model
        else None,
        weights,
        plugin("sampler", recipe.sampler or Choice(catalog.default("sampler")), "sampler"),
        _table(PredictOptions, predict, recipe, f"{name} @ predict"),
        None if recipe.evaluate is None else _table(EvaluateTable, recipe.evaluate, recipe, f"{name} @ evaluate"),
        [plugin("analyzer", c, f"analyze[{i}]") for i, c in enumerate(recipe.analyze)],
        build(ExportOptions, recipe.export, f"{name} @ export") if recipe.export is not None else None,
    )
    require_whole(flow, name)
    if recipe.train is not None:
        training = planned_training(recipe)
        require_apart(training, name)
        if flow.evaluate is not None:
            for truth in flow.evaluate.truths.values():
                require_unseen(flow.evaluate, place_of(truth), training, name)
    return flow


def with_options_of(weights: Any, use: str, options: Mapping[str, Any], recipe: Recipe) -> Choice:
    """Choose the model with the options that its weights were trained with, where the recipe gives no others."""
    table: dict[str, Any] = {"use": use, **options}
    if isinstance(weights, str):
        with contextlib.suppress(AsemError):  # weights that are not there are told where all inputs are checked
            table = dict(model_table(table, weights, recipe.folder))
    return Choice(table.pop("use"), table)


def _table(cls: type[T], table: Mapping[str, Any], recipe: Recipe, where: str) -> T:
    """Build the options of a stage; layers that they name are relative to the recipe, or of the run's own cell."""

    def place(text: str, _: str) -> str:
        return resolved(text, recipe.folder, where) if ".zarr" in text else text

    return build(cls, with_paths(table, cls, place), where)
