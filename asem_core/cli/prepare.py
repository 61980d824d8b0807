"""`asem prepare` and `asem preprocess`: the usual steps with a picture of what each did, and any step by itself."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    container_of,
    make_run,
    print_json,
    read_options,
    require_picture,
)
from asem_core.errors import BadInput, NothingToDo, OutsideVolume, TooLarge

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes

    from asem_core.stages.preprocess import Made
    from asem_core.volume import Volume

SHOWN_PX = 1024  # larger planes are drawn with every second, third, ... voxel


def mount(app: typer.Typer) -> None:
    app.command("prepare", no_args_is_help=True)(prepare)
    app.command("preprocess", no_args_is_help=True)(preprocess)


def prepare(
    cell: Annotated[Path, typer.Argument(help="The cell, for example cell.zarr, or one of its image layers.")],
    skip: Annotated[list[str] | None, typer.Option(help="Skip a step: crop, mask or clahe; may be repeated.")] = None,
    options: Options = None,
    plane: Annotated[
        str | None,
        typer.Option(help="Plane to show, for example z=120, in voxels of the image; by default the middle."),
    ] = None,
    picture: Annotated[
        Path | None, typer.Option(help="The picture; by default CELL_prepare.png beside the cell.")
    ] = None,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    block: BlockShape = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Crop to the cell, mask it, and equalize its contrast (CLAHE): layers raw_crop, mask and raw_clahe.

    Later commands (predict, annotate train, train, view) use the result when you give them the cell. Each step works on
    the result of the step before. The picture shows one plane as it was and after each step, with histograms, so that you
    can check the options by eye. Set options by step: --set clahe.clip_limit=0.01.

    Examples:

        asem prepare cell.zarr

        asem prepare cell.zarr --skip crop --set mask.darkest=10 --set mask.brightest=200 --overwrite

        asem prepare cell.zarr --set crop.box=0:500,100:1900,100:1900 --set clahe.kernel_vx=64
    """
    from asem_core.catalog import load_catalog
    from asem_core.cell.prepared import open_images
    from asem_core.cell.store import open_volume
    from asem_core.stages.preprocess import Made, usual_steps
    from asem_core.stages.preprocess import prepare as prepare_cell

    container = container_of(cell)
    catalog = load_catalog()
    steps = usual_steps(catalog, set(skip or []), _by_step(read_options(options)))
    shown: list[Made] = []
    where = picture or container.with_name(f"{container.stem}_prepare.png")
    require_picture(where)
    image = None if cell == container else cell.relative_to(container).as_posix()
    z = None
    if plane is not None:
        first: Volume = open_images(container, outdated=True)[-1] if image is None else open_volume(cell)
        z = _z_of(plane, first)
    try:
        made = prepare_cell(
            container,
            steps,
            make_run(workers, block, quiet, on),
            catalog,
            image=image,
            overwrite=overwrite,
            watch=shown.append,
        )
    except BadInput as error:
        if not shown or shown[-1].after is not None or shown[-1].why or isinstance(error, OutsideVolume | TooLarge):
            raise
        # The picture of the image as it is shows which options would do.
        _draw(shown, z, where)
        raise error.followed_by(f"{where} shows the image and its histogram.") from None
    if shown:
        _draw(shown, z, where)
    if as_json:
        paths = {m.step: m.after.path for m in made if m.after is not None}
        print_json({"layers": paths, "picture": str(where) if shown else None})
        return
    for step in made:
        if step.after is None:
            typer.echo(step.why)
        else:
            typer.echo(f"{step.after.path}: {' x '.join(map(str, step.after.shape))} voxels, {step.after.dtype}")
    typer.echo(f"Look at {where}." if shown else "Every step is skipped: later commands use the image as it is.")


def preprocess(
    source: Annotated[Path, typer.Argument(help="The cell, for example cell.zarr, or one of its layers.")],
    use: Annotated[str, typer.Option(help="The step: see `asem plugins list`.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Layer to write.", show_default="beside the image, named after the step"),
    ] = None,
    options: Options = None,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    block: BlockShape = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Run a single preprocessing step, with any plugin.

    Given a cell, the step works on its image, and later commands (predict, annotate train, train, view) use the result.
    Given a layer, only the new layer is made; steps for labels need a layer.

    Examples:

        asem preprocess cell.zarr --use downsample -s factor=2

        asem preprocess cell.zarr --use cell-mask -s brightest=200

        asem preprocess cell.zarr/labels/golgi --use dilate-labels -s radius_vx=2 -o cell.zarr/labels/golgi_thick
    """
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build
    from asem_core.stages.preprocess import preprocess_cell, preprocess_layer

    catalog = load_catalog()
    step = build(catalog.get("preprocessor", use), read_options(options), f"asem preprocess @ {use}")
    run = make_run(workers, block, quiet, on)
    of_cell = source == container_of(source) and output is None
    try:
        if of_cell:
            made = preprocess_cell(step, source, run, catalog, overwrite=overwrite)
        else:
            made = preprocess_layer(step, source, run, catalog, output, overwrite=overwrite)
    except NothingToDo as found:
        print_json({"path": None}) if as_json else typer.echo(found)
        return
    if as_json:
        print_json({"path": made.path, "shape": list(made.shape), "voxel_size_nm": list(made.voxel_size_nm)})
        return
    size = " x ".join(f"{v:g}" for v in made.voxel_size_nm)
    typer.echo(f"{made.path}: {' x '.join(map(str, made.shape))} voxels of {size} nm, {made.dtype}")
    if of_cell:
        typer.echo(f"Later commands use it as the {'mask' if step.changes == 'mask' else 'image'} of {source}.")


def _by_step(options: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Sort `clahe.clip_limit = ...` under its step."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in options.items():
        step, dot, option = key.partition(".")
        if not dot:
            raise BadInput(f"--set {key}=...: say of which step, for example --set clahe.{key}=...")
        found.setdefault(step, {})[option] = value
    return found


def _z_of(text: str, image: "Volume") -> int:
    """Read `z=120`, or `120`: a plane along z of an image."""
    from asem_core.viewing.snapshot import Plane

    plane = Plane.parse(text)
    if plane.axis != 0:
        raise BadInput(f"--plane {text}: planes along z are shown here, as in z={image.shape[0] // 2}.")
    if not 0 <= plane.index < image.shape[0]:
        raise BadInput(f"--plane {text}: the image has planes 0 to {image.shape[0] - 1}.")
    return plane.index


def _draw(rows: "Sequence[Made]", plane: int | None, path: Path) -> None:
    """Draw a plane of the image as it was and after each step, side by side, with the histogram of each below it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    first, last = rows[0].before, rows[-1].after or rows[-1].before
    of = last if plane is None else first
    z = of.shape[0] // 2 if plane is None else plane
    z_nm = of.origin_nm[0] + z * of.voxel_size_nm[0]
    made = [row for row in rows if row.after is not None]
    figure = Figure(figsize=(5.4 * (1 + len(made)), 8), layout="constrained")
    axes = figure.subplots(2, 1 + len(made), squeeze=False, height_ratios=(2, 1))
    _show(axes[0, 0], axes[1, 0], "before", _plane(first, z_nm), first)
    for column, row in enumerate(made, start=1):
        _show_made(axes[0, column], axes[1, column], row, z_nm)
    idle = "".join(f"; {row.step}: nothing to do" for row in rows if row.after is None and row.why)
    figure.suptitle(f"{container_of(Path(first.path)).name}, plane at z = {z_nm:g} nm{idle}")
    FigureCanvasAgg(figure).print_png(str(path))


def _show_made(axis: "Axes", greys: "Axes", row: "Made", z_nm: float) -> None:
    """Draw what a step made; a mask over the image that it was made of."""
    import numpy as np

    assert row.after is not None  # others have nothing to show
    new = _plane(row.after, z_nm)
    if row.step != "mask" or new is None:
        _show(axis, greys, f"after {row.step}", new, row.after)
        return
    title = f"{row.step}: {np.count_nonzero(new) / new.size:.0%} of the plane"
    _show(axis, greys, title, _plane(row.before, z_nm), row.before, new > 0)


def _plane(volume: "Volume", z_nm: float) -> "np.ndarray | None":
    """Read the plane at a height, thinned out for drawing; None where the volume does not reach."""
    from asem_core.volume import Box

    z = round((z_nm - volume.origin_nm[0]) / volume.voxel_size_nm[0])
    if not 0 <= z < volume.shape[0]:
        return None
    step = -(-max(volume.shape[1:]) // SHOWN_PX)
    return volume.read(Box((z, 0, 0), (z + 1, volume.shape[1], volume.shape[2])))[0, ::step, ::step]


def _show(
    axis: "Axes",
    greys: "Axes",
    title: str,
    plane: "np.ndarray | None",
    volume: "Volume",
    mask: "np.ndarray | None" = None,
) -> None:
    import numpy as np
    from matplotlib.patches import Patch

    axis.set_title(title, fontsize=10)
    if plane is None:
        axis.text(0.5, 0.5, "this plane was cropped away", ha="center")
        axis.set_axis_off()
        greys.set_axis_off()
        return
    low, high = (0, np.iinfo(volume.dtype).max) if volume.dtype.kind == "u" else (plane.min(), plane.max())
    (top, left), (y, x) = (np.array(volume.origin_nm[1:]) / 1000, np.array(volume.voxel_size_nm[1:]) / 1000)
    extent = (left, left + volume.shape[2] * x, top + volume.shape[1] * y, top)
    axis.imshow(plane, cmap="gray", vmin=low, vmax=high, extent=extent, interpolation="nearest")
    if mask is not None:
        tint = np.zeros((*mask.shape, 4))
        tint[~mask] = (0.84, 0.37, 0.0, 0.55)
        axis.imshow(tint, extent=extent, interpolation="nearest")
        axis.legend(
            loc="upper right", handles=[Patch(color=(0.84, 0.37, 0.0, 0.55), label="left out by the mask")], fontsize=8
        )
    axis.set_xlabel("x (µm)")
    axis.set_ylabel("y (µm)")
    bins = np.linspace(low, high, 129).tolist()
    greys.hist(plane.ravel(), bins, histtype="stepfilled", color="0.75", label="plane")
    if mask is not None:
        greys.hist(plane[mask], bins, histtype="stepfilled", color="0.25", label="inside the mask")
        greys.legend(fontsize=8)
    greys.set_yscale("log")
    greys.set_xlabel("grey value")
    greys.set_ylabel("pixels")
