"""`asem analyze`: a segmentation becomes tables, figures and a report."""

from pathlib import Path
from typing import Annotated

import typer

from asem_core.commands import (
    DEFAULT_WORKERS,
    AsJson,
    BlockShape,
    On,
    Options,
    Overwrite,
    Quiet,
    Workers,
    make_run,
    print_json,
    read_options,
)


def mount(app: typer.Typer) -> None:
    app.command("analyze", no_args_is_help=True)(analyze_)


def analyze_(
    use: Annotated[
        str, typer.Argument(metavar="ANALYZER", help="morphometry, contacts, nuclear-pores, clathrin-coats, ...")
    ],
    segmentation: Annotated[Path, typer.Argument(help="What to measure, for example cell.zarr/labels/golgi.")],
    raw: Annotated[
        Path | None,
        typer.Option(
            help="The image.",
            show_default="`raw` of the same cell, or where its voxels differ, the one that was predicted",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Report folder; by default beside the cell.")
    ] = None,
    options: Options = None,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    block: BlockShape = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Measure a segmentation: tables (CSV, Parquet), figures (SVG, PNG) and a report page that opens offline.

    Examples:

        asem analyze morphometry cell.zarr/labels/mitochondria -o reports/mitochondria

        asem analyze nuclear-pores cell.zarr/predictions/pores/segmentation --raw cell.zarr/raw

        asem analyze clathrin-coats cell.zarr/labels/coats -s cell_mask=cell.zarr/mask

        asem analyze contacts cell.zarr/labels/golgi -s 'others=["cell.zarr/labels/er"]' -s contact_nm=25.0
    """
    import json

    from asem_core.catalog import load_catalog
    from asem_core.cell.node import require_layer
    from asem_core.cell.store import open_labels, open_volume
    from asem_core.recipe import build
    from asem_core.stages.analyze import analyze, image_beside, report_folder

    analyzer = build(load_catalog().get("analyzer", use), read_options(options), f"asem analyze @ {use}")
    folder = output or report_folder(use, segmentation)
    require_layer(
        segmentation,
        "a segmentation",
        lambda name: name.startswith("labels/") or name.rsplit("/", 1)[-1].startswith("segmentation"),
        "asem segment makes one of a probability map",
    )
    labels = open_labels(segmentation)
    image = image_beside(labels) if raw is None else open_volume(raw)
    run = make_run(workers, block, quiet, on)
    page = analyze(analyzer, labels, image, folder, run, overwrite=overwrite, anew=overwrite)
    if as_json:
        numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))
        print_json({"report": str(page), "numbers": next(iter(numbers.values()))})
    else:
        typer.echo(f"Report: {page}")
