"""`asem annotate`: seeds become labels, in files or in a window, and labels travel to other programs and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asem_core.commands import AsJson, Options, Overwrite, Quiet, make_run, print_json, read_options

if TYPE_CHECKING:
    from asem_core.interfaces import Annotator
    from asem_core.volume import Box, Volume

Cell = Annotated[Path, typer.Argument(help="The cell, for example cell.zarr.")]
Raw = Annotated[str, typer.Option(help="Which layer is the image.")]
BoxText = Annotated[
    str | None, typer.Option("--box", help="z0:z1,y0:y1,x0:x1 in voxels of the image.", show_default="all of it")
]


def mount(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True,
        help="Make ground truth: from strokes, in a window, or from other programs.\n\n"
        "Example: `asem annotate open cell.zarr --name golgi`",
    )
    group.command("cut", no_args_is_help=True)(cut)
    group.command("open", no_args_is_help=True)(open_)
    group.command("import", no_args_is_help=True)(import_)
    group.command("export", no_args_is_help=True)(export)
    group.command("train", no_args_is_help=True)(train)
    app.add_typer(group, name="annotate")


def cut(
    cell: Cell,
    output: Annotated[str, typer.Option("--output", "-o", help="Layer of the cell to write to, as labels/golgi.")],
    seeds: Annotated[
        str | None, typer.Option(help="Layer (seeds/golgi), TIFF planes or stack, .npy, or strokes in .csv.")
    ] = None,
    box: BoxText = None,
    raw: Raw = "raw",
    use: Annotated[str | None, typer.Option(help="Annotator: see `asem plugins`.", show_default="graph-cut")] = None,
    options: Options = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Turn seeds into labels, in one box of a cell.

    Seeds are 0 (unknown), 1 (object) and 2 (background). What the annotator can know without them is kept beside the
    cell, so that a second cut takes a moment.

    Examples:

        asem annotate cut cell.zarr --seeds strokes.csv --box 100:300,200:400,200:400 -o labels/golgi

        asem annotate cut cell.zarr --seeds seeds/golgi --use watershed -o labels/golgi
    """
    from asem_core.errors import BadInput
    from asem_core.stages.annotate import image_of
    from asem_core.stages.seeds import Seeds, read_seeds

    image, where = image_of(cell, raw, box)
    annotator = _build(use, read_options(options))
    if seeds is not None:
        inside = cell / seeds
        found = read_seeds(inside if inside.exists() else seeds, image, where)
    elif annotator.needs_seeds:
        raise BadInput(f"{annotator.name} needs seeds: give --seeds.")
    else:
        found = Seeds(_no_seeds(where))
    if found.repainted:
        typer.echo(f"Note: {found.repainted} voxels are painted as both classes; the last stroke counts.", err=True)
    _annotate(annotator, image, where, found.values, cell / output, quiet, as_json)


def open_(
    cell: Cell,
    name: Annotated[
        str, typer.Option(help="What is annotated: the layers are seeds/NAME and labels/NAME.")
    ] = "organelle",
    box: BoxText = None,
    raw: Raw = "raw",
    use: Annotated[str | None, typer.Option(help="Annotator to begin with.", show_default="graph-cut")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Strokes to begin with: TIFF planes or stack, .npy, or .csv (see cut).")
    ] = None,
) -> None:
    """Open the annotation window (napari): paint, press a key to cut, see the result, refine.

    Examples:

        asem annotate open cell.zarr --name golgi --box 100:300,200:400,200:400

        asem annotate open cell.zarr --name golgi --box 100:300,200:400,200:400 --seeds strokes.csv
    """
    from importlib.metadata import entry_points

    from asem_core.errors import MissingExtra

    window = next(iter(entry_points(group="asem.window")), None)
    try:
        import napari  # noqa: F401
    except ImportError:
        window = None
    if window is None:
        raise MissingExtra.of("napari", "The annotation window needs napari")
    from asem_core.catalog import load_catalog
    from asem_core.stages.annotate import image_of, keep_seeds
    from asem_core.stages.seeds import read_seeds

    image, where = image_of(cell, raw, box)
    if seeds is not None:
        keep_seeds(cell / "seeds" / name, image, where, read_seeds(seeds, image, where).values)
    window.load()(cell, image, where if box else None, name, use or load_catalog().default("annotator"))


def import_(
    cell: Cell,
    path: Annotated[str, typer.Argument(help="Planes in TIFF or PNG (VAST), one TIFF, HDF5 (ilastik), or Zarr.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Layer of the cell to write to, as labels/golgi.")],
    box: BoxText = None,
    raw: Raw = "raw",
    options: Options = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Take labels that were drawn in another program, after checks of voxel size and shape.

    Without a box, all of the stack is taken: one that is smaller than the image needs its place, offset_vx. Further options of
    the annotator `from-file`: voxel_size_nm, ids, ignore, background, dataset.

    Examples:

        asem annotate import cell.zarr vast_export/ --box 100:300,200:400,200:400 --set ids=[3,4] -o labels/golgi

        asem annotate import cell.zarr part.h5 --set offset_vx=[100,200,200] --set ignore=[255] -o labels/golgi
    """
    from asem_core.stages.annotate import SaysWhere, image_of

    image, where = image_of(cell, raw, box)
    annotator = _build("from-file", {"path": path, **read_options(options)})
    if box is None and isinstance(annotator, SaysWhere):
        where = annotator.place(image)
    _annotate(annotator, image, where, _no_seeds(where), cell / output, quiet, as_json)


def export(
    layer: Annotated[Path, typer.Argument(help="What to export, for example cell.zarr/labels/golgi.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="A folder of planes, or a .tif or .h5 file.")],
    box: BoxText = None,
    options: Options = None,
) -> None:
    """Write a box of labels for another program, to edit there and to return with `asem annotate import`.

    Examples:

        asem annotate export cell.zarr/labels/golgi --box 100:300,200:400,200:400 --set form=png -o to_vast/

        asem annotate export cell.zarr/labels/golgi -o to_ilastik.h5
    """
    from asem_core.cell.outputs import finished, note_finished, one_writer, remove
    from asem_core.cell.provenance import made_by
    from asem_core.cell.store import open_labels
    from asem_core.errors import OutputExists, PluginError
    from asem_core.stages.annotate import WritesLabels
    from asem_core.volume import Box

    labels = open_labels(layer)
    where = Box.parse(box, labels.shape) if box else labels.box
    chosen = read_options(options)
    record = made_by("annotate-export", inputs=[labels], box=where, options=chosen)
    aside = output.with_name(f".partial-{output.name}")
    partial = aside / output.name  # files in it are named by it
    writer = _build("from-file", {"path": str(partial), **chosen})
    if not isinstance(writer, WritesLabels):
        raise PluginError("The annotator 'from-file' cannot write labels. This is a fault of the plugin.")
    with one_writer(output):
        if finished(output, record) is None:
            if output.exists():
                raise OutputExists(f"{output} exists. Remove it, or choose another name.")
            remove(aside)  # of a run that was killed
            aside.mkdir(parents=True)
            try:
                writer.write(labels, where)
                partial.rename(output)
            finally:
                remove(aside)
            note_finished(output, record)
    typer.echo(f"{output}: {where} of {layer}")


def train(
    layer: Annotated[Path, typer.Argument(help="Annotated labels, for example cell.zarr/labels/golgi.")],
    model: Annotated[str, typer.Option(help="Model plugin: see `asem plugins`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run; the recipe is written beside it.")],
    raw: Annotated[str | None, typer.Option(help="Image layer.", show_default="what asem prepare made, or raw")] = None,
    minutes: Annotated[float, typer.Option(help="Time for everything, on this machine.")] = 10.0,
    iterations: Annotated[int | None, typer.Option(help="Number of iterations instead of a time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train on every box that was annotated in a layer: `asem train CELL --labels NAME`, by the layer's address.

    Example:

        asem annotate train cell.zarr/labels/golgi --model golgi -o runs/golgi
    """
    from asem_core.cli.train import train as start
    from asem_core.commands import container_of

    cell = container_of(layer)
    start(
        [cell],
        str(layer.relative_to(cell)),
        model,
        minutes,
        iterations,
        raw,
        None,
        output,
        None,
        0,
        device,
        overwrite,
        quiet,
    )


def _annotate(
    annotator: "Annotator", image: "Volume", box: "Box", seeds: Any, output: Path, quiet: bool, as_json: bool
) -> None:
    import time

    from asem_core.stages.annotate import annotate

    run = make_run(1, quiet=quiet)
    begun = time.perf_counter()
    layer = annotate(annotator, image, box, seeds, output, run)
    seconds = time.perf_counter() - begun
    count = int(layer.read(box).astype(bool).sum())
    um3 = count * float(image.voxel_size_nm[0] * image.voxel_size_nm[1] * image.voxel_size_nm[2]) / 1e9
    if as_json:
        print_json(
            {
                "layer": layer.path,
                "box": [box.begin, box.end],
                "object_vx": count,
                "object_um3": um3,
                "seconds": seconds,
            }
        )
    else:
        typer.echo(f"{layer.path} {box}: {count:,} voxels ({um3:.4g} um3) are object, in {seconds:.1f} s")


def _build(use: str | None, options: dict[str, Any]) -> "Annotator":
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build

    catalog = load_catalog()
    use = use or catalog.default("annotator")
    return build(catalog.get("annotator", use), options, f"asem annotate @ annotator ({use})")  # type: ignore[no-any-return]


def _no_seeds(box: "Box") -> Any:
    import numpy as np

    return np.zeros(box.shape, np.uint8)
