"""`asem evaluate`: how good a prediction is, against the truth."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from asem_core.commands import (
    DEFAULT_WORKERS,
    AsJson,
    Background,
    Ignore,
    On,
    Overwrite,
    Quiet,
    Workers,
    make_run,
    print_json,
)

INSTANCE_SCORES = (
    "voi_split",
    "voi_merge",
    "adapted_rand_error",
    "panoptic_quality",
    "average_precision_50",
    "average_precision_75",
)


def mount(app: typer.Typer) -> None:
    app.command("evaluate", no_args_is_help=True)(evaluate)


def evaluate(
    layers: Annotated[
        list[str], typer.Argument(metavar="PREDICTION TRUTH ...", help="Layers, in pairs: one pair per region.")
    ],
    thresholds: Annotated[
        list[float] | None,
        typer.Option("--threshold", "-t", help="Probability threshold; may be repeated.", show_default="0.5"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Model whose exclusion zone and kind of object to use: a model plugin, or a name from `asem models list`."
        ),
    ] = None,
    zone_vx: Annotated[
        str | None, typer.Option(metavar="OUT,IN", help="Exclusion zone outwards and inwards, in voxels.")
    ] = None,
    zone_nm: Annotated[
        str | None, typer.Option(metavar="OUT,IN", help="Exclusion zone outwards and inwards, in nm.")
    ] = None,
    zone_shape: Annotated[
        Literal["diamond", "ball"] | None,
        typer.Option(help="Shape of the zone; scores with balls are higher.", show_default="diamond, as published"),
    ] = None,
    exclusion: Annotated[
        str | None, typer.Option(help="Layer: ignore voxels where it is nonzero, instead of a zone.")
    ] = None,
    mask: Annotated[str | None, typer.Option(help="Layer of annotated voxels; the others are ignored.")] = None,
    box: Annotated[str | None, typer.Option(help="Compare only z0:z1,y0:y1,x0:x1, in voxels of the truth.")] = None,
    objects: Annotated[
        bool | None,
        typer.Option(
            "--objects/--no-objects",
            help="Whether to score objects too.",
            show_default="as the model says, and where both have ids",
        ),
    ] = None,
    segmentation: Annotated[
        bool, typer.Option("--segmentation", help="The prediction has 0 and 1, or ids, instead of probabilities.")
    ] = False,
    values: Annotated[
        str | None,
        typer.Option(metavar="3,4", help="Label values of the truth that are the object; others are background."),
    ] = None,
    ignore: Ignore = None,
    background: Background = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for a report with curves.")] = None,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score predictions against ground truth: F1, precision, recall and Jaccard, for each region and pooled.

    The truth may cover only a part of the cell. Voxels near an outline, where annotators are a voxel or two off, are ignored:
    name the `--model` for its published zone, or give a zone.

    Examples:

        asem evaluate cell.zarr/predictions/a/probability cell.zarr/labels/mito --model mitochondria -o scores/

        asem evaluate a.zarr/predictions/m/probability a.zarr/labels/membrane --zone-vx 1,0 -t 0.4 -t 0.5
    """
    from asem_core.catalog import load_catalog
    from asem_core.errors import BadInput
    from asem_core.prediction.trained import find_model
    from asem_core.recipe import build
    from asem_core.stages.evaluate import EvaluateOptions, Pair, open_prediction, open_truth
    from asem_core.stages.evaluate import evaluate as evaluate_pairs
    from asem_core.voxels.known import Meaning

    if len(layers) % 2:
        raise BadInput(f"Give layers in pairs, PREDICTION TRUTH ...: {len(layers)} were given.")
    catalog = load_catalog()
    plugin = find_model(catalog, model) if model is not None else None
    chosen = {
        "thresholds": thresholds or [0.5],
        "zone_vx": read_widths(zone_vx, "--zone-vx"),
        "zone_nm": read_widths(zone_nm, "--zone-nm"),
        "zone_shape": zone_shape,
        "exclusion": exclusion,
        "mask": mask,
        "box": box,
        "objects": objects,
    }
    options = build(EvaluateOptions, chosen, "asem evaluate")
    meaning = Meaning.parse(ignore, background) if ignore or background else None
    numbers = read_values(values)
    truths = layers[1::2]
    pairs = [
        Pair(
            t if truths.count(t) == 1 else f"{t} by {p}",
            open_prediction(p, segmentation=segmentation),
            open_truth(t, meaning=meaning, values=numbers),
            meaning=meaning,
            values=numbers,
        )
        for p, t in zip(layers[::2], truths, strict=True)
    ]
    run = make_run(workers, quiet=quiet, on=on)
    found = evaluate_pairs(
        pairs, options, run, catalog, model=plugin, folder=output, overwrite=overwrite, anew=overwrite
    )
    if found.page is not None:
        typer.echo(f"Report: {found.page}", err=True)
    counts = {
        row["region"]: {what: row[f"num_{what}"] for what in ("found", "missed", "false")} for row in found.objects
    }
    apart = {row["region"]: {key: row[key] for key in INSTANCE_SCORES} for row in found.instances}
    if as_json:
        print_json({"scores": found.scores, "objects": counts, "instances": apart})
        return
    for row in found.scores:
        ratios = ", ".join(f"{key} {row[key]:.4f}" for key in ("f1", "precision", "recall", "jaccard"))
        typer.echo(f"{row['region']} at {row['threshold']:g}: {ratios}")
    for name, each in counts.items():
        typer.echo(f"{name}: " + ", ".join(f"{n} objects {what}" for what, n in each.items()))
        typer.echo(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {n:.4f}" for key, n in apart[name].items()))


def read_values(text: str | None) -> tuple[int, ...] | None:
    """Read `3,4`, label values."""
    from asem_core.errors import BadInput

    try:
        numbers = tuple(int(part) for part in text.split(",")) if text else None
    except ValueError:
        numbers = (0,)
    if numbers is not None and min(numbers) < 1:
        raise BadInput(f"--values takes label values from 1 on, as in 3,4; not '{text}'.")
    return numbers


def read_widths(text: str | None, option: str) -> list[float] | None:
    """Read `4,4`, outwards and inwards."""
    from asem_core.errors import BadInput

    if not text:
        return None
    try:
        outwards, inwards = (float(part) for part in text.split(","))
    except ValueError:
        raise BadInput(f"{option} takes two numbers, outwards and inwards, as in 4,4; not '{text}'.") from None
    return [outwards, inwards]
