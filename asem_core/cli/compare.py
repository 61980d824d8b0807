"""`asem compare`: the cells of several conditions side by side."""

from pathlib import Path
from typing import Annotated

import typer

from asem_core.commands import AsJson, Overwrite, print_json


def mount(app: typer.Typer) -> None:
    app.command("compare", no_args_is_help=True)(compare_)


def compare_(
    reports: Annotated[
        list[str],
        typer.Argument(
            metavar="CONDITION=REPORT...", help="Report folders of asem analyze, one per cell, each with its condition."
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the comparison.")] = Path("comparison"),
    table: Annotated[
        str | None, typer.Option(help="Table of the reports to compare.", show_default="objects, pores or coats")
    ] = None,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Compare cells by condition: one table of all objects, plots that show every object and cell, and a test.

    The test treats each cell as one sample, because objects in one cell are not independent of each other.

    Examples:

        asem compare control=reports/cell_1 control=reports/cell_2 starved=reports/cell_3 starved=reports/cell_4 -o comparison
    """
    from asem_core.stages.compare import compare

    given = [(condition or "all", Path(path)) for condition, _, path in (r.rpartition("=") for r in reports)]
    page = compare(given, output, table=table, overwrite=overwrite)
    if as_json:
        print_json({"report": str(page)})
    else:
        typer.echo(f"Report: {page}")
