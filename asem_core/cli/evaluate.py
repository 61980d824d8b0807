"""`asem evaluate`: how good a prediction is, against the truth."""

from pathlib import Path
from typing import Annotated, Any, Literal

import attrs
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
        list[float] | None, typer.Option("--threshold", "-t", help="Probability; may be repeated.", show_default="0.5")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Model whose exclusion zone and kind of object to take: a model plugin, or a registry name."),
    ] = None,
    zone_vx: Annotated[
        str | None, typer.Option(metavar="OUT,IN", help="Exclusion zone outwards and inwards, in voxels.")
    ] = None,
    zone_nm: Annotated[
        str | None, typer.Option(metavar="OUT,IN", help="Exclusion zone outwards and inwards, in nm.")
    ] = None,
    zone_shape: Annotated[
        Literal["diamond", "ball"] | None,
        typer.Option(help="Of the zone; scores with balls are higher.", show_default="diamond, as published"),
    ] = None,
    exclusion: Annotated[str | None, typer.Option(help="Layer of voxels to ignore, instead of a zone.")] = None,
    mask: Annotated[str | None, typer.Option(help="Layer of annotated voxels; the others are ignored.")] = None,
    box: Annotated[str | None, typer.Option(help="Compare only z0:z1,y0:y1,x0:x1, in voxels of the truth.")] = None,
    objects: Annotated[
        bool | None, typer.Option("--objects/--no-objects", help="Count objects too.", show_default="as the model says")
    ] = None,
    segmentation: Annotated[
        bool, typer.Option("--segmentation", help="The prediction holds 0/1 or ids, not probabilities.")
    ] = False,
    ignore: Ignore = None,
    background: Background = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for a report with the curves.")] = None,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Score predictions against the truth: F1, precision, recall and Jaccard, for each region and pooled.

    A truth may cover a part of the cell. Voxels near an outline, where annotators are a voxel or two off, are ignored:
    name the `--model` for its published zone, or give a zone.

    Examples:

        asem evaluate cell.zarr/predictions/a/probability cell.zarr/labels/mito --model mitochondria -o scores/

        asem evaluate a.zarr/predictions/m/probability a.zarr/labels/membrane --zone-vx 1,0 -t 0.4 -t 0.5
    """
    from asem_core.cell.provenance import made_by
    from asem_core.errors import BadInput
    from asem_core.evaluation.report import score_table, sections
    from asem_core.evaluation.roles import require_roles
    from asem_core.evaluation.scores import (
        exclusion_of,
        matched,
        number_objects,
        score,
        score_objects,
        with_pooled,
    )
    from asem_core.report import require_free_report, write_report
    from asem_core.volume import Box
    from asem_core.voxels.known import Meaning

    if len(layers) % 2:
        raise BadInput(f"Give layers in pairs, PREDICTION TRUTH ...: {len(layers)} were given.")
    if exclusion is not None and (zone_vx or zone_nm):
        raise BadInput("Give --exclusion, or a zone, not both.")
    require_roles(exclusion, mask)
    step, countable, thin = _zone(model, zone_vx, zone_nm, zone_shape)
    run = make_run(workers, quiet=quiet, on=on)
    mask_labels = _open_labels(mask, "mask") if mask else None
    chosen = thresholds or [0.5]
    meaning = Meaning.parse(ignore, background) if ignore or background else None
    settings = {
        "meaning": meaning,
        "zone": step,
        "exclusion": exclusion,
        "mask": mask,
        "box": box,
        "thresholds": chosen,
    }
    pairs = [
        (_open_prediction(p, segmentation), _open_labels(t, "truth", meaning))
        for p, t in zip(layers[::2], layers[1::2], strict=True)
    ]
    record = made_by("evaluate", inputs=[volume for pair in pairs for volume in pair], **settings)
    if output is not None:
        require_free_report(output, record, overwrite=overwrite)
    scores, counted = {}, {}
    for predicted, true, (prediction, truth) in zip(layers[::2], layers[1::2], pairs, strict=True):
        part = Box.parse(box, truth.shape) if box else truth.box
        zone = _open_labels(exclusion, "exclusion") if exclusion is not None else None
        prediction, truth, within, zone, part = matched(prediction, truth, mask_labels, zone, part)
        if step is not None and zone is None:
            zone = exclusion_of(truth, step, run)
        name = true if layers[1::2].count(true) == 1 else f"{true} by {predicted}"
        scores[name] = score(
            prediction, truth, exclusion=zone, mask=within, thresholds=chosen, box=part, thin=thin, run=run
        )
        if countable if objects is None else objects:
            ids = [number_objects(v, truth, run, threshold=chosen[0], box=part) for v in (prediction, truth)]
            counted[name] = score_objects(*ids, exclusion=zone, mask=within, box=part, run=run)
    table = score_table(with_pooled(scores), chosen)
    rows = [
        dict(zip(table, row, strict=True)) for row in zip(*[c.values.tolist() for c in table.values()], strict=True)
    ]
    if output is not None:
        page = write_report(output, "Evaluation", sections(scores, chosen, counted), made_by=record)
        typer.echo(f"Report: {page}", err=True)
    found = {
        name: {"found": o.counts.true_positive, "missed": o.counts.false_negative, "false": o.counts.false_positive}
        for name, o in counted.items()
    }
    apart = {name: {key: getattr(o.instances, key) for key in INSTANCE_SCORES} for name, o in counted.items()}
    if as_json:
        print_json({"scores": rows, "objects": found, "instances": apart})
        return
    for row in rows:
        ratios = ", ".join(f"{key} {row[key]:.4f}" for key in ("f1", "precision", "recall", "jaccard"))
        typer.echo(f"{row['region']} at {row['threshold']:g}: {ratios}")
    for name, counts in found.items():
        typer.echo(f"{name}: " + ", ".join(f"{n} objects {what}" for what, n in counts.items()))
        typer.echo(f"{name}: " + ", ".join(f"{key.replace('_', ' ')} {n:.4f}" for key, n in apart[name].items()))


def _zone(
    model: str | None, zone_vx: str | None, zone_nm: str | None, shape: Literal["diamond", "ball"] | None
) -> tuple[Any, bool, bool]:
    """Choose the step that makes the exclusion zone (or None), and say whether the organelle comes in objects and thin."""
    from asem_core.catalog import load_catalog
    from asem_core.errors import BadInput
    from asem_core.interfaces import FindsObjects
    from asem_core.prediction.trained import find_model

    catalog = load_catalog()
    plugin = find_model(catalog, model) if model is not None else None
    step = plugin.exclusion_zone() if plugin is not None else None
    if zone_vx and zone_nm:
        raise BadInput("Give the zone in voxels (--zone-vx) or in nm (--zone-nm), not both.")
    for text, unit in ((zone_vx, "vx"), (zone_nm, "nm")):
        if text:
            try:
                outwards, inwards = (float(part) for part in text.split(","))
            except ValueError:
                raise BadInput(
                    f"--zone-{unit} takes two numbers, outwards and inwards, as in 4,4; not '{text}'."
                ) from None
            options = {f"dilate_{unit}": outwards, f"erode_{unit}": inwards}
            step = catalog.get("preprocessor", "exclusion-zone")(**options) if outwards or inwards else None
    if shape is not None:
        if not hasattr(step, "shape"):
            raise BadInput(
                "--zone-shape says how a zone is made, and there is none: add --model, --zone-vx or --zone-nm."
            )
        step = attrs.evolve(step, shape=shape)  # type: ignore[misc]
    return step, isinstance(plugin, FindsObjects) and plugin.objects, plugin is not None and plugin.has_thin_truth


def _open_prediction(path: str, segmentation: bool) -> Any:
    """Open as labels what says that it holds labels."""
    from asem_core.cell.provenance import kind_by_name, what_it_holds
    from asem_core.cell.store import open_labels, open_volume
    from asem_core.errors import BadInput

    held = what_it_holds(open_volume(path))
    if held == "image":
        raise BadInput(
            f"{path} is an image; a prediction is a probability map or labels. "
            "If it is one all the same, import it as such: asem import ... --kind probability (or labels)."
        )
    if held == "probability" and segmentation:
        raise BadInput(f"{path} is a probability map: leave out --segmentation.")
    holds_labels = segmentation or (held or kind_by_name(path)) == "labels"
    return open_labels(path) if holds_labels else open_volume(path)


def _open_labels(path: str, role: str, meaning: Any = None) -> Any:
    from asem_core.cell.provenance import require_labels
    from asem_core.cell.store import open_labels, open_volume

    require_labels(open_volume(path), f"the {role} is made of labels, and the order is PREDICTION TRUTH ...")
    return open_labels(path, meaning)
