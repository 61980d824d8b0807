"""`asem annotate`: seeds become labels, in files or in a window, and labels travel to other programs and back."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asem_core.commands import (
    AsJson,
    Background,
    Ignore,
    Options,
    Overwrite,
    Quiet,
    VoxelSize,
    make_run,
    print_json,
    read_numbers,
    read_options,
    read_voxel_size,
    read_zyx,
)

if TYPE_CHECKING:
    from asem_core.interfaces import Annotator
    from asem_core.stages.seeds import Seeds
    from asem_core.volume import Box, Volume

Cell = Annotated[Path, typer.Argument(help="The cell, for example cell.zarr.")]
Raw = Annotated[str, typer.Option(help="The layer to use as the image.")]
BoxText = Annotated[
    str | None, typer.Option("--box", help="z0:z1,y0:y1,x0:x1 in voxels of the image.", show_default="the whole image")
]

NEARLY_ALL = 0.75
"""Fewer organelles fill so much of a box than objects run out of it for want of background strokes."""


def mount(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True,
        help="Make ground truth: from strokes, in a window, or from other programs.\n\n"
        "Example: `asem annotate open cell.zarr --name golgi`",
    )
    group.command("cut", no_args_is_help=True)(cut)
    group.command("open", no_args_is_help=True)(open_)
    group.command("paint", no_args_is_help=True)(paint)
    group.command("import", no_args_is_help=True)(import_)
    group.command("export", no_args_is_help=True)(export)
    group.command("train", no_args_is_help=True)(train)
    group.command("suggest", no_args_is_help=True)(suggest)
    app.add_typer(group, name="annotate")


def cut(
    cell: Cell,
    output: Annotated[str, typer.Option("--output", "-o", help="Layer of the cell to write: golgi, or labels/golgi.")],
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
    """Turn seeds into labels in one box of a cell.

    Seeds are 0 (unknown), 1 (object) and 2 (background). The box then counts as annotated: training and scoring take all of
    it that is not object for background. Everything that does not depend on the seeds is cached beside the cell, so a second
    cut is fast.

    Examples:

        asem annotate cut cell.zarr --seeds strokes.csv --box 100:300,200:400,200:400 -o labels/golgi

        asem annotate cut cell.zarr --seeds seeds/golgi --use watershed --box :,:,: -o labels/golgi
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
    _tell_repainted(found)
    if box is None:
        _tell_that_all_counts(image, _layer_of(cell, output))
    _annotate(annotator, image, where, found.values, _layer_of(cell, output), quiet, as_json)


def open_(
    cell: Cell,
    name: Annotated[
        str, typer.Option(help="Name of what you annotate; the layers are seeds/NAME and labels/NAME.")
    ] = "organelle",
    box: BoxText = None,
    raw: Raw = "raw",
    use: Annotated[str | None, typer.Option(help="Annotator to start with.", show_default="graph-cut")] = None,
    seeds: Annotated[
        str | None, typer.Option(help="Strokes to start with: TIFF planes or stack, .npy, or .csv (see cut).")
    ] = None,
) -> None:
    """Open the annotation window (napari): paint, press a key to cut, look at the result, refine it.

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
    from asem_core.stages.annotate import image_of
    from asem_core.stages.seeds import add_seeds

    image, where = image_of(cell, raw, box)
    if seeds is not None:
        add_seeds(cell, name, seeds, image, where)
    window.load()(cell, image, where if box else None, name, use or load_catalog().default("annotator"))


def paint(
    cell: Cell,
    seeds: Annotated[
        Path, typer.Argument(help="Strokes in .csv, TIFF planes or stack, .npy, or a layer of another cell (see cut).")
    ],
    name: Annotated[str, typer.Option(help="Name of what you annotate: golgi for seeds/golgi.")],
    box: BoxText = None,
    raw: Raw = "raw",
    as_json: AsJson = False,
) -> None:
    """Add strokes from a file to those of a cell, without the window. `asem loop` and `asem train` learn from them.

    Examples:

        asem annotate paint cell.zarr strokes.csv --name golgi

        asem annotate paint cell.zarr planes/ --name golgi --box 100:300,200:400,200:400
    """
    from asem_core.stages.annotate import BACKGROUND, OBJECT, image_of
    from asem_core.stages.seeds import add_seeds

    found = add_seeds(cell, name, seeds, *image_of(cell, raw, box))
    _tell_repainted(found)
    layer, painted = cell / "seeds" / name, [int((found.values == value).sum()) for value in (OBJECT, BACKGROUND)]
    if as_json:
        print_json({"layer": str(layer), "object_vx": painted[0], "background_vx": painted[1]})
    else:
        typer.echo(f"{layer}: {painted[0]:,} voxels of object and {painted[1]:,} of background were painted.")


def import_(
    cell: Cell,
    path: Annotated[str, typer.Argument(help="A folder of planes (VAST), TIFF, HDF5 (ilastik), Zarr, ...")],
    output: Annotated[str, typer.Option("--output", "-o", help="Layer of the cell to write: golgi, or labels/golgi.")],
    box: BoxText = None,
    offset: Annotated[
        str | None,
        typer.Option(
            help="Position of its first voxel in the image, z,y,x.",
            show_default="as stated in the file, or judged by its shape",
        ),
    ] = None,
    ids: Annotated[
        str | None, typer.Option(help="Ids that are the object, for example 3,4.", show_default="all except 0")
    ] = None,
    ignore: Ignore = None,
    background: Background = None,
    voxel_size: VoxelSize = None,
    use: Annotated[str | None, typer.Option(help="Source plugin; by default one that can read the path.")] = None,
    source_layer: Annotated[str | None, typer.Option(help="Layer of the source, if it has several.")] = None,
    raw: Raw = "raw",
    options: Options = None,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Import labels drawn in another program, after checking voxel size and shape.

    Without a box, the whole stack is imported. If it is smaller than the image, give its position (--offset).

    Examples:

        asem annotate import cell.zarr vast_export/ --box 100:300,200:400,200:400 --ids 3,4 -o labels/golgi

        asem annotate import cell.zarr part.h5 --offset 100,200,200 --ignore 255 -o labels/golgi
    """
    import time

    from asem_core.catalog import load_catalog
    from asem_core.stages.annotate import image_of
    from asem_core.stages.foreign_labels import Reading, labels_in, require_ids, write_labels
    from asem_core.stages.import_ import choose_source
    from asem_core.voxels.known import Meaning

    begun = time.perf_counter()
    image, where = image_of(cell, raw, box)
    source = choose_source(load_catalog(), path, use, read_options(options), read_voxel_size(voxel_size))
    wanted = tuple(read_numbers(ids, int, "--ids")) if ids else None
    place = read_zyx(offset, "--offset") if offset else None
    reading = Reading(place, wanted, Meaning.parse(ignore, background))
    labels = labels_in(image, source, source_layer, where if box else None, reading)
    require_ids(labels, wanted)
    layer = write_labels(labels, image, source, _layer_of(cell, output), progress=not quiet)
    covered = image.box_of(labels)
    count = sum(int(labels.read(b).sum()) for b in labels.box.blocks((64, 512, 512)))
    _tell(layer.path, covered, count, image, time.perf_counter() - begun, as_json)


def export(
    layer: Annotated[Path, typer.Argument(help="What to export, for example cell.zarr/labels/golgi.")],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="Folder for planes, or a file whose extension sets the format: .tif, .h5."),
    ],
    box: BoxText = None,
    use: Annotated[
        str | None,
        typer.Option(
            help="Source plugin that writes the format: image-stack for PNG.", show_default="by the file extension"
        ),
    ] = None,
    options: Options = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Write a box of labels for another program, to edit there and bring back with `asem annotate import`.

    Examples:

        asem annotate export cell.zarr/labels/golgi --box 100:300,200:400,200:400 --use image-stack -o to_vast/

        asem annotate export cell.zarr/labels/golgi -o to_ilastik.h5
    """
    from asem_core.catalog import load_catalog
    from asem_core.cell.store import open_labels
    from asem_core.stages.export import as_is, choose_writer, export_volume
    from asem_core.volume import Box

    labels = open_labels(layer)
    where = Box.parse(box, labels.shape) if box else labels.box
    part = labels.crop(where) if box else labels
    writer = choose_writer(load_catalog(), str(output), use, read_options(options))
    made = export_volume(writer, part, make_run(1, quiet=quiet), original=as_is(part), ids=True, overwrite=overwrite)
    typer.echo(f"{made}: {where} of {layer}")


def train(
    layer: Annotated[Path, typer.Argument(help="Annotated labels, for example cell.zarr/labels/golgi.")],
    model: Annotated[str, typer.Option(help="Model plugin: see `asem plugins`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Run folder; the recipe is written beside it.")],
    raw: Annotated[str | None, typer.Option(help="Image layer.", show_default="what asem prepare made, or raw")] = None,
    minutes: Annotated[float, typer.Option(help="Total time to use on this machine.")] = 10.0,
    iterations: Annotated[int | None, typer.Option(help="Number of iterations, instead of a time.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Train on every annotated box of a layer: the same as `asem train CELL --labels NAME`.

    Example:

        asem annotate train cell.zarr/labels/golgi --model golgi -o runs/golgi
    """
    from asem_core.cli.train import plan_and_train
    from asem_core.commands import container_of

    cell = container_of(layer)
    labels = str(layer.relative_to(cell))
    plan_and_train(output, [cell], labels, model, minutes, iterations, raw, 0, None, device, overwrite, quiet)


def suggest(
    cell: Cell,
    labels: Annotated[
        str, typer.Option("--labels", metavar="NAME", help="What `asem loop` learns: golgi for seeds/golgi.")
    ],
    number: Annotated[int, typer.Option(help="Number of places.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Random seed of the places that are compared.")] = 0,
    as_json: AsJson = False,
    quiet: Quiet = False,
) -> None:
    """Suggest where to paint next: where the network is unsure, and places unlike what was painted; the best first.

    Needs a round of `asem loop`. The places are spread over the image.

    Example:

        asem annotate suggest cell.zarr --labels mitochondria --number 5
    """
    from asem_core.catalog import load_catalog
    from asem_core.stages.loop import Session
    from asem_core.stages.suggest import suggest as find

    session = Session.open(cell, labels, load_catalog(), to_learn=False)
    places = find(session, number, seed, progress=not quiet)
    if as_json:
        import attrs

        print_json([attrs.asdict(place) for place in places])
        return
    for place in places:
        z, y, x = place.centre
        typer.echo(
            f"z {z}, y {y}, x {x}: score {place.score:.2f} (unsure {place.unsure:.2f}, mirror image differs by {place.differs:.2f}, "
            f"unlike what was painted {place.unlike:.1f})"
        )


def _layer_of(cell: Path, output: str) -> Path:
    """Say which layer is meant: a name alone is one of `labels`, where training and scoring look; a path through the cell is understood."""
    name = output.removeprefix(f"{cell}/")
    return cell / (name if "/" in name or name == "labels" or (cell / name).exists() else f"labels/{name}")


def _tell_repainted(seeds: "Seeds") -> None:
    if seeds.repainted:
        typer.echo(f"Note: {seeds.repainted} voxels are painted as both classes; the last stroke counts.", err=True)


def _tell_that_all_counts(image: "Volume", layer: Path) -> None:
    """Say what a cut without a box makes of places that nobody looked at; in a terminal, ask."""
    import sys

    size = " x ".join(map(str, image.shape))
    told = (
        f"there is no --box, so the whole image ({size} voxels) will count as annotated: training and scoring take all of it "
        "that is not object for background, also where nobody looked. To annotate a part, give --box; for all of it, --box :,:,:. "
        f"To take it back, remove the folder {layer}."
    )
    if not sys.stdin.isatty():
        typer.echo(f"Note: {told}", err=True)
    elif not typer.confirm(f"{told[0].upper()}{told[1:]}\nCut the whole image?", err=True):
        raise typer.Exit(1)


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
    _tell(layer.path, box, count, image, seconds, as_json)
    if count > NEARLY_ALL * box.size:
        typer.echo(
            f"Note: {count / box.size:.0%} of the box is object. If that is too much, paint more background (a ring around each "
            "object, on several planes), and cut again.",
            err=True,
        )


def _tell(layer: str, box: "Box", count: int, image: "Volume", seconds: float, as_json: bool) -> None:
    um3 = count * float(image.voxel_size_nm[0] * image.voxel_size_nm[1] * image.voxel_size_nm[2]) / 1e9
    if as_json:
        told = {"layer": layer, "box": [box.begin, box.end], "object_vx": count, "object_um3": um3, "seconds": seconds}
        print_json(told)
    else:
        typer.echo(f"{layer} {box}: {count:,} voxels ({um3:.4g} µm³) are object, in {seconds:.1f} s")


def _build(use: str | None, options: dict[str, Any]) -> "Annotator":
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build

    catalog = load_catalog()
    use = use or catalog.default("annotator")
    return build(catalog.get("annotator", use), options, f"asem annotate @ annotator ({use})")  # type: ignore[no-any-return]


def _no_seeds(box: "Box") -> Any:
    import numpy as np

    return np.zeros(box.shape, np.uint8)
