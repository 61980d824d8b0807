"""One round of learning: from the strokes of a snapshot to settings, and to a network's weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import tomlkit

from asem_core.catalog import Catalog
from asem_core.errors import BadInput, Option, TrainingStopped
from asem_core.interfaces import Model
from asem_core.progress import still_at
from asem_core.run_folder import RunFolder, saved_whole
from asem_core.stages.annotated import Annotated, as_table
from asem_core.stages.plan import PlanOptions, plan
from asem_core.stages.train import read_training_recipe, set_up
from asem_core.temporary import temporary_folder
from asem_core.training.fingerprint import box_text
from asem_core.training.preflight import preflight, seconds_per_iteration
from asem_core.training.rounds import Round
from asem_core.volume import Box

CORRECTIONS_COUNT = 3
"""Blocks are drawn this often as often around a stroke that contradicts the map that was shown when it was painted."""

LEAST_ITERATIONS = 10

LONG = 200
"""Iterations after which a round that goes on saves what it has learnt; to start a shorter one again costs less."""


@attrs.frozen
class LoopOptions:
    """How a session learns.

    Attributes
    ----------
    model
        Plugin to train; by default the one that the strokes are named after.
    raw
        Image layer; by default what `asem prepare` made.
    start_from
        Weights of the first round: a file, a run or a name of the registry; by default none.
    round_s
        Seconds of learning in a round.
    iterations
        Changes of the network's weights in a round, instead of a time.
    seed, device
        As in `train`.
    """

    model: str | None = None
    raw: str | None = None
    start_from: str | None = None
    round_s: float = 45.0
    iterations: int | None = None
    seed: int = 0
    device: str = "auto"

    def __attrs_post_init__(self) -> None:
        if not 0 < self.round_s < float("inf"):
            raise BadInput(f"A round takes {self.round_s:g} s; it must be above 0.")
        if self.iterations is not None and self.iterations < 1:
            raise BadInput(Option("iterations"), f" is {self.iterations}; it must be at least 1.")


@attrs.frozen
class Lesson:
    """What a round is learnt from.

    Attributes
    ----------
    what : image, what is labelled or painted, and the boxes of it, all in `cell`
    start : weights to begin with
    goes_on : whether these are of a round before, of the same network
    rounds : those before
    pseudo : whether it was labelled by a classifier
    """

    cell: Path
    what: Annotated
    model: type[Model]
    corrections: Sequence[Box]
    start: Path | None
    goes_on: bool
    rounds: Sequence[Round]
    pseudo: bool = False


@attrs.frozen
class Learnt:
    """What came of it: weights, or why there are none."""

    weights: Path | None
    iterations: int
    stopped: str | None = None


def learn_round(lesson: Lesson, folder: RunFolder, catalog: Catalog, options: LoopOptions, *, progress: bool) -> Learnt:
    """Train the network of a round in `folder`, or go on where it was stopped; how long was settled when it was begun.

    Raises
    ------
    BadInput
        See `asem_core.training.preflight`.
    NoSpace
        The disk is full.
    """
    from asem_core.training.devices import join_processes
    from asem_core.training.loop import learn

    file = folder.path / "recipe.toml"
    if not file.exists():
        with still_at("choose settings", shown=progress):
            text = _settings(lesson, folder, catalog, options)
        folder.path.mkdir(parents=True, exist_ok=True)
        with saved_whole(file) as half:
            half.write_text(text, encoding="utf-8")
    recipe = read_training_recipe(file, catalog, lesson.cell, lesson.start)
    number = recipe.options.iterations
    if folder.saved_iterations()[-1:] == [number] and (folder.path / "choice.json").exists():
        return Learnt(folder.chosen(), number)
    setup = set_up(recipe, catalog, folder, lesson.start, begun=folder.state.is_file())
    preflight(setup, folder.path).require()
    try:
        with join_processes(options.device) as processes:
            learn(setup, folder, processes, resume=True, progress=progress, go_on_from=_state_beside(lesson))
    except TrainingStopped as error:
        return Learnt(None, number, str(error))
    return Learnt(folder.chosen(), number)


def _state_beside(lesson: Lesson) -> Path | None:
    """Find the state that the weights of a round before were saved with, if the network is the same still."""
    if not lesson.goes_on or lesson.start is None:
        return None
    state = lesson.start.parents[1] / "state.pt"
    return state if state.exists() else None


def _settings(lesson: Lesson, folder: RunFolder, catalog: Catalog, options: LoopOptions) -> str:
    """Choose the settings of a round: a recipe, whose paths are relative to the cell. They are those of the first round.

    Only what is learnt from changes, how long, and the seed; after a round that went wrong, the steps are smaller.
    """
    first = folder.path.parents[1] / "001/network/recipe.toml"
    if lesson.rounds and first.exists():
        recipe: Any = tomlkit.parse(first.read_text(encoding="utf-8"))
    else:
        start = None if lesson.start is None else str(lesson.start)
        wanted = PlanOptions(iterations=LEAST_ITERATIONS, watch=False, start_from=start, guessed=lesson.pseudo)
        recipe = tomlkit.parse(plan([lesson.what], lesson.model, catalog, wanted).text)
    train = recipe["train"]
    train.pop("start_from", None)  # each round starts from those of the round before
    train["seed"], train["regions"] = options.seed + len(lesson.rounds), tomlkit.item(_regions(lesson))
    train["optimizer"]["learning_rate"] *= 0.5 ** sum(1 for r in lesson.rounds[-3:] if r.stopped)
    iterations = options.iterations
    if iterations is None:
        iterations = max(LEAST_ITERATIONS, int(options.round_s / _seconds_each(recipe, lesson, folder, catalog)))
    train["iterations"] = iterations
    train["checkpoint_every"] = iterations if iterations < 2 * LONG else -(-iterations // (iterations // LONG))
    train["optimizer"]["warmup"] = min(50, iterations // 10)
    return tomlkit.dumps(recipe)


def _regions(lesson: Lesson) -> list[dict[str, str]]:
    """Name what is learnt from; what is drawn more often, more often. Paths are relative to the cell."""
    within = f"{lesson.cell.resolve()}/"

    def table(box: Box) -> dict[str, str]:
        return {key: value.removeprefix(within) for key, value in as_table(lesson.what, box).items()}

    again = [
        {**table(box), "name": f"correction {box_text(box)}, {number}"}
        for box in lesson.corrections
        for number in range(1, CORRECTIONS_COUNT)
    ]
    return [*(table(box) for box in lesson.what.boxes), *again]


def _seconds_each(recipe: Any, lesson: Lesson, folder: RunFolder, catalog: Catalog) -> float:
    """Say how long an iteration takes: as in the last round that got to any, or as it is measured now."""
    for last in reversed(lesson.rounds):
        lines = RunFolder(folder.path.parents[1] / f"{last.number:03}" / "network").read_metrics("train")
        if lines:
            return float(1 / np.median([line["iterations_per_s"] for line in lines]))
    with temporary_folder() as scratch:
        draft = scratch / "recipe.toml"
        draft.write_text(tomlkit.dumps(recipe), encoding="utf-8")
        training = read_training_recipe(draft, catalog, lesson.cell, lesson.start)
        return seconds_per_iteration(set_up(training, catalog, RunFolder(scratch), lesson.start), 3)
