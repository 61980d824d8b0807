"""`asem inspect`: what a file or folder is, and how it would be imported."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asem_core.commands import AsJson, Options, VoxelSize, print_json, read_options, read_voxel_size

if TYPE_CHECKING:
    from asem_core.stages.inspect_ import Greys, Inspection


def mount(app: typer.Typer) -> None:
    app.command("inspect", no_args_is_help=True)(inspect_)


def inspect_(
    path: Annotated[str, typer.Argument(help="Any file, folder or address to import.")],
    picture: Annotated[
        Path | None,
        typer.Option("--picture", "-o", help="PNG file to draw: one plane across each axis, and a histogram."),
    ] = None,
    voxel_size: VoxelSize = None,
    use: Annotated[str | None, typer.Option(help="Source plugin; by default one that can read the path.")] = None,
    source_layer: Annotated[str | None, typer.Option(help="Layer of the source, if it has several.")] = None,
    options: Options = None,
    as_json: AsJson = False,
) -> None:
    """Show what is at a path before importing it: format, size, grey values, anything unusual, and the import command.

    Examples:

        asem inspect cell_6/

        asem inspect stack.h5 --source-layer volumes/raw --picture stack.png
    """
    from asem_core.catalog import load_catalog
    from asem_core.stages.inspect_ import draw, inspect

    chosen = read_options(options)
    found, views = inspect(load_catalog(), path, use, chosen, source_layer, read_voxel_size(voxel_size))
    if picture is not None and views is not None:
        draw(found, views, picture)
    if as_json:
        print_json(found.json())
        return
    for name, text in _lines(found):
        typer.echo(f"{name + ':' if name else '':<12} {text}".rstrip())
    if picture is not None and views is not None:
        typer.echo(f"{'picture:':<12} {picture}")


def _lines(found: Inspection) -> list[tuple[str, str]]:
    lines = [("path", found.path), ("read by", found.source)]
    if len(found.layers) > 1:
        lines.append(("layers", ", ".join(found.layers[:12]) + (", ..." if len(found.layers) > 12 else "")))
    if found.shape is not None:
        z, y, x = found.shape
        lines.append(("size", f"{z} x {y} x {x} voxels, {found.dtype}, {found.num_bytes / 1e9:.3g} GB"))
        size = found.voxel_size_nm
        lines.append(("voxel size", "not stated" if size is None else " x ".join(f"{v:.6g}" for v in size) + " nm"))
        if found.origin_nm is not None and any(found.origin_nm):
            lines.append(("origin", ", ".join(f"{v:g}" for v in found.origin_nm) + " nm"))
    if found.planes:
        lines.append(("planes", f"{len(found.planes)}, {found.planes[0]} to {found.planes[-1]}"))
    if found.greys is not None:
        lines += _about_greys(found.greys)
    lines += [("", line) for line in found.remarks]
    lines += [("warning", question) for question in found.questions]
    lines += [("needs", ask) for ask in found.asks]
    if found.command:
        check = " (replace the example values that answer what is asked)" if found.asks else ""
        lines.append(("import", found.command + check))
    return lines


def _about_greys(greys: Greys) -> list[tuple[str, str]]:
    middle = ", ".join(f"{name} {value:g}" for name, value in greys.percentiles.items())
    top = max(greys.histogram) or 1
    bars = "".join(" ▁▂▃▄▅▆▇█"[min(8, -(-8 * n // top))] for n in greys.histogram)
    return [
        (
            "grey values",
            f"{greys.lowest:g} to {greys.highest:g} in {greys.num_planes} plane{'s' * (greys.num_planes > 1)} sampled ({middle})",
        ),
        ("", f"|{bars}|"),
    ]
