"""`asem view`, `asem snapshot`, `asem movie`: looking at a cell."""

import os
from pathlib import Path
from typing import Annotated

import typer

from asem_core.commands import Quiet, require_picture

Layers = Annotated[
    list[str] | None,
    typer.Option("--layers", "-l", help="Layers to show, for example raw or 'labels/*'; may be repeated."),
]


def mount(app: typer.Typer) -> None:
    app.command("view", no_args_is_help=True)(view)
    app.command("snapshot", no_args_is_help=True)(snapshot)
    app.command("movie", no_args_is_help=True)(movie)


def view(
    cell: Annotated[str, typer.Argument(help="A cell, for example cell.zarr, or one layer of it.")],
    layers: Layers = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Show this model's prediction where you look: a name from `asem models list`; or a model plugin, with --weights.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-w", help="Weights file: .safetensors, or the authors' .pt; or a run folder."),
    ] = None,
    image: Annotated[
        str | None, typer.Option(help="Layer to predict from.", show_default="what asem prepare made, or raw")
    ] = None,
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, mps.")] = "auto",
    truth: Annotated[
        str | None, typer.Option(help="Labels to compare every prediction with: adds a layer of errors.")
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", "-t", help="Probability threshold for the errors.")] = 0.5,
    bind: Annotated[
        str, typer.Option(help="Address to listen on; 0.0.0.0 lets other computers connect.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 chooses a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in a browser.")] = True,
) -> None:
    """Show a cell in the browser, until Ctrl-C.

    Only the layers shown are served, and only to those who know the address. On a server, leave `--bind` alone and
    forward the page with ssh: `ssh -L 8080:127.0.0.1:8080 SERVER asem view cell.zarr --port 8080 --no-browser`.

    Examples:

        asem view cell.zarr

        asem view cell.zarr -l raw -l 'labels/*' --truth labels/mito -l predictions/a/probability

        asem view cell.zarr -l raw --model mitochondria-cf-5nm
    """
    from asem_core.catalog import load_catalog
    from asem_core.stages import view as stage
    from asem_core.viewing.server import serve

    typer.echo(f"Preparing the view of {cell} ...", err=True)
    options = stage.ViewOptions(
        layers=layers, model=model, weights=weights, image=image, device=device, truth=truth, threshold=threshold
    )
    shown = stage.view(cell, options, load_catalog())
    with serve(shown, title=Path(cell).name, bind=bind, port=port) as served:
        typer.echo(served.url)
        if "SSH_CONNECTION" in os.environ and bind == "127.0.0.1":
            typer.echo(
                f"From your computer: ssh -L {served.port}:127.0.0.1:{served.port} SERVER, then open that address."
            )
        if browser:
            _open_page(served.url)
        typer.echo("Ctrl-C stops.")
        _wait()


def _open_page(url: str) -> None:
    import webbrowser

    try:
        opened = webbrowser.open(url)
    except webbrowser.Error:
        opened = False
    if not opened:
        typer.echo("No browser could be started here: open the address above yourself.")


def _wait() -> None:
    import threading

    try:
        threading.Event().wait()
    except KeyboardInterrupt:
        typer.echo("Stopped.")


def snapshot(
    cell: Annotated[str, typer.Argument(help="A cell, for example cell.zarr.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The picture: .png, .tif, .jpg or .pdf.")],
    planes: Annotated[
        list[str] | None,
        typer.Option(
            "--plane", help="Plane to draw, for example z=120; may be repeated.", show_default="the middle plane"
        ),
    ] = None,
    layers: Layers = None,
    montage: Annotated[
        bool, typer.Option("--montage", help="Draw a row for each plane: the image alone, then each layer over it.")
    ] = False,
    truth: Annotated[str | None, typer.Option(help="Labels to compare predictions with: adds the errors.")] = None,
    threshold: Annotated[float, typer.Option("--threshold", "-t", help="Probability threshold for the errors.")] = 0.5,
    box: Annotated[str | None, typer.Option(help="Only z0:z1,y0:y1,x0:x1, in voxels of the image.")] = None,
    width: Annotated[
        int | None,
        typer.Option(
            min=64,
            max=20000,
            help="Width of the picture in pixels; can also enlarge.",
            show_default="that of the image, at least 800, at most 1600",
        ),
    ] = None,
    axes: Annotated[
        bool, typer.Option("--axes", help="Draw axes around each plane, in voxels of the image, to read positions.")
    ] = False,
) -> None:
    """Draw planes of a cell, with layers overlaid on the image and a scale bar.

    Dashes show where a layer ends inside the plane, for example the box that was predicted.

    Examples:

        asem snapshot cell.zarr --plane z=120 -l raw -l labels/mito -o mito.png

        asem snapshot cell.zarr --plane z=40 --plane y=100 --montage -o overview.png

        asem snapshot cell.zarr --plane z=40 -l raw -l seeds/mito --axes -o strokes.png
    """
    from asem_core.catalog import load_catalog
    from asem_core.stages import view as stage
    from asem_core.viewing.snapshot import draw_planes, write_picture

    require_picture(output)
    options = stage.ViewOptions(layers=layers, truth=truth, threshold=threshold)
    shown = stage.view(cell, options, load_catalog())
    picture = draw_planes(shown, planes or (), montage=montage, box=box, width=width, axes=axes)
    typer.echo(str(write_picture(picture, output)))


def movie(
    cell: Annotated[str, typer.Argument(help="A cell, for example cell.zarr.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The movie: .mp4 or .gif.")],
    axis: Annotated[str, typer.Option(help="Axis to move along: z, y or x.")] = "z",
    layers: Layers = None,
    truth: Annotated[str | None, typer.Option(help="Labels to compare predictions with: adds the errors.")] = None,
    threshold: Annotated[float, typer.Option("--threshold", "-t", help="Probability threshold for the errors.")] = 0.5,
    box: Annotated[str | None, typer.Option(help="Only z0:z1,y0:y1,x0:x1, in voxels of the image.")] = None,
    step: Annotated[int, typer.Option(min=1, help="Show every Nth plane.")] = 1,
    fps: Annotated[float, typer.Option(min=0.1, help="Frames per second.")] = 20,
    width: Annotated[
        int | None,
        typer.Option(
            min=64, max=20000, help="Width in pixels; can also enlarge.", show_default="that of the image, at most 1500"
        ),
    ] = None,
    quiet: Quiet = False,
) -> None:
    """Make a movie of a cell, plane by plane, with layers overlaid on the image and a scale bar.

    Example: `asem movie cell.zarr -l raw -l 'labels/*' --step 2 -o cell.mp4`
    """
    from asem_core.catalog import load_catalog
    from asem_core.errors import BadInput
    from asem_core.stages import view as stage
    from asem_core.viewing.movie import write_movie
    from asem_core.viewing.snapshot import AXES, box_in, ground_of, movie_frames

    require_picture(output, (".mp4", ".gif"))
    if len(axis) != 1 or axis not in AXES:
        raise BadInput(f"'{axis}' is not an axis: z, y or x.")
    options = stage.ViewOptions(layers=layers, truth=truth, threshold=threshold)
    shown = stage.view(cell, options, load_catalog())
    part = box_in(box, ground_of(shown))
    frames = movie_frames(shown, AXES.index(axis), step=step, box=part, width=width, progress=not quiet)
    typer.echo(str(write_movie(frames, output, fps)))
