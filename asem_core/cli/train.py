"""`asem train`, `asem finetune` and `asem preflight`: from annotated regions to weights."""

from pathlib import Path
from typing import Annotated

import typer

from asem_core.cli._options import AsJson, Overwrite, Quiet, print_json

Recipe = Annotated[Path | None, typer.Argument(metavar="RECIPE", help="TOML file with [model] and [train].")]
Output = Annotated[Path | None, typer.Option("--output", "-o", help="Folder of the run.", show_default="runs/RECIPE")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]


def mount(app: typer.Typer) -> None:
    app.command("train", no_args_is_help=True)(train)
    app.command("finetune", no_args_is_help=True)(finetune)
    app.command("preflight", no_args_is_help=True)(preflight)


def train(
    recipe: Recipe = None,
    output: Output = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a stopped run, exactly as it would have gone on.")
    ] = None,
    device: Device = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train a model's network on annotated regions.

    The run's folder holds checkpoints, scores, pictures and, at the end, `report.html`. Several GPUs: start it by
    torchrun.

    Examples:

        asem train mitochondria.toml -o runs/mitochondria

        asem train --resume runs/mitochondria

        torchrun --nproc-per-node 4 --no-python asem train mitochondria.toml -o runs/mitochondria
    """
    if resume is not None and recipe is not None:
        raise typer.BadParameter("--resume RUN takes the recipe from the run: leave RECIPE out.")
    _train(recipe, output, resume, None, device, overwrite, quiet)


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
    """Go on training given weights on a new region: a few thousand iterations adapt a model to another cell.

    Of a run's folder, the first checkpoint of the fit regime is taken. The best checkpoint on the validation regions is
    chosen, unless the recipe says otherwise.

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

    Leaves with 1 if the run would be refused.

    Example:

        asem preflight mitochondria.toml
    """
    from asem_core.catalog import load_catalog
    from asem_core.engine.temporary import temporary_folder
    from asem_core.stages.train import make_plan, read_training_recipe
    from asem_core.training.folder import RunFolder
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
    from asem_core.stages.train import read_training_recipe, resumed_recipe, started_from, train
    from asem_core.training.folder import RunFolder

    catalog = load_catalog()
    start: Path | None = None
    if resume is not None:
        training, output, start = resumed_recipe(resume, catalog), resume, started_from(resume)
    elif recipe is not None:
        training, output = read_training_recipe(recipe, catalog), output or _default_output(recipe)
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
