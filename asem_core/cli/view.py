"""`asem view`, `asem snapshot`, `asem movie`: looking at a cell."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asem_core.cli._options import container_of

if TYPE_CHECKING:
    from asem_core.scene import Layer

Layers = Annotated[
    list[str] | None, typer.Option("--layers", "-l", help="Which, as in raw or 'labels/*'; may be repeated.")
]


def mount(app: typer.Typer) -> None:
    app.command("view", no_args_is_help=True)(view)


def view(
    cell: Annotated[str, typer.Argument(help="A cell, for example cell.zarr, or one layer of it.")],
    layers: Layers = None,
    model: Annotated[
        str | None, typer.Option(help="Show this model's prediction where you look: a name, or a weights file.")
    ] = None,
    organelle: Annotated[
        str | None, typer.Option(help="Model plugin of weights that do not name theirs (the authors' .pt).")
    ] = None,
    image: Annotated[str, typer.Option(help="The layer that the model sees.")] = "raw",
    device: Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda, mps.")] = "auto",
    truth: Annotated[
        str | None, typer.Option(help="Labels to compare every prediction with: adds a layer of errors.")
    ] = None,
    threshold: Annotated[float, typer.Option("--threshold", "-t", help="Probability, for the errors.")] = 0.5,
    bind: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other computers in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page.")] = True,
) -> None:
    """Show a cell in the browser, until Ctrl-C.

    Only the shown layers are served, and only to who knows the address. On a server, leave `--bind` alone and let ssh
    bring the page to you: `ssh -L 8080:127.0.0.1:8080 SERVER asem view cell.zarr --port 8080 --no-browser`.

    Examples:

        asem view cell.zarr

        asem view cell.zarr -l raw -l 'labels/*' --truth labels/mito -l predictions/a/probability

        asem view cell.zarr -l raw --model mitochondria-cf-5nm
    """
    from asem_core.catalog import load_catalog
    from asem_core.scene import errors_layer, open_layers
    from asem_core.view import serve

    catalog = load_catalog()
    shown = open_layers(cell, layers, catalog)
    if model is not None:
        shown.append(_live_layer(cell, model, organelle, image, device))
    if truth is not None:
        (true,) = open_layers(container_of(Path(cell)), [truth], catalog)
        predicted = [x for x in shown if x.kind == "probability" or x.name.endswith("segmentation")]
        shown += [errors_layer(true, x, threshold) for x in predicted]
    with serve(shown, bind=bind, port=port) as served:
        typer.echo(served.url)
        if "SSH_CONNECTION" in os.environ and bind == "127.0.0.1":
            typer.echo(
                f"From your computer: ssh -L {served.port}:127.0.0.1:{served.port} SERVER, then open that address."
            )
        if browser:
            _open_page(served.url)
        typer.echo("Ctrl-C stops.")
        _wait()


def _live_layer(cell: str, model: str, organelle: str | None, image: str, device: str) -> Layer:
    from asem_core.catalog import load_catalog
    from asem_core.live import live_prediction, model_of_boxes
    from asem_core.pretrained import find_weights
    from asem_core.provenance import sha256
    from asem_core.scene import Layer, colour_of
    from asem_core.store import open_volume
    from asem_core.volume import Volume
    from asem_core.weights import load_weights, read_metadata

    catalog = load_catalog()
    container = container_of(Path(cell))
    volume: Volume = open_volume(container / image)
    weights = find_weights(model)
    network = load_weights(weights, catalog.get("model", organelle)().network() if organelle else None)
    name = Path(model).stem
    plugin = organelle or str(read_metadata(weights).get("model", {}).get("use", name))
    layer = f"predictions/live-{name}/probability"
    array = live_prediction(
        model_of_boxes(network, volume, device),
        volume,
        container / layer,
        details={"model": plugin, "weights": model, "weights_sha256": sha256(weights)},
    )
    live = Volume(array, volume.voxel_size_nm, volume.origin_nm, str(container / layer))
    return Layer(f"{layer} (live)", "probability", [live], colour_of(plugin, catalog))


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
