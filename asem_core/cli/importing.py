"""`asem import`: a microscope's export becomes a layer of a cell."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from asem_core.commands import (
    DEFAULT_WORKERS,
    Background,
    BlockShape,
    Done,
    Ignore,
    On,
    Options,
    Quiet,
    VoxelSize,
    Workers,
    make_run,
    read_options,
    read_voxel_size,
    read_zyx,
)
from asem_core.errors import quoted


def mount(app: typer.Typer) -> None:
    app.command("import", no_args_is_help=True)(import_)


def import_(
    output: Annotated[Path, typer.Option("--output", "-o", help="The cell, for example cell.zarr.")],
    source: Annotated[
        str | None,
        typer.Argument(
            help="Folder of planes, a TIFF, MRC or HDF5 file, a Zarr container, a URL, ... `asem inspect` says what it is."
        ),
    ] = None,
    layer: Annotated[str, typer.Option(help="Layer of the cell to write: raw, labels/NAME, ...")] = "raw",
    voxel_size: VoxelSize = None,
    use: Annotated[str | None, typer.Option(help="Source plugin; by default one that can read the path.")] = None,
    source_layer: Annotated[str | None, typer.Option(help="Layer of the source, if it has several.")] = None,
    kind: Annotated[
        Literal["image", "labels", "probability"] | None,
        typer.Option(
            help="What the voxels are: an image, labels, or another program's probability map.",
            show_default="by the layer's name: raw..., labels/...",
        ),
    ] = None,
    box: Annotated[str | None, typer.Option(help="Only z0:z1,y0:y1,x0:x1, in voxels of the source.")] = None,
    offset: Annotated[
        str | None,
        typer.Option(
            help="Voxel of the cell's image (raw) at which it begins, z,y,x: for labels of a part of the image.",
            show_default="as stated in the file",
        ),
    ] = None,
    done: Done = None,
    ignore: Ignore = None,
    background: Background = None,
    options: Options = None,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    block: BlockShape = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the existing layer, even if the same import made it.")
    ] = False,
    quiet: Quiet = False,
) -> None:
    """Import an image (or labels) into a cell, after checking all planes.

    Examples:

        asem import cell_6/ --voxel-size 5,5,5 -o cell_6.zarr

        asem import golgi_labels.tif --voxel-size 5 --layer labels/golgi -o cell_6.zarr

        asem import neurons_part.tif --voxel-size 5 --offset 100,200,200 --layer labels/neurons -o cell_6.zarr

        asem import s3://bucket/cell.zarr --source-layer volumes/raw -o cell.zarr

        asem import --use phantom --set 'size_nm=[800,1200,1200]' --set seed=7 -o phantom.zarr
    """
    from asem_core.catalog import load_catalog
    from asem_core.cell.elsewhere import parse_done, require_steps
    from asem_core.cell.place import require_cell
    from asem_core.cell.record import Record
    from asem_core.errors import BadInput
    from asem_core.stages.import_ import choose_source, import_volume
    from asem_core.voxels.known import Meaning

    require_cell(output, layer)
    chosen = read_options(options)
    catalog, steps = load_catalog(), parse_done(done)
    require_steps(steps, catalog)
    try:
        plugin = choose_source(catalog, source, use, chosen, read_voxel_size(voxel_size))
        made = import_volume(
            plugin,
            output / layer,
            make_run(workers, block, quiet, on),
            layer=source_layer,
            box=box,
            kind=kind,
            done=steps,
            offset_vx=read_zyx(offset, "--offset") if offset else None,
            catalog=catalog,
            meaning=Meaning.parse(ignore, background) if ignore or background else None,
            overwrite=overwrite,
            anew=overwrite,
        )
    except BadInput as error:
        if source is None or ("://" not in source and not Path(source).exists()):
            raise
        raise error.followed_by(f"For details: asem inspect {quoted(source)}") from error
    z, y, x = made.shape
    told = " x ".join(f"{v:.6g}" for v in made.voxel_size_nm)
    typer.echo(f"{made.path}: {z} x {y} x {x} voxels of {told} nm")
    for line in Record.of(made).remarks:
        typer.echo(f"  {line}")
