"""`asem data`: public data sets by name, address or number."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from asem_core.errors import quoted


def mount(app: typer.Typer) -> None:
    data = typer.Typer(
        no_args_is_help=True,
        help="Public data sets: list them, or copy a box, an annotated crop, or files of one.\n\nExample: `asem data list`",
    )
    data.command("list")(list_data)
    data.command("pull", no_args_is_help=True)(pull_data)
    app.add_typer(data, name="data")


def list_data(
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.")] = False,
) -> None:
    """List the public data sets that have a short name here.

    Example: `asem data list`
    """
    from asem_registry.datasets import load_data_sets

    sets = load_data_sets()
    if as_json:
        import attrs

        typer.echo(json.dumps({"data_sets": [attrs.asdict(found) for found in sets.values()]}, indent=1))
        return
    width = max(len(name) for name in sets)
    for name, found in sets.items():
        typer.echo(f"{name.ljust(width)}  {found.about} {found.licence}")
    typer.echo(
        "Also: any data set of OpenOrganelle by its name (jrc_cos7-1a), an entry of EMPIAR by its number (EMPIAR-11759), "
        "an address (s3://..., https://...), or a folder .zarr or .n5.",
        err=True,
    )


def pull_data(
    name: Annotated[
        str,
        typer.Argument(
            help="A name, as in `asem data list`; a data set of OpenOrganelle (jrc_...), EMPIAR-NUMBER, an address, or a folder."
        ),
    ],
    part: Annotated[
        str | None,
        typer.Argument(
            metavar="VOLUME|CROP|FILES",
            help="What to copy; if left out, what there is is listed. Files: 'data/stack/*.tif'.",
        ),
    ] = None,
    box: Annotated[str | None, typer.Option("--box", help="Of a volume: z0:z1,y0:y1,x0:x1 in its voxels.")] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            "--classes", help="Of a crop: its classes, with commas between; NAME=CLASS gives a layer another name."
        ),
    ] = None,
    image: Annotated[
        str | None,
        typer.Option("--image", help="Of a crop: the volume that was annotated. By default the data set's own."),
    ] = None,
    margin_nm: Annotated[
        float, typer.Option("--margin-nm", min=0, help="Of a crop: how much of the image to copy around the labels.")
    ] = 400,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Of a volume: layer to write, cell.zarr/raw; of a crop: the cell; of files: a folder.",
        ),
    ] = None,
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Number of parallel downloads.")] = 4,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")] = False,
) -> None:
    """Copy a volume of a public data set, or a box of it, an annotated crop with its image, or files of an entry of EMPIAR.

    Only the chunks of the box are downloaded. Without -o, shows what there is, its licence, and how large it is.

    Examples:

        asem data pull asem-cell-6 volumes/raw_equalized_0.02 --box 400:641,926:1402,2512:3040 -o cell_6.zarr/raw

        asem data pull jrc_hela-2 recon-1/labels/groundtruth/crop1 --classes mitochondria=mito,er -o crop1.zarr

        asem data pull EMPIAR-11759 'data/*.dm3' -o retina/
    """
    from asem_registry.datasets import find_data_set, look, outline, pull
    from asem_registry.empiar import entry_name
    from asem_registry.settings import Settings

    settings = Settings.load()
    if entry := entry_name(name):
        _refuse("files of EMPIAR", {"--box": box, "--classes": classes, "--image": image})
        _pull_files(entry, part, output, settings, workers, quiet)
        return
    data_set = find_data_set(name)
    if part is None:
        for found in outline(data_set, settings):
            typer.echo(f"{found.path}  (annotated crop)" if found.kind == "crop" else found.path)
        if data_set.contrast:
            typer.echo(data_set.contrast, err=True)
        typer.echo(data_set.terms, err=True)
        typer.echo(
            f"Next: asem data pull {quoted(name)} VOLUME --box z0:z1,y0:y1,x0:x1 -o {quoted(f'{name}.zarr/raw')}",
            err=True,
        )
        return
    run = _run(workers, quiet)
    if classes is not None or _is_crop(part):
        _refuse("a crop", {"--box": box})
        _pull_crop(data_set, part, classes, image, margin_nm, output, run, settings)
        return
    _refuse("a volume", {"--image": image})
    typer.echo(data_set.terms, err=True)
    if output is None:
        volume = look(data_set, part, settings)
        gigabytes = volume.box.size * volume.dtype.itemsize / 1e9
        typer.echo(
            f"{volume.path}  {list(volume.shape)} voxels of {list(volume.voxel_size_nm)} nm, {volume.dtype}, {gigabytes:.3g} GB"
        )
        typer.echo(
            f"Next: asem data pull {quoted(name)} {quoted(part)} --box z0:z1,y0:y1,x0:x1 -o {quoted(f'{name}.zarr/raw')}",
            err=True,
        )
        return
    made = pull(data_set, part, box, output, run, settings)
    typer.echo(f"{made.path}  {list(made.shape)} voxels of {list(made.voxel_size_nm)} nm. {data_set.licence}")


def _pull_crop(
    data_set: Any,
    crop: str,
    classes: str | None,
    image: str | None,
    margin_nm: float,
    output: Path | None,
    run: Any,
    settings: Any,
) -> None:
    """Show the classes of a crop, or copy some of them with the image around them."""
    from asem_core.errors import BadInput
    from asem_registry.crops import read_crop
    from asem_registry.datasets import crop_address, plan_crop, pull_crop

    if classes is None or output is None:
        found = read_crop(crop_address(data_set, crop, settings)).classes
        for line in _class_rows(found):
            typer.echo(line)
        typer.echo(data_set.terms, err=True)
        typer.echo(
            f"Next: asem data pull {quoted(data_set.name)} {quoted(crop)} --classes NAME,NAME -o crop.zarr", err=True
        )
        return
    if output.suffix != ".zarr":
        raise BadInput(f"-o {output}: a crop becomes a cell with several layers. Name the cell, for example crop.zarr.")
    plan = plan_crop(data_set, crop, _names(classes), image, margin_nm, settings)
    size = plan.box.size * plan.image.dtype.itemsize
    typer.echo(f"{data_set.terms} Image: {plan.image.path}, box {plan.box}, {size / 1e6:,.1f} MB.", err=True)
    for made in pull_crop(data_set, plan, output, run):
        typer.echo(f"{made.path}  {list(made.shape)} voxels of {list(made.voxel_size_nm)} nm")
    if data_set.contrast:
        typer.echo(data_set.contrast, err=True)


def _class_rows(classes: Mapping[str, Any]) -> list[str]:
    rows = [("class", "labels", "voxels", "not annotated")]
    for name, found in classes.items():
        kind = (
            "instances" if found.is_instances else "one id" if found.values is None or len(found.values) == 1 else "ids"
        )
        if found.values and len(found.values) > 1:
            kind = f"ids {', '.join(map(str, found.values))} of {found.path}"
        counts = ["" if n is None else f"{n:,}" for n in (found.count, found.num_unknown)]
        rows.append((name, kind, *counts))
    widths = [max(len(row[n]) for row in rows) for n in range(4)]
    return ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _names(classes: str) -> dict[str, str]:
    """Read `mitochondria=mito,er`: layer -> class; layers are folders, also where letters' case does not count."""
    from asem_core.errors import BadInput
    from asem_core.paths import is_reserved

    names: dict[str, str] = {}
    for part in classes.split(","):
        layer, _, of = (word.strip() for word in part.partition("="))
        if not layer or layer.lower() in {name.lower() for name in names} or "/" in layer or is_reserved(layer):
            raise BadInput(
                f"--classes {classes}: give each class once, with commas between, as in mitochondria=mito,er."
            )
        names[layer] = of or layer
    return names


def _pull_files(name: str, pattern: str | None, output: Path | None, settings: Any, workers: int, quiet: bool) -> None:
    """Show an entry of EMPIAR or the files that a pattern chooses, or download them."""
    from asem_registry import empiar

    entry = empiar.read_entry(name, settings)
    typer.echo(f"{entry.name}: {entry.title} ({entry.size})", err=output is not None)
    if pattern is None:
        for found in entry.image_sets:
            pixel = (
                "" if found.pixel_nm is None else f", pixels of {found.pixel_nm[0]:g} x {found.pixel_nm[1]:g} nm (y, x)"
            )
            number = "" if found.num_images is None else f"{found.num_images} "
            typer.echo(
                f"  {found.name}: {number}{found.data_format} in {found.folder or 'data'}{pixel}. {found.details}".rstrip()
            )
        for file in empiar.list_folder(entry, "data", settings):
            typer.echo(f"{file.path}{'/' if file.is_folder else _size(file.about_bytes)}")
        typer.echo(entry.terms, err=True)
        typer.echo(
            f"Next: asem data pull {quoted(name)} 'data/*' to see files, and with -o FOLDER to download them.", err=True
        )
        return
    files = empiar.select(entry, pattern, settings)
    total = empiar.total_bytes(files)
    told = f"{len(files):,} files{'' if total is None else f', about {total / 1e9:.3g} GB'}"
    typer.echo(f"{told}. {entry.terms}", err=True)
    if output is None:
        for file in files:
            typer.echo(f"{file.path}{_size(file.about_bytes)}")
        typer.echo(f"Next: asem data pull {quoted(name)} {quoted(pattern)} -o FOLDER", err=True)
        return
    empiar.pull(entry, files, output, settings, workers=workers, progress=not quiet)
    typer.echo(f"{output}: {told}. Their checksums: {output / empiar.SUMS}; licence: {output / 'LICENCE.txt'}")
    pixels = {found.pixel_nm for found in entry.image_sets if found.pixel_nm}
    yx = ",".join(f"{v:g}" for v in pixels.pop()) if len(pixels) == 1 else "Y,X"
    folder = (output / files[0].path).parent if len(files) > 1 else output / files[0].path
    typer.echo(
        f"Next: asem inspect {quoted(folder)}, then asem import {quoted(folder)} --voxel-size {quoted(f'Z,{yx}')} -o cell.zarr",
        err=True,
    )


def _size(about: int | None) -> str:
    return "" if about is None else f"  {about / 1e6:,.1f} MB"


def _is_crop(part: str) -> bool:
    from asem_registry.containers import is_crop

    return is_crop(part)


def _refuse(what: str, given: Mapping[str, object]) -> None:
    from asem_core.errors import BadInput

    wrong: Sequence[str] = [option for option, value in given.items() if value is not None]
    if wrong:
        raise BadInput(f"{' and '.join(wrong)} cannot be used for {what}.")


def _run(workers: int, quiet: bool) -> Any:
    from asem_core.blocks import Run

    return Run(workers=workers, progress=not quiet)
