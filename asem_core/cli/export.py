"""`asem export`: a layer for other programs, in the place of the original stack, or as surfaces."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asem_core.commands import DEFAULT_WORKERS, On, Options, Overwrite, Quiet, Workers, make_run, read_options

if TYPE_CHECKING:
    from asem_core.blocks import Run


def mount(app: typer.Typer) -> None:
    app.command("export", no_args_is_help=True)(export)


def export(
    layer: Annotated[
        str, typer.Argument(help="What to export, for example cell.zarr/predictions/a/segmentation; or a whole cell.")
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="Folder for planes, or a file whose extension sets the format: .tif, .h5, .mrc, .n5."
        ),
    ],
    threshold: Annotated[
        float | None, typer.Option("--threshold", "-t", help="Write 255 where the probability is at least this.")
    ] = None,
    use: Annotated[
        str | None,
        typer.Option(
            help="Source plugin that writes the format; of a whole cell: neuroglancer, mobie or bigdataviewer.",
            show_default="by the file extension",
        ),
    ] = None,
    options: Options = None,
    mesh: Annotated[
        str | None, typer.Option(help="Surfaces instead of planes: ply, obj, glb, or precomputed (neuroglancer).")
    ] = None,
    ids: Annotated[
        bool,
        typer.Option("--ids", help="Write a binary map as 0 and 1 instead of 0 and 255 (white)."),
    ] = False,
    max_error: Annotated[
        float | None,
        typer.Option(
            help="Surfaces: largest error of simplification in nm; 0 keeps every triangle.", show_default="1 voxel"
        ),
    ] = None,
    as_is: Annotated[bool, typer.Option("--as-is", help="Keep the layer's own grid: do not revert the crop.")] = False,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Export a layer in register with the original stack, crop reverted: as TIFF planes with the same names, or in another format.

    Examples:

        asem export cell.zarr/predictions/a/probability --threshold 0.5 -o mitochondria/

        asem export cell.zarr/labels/golgi -o golgi.h5

        asem export cell.zarr/predictions/a/segmentation --mesh ply -o surfaces/

        asem export cell.zarr --use neuroglancer -s at=https://my-lab.org/cells -o cell_neuroglancer/

        asem export cell.zarr --use mobie -o cell_mobie/

        asem export cell.zarr --use bigdataviewer -o cell_bdv/
    """
    from asem_core.catalog import load_catalog
    from asem_core.cell.provenance import what_it_holds
    from asem_core.cell.store import open_labels, open_volume
    from asem_core.errors import BadInput
    from asem_core.stages.export import as_is as own_grid
    from asem_core.stages.export import choose_writer, export_volume
    from asem_core.volume import Volume

    run = make_run(workers, quiet=quiet, on=on)
    if use in CELL_FORMATS:
        if threshold is not None or mesh is not None or max_error is not None or ids or as_is:
            raise BadInput(f"--use {use} takes a whole cell; its options are set with -s (see docs/export.md).")
        typer.echo(CELL_FORMATS[use](layer, output, read_options(options), run, overwrite))
        return
    if mesh is not None:
        from asem_core.viewing.mesh import export_meshes

        if threshold is not None:
            raise BadInput("Surfaces are made from labels: segment the probability first (asem segment).")
        labels = open_labels(layer)
        num = export_meshes(labels, output, run, form=mesh, max_error_nm=max_error, overwrite=overwrite)  # type: ignore[arg-type]
        typer.echo(f"{output}: {num} objects")
        return
    volume: Volume = open_volume(layer)
    if what_it_holds(volume) == "labels":
        volume = open_labels(layer)
    made = export_volume(
        choose_writer(load_catalog(), str(output), use, read_options(options)),
        volume,
        run,
        original=own_grid(volume) if as_is else None,
        threshold=threshold,
        ids=ids,
        overwrite=overwrite,
    )
    typer.echo(str(made))


def _for_neuroglancer(cell: str, output: Path, options: dict[str, Any], run: "Run", overwrite: bool) -> str:
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build
    from asem_core.stages.neuroglancer import Neuroglancer, export_for_neuroglancer

    how = build(Neuroglancer, options, "asem export @ neuroglancer")
    link = export_for_neuroglancer(cell, output, how, load_catalog(), run, overwrite=overwrite)
    return f"{output}: upload it beside the cell, then open\n{link}"


def _for_mobie(cell: str, output: Path, options: dict[str, Any], run: "Run", overwrite: bool) -> str:
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build
    from asem_core.stages.mobie import Mobie, export_for_mobie

    what = build(Mobie, options, "asem export @ mobie")
    made = export_for_mobie(cell, output, what, load_catalog(), run, overwrite=overwrite)
    return f"{made}: open this folder in Fiji, Plugins > MoBIE > Open > Open MoBIE Project..."


def _for_bigdataviewer(cell: str, output: Path, options: dict[str, Any], run: "Run", overwrite: bool) -> str:
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build
    from asem_core.stages.bigdataviewer import BigDataViewer, export_for_bigdataviewer

    what = build(BigDataViewer, options, "asem export @ bigdataviewer")
    made = export_for_bigdataviewer(cell, output, what, load_catalog(), run, overwrite=overwrite)
    return f"{made}: open it in Fiji, Plugins > BigDataViewer > Open XML/HDF5"


CELL_FORMATS = {"neuroglancer": _for_neuroglancer, "mobie": _for_mobie, "bigdataviewer": _for_bigdataviewer}
"""What `--use` writes of a whole cell."""
