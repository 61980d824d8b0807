"""`asem train`, `asem finetune` and `asem preflight`: from annotated regions to weights."""

from pathlib import Path
from typing import Annotated

import typer

from asem_core.commands import AsJson, Overwrite, Quiet, print_json

Recipe = Annotated[Path | None, typer.Argument(metavar="RECIPE", help="TOML file with [model] and [train].")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.", show_default="runs/RECIPE")]
Labels = Annotated[str | None, typer.Option(metavar="NAME", help="Labels of the cell to learn: mito for labels/mito.")]
ModelName = Annotated[
    str | None,
    typer.Option("--model", help="Model plugin: see `asem plugins`.", show_default="by the name of the labels"),
]
Minutes = Annotated[float, typer.Option(help="Time for everything, on this machine.")]
Iterations = Annotated[
    int | None, typer.Option(help="Number of iterations instead of a time.", show_default="what the time allows")
]
RawLayer = Annotated[
    str | None, typer.Option("--raw", help="Image layer.", show_default="what asem prepare made, or raw")
]
Seed = Annotated[int, typer.Option(min=0, help="Number from which everything random follows.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


def mount(app: typer.Typer) -> None:
    app.command("plan", no_args_is_help=True)(plan)
    app.command("train", no_args_is_help=True)(train)
    app.command("finetune", no_args_is_help=True)(finetune)
    app.command("preflight", no_args_is_help=True)(preflight)


def train(
    what: Annotated[
        list[Path] | None,
        typer.Argument(metavar="CELL... | RECIPE", help="Cells with labels, or a TOML file with [model] and [train]."),
    ] = None,
    labels: Labels = None,
    model: ModelName = None,
    minutes: Minutes = 10.0,
    iterations: Iterations = None,
    raw: RawLayer = None,
    weights: Annotated[
        str | None,
        typer.Option(
            "--from", metavar="WEIGHTS", help="Start from: a run's folder, a file, or a name from `asem models list`."
        ),
    ] = None,
    output: Output = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Continue a stopped run, exactly as it would have continued.")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a model's network on annotated regions.

    From a cell and its labels, every setting is chosen (see `asem plan`), written to a recipe beside the run's folder, and used.
    The run's folder holds checkpoints, scores, pictures and, at the end, `report.html`. Ctrl-C keeps what was learnt. Several
    GPUs: start it by torchrun.

    Examples:

        asem train cell.zarr --labels mitochondria --minutes 10 -o runs/mitochondria

        asem train mitochondria.toml -o runs/mitochondria

        asem train --resume runs/mitochondria

        torchrun --nproc-per-node 4 --no-python asem train mitochondria.toml -o runs/mitochondria
    """
    given = what or []
    if resume is not None:
        if given:
            raise typer.BadParameter("--resume RUN takes the recipe from the run: leave CELL or RECIPE out.")
        _train(None, output, resume, None, device, overwrite, quiet)
        return
    if not given:
        raise typer.BadParameter("Name a CELL with --labels NAME, a RECIPE, or a run to continue: --resume RUN.")
    if len(given) == 1 and given[0].is_file():
        if labels is not None or model is not None:
            raise typer.BadParameter(
                f"{given[0]} is a recipe, which says labels and model itself: leave these options out."
            )
        _train(given[0], output, None, weights, device, overwrite, quiet)
        return
    folder = output or Path("runs") / (Path(labels).name if labels else given[0].stem)
    recipe = folder.with_name(folder.name + ".toml")
    write_plan(given, labels, model, minutes, iterations, seed, raw, recipe, overwrite, quiet)
    _train(recipe, folder, None, weights, device, overwrite, quiet)


def plan(
    cells: Annotated[list[Path], typer.Argument(metavar="CELL...", help="Cells with labels, all of one voxel size.")],
    labels: Labels = None,
    model: ModelName = None,
    minutes: Minutes = 10.0,
    iterations: Iterations = None,
    raw: RawLayer = None,
    seed: Seed = 0,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Recipe to write.", show_default="printed")
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Show how `asem train` would train on the labels of cells: a complete recipe, each line with its reason.

    Examples:

        asem plan cell.zarr --labels mitochondria

        asem plan cell.zarr --labels mitochondria --minutes 30 -o mitochondria.toml
    """
    write_plan(cells, labels, model, minutes, iterations, seed, raw, output, overwrite, quiet)


def write_plan(
    cells: list[Path],
    labels: str | None,
    model: str | None,
    minutes: float,
    iterations: int | None,
    seed: int,
    raw: str | None,
    recipe: Path | None,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Make a plan, and print it or write it to `recipe`; a recipe that was edited is kept."""
    from itertools import count

    from asem_core.catalog import load_catalog
    from asem_core.cell.node import layers
    from asem_core.errors import BadInput, OutputExists
    from asem_core.stages.plan import PlanOptions, asked, model_for, places_of
    from asem_core.stages.plan import plan as make

    catalog = load_catalog()
    if labels is None:
        known = [n.removeprefix("labels/") for n in layers(cells[0]) if n.startswith("labels/")]
        raise BadInput(f"Say which labels to learn: --labels NAME. {cells[0]} has: {', '.join(known) or 'none'}.")
    name = model or model_for(labels, catalog)
    options = PlanOptions(minutes, iterations, seed)
    places = places_of(cells, labels, raw)
    if recipe is not None and recipe.exists():
        if not overwrite:
            if asked(name, places, options) in recipe.read_text(encoding="utf-8").splitlines():
                typer.echo(f"{recipe}: the plan made before for the same labels is used; --overwrite makes a new one")
                return
            raise OutputExists(
                f"{recipe} was made for something else, or boxes were annotated since. To train with it: asem train {recipe}. For a new plan "
                "choose another output, or add --overwrite: the recipe is then kept under another name."
            )
        kept = next(k for n in count(1) if not (k := recipe.with_suffix(f".{n}.toml")).exists())
        recipe.rename(kept)
        typer.echo(f"{kept}: the recipe until now")
    if not quiet:
        for place in places:
            typer.echo(f"Learning {name} from {place.labels} ({len(place.boxes)} boxes) on {place.raw}", err=True)
    text = make(places, catalog.get("model", name), catalog, options).text
    if recipe is None:
        typer.echo(text, nl=False)
        return
    recipe.parent.mkdir(parents=True, exist_ok=True)
    recipe.write_text(text, encoding="utf-8")
    typer.echo(f"{recipe}: the plan, each line with its reason")


def finetune(
    weights: Annotated[
        str | None,
        typer.Option("--from", metavar="WEIGHTS", help="A run's folder, a file, or a name from `asem models list`."),
    ] = None,
    recipe: Recipe = None,
    output: Output = None,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with a stopped run.")] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Continue training from existing weights on a new region: a few thousand iterations adapt a model to another cell.

    Of a run's folder, the first checkpoint of the fit regime is taken. The best checkpoint on the validation regions is
    chosen, unless the recipe says otherwise. The weights know their model and its network: the recipe needs no [model].

    Examples:

        asem finetune --from runs/mitochondria new_cell.toml -o runs/new_cell

        asem finetune --from mitochondria-cf-5nm new_cell.toml -o runs/new_cell
    """
    if resume is None and weights is None:
        raise typer.BadParameter("Say what to start from: --from WEIGHTS.")
    if resume is not None and recipe is not None:
        raise typer.BadParameter("--resume RUN takes the recipe from the run: leave RECIPE out.")
    _train(recipe, output, resume, weights, device, overwrite, quiet)


def preflight(
    recipe: Annotated[Path, typer.Argument(help="TOML file with [model] and [train].")],
    output: Output = None,
    time_it: Annotated[bool, typer.Option("--time/--no-time", help="Estimate the time from a few iterations.")] = True,
    as_json: AsJson = False,
) -> None:
    """Check a training recipe before hours are spent: regions, labels, context, disk, memory and time.

    Exits with status 1 if the run would be refused.

    Example:

        asem preflight mitochondria.toml
    """
    from asem_core.catalog import load_catalog
    from asem_core.run_folder import RunFolder
    from asem_core.stages.train import make_plan, read_training_recipe
    from asem_core.temporary import temporary_folder
    from asem_core.training.preflight import preflight as check
    from asem_core.training.preflight import seconds_per_iteration, told_time

    catalog = load_catalog()
    training = read_training_recipe(recipe, catalog)
    with temporary_folder() as scratch:  # a run may be under way in the folder itself
        plan = make_plan(training, catalog, RunFolder(scratch))
        result = check(plan, output or _default_output(recipe))
        refused = any(f.refused for f in result.findings)
        seconds = seconds_per_iteration(plan) * training.options.iterations if time_it and not refused else None
    if as_json:
        print_json(
            {
                "ok": not refused,
                "findings": [{"text": f.text, "refused": f.refused} for f in result.findings],
                "regions": [{"name": f.name, "foreground": f.foreground, "ids": f.num_ids} for f in result.facts],
                "hours": None if seconds is None else seconds / 3600,
            }
        )
    else:
        for facts in result.facts:
            typer.echo(
                f"{facts.name}: {facts.foreground:.1%} of {facts.num_annotated_vx:,} annotated voxels are foreground"
            )
        for finding in result.findings:
            typer.secho(
                f"{'Refused' if finding.refused else 'Note'}: {finding.text}", fg="red" if finding.refused else None
            )
        if seconds is not None:
            typer.echo(f"{training.options.iterations:,} iterations take about {told_time(seconds)} here.")
    if refused:
        raise typer.Exit(1)


def _train(
    recipe: Path | None,
    output: Path | None,
    resume: Path | None,
    weights: str | None,
    device: str,
    overwrite: bool,
    quiet: bool,
) -> None:
    from asem_core.catalog import load_catalog
    from asem_core.pretrained import find_weights
    from asem_core.run_folder import RunFolder
    from asem_core.stages.train import read_training_recipe, resumed_recipe, started_from, train

    catalog = load_catalog()
    start: Path | None = None
    if resume is not None:
        training, output, start = resumed_recipe(resume, catalog), resume, started_from(resume)
    elif recipe is not None:
        training, output = read_training_recipe(recipe, catalog, start_from=weights), output or _default_output(recipe)
        if weights is not None:
            start = (
                RunFolder(Path(weights)).chosen("finetune_from") if Path(weights).is_dir() else find_weights(weights)
            )
    else:
        raise typer.BadParameter("Name a RECIPE, or a run to go on with: --resume RUN.")
    folder = train(
        training, catalog, output, start_from=start, resume=resume is not None, overwrite=overwrite, device=device,
        progress=not quiet,
    )  # fmt: skip
    typer.echo(f"Predict with {folder.chosen()}; what the run was like: {folder.path / 'report.html'}.")


def _default_output(recipe: Path) -> Path:
    return Path("runs") / recipe.stem
