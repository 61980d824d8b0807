"""`asem run`: a whole recipe."""

from pathlib import Path
from typing import Annotated

import typer

from asem_core.commands import DEFAULT_WORKERS, BlockShape, On, Overwrite, Quiet, Workers, make_run
from asem_core.errors import quoted


def mount(app: typer.Typer) -> None:
    app.command("run", no_args_is_help=True)(run)


def run(
    recipe: Annotated[Path, typer.Argument(help="A TOML file that chooses plugins by name.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Output folder; by default the recipe's name.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only check the recipe.")] = False,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    block: BlockShape = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run a recipe: import, preprocess, train or fetch weights, predict, segment, evaluate, analyze, export.

    If interrupted, run the same command again to resume. Finished stages are not repeated.

    Examples:

        asem run docs/recipes/fib25.toml -o fib25/

        asem run recipe.toml --check
    """
    from asem_core.built import build_flow
    from asem_core.catalog import load_catalog
    from asem_core.flow import run_flow
    from asem_core.recipe import read_recipe
    from asem_core.stages.recipe_checks import require_inputs

    catalog = load_catalog()
    flow = build_flow(read_recipe(recipe), catalog)
    if check:
        require_inputs(flow, catalog)
        typer.echo(f"{recipe}: no problems found.")
        return
    folder = output or Path(recipe.stem)
    run_flow(flow, catalog, folder, make_run(workers, block, quiet, on), typer.echo, overwrite=overwrite)
    typer.echo(f"Everything is in {folder}/; look at it with: asem view {quoted(folder / 'cell.zarr')}")
