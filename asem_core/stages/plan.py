"""The plan stage: from labels and the time there is to a complete training recipe, each line with its reason.

    labels -> fingerprint -> rules (`asem_core.training.settings`) -> one measured iteration -> recipe

The recipe is a file like any other: `asem train` takes it, people edit it.
"""

from __future__ import annotations

import math
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, cast

import attrs
import numpy as np

from asem_core.abilities import LearnsBoundaries, OffersTemplates, SeveralClasses, TellsTouchingApart
from asem_core.catalog import Catalog
from asem_core.cell.node import layers
from asem_core.cell.place import require_outside_cells
from asem_core.errors import OVERWRITE, BadInput, Option, OutputExists, quoted
from asem_core.heads import has_direction, stated_by
from asem_core.interfaces import Model, Region, Suited, Template
from asem_core.prediction.inference import is_out_of_memory
from asem_core.prediction.trained import model_of_class
from asem_core.pretrained import find_weights
from asem_core.recipe import Choice, build, build_choice
from asem_core.run_folder import RunFolder
from asem_core.stages.annotated import Annotated, classes_together, model_for, open_part, places_of
from asem_core.stages.as_trained import as_trained
from asem_core.stages.plan_recipe import asked, recipe_text, regions_of, together
from asem_core.stages.start import AUTO, f1_of, named_anywhere, nearest_start
from asem_core.stages.train import TrainingRecipe, set_up
from asem_core.temporary import temporary_folder, write_whole
from asem_core.training.fingerprint import Fingerprint, fingerprint_of_classes, num_touching, profiles_of, share_filled
from asem_core.training.given import Given, with_guesses
from asem_core.training.options import TrainOptions
from asem_core.training.preflight import seconds_per_iteration
from asem_core.training.settings import (
    ENOUGH,
    SPARSE,
    TEMPLATES,
    Length,
    Setting,
    Settings,
    Split,
    are_cells,
    block,
    choose_settings,
    even_odds,
    finer,
    iterations,
    num_checkpoints,
    smallest_object,
    uses_of_time,
)
from asem_core.training.setup import TrainingSetup
from asem_core.volume import Box, Zyx, as_zyx

TRAINING_SHARE = 0.95
"""Part of the time that is left after planning and goes into iterations and validation; the rest opens and reports."""

TIMED, TIMING_SHARE = 16, 0.04
"""Iterations that are timed, as the first few are slower than the rest; and the part of the time after which three are enough."""


@attrs.frozen
class PlanOptions:
    """What to plan for.

    Attributes
    ----------
    minutes
        Time for everything, on this machine.
    iterations
        Changes of the weights instead; then nothing is timed.
    seed
        Everything random follows from it.
    watch
        Set a part aside to watch; False learns from all.
    start_from
        Weights to begin with (a run, a file or a name of the registry): their network is taken. "auto" tries those of the registry that are
        here and fit (see `asem_core.stages.start`).
    guessed
        A classifier drew the labels: they do not say how thick objects are, or how small, or how rare.
    """

    minutes: float = 10.0
    iterations: int | None = None
    seed: int = 0
    watch: bool = True
    start_from: str | None = None
    guessed: bool = False

    def __attrs_post_init__(self) -> None:
        if not self.minutes > 0 or not np.isfinite(self.minutes):
            raise BadInput(Option("minutes"), f" is {self.minutes:g}; it must be above 0.")
        if self.iterations is not None and self.iterations < 1:
            raise BadInput(Option("iterations"), f" is {self.iterations}; it must be at least 1.")


@attrs.frozen
class TrainingPlan:
    """A recipe, what it was made from, and what it says."""

    found: Fingerprint
    settings: Settings
    text: str  # the recipe, TOML with reasons as comments


def plan(
    places: Sequence[Annotated],
    model: type[Model],
    catalog: Catalog,
    options: PlanOptions,
    clock: Callable[[], float] = time.perf_counter,
    measure: Callable[[TrainingSetup], float] | None = None,
    say: Callable[[str], None] = lambda line: None,
    given: Given | None = None,
) -> TrainingPlan:
    """Choose every setting of a training that is not given.

    Parameters
    ----------
    places : all of one voxel size
    model : the plugin to train; one that offers templates (`abilities.OffersTemplates`) gets the network that fits, another
        keeps its own
    clock : what time is measured by, in seconds; that of the processor makes a plan independent of other work
    measure : seconds that an iteration takes; by default some are run and timed
    say : is told what is done

    Raises
    ------
    BadInput
        There is nothing to learn (no object, no background), or no time.
    UnknownName
        There are no such weights.
    """
    begun, told = clock(), given or Given()
    said = {key: value for (table, key), value in told.values.items() if table == "model"}

    def opened() -> list[tuple[Annotated, Box, Region]]:
        return [(place, box, open_part(place, box, model, said, catalog)) for place in places for box in place.boxes]

    regions = opened()
    drawn = [region for *_, region in regions]
    for_cells = model.options_for_cells() if issubclass(model, LearnsBoundaries) else {}
    of_cells: list[Setting] = []
    if for_cells and all(said.get(key, value) == value for key, value in for_cells.items()):
        of_cells = are_cells(num_touching(drawn), share_filled(drawn), for_cells)
    elif SeveralClasses in model.__mro__ and "per_class" not in said:
        of_cells = _classes_of_cells(build(model, said, "plan @ model"), drawn, catalog)
    said |= {line.key: line.value for line in of_cells}
    regions = opened() if of_cells else regions
    found = fingerprint_of_classes([region for *_, region in regions])
    profiles = [profiles_of(region) for *_, region in regions]
    templates = {name: _network(model, name) for name in TEMPLATES}
    its_network = {key for options_ in templates.values() for key in options_}
    own, annotated = [place for place, *_ in regions], [box for _, box, _ in regions]
    built = build(model, said, "plan @ model")
    small = [] if options.guessed else smallest_object(found, built)

    def chosen_at(downsample: Sequence[int] | None, given: Given) -> Settings:
        apart = issubclass(model, TellsTouchingApart) and not given.network(its_network)
        settings = choose_settings(
            found,
            annotated,
            profiles,
            templates,
            lambda kind: sampler_for(kind, catalog),
            cast(type[TellsTouchingApart], model).touching_options if apart else None,
            watch=given.validated if given.validation else options.watch,
            downsample=downsample,
        )
        network = templates[settings.template]
        lines = [*given.over(_mirrors(settings.lines, model, given), network), *given.over([*of_cells, *small], ())]
        if given.values.get(("train.loss", "balance"), True):
            lines = together(lines, given.over(even_odds(found, lines, built), ()))
        lines += given.others([*lines, *_length(1, ""), Setting("train", "block", 0)])
        settings = attrs.evolve(settings, lines=lines, split=_apart(settings.split, own))
        return attrs.evolve(settings, lines=[*lines, *given.over(_block(settings, model), network)])

    def set_up_of(tried: Settings, given: Given, scratch: Path, weights: str | None = None) -> TrainingSetup:
        recipe = _recipe(_tables(tried, own, options, given), model, catalog)
        return set_up(recipe, catalog, RunFolder(scratch), None if weights is None else find_weights(weights))

    def begun_with(weights: str) -> Given:
        return as_trained(told, model, weights, its_network, found.voxel_size_nm, catalog)

    def found_by(weights: str) -> float | None:
        its = begun_with(weights)
        tried = chosen_at(its.values.get(("train", "downsample")), its)
        with temporary_folder() as scratch:
            return f1_of(set_up_of(tried, its, scratch, weights)) if tried.split.watched else None

    start, why_start = options.start_from, "as asked for"
    if start == AUTO:
        start, why_start = nearest_start(model.name, found, catalog, found_by, say)
    given = told if start is None else begun_with(start)
    given = with_guesses(given, model, found.voxel_size_nm, annotated) if options.guessed else given
    asked_for = given.values.get(("train", "downsample"))
    settings = chosen_at(asked_for, given)
    if options.iterations is None:
        enough_s = TIMING_SHARE * 60 * options.minutes
        measure = measure or partial(seconds_per_iteration, num_iterations=TIMED, clock=clock, enough_s=enough_s)

        def seconds_each(tried: Settings) -> float:
            with temporary_folder() as scratch:
                return measure(set_up_of(tried, given, scratch))

        def in_time(tried: Settings) -> tuple[Settings, Length]:
            network = templates[tried.template]
            may_grow = not given.network(network) and ("train", "batch") not in given.values
            return _in_time(tried, model if may_grow else None, seconds_each, options.minutes * 60 + begun, clock)

        say("Measuring how long an iteration takes")
        settings, length = in_time(settings)
        while length.time_is_left and asked_for is None and (step := finer(found, settings.downsample)):
            smaller, its = in_time(chosen_at(step, given))
            if its.iterations < length.iterations:
                break
            settings, length = smaller, its
    else:
        length = Length(options.iterations, "as asked for")
    number, why, chosen = length.iterations, length.why, templates[settings.template]
    lines = [*settings.lines, *given.over(_length(number, why), chosen)]
    lines += [] if start is None else [Setting("train", "start_from", named_anywhere(start), why_start)]
    settings = attrs.evolve(settings, lines=lines)
    return TrainingPlan(found, settings, recipe_text(model.name, settings, own, options, given))


def _classes_of_cells(whole: Any, regions: Sequence[Region], catalog: Catalog) -> list[Setting]:
    """Let classes of several whose own model learns what lies between cells learn from cells, where their labels are these."""
    found: list[Setting] = []
    for name in whole.classes:
        own = model_of_class(catalog, whole, name)
        if isinstance(own, LearnsBoundaries):
            drawn = [region.classes[name] for region in regions if name in region.classes]
            found += are_cells(num_touching(drawn), share_filled(drawn), {name: own.options_for_cells()})
    return [Setting("model", "per_class", {line.key: line.value for line in found}, found[0].why)] if found else []


def _network(model: type[Model], template: Template, width: int = 1) -> Mapping[str, Any]:
    """Ask a model for its options for a template; one that offers none keeps its own network."""
    if not issubclass(model, OffersTemplates):
        return {}
    return cast(type[OffersTemplates], model).network_options(template, width)


def _mirrors(lines: Sequence[Setting], model: type[Model], given: Given) -> list[Setting]:
    """Try no mirrors where a map looks otherwise in them."""
    told = {key: value for (table, key), value in given.values.items() if table == "model"}
    if not has_direction(stated_by(build(model, told, "plan @ model").network())):
        return list(lines)
    why = "affinities look otherwise in a mirror"
    return [attrs.evolve(line, value=False, why=why) if line.key == "choose_mirrors" else line for line in lines]


def _in_time(
    settings: Settings,
    model: type[Model] | None,
    seconds_each: Callable[[Settings], float],
    end: float,
    clock: Callable[[], float],
) -> tuple[Settings, Length]:
    """Fit a training into the time until `end`: with a wider network, or more blocks an iteration, where there is enough of it.

    Without a `model`, network and blocks stay as they are.

    Raises
    ------
    BadInput
        There is not even time for a few iterations.
    """
    begun = clock()

    def left() -> float:
        return (end - clock()) * TRAINING_SHARE

    each = seconds_each(settings)
    if left() < 10 * each:
        needed = max(2, round(each + (clock() - begun) / 60))
        raise BadInput(
            f"The time is too short: an iteration takes {each:.2g} s here, and {max(0.0, left()):.0f} s are left after planning. "
            "Give more: ",
            Option("minutes", needed),
        )
    for width, batch in uses_of_time(settings.few):
        network = {} if model is None else _network(model, settings.template, width)
        if not network or left() < 2 * ENOUGH * each:
            break
        larger = settings.with_more(network, batch)
        try:
            its = seconds_each(larger)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            break
        if left() < ENOUGH * its:
            break
        settings, each = larger, its
    train = settings.table()["train"]
    annotated = settings.found.num_annotated_vx // math.prod(settings.downsample)
    return settings, iterations(left(), each, annotated, math.prod(train["block"]) * train.get("batch", 1))


def _apart(split: Split, places: Sequence[Annotated]) -> Split:
    """Learn from no box that overlaps a watched one: boxes of one layer may."""

    def touches(number: int, box: Box) -> bool:
        return any(
            places[number] == places[i] and not (box & watched).is_empty for i, watched in split.watched if i != number
        )

    return attrs.evolve(split, learnt=[(i, b) for i, b in split.learnt if not touches(i, b)])


def _block(settings: Settings, model: type[Model]) -> list[Setting]:
    """Take the block nearest to the wished one that the network can give, no larger than what is learnt from."""
    options = settings.table().get("model", {})
    network: Any = build(model, options, "plan @ model").network()
    if not settings.split.learnt:
        raise BadInput(
            "All annotated boxes overlap the part set aside for validation: annotate another box that does not."
        )
    learnt = max((box for _, box in settings.split.learnt), key=lambda b: b.size)
    most = [max(1, n // f) for n, f in zip(learnt.shape, settings.downsample, strict=True)]
    wished = block(settings.template, settings.found)
    if settings.found.share_annotated >= SPARSE:  # the image around strokes is there to be seen
        wished = as_zyx([min(n, m) for n, m in zip(wished, most, strict=True)])
    fitting: Zyx = network.output_shape(network.input_shape(wished))
    return [
        Setting(
            "train", "block", list(fitting), "small blocks fit into the processor's cache, so more of the data is seen"
        )
    ]


def _length(number: int, why: str) -> list[Setting]:
    every = -(-number // num_checkpoints(number))
    return [
        Setting("train", "iterations", number, why),
        Setting("train", "checkpoint_every", every),
        Setting("train", "keep_last", 3),
        Setting("train", "validation_blocks", 8),
        Setting("train", "fit_window", max(1, number // 3)),
        Setting("train.optimizer", "warmup", min(50, number // 10), "a tenth of the time at most"),
    ]


def _tables(settings: Settings, places: Sequence[Annotated], options: PlanOptions, given: Given) -> dict[str, Any]:
    """Give the tables of a recipe, of any length."""
    tables = attrs.evolve(settings, lines=[*settings.lines, *_length(100, "")]).table()
    tables["train"] |= regions_of(settings, places, given) | {"seed": options.seed}
    return tables


def _recipe(tables: Mapping[str, Any], model: type[Model], catalog: Catalog) -> TrainingRecipe:
    sampler = dict(tables["sampler"])
    return TrainingRecipe(
        build(model, tables.get("model", {}), "plan @ model"),
        build_choice(catalog, "sampler", Choice(sampler.pop("use"), sampler), "plan @ sampler"),
        build(TrainOptions, tables["train"], "plan @ train"),
        Path(),
    )


# --- what a person names ------------------------------------------------------------------------------------------


def sampler_for(kind: Suited, catalog: Catalog) -> str:
    """Name the sampler that says that it suits a kind of image or labels, or the default."""
    suited = [o.name for o in catalog.offers if o.kind == "sampler" and kind in o.cls.suits]
    return suited[0] if suited else catalog.default("sampler")


def write_plan(
    cells: Sequence[Path],
    labels: str | None,
    catalog: Catalog,
    options: PlanOptions,
    recipe: Path | None,
    *,
    model: str | None = None,
    raw: str | None = None,
    overwrite: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> str:
    """Make a plan for the labels of cells and write it to `recipe`, unless it is there; return its text.

    Parameters
    ----------
    labels : the layer `labels/<this>`, or its whole name; several, "mito,er", are learnt by one network, a class each
    recipe : None writes nothing
    model : by default the one that the labels are named after; of several, the first that learns several classes
    overwrite : keep another recipe of that name under a new one
    say : is told what is done

    Raises
    ------
    OutputExists
        The recipe that is there was made for other data or options, or boxes were annotated since.
    BadInput, UnknownName
        There are no such labels, or no model is known for them.
    """
    if labels is None:
        known = [n.removeprefix("labels/") for n in layers(cells[0]) if n.startswith("labels/")]
        raise BadInput(
            f"Name the labels to train on ({cells[0]} has: {', '.join(known) or 'none'}): ",
            Option("labels", shown="NAME"),
        )
    several = {Path(n).name: places_of(cells, n, raw) for n in labels.split(",")}
    if len(several) > 1:
        name = model or catalog.all_able("model", SeveralClasses)[0].name
        places, given = classes_together(several), Given({("model", "classes"): list(several)})
    else:
        name, places, given = model or model_for(labels, catalog), *several.values(), Given()
    kept = None
    if recipe is not None:
        require_outside_cells(recipe)
    if recipe is not None and recipe.exists():
        text = recipe.read_text(encoding="utf-8")
        if not overwrite:
            if asked(name, places, options) in text.splitlines():
                say(f"{recipe}: the plan made before for the same labels is used; {OVERWRITE} makes a new one")
                return text
            raise OutputExists(
                f"{recipe} was made for other data or options, or boxes were annotated since. For a new plan choose another output, or add ",
                OVERWRITE,
                f", which keeps the recipe under another name. To train with it: asem train {quoted(recipe)}",
            )
        kept = next(k for n in count(1) if not (k := recipe.with_suffix(f".{n}.toml")).exists())
    for place in places:
        boxes = "1 box" if len(place.boxes) == 1 else f"{len(place.boxes)} boxes"
        say(f"Training {name} on {place.labels} ({boxes}) and {place.raw}")
    text = plan(places, catalog.get("model", name), catalog, options, given=given, say=say).text
    if recipe is not None:
        if kept is not None:
            with write_whole(kept) as half:
                shutil.copyfile(recipe, half)
            say(f"{kept}: the previous recipe")
        with write_whole(recipe) as half:
            half.write_text(text, encoding="utf-8")
        say(f"{recipe}: the plan, each line with its reason")
    return text
