"""The command `asem demo`."""

from pathlib import Path
from typing import Annotated

import typer

from asem_core.commands import DEFAULT_WORKERS, Quiet, Workers


def mount(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for everything the demo makes.")] = Path(
        "asem_demo"
    ),
    seed: Annotated[int, typer.Option(help="Random seed; each gives a different cell.", min=0)] = 3,
    look: Annotated[
        str, typer.Option(help="Preparation: cf (chemical fixation) or hpfs (high-pressure freezing).")
    ] = "cf",
    size_nm: Annotated[
        float, typer.Option(help="Edge of the phantom cell in nm; a smaller one is quicker.", min=600, max=4000)
    ] = 1400,
    show: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    workers: Workers = DEFAULT_WORKERS,
    quiet: Quiet = False,
) -> None:
    """Make a phantom cell, find and measure its organelles, and compare with the ground truth.

    Needs no data and no network; takes about two and a half minutes on two cores. A second run into the same folder resumes where the
    first stopped.

    Example: `asem demo -o demo --open`
    """
    from asem_core.blocks import Run
    from asem_core.catalog import load_catalog
    from asem_demo.flow import run_demo

    page = run_demo(
        output,
        load_catalog(),
        Run(workers=workers, progress=not quiet),
        lambda line: typer.echo(line, err=True),
        seed,
        look,
        size_nm,
    )
    typer.echo(f"Report: {page}")
    typer.echo(f"Picture: {page.with_name('demo.png')}")
    if show:
        import webbrowser

        webbrowser.open(page.resolve().as_uri())
