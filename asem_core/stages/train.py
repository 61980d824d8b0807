"""Train a network: from a recipe to a folder with checkpoints, scores and a report.

    recipe -> regions -> preflight -> loop (sample, augment, learn, validate) -> choice of checkpoint -> report

The procedure is that of Gallusser et al. 2022; `asem_core.training` holds its parts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs

from asem_core.abilities import CutsByThreshold, SeveralClasses
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.outputs import one_writer
from asem_core.cell.provenance import describe_plugin, differences, made_by, options_to_build, steps_done
from asem_core.cell.store import open_volume
from asem_core.errors import OVERWRITE, OutputExists, RecipeError, UnknownName, quoted
from asem_core.files import sha256
from asem_core.heads import classes_of, require_classes, stated_by
from asem_core.interfaces import Model, Region, Sampler
from asem_core.paths import expand
from asem_core.prediction.trained import model_of_class, network_of, options_of, require_steps
from asem_core.pretrained import find_weights
from asem_core.progress import say
from asem_core.recipe import Choice, build, build_choice, read_toml
from asem_core.run_folder import RunFolder, saved_whole
from asem_core.stages.mergers import choose_merge_below, ids_of
from asem_core.temporary import temporary_folder
from asem_core.training.classes import open_classes, with_class_labels
from asem_core.training.options import TrainOptions, is_open, options_alone
from asem_core.training.regions import file_names, hold
from asem_core.training.setup import TrainingSetup
from asem_core.training.targets import parts_of
from asem_core.volume import Volume
from asem_core.voxels.greys import grey_percentiles

if TYPE_CHECKING:
    from asem_core.training.preflight import Preflight


@attrs.frozen
class TrainingRecipe:
    """What to train, how blocks are drawn, and everything else; relative paths in it are relative to `folder`."""

    model: Model
    sampler: Sampler
    options: TrainOptions
    folder: Path
    path: Path | None = None


def read_training_recipe(
    path: str | Path,
    catalog: Catalog,
    folder: Path | None = None,
    start_from: str | Path | Mapping[str, Any] | None = None,
) -> TrainingRecipe:
    """Read the tables `[model]`, `[sampler]` (optional) and `[train]` of a recipe; other tables are other stages'.

    Relative paths in it are relative to `folder`, by default the recipe's own. Weights to fine-tune, a file or a name of the
    registry (or a model as a run has noted it) say what `[model]` does not: which model it is, and its options.

    Raises
    ------
    RecipeError
        A table is missing, or holds an unknown or wrong option; the message says which.
    """
    path = Path(path).resolve()
    folder = folder or path.parent
    table = read_toml(path)
    if start_from is not None:
        table["model"] = model_table(table.get("model", {}), start_from)
    elif isinstance(table.get("train"), dict) and isinstance(begins := table["train"].get("start_from"), str):
        with suppress(UnknownName):  # of a run that has begun, they may be gone
            table["model"] = model_table(table.get("model", {}), begins, folder)
    for needed in ("model", "train"):
        if not isinstance(table.get(needed), dict):
            raise RecipeError(f"{path.name}: the table [{needed}] is missing.")
    plugins = {}
    for kind in ("model", "sampler"):
        options = dict(table.get(kind, {"use": catalog.default("sampler")}))
        use = options.pop("use", None)
        if not isinstance(use, str):
            raise RecipeError(f'{path.name}: {kind} does not name a plugin: add use = "...".')
        plugins[kind] = build_choice(catalog, kind, Choice(use, options), f"{path.name} @ {kind}")
    where = f"{path.name} @ train"
    numbers = build(TrainOptions, options_alone(table["train"]), where)
    if is_open(table["train"], where):
        raise RecipeError(
            f"{where}: it does not say how long to train. Add iterations = 1000, or use `asem train`, which chooses."
        )
    return TrainingRecipe(plugins["model"], plugins["sampler"], numbers, folder, path)


def model_table(table: Any, start_from: str | Path | Mapping[str, Any], folder: Path | None = None) -> Any:
    """Complete the `[model]` table of a recipe by what the weights that it starts from say of their model."""
    if isinstance(start_from, Mapping):  # what a run noted of its model
        known = {"use": start_from["name"], **options_to_build(start_from)}
    else:
        known = options_of(start_from, folder)
    if not isinstance(table, dict) or table.get("use", known.get("use")) != known.get("use"):
        return table  # weights of another organelle: which of their options belong to the network is not known
    return {**known, **table}


_RECIPE_FOLDER = "recipe_folder"
"""Kept beside what a run is made of: what the relative paths of its recipe are relative to."""


def resumed_recipe(run: str | Path, catalog: Catalog) -> TrainingRecipe:
    """Read the recipe that a run was started with.

    Raises
    ------
    BadInput
        `run` is not the folder of a training run.
    """
    folder = RunFolder(Path(run))
    known = folder.read_json("provenance.json")
    return read_training_recipe(folder.path / "recipe.toml", catalog, Path(known[_RECIPE_FOLDER]), known["model"])


def resume(
    run: str | Path, catalog: Catalog, *, device: str = "auto", overwrite: bool = False, progress: bool = True
) -> RunFolder:
    """Go on with a run that was stopped, exactly as it would have gone on; errors are those of `train`."""
    start = RunFolder(Path(run)).read_json("provenance.json")["start_from"]
    return train(
        resumed_recipe(run, catalog),
        catalog,
        run,
        start_from=start and start["path"],
        resume=True,
        overwrite=overwrite,
        device=device,
        progress=progress,
    )


def train(
    recipe: TrainingRecipe,
    catalog: Catalog,
    output: str | Path,
    *,
    start_from: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "auto",
    progress: bool = True,
    go_on_with: str | None = None,
) -> RunFolder:
    """Train as a recipe says, into the folder `output`.

    Parameters
    ----------
    start_from
        Weights to fine-tune: a `.safetensors` or `.pt` file, a run's folder (of which the first checkpoint of the fit regime
        is taken), or a name of the registry. None: those that the recipe names, or random ones.
    resume
        Go on with a run that must be there. Without it, too, the same run in `output` goes on where it was stopped; the result
        is the same as without the stop.
    overwrite
        Replace another run in `output`.
    device
        "auto", "cpu", "cuda", "cuda:1" or "mps".
    go_on_with
        What to tell somebody who stops the run to go on with; by default `asem train --resume`.

    Raises
    ------
    OutputBusy
        Another process trains into `output` now.
    OutputExists
        `output` holds a run that was made from something else and `overwrite` is False; or other files, among which no run
        is ever made.
    BadInput
        The run would waste the time; the message says why.
    TrainingStopped, NoSpace
        See `asem_core.training.loop.learn`.
    """
    from asem_core.training.devices import join_processes
    from asem_core.training.loop import learn
    from asem_core.training.preflight import preflight
    from asem_core.training.report import write_training_report

    folder = RunFolder(Path(output))
    beside = None
    if start_from is None and recipe.options.start_from is not None:
        start_from, beside = recipe.options.start_from, recipe.folder
    resume = resume or (folder.is_run() and not overwrite)
    with join_processes(device) as processes, one_writer(folder.path) if processes.leads else nullcontext():
        if not processes.leads:
            processes.wait()  # until the first process has prepared the labels
        elif not resume:
            folder.require_own(recipe.path)
            folder.forget_prepared()
        begun = resume and folder.state.is_file()
        if start_from is not None and not begun:  # of a run that has begun, they are not needed, and may be gone
            start_from = find_weights(str(start_from), beside, choice="finetune_from")
        try:
            setup = set_up(recipe, catalog, folder, start_from, begun=begun)
        except OutputExists:
            if not resume:
                raise
            raise _begun_otherwise(folder, ["the labels, edited since"]) from None
        start = None if start_from is None else _describe_start(start_from, folder, begun=begun)
        record = _record(recipe, setup, start, processes.size)
        if processes.leads:
            preflight(setup, folder.path).require()
            _claim(folder, recipe, record, resume=resume)
            processes.wait()
        if resume and _is_finished(folder, recipe.options):
            return folder
        try:
            learn(setup, folder, processes, resume=resume, progress=progress)
            if processes.leads and recipe.options.choose_threshold:
                watched = ids_of(recipe.model, recipe.options, setup.validation, catalog, recipe.folder)
                if watched:
                    if progress:
                        say("train: Choosing how far fragments are merged, on the validation part")
                    choose_merge_below(folder, watched, catalog, str(processes.device))
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_what_is_kept(folder, go_on_with)) from None
        if processes.leads:
            if progress:
                say("train: Writing the report")
            write_training_report(folder, setup, record)
        processes.wait()  # what follows may read what the first process wrote
    return folder


@attrs.frozen
class Checked:
    """What is known of a training before it begins.

    Attributes
    ----------
    found : what is wrong or worth a note, and facts of each region
    seconds : what the iterations will take here; None where that was not measured
    """

    found: Preflight
    seconds: float | None


def check(recipe: TrainingRecipe, catalog: Catalog, output: Path, *, timed: bool = True) -> Checked:
    """Check a training recipe before hours are spent: regions, labels, context, disk, memory and, if `timed`, time."""
    from asem_core.training.preflight import preflight, seconds_per_iteration

    with temporary_folder() as scratch:  # a run may be under way in the folder itself
        setup = set_up(recipe, catalog, RunFolder(scratch))
        found = preflight(setup, output)
        seconds = None
        if timed and not found.is_refused:
            seconds = seconds_per_iteration(setup) * recipe.options.iterations
    return Checked(found, seconds)


def _is_finished(folder: RunFolder, options: TrainOptions) -> bool:
    """Tell whether nothing is left to do: the report is the last that a run writes."""
    return folder.saved_iterations()[-1:] == [options.iterations] and (folder.path / "report.html").exists()


def _what_is_kept(folder: RunFolder, go_on_with: str | None) -> str:
    saved = folder.saved_iterations()
    kept = (
        f"Stopped. The training up to the checkpoint of iteration {saved[-1]} is kept"
        if saved
        else "Stopped before the first checkpoint: nothing of the training is kept"
    )
    return f"{kept}. To resume: {go_on_with or f'asem train --resume {quoted(folder.path)}'}"


def set_up(
    recipe: TrainingRecipe,
    catalog: Catalog,
    folder: RunFolder,
    start_from: str | Path | None = None,
    *,
    begun: bool = False,
) -> TrainingSetup:
    """Open the regions, prepare their labels (in `folder`, unless they are there), and build the network with its first weights.

    If the run has `begun`, its state holds the weights: those it started from are not read, and may be gone.
    """
    from asem_core.training.loop import initialise
    from asem_core.weights import load_weights, read_metadata

    options = recipe.options
    network = network_of(recipe.model)
    if options.keep_threshold and not isinstance(recipe.model, SeveralClasses):
        raise RecipeError(
            "train: keep_threshold is for networks of several classes. Of one, leave choose_threshold out."
        )
    require_classes(options.keep_threshold, classes_of(stated_by(network)), "train: keep_threshold")
    for name in classes_of(stated_by(network)):
        require_steps(model_of_class(catalog, recipe.model, name))
    if start_from is None:
        initialise(network, options)
    elif not begun:
        load_weights(start_from, network)
    reach = network.input_shape(options.block)

    def open_all(kind: str, *, clean: bool) -> list[Region]:
        places = getattr(options, "regions" if kind == "region" else kind)
        regions = [
            open_classes(
                place,
                f"{kind} {number}",
                catalog,
                recipe.folder,
                options.downsample,
                classes_of(stated_by(network)),
                recipe.model,
            )
            for number, place in enumerate(places, 1)
        ]
        containers = [folder.prepared / f"{name}.zarr" for name in file_names([r.name for r in regions])]
        return [
            hold(
                with_class_labels(region, place, recipe.model, catalog, container, Run(progress=False), clean=clean),
                reach,
            )
            for region, container, place in zip(regions, containers, places, strict=True)
        ]

    regions = open_all("region", clean=options.prepare_labels)
    return TrainingSetup(
        network,
        recipe.sampler,
        regions,
        open_all("validation", clean=False),
        options,
        fine_tuning=start_from is not None,
        thin_truth=recipe.model.has_thin_truth,
        by_threshold=isinstance(recipe.model, CutsByThreshold),
        metadata={
            "model": {"use": recipe.model.name, **describe_plugin(recipe.model)["options"]},
            "voxel_size_nm": list(regions[0].raw.voxel_size_nm),
            "averaged_vx": list(options.downsample),
            "preprocessing": steps_done(regions[0].raw),
            "greys": grey_percentiles([region.raw for region in regions]),
        },
        greys_before=() if start_from is None or begun else read_metadata(start_from).get("greys", ()),
    )


def _describe_start(start_from: str | Path, folder: RunFolder, *, begun: bool) -> dict[str, Any]:
    """Name the weights that a run starts from, with their sum: of a run that has begun, the sum it noted."""
    noted = folder.read_json("provenance.json")["start_from"] if begun else {"sha256": sha256(start_from)}
    return {"path": str(Path(start_from).resolve()), "sha256": noted and noted["sha256"]}


def _record(
    recipe: TrainingRecipe, setup: TrainingSetup, start: dict[str, Any] | None, processes: int
) -> dict[str, Any]:
    """Describe the run: what must be equal for a run to be resumed."""
    regions = [*setup.regions, *setup.validation]
    places = [*recipe.options.regions, *recipe.options.validation]
    read = [
        (r.raw, *(v for p in parts_of(r) for v in (p.labels, p.mask, p.exclusion if place.exclusion else None)))
        for r, place in zip(
            regions, places, strict=True
        )  # without a layer of its own, exclusion follows from labels and model
    ]
    settings = {a.name: getattr(recipe.options, a.name) for a in attrs.fields(type(recipe.options))}
    for kind in ("regions", "validation"):  # where their volumes lie is no matter: they are inputs
        settings[kind] = [
            {"name": place.name, "box": place.box, **({} if place.values is None else {"values": dict(place.values)})}
            for place in settings[kind]
        ]
    painted: list[Volume] = [
        open_volume(recipe.folder / expand(p.strokes, "train @ strokes")) for p in places if p.strokes
    ]
    return made_by(
        "train",
        inputs=[*(volume for volumes in read for volume in volumes if volume is not None), *painted],
        model=recipe.model,
        sampler=recipe.sampler,
        options=settings,
        start_from=start,
        processes=processes,
    )


def _begun_otherwise(folder: RunFolder, told: Sequence[str]) -> OutputExists:
    return OutputExists(
        f"{folder.path} was made from another recipe, other volumes or another number of processes (differs in: "
        f"{', '.join(told[:4])}{', ...' if told[4:] else ''}): the run cannot be resumed. Train into another folder, "
        "or replace that run (",
        OVERWRITE,
        "); to use its weights, asem finetune --from",
    )


def _claim(folder: RunFolder, recipe: TrainingRecipe, record: dict[str, Any], *, resume: bool) -> None:
    """Make the run's folder, or check that it is the one to resume."""
    known = folder.path / "provenance.json"
    if resume:
        noted = folder.read_json(known.name)
        noted.pop(_RECIPE_FOLDER, None)  # an address is nothing that the run is made of
        if told := differences(noted, json.loads(json.dumps(record))):
            raise _begun_otherwise(folder, told)
        return
    folder.forget_run()
    folder.path.mkdir(parents=True, exist_ok=True)
    if recipe.path is not None and recipe.path != (folder.path / "recipe.toml").resolve():
        text = recipe.path.read_bytes()
        with saved_whole(folder.path / "recipe.toml") as half:
            half.write_bytes(text)
    folder.write_json(known.name, {**record, _RECIPE_FOLDER: str(recipe.folder)})
