"""`asem train`, `asem finetune` and `asem preflight`: from annotated regions to weights."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asem_core.commands import AsJson, Overwrite, Quiet, print_json, words_of

if TYPE_CHECKING:
    from asem_core.run_folder import RunFolder

Recipe = Annotated[Path | None, typer.Argument(metavar="RECIPE", help="TOML file with [model] and [train].")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Run folder.", show_default="runs/RECIPE")]
Labels = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Labels of the cell to train on: mito for labels/mito; several, mito,er, for one network."
    ),
]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Model plugin: see `asem plugins`.", show_default="by the name of the labels"),
]
Minutes = Annotated[float, typer.Option(help="Total time to use on this machine.")]
OwnMinutes = Annotated[
    float | None,
    typer.Option("--minutes", help="Total time to use on this machine.", show_default="10, or the recipe's"),
]
Iterations = Annotated[
    int | None, typer.Option(help="Number of iterations, instead of a time.", show_default="as many as the time allows")
]
RawLayer = Annotated[
    str | None, typer.Option("--raw", help="Image layer.", show_default="what asem prepare made, or raw")
]
Seed = Annotated[int, typer.Option(min=0, help="Random seed.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
On = Annotated[
    str | None,
    typer.Option(
        metavar="CLUSTER",
        help="Train on this cluster, with one process per GPU; NAME:2 uses two machines. See `asem clusters`.",
    ),
]
From = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="WEIGHTS",
        help="Weights to start from: a run folder, a file, or a name from `asem models list`.",
    ),
]
FromOrAuto = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="WEIGHTS",
        help="Weights to start from: a run folder, a file, or a name from `asem models list`; auto tries those on this machine.",
    ),
]


def mount(app: typer.Typer) -> None:
    app.command("plan", no_args_is_help=True)(plan)
    app.command("train", no_args_is_help=True)(train)
    app.command("finetune", no_args_is_help=True)(finetune)
    app.command("preflight", no_args_is_help=True)(preflight)


def train(
    context: typer.Context,
    what: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CELL... | RECIPE", help="Cells with labels, or a TOML file with [model] and [train]."),
    ] = None,
    labels: Labels = None,
    model: ModelName = None,
    minutes: OwnMinutes = None,
    iterations: Iterations = None,
    raw: RawLayer = None,
    weights: FromOrAuto = None,
    output: Output = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume an interrupted run, exactly as it would have continued.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    on: On = None,
) -> None:
    """Train a model's network on annotated regions.

    Given a cell and its labels, it chooses every setting (see `asem plan`), writes them to a recipe beside the run folder,
    and trains. The run folder holds checkpoints, scores, pictures and, at the end, `report.html`. Ctrl-C keeps what was learnt. For several
    GPUs, start it with torchrun.

    Examples:

        asem train cell.zarr --labels mitochondria --minutes 10 -o runs/mitochondria

        asem train mitochondria.toml -o runs/mitochondria

        asem train --resume runs/mitochondria

        asem train mitochondria.toml --on gpus

        torchrun --nproc-per-node 4 --no-python asem train mitochondria.toml -o runs/mitochondria
    """
    given = what or []
    if on is not None:
        _train_on(on, context, resume or output or _run_of(given, labels))
        return
    if resume is not None:
        if given:
            raise typer.BadParameter("--resume RUN takes the recipe from the run: leave CELL or RECIPE out.")
        _resume(resume, device, overwrite, quiet)
        return
    if not given:
        raise typer.BadParameter("Name a CELL with --labels NAME, a RECIPE, or a run to resume: --resume RUN.")
    if len(given) == 1 and given[0].is_file():
        if any(value is not None for value in (labels, model, iterations, raw)):
            raise typer.BadParameter(
                f"{given[0]} is a recipe, which says labels, model, image and iterations itself: leave these options out."
            )
        _train(given[0], output, weights, device, overwrite, quiet, minutes)
        return
    folder = output or _run_of(given, labels)
    time = 10.0 if minutes is None else minutes
    plan_and_train(folder, given, labels, model, time, iterations, raw, seed, weights, device, overwrite, quiet)


def plan_and_train(
    folder: Path, cells: list[Path], labels: str | None, model: str | None, minutes: float, iterations: int | None,
    raw: str | None, seed: int, weights: str | None, device: str, overwrite: bool, quiet: bool,
) -> None:  # fmt: skip
    """Choose settings, write them to a recipe beside the run's folder, and train: `asem train CELL`, `asem annotate train`."""
    from asem_core.stages.planned import require_run_folder

    recipe = folder.with_name(folder.name + ".toml")
    require_run_folder(folder, recipe)
    plan(cells, labels, model, minutes, iterations, raw, weights, seed, recipe, overwrite, quiet)
    _train(recipe, folder, None, device, overwrite, quiet)  # the recipe names the weights to start from


def plan(
    cells: Annotated[list[Path], typer.Argument(metavar="CELL...", help="Cells with labels, all of one voxel size.")],
    labels: Labels = None,
    model: ModelName = None,
    minutes: Minutes = 10.0,
    iterations: Iterations = None,
    raw: RawLayer = None,
    weights: FromOrAuto = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Recipe file to write.", show_default="print it")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Show how `asem train` would train on the labels of cells: a complete recipe, with the reason for each line.

    Examples:

        asem plan cell.zarr --labels mitochondria

        asem plan cell.zarr --labels mitochondria --minutes 30 -o mitochondria.toml

        asem plan cell.zarr --labels mitochondria,membrane
    """
    from asem_core.catalog import load_catalog
    from asem_core.stages.plan import PlanOptions, write_plan

    def say(line: str) -> None:
        is_progress = line.startswith(("Training ", "Measuring "))
        if not (quiet and is_progress):
            typer.echo(line, err=is_progress)

    text = write_plan(
        cells,
        labels,
        load_catalog(),
        PlanOptions(minutes, iterations, seed, start_from=weights),
        output,
        model=model,
        raw=raw,
        overwrite=overwrite,
        say=say,
    )
    if output is None:
        typer.echo(text, nl=False)


def finetune(
    context: typer.Context,
    weights: From = None,
    recipe: Annotated[
        Path | None, typer.Argument(metavar="RECIPE", help="TOML file with [train]; it needs no [model].")
    ] = None,
    output: Output = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Resume an interrupted run.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    on: On = None,
) -> None:
    """Continue training from existing weights on a new region: a few thousand iterations adapt a model to another cell.

    For a run folder, the first checkpoint of the fit regime is used. The best checkpoint on the validation regions is
    chosen, unless the recipe says otherwise. The model and its network are those of the weights.

    Examples:

        asem finetune --from runs/mitochondria new_cell.toml -o runs/new_cell

        asem finetune --from mitochondria-cf-5nm new_cell.toml -o runs/new_cell
    """
    if resume is None and weights is None:
        raise typer.BadParameter("Say what to start from: --from WEIGHTS.")
    if resume is not None and recipe is not None:
        raise typer.BadParameter("--resume RUN takes the recipe from the run: leave RECIPE out.")
    if on is not None:
        _train_on(on, context, resume or output or _default_output(recipe or Path()))
        return
    if resume is not None:
        _resume(resume, device, overwrite, quiet)
        return
    if recipe is None:
        raise typer.BadParameter("Name a RECIPE, or a run to resume: --resume RUN.")
    _train(recipe, output, weights, device, overwrite, quiet)


def preflight(
    recipe: Annotated[Path, typer.Argument(help="TOML file with [model] and [train].")],
    output: Output = None,
    time_it: Annotated[bool, typer.Option("--time/--no-time", help="Estimate the time from a few iterations.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check a training recipe before spending hours on it: regions, labels, context, disk, memory and time.

    Exits with status 1 if the run would be refused.

    Example:

        asem preflight mitochondria.toml
    """
    from asem_core.catalog import load_catalog
    from asem_core.stages.planned import whole_recipe
    from asem_core.stages.train import check, read_training_recipe
    from asem_core.temporary import temporary_folder
    from asem_core.training.preflight import time_in_words

    catalog = load_catalog()
    with temporary_folder() as scratch:
        training = read_training_recipe(whole_recipe(recipe, scratch / "run", catalog), catalog)
    checked = check(training, catalog, output or _default_output(recipe), timed=time_it)
    result, seconds = checked.found, checked.seconds
    refused = result.is_refused
    if as_json:
        print_json(
            {
                "ok": not refused,
                "findings": [{"text": f.text, "refused": f.refused} for f in result.findings],
                "regions": [
                    {"name": f.name, "foreground_fraction": f.foreground_fraction, "ids": f.num_ids}
                    for f in result.facts
                ],
                "hours": None if seconds is None else seconds / 3600,
            }
        )
    else:
        for facts in result.facts:
            typer.echo(
                f"{facts.name}: {facts.foreground_fraction:.1%} of {facts.num_annotated_vx:,} annotated voxels are foreground"
            )
        for finding in result.findings:
            typer.secho(
                f"{'Refused' if finding.refused else 'Note'}: {finding.text}", fg="red" if finding.refused else None
            )
        if seconds is not None:
            typer.echo(f"{training.options.iterations:,} iterations take about {time_in_words(seconds)} here.")
    if refused:
        raise typer.Exit(1)


def _run_of(given: list[Path], labels: str | None) -> Path:
    """Say which folder a training gets that names none."""
    return Path("runs") / (Path(labels).name if labels else given[0].stem if given else "")


def _train_on(cluster: str, context: typer.Context, folder: Path) -> None:
    """Run the same command on a cluster, and the rest of it where a job is cut off."""
    from asem_core.engine.clusters import find_cluster
    from asem_core.engine.remote import run_on
    from asem_core.run_folder import RunFolder

    on = find_cluster(cluster)
    nodes = on.workers if ":" in cluster else 1
    state = RunFolder(folder).state
    before = [state.stat().st_mtime_ns if state.exists() else 0]

    def again() -> list[str] | None:
        now = state.stat().st_mtime_ns if state.exists() else 0
        before[:], learnt = [now], now > before[0]
        return [*program, "train", "--resume", str(folder)] if learnt else None

    program = ["-m", "asem_core"]
    status = run_on(on, [*program, *words_of(context, {"on"})], nodes, again, typer.echo)
    if status:
        raise typer.Exit(status)


def _resume(run: Path, device: str, overwrite: bool, quiet: bool) -> None:
    from asem_core.catalog import load_catalog
    from asem_core.stages.train import resume

    _tell(resume(run, load_catalog(), device=device, overwrite=overwrite, progress=not quiet))


def _train(
    recipe: Path,
    output: Path | None,
    weights: str | None,
    device: str,
    overwrite: bool,
    quiet: bool,
    minutes: float | None = None,
) -> None:
    from asem_core.catalog import load_catalog
    from asem_core.stages.planned import whole_recipe
    from asem_core.stages.start import AUTO
    from asem_core.stages.train import read_training_recipe, train

    if weights == AUTO:
        raise typer.BadParameter("--from auto chooses weights for a CELL with --labels; for a recipe, name them.")
    catalog = load_catalog()
    folder = output or _default_output(recipe)
    whole = whole_recipe(
        recipe,
        folder,
        catalog,
        start_from=weights,
        minutes=minutes,
        overwrite=overwrite,
        say=lambda line: typer.echo(line, err=True),
    )
    made = train(
        read_training_recipe(whole, catalog, start_from=weights),
        catalog,
        folder,
        start_from=weights,
        overwrite=overwrite,
        device=device,
        progress=not quiet,
    )
    _tell(made)


def _tell(folder: "RunFolder") -> None:
    typer.echo(f"Predict with {folder.chosen()}; report of the run: {folder.path / 'report.html'}")


def _default_output(recipe: Path) -> Path:
    return Path("runs") / recipe.stem
