"""`asem predict` and `asem segment`: an image becomes a probability map, and that a segmentation."""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from asem_core.commands import (
    DEFAULT_WORKERS,
    AsJson,
    BlockShape,
    Done,
    On,
    Options,
    Overwrite,
    Quiet,
    VoxelSize,
    Workers,
    make_run,
    print_json,
    read_options,
    read_voxel_size,
)
from asem_core.errors import quoted

if TYPE_CHECKING:
    from asem_core.volume import Volume


def mount(app: typer.Typer) -> None:
    app.command("predict", no_args_is_help=True)(predict)
    app.command("segment", no_args_is_help=True)(segment)


def predict(
    source: Annotated[str, typer.Argument(help="The cell, or an image: cell.zarr/raw_clahe, a folder of TIFFs, ...")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="Name from `asem models list`; or a model plugin, with --weights."),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-w", help="Weights file: .safetensors, or the authors' .pt; or a run folder."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Cell or layer to write.", show_default="the cell of the image"),
    ] = None,
    layer: Annotated[str | None, typer.Option(help="Layer of the source, if it has several.")] = None,
    voxel_size: VoxelSize = None,
    box: Annotated[str | None, typer.Option(help="Only z0:z1,y0:y1,x0:x1, in voxels of the image.")] = None,
    mask: Annotated[
        str | None,
        typer.Option(help="Layer: predict only where it is nonzero; none: everywhere.", show_default="the cell's mask"),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda (every worker its own GPU), cuda:1, mps.")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, float16, bfloat16, tf32 or float32.")] = "auto",
    mirrors: Annotated[
        bool | None,
        typer.Option(
            "--mirrors/--no-mirrors",
            help="Average over 8 mirror images, 8 times slower; by default as recorded in the weights.",
        ),
    ] = None,
    half: Annotated[bool, typer.Option("--float16", help="Write float16 instead of uint8 (255 = 1).")] = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Let torch.compile fuse the network.")] = False,
    as_is: Annotated[bool, typer.Option("--as-is", help="Do no preprocessing, whatever the model expects.")] = False,
    done: Done = None,
    allow_voxel_size: Annotated[
        bool,
        typer.Option("--allow-voxel-size", help="Accept a voxel size that differs from the model's by more than 15 %."),
    ] = False,
    resampled: Annotated[
        bool, typer.Option("--resample", help="First average voxels to the model's voxel size, if whole factors fit.")
    ] = False,
    options: Options = None,
    workers: Annotated[
        int,
        typer.Option("--workers", "-j", min=0, help="Number of worker processes. 0: one per GPU, or one per 8 cores."),
    ] = 0,
    on: On = None,
    block: Annotated[
        str | None,
        typer.Option(
            "--block",
            help="Block shape in the network's voxels, which may be averages of the image's: one number, or z,y,x.",
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Predict a probability map with a trained network.

    Given a cell, it uses the image and the mask that `asem prepare` made. Preprocessing that the model expects (see `asem
    models show NAME`) is done first, unless it has been done. The map goes to `predictions/MODEL/probability`; a model of several
    organelles makes all maps in one pass, `predictions/MODEL/CLASS/probability`. If interrupted, run the same command again to resume.

    Examples:

        asem predict cell.zarr --model mitochondria-cf-5nm

        asem predict cell.zarr/raw --model mitochondria --weights model_checkpoint_1847_mito_CF.pt

        asem predict planes/ --voxel-size 5 --model er-cf-5nm --box 0:256,0:512,0:512 -o cell.zarr
    """
    from asem_core.catalog import load_catalog
    from asem_core.cell.elsewhere import parse_done
    from asem_core.cell.provenance import steps_done
    from asem_core.prediction.expected import other_steps
    from asem_core.prediction.trained import load_trained
    from asem_core.recipe import build
    from asem_core.stages.inputs import open_images_of
    from asem_core.stages.predict import (
        PredictOptions,
        layer_to_write,
        predict_image,
        require_voxels_before_fetching,
    )

    catalog = load_catalog()
    chosen = {
        "device": device,
        "precision": precision,
        "mirrors": mirrors,
        "output": "float16" if half else "uint8",
        "compiled": compiled,
        "workers": workers,
        "as_is": as_is,
        "done": parse_done(done),
        "allow_voxel_size": allow_voxel_size,
        "resample": resampled,
        "mask": mask,
    }
    how = build(PredictOptions, chosen, "asem predict")
    images = open_images_of(catalog, source, layer, read_voxel_size(voxel_size))
    if weights is None:
        require_voxels_before_fetching(images, model, how, catalog)
    trained = load_trained(catalog, model, weights, read_options(options))
    target = layer_to_write(source, output, trained.details["model"])
    found = predict_image(
        trained, images, target, make_run(DEFAULT_WORKERS, block, quiet, on), how, catalog, box=box, overwrite=overwrite
    )
    image, first = found.seen, next(iter(found.maps.values()))
    made_of = "" if image.path in (v.path for v in images.volumes) else f", made of {images.volumes[0].path}"
    expected = "" if as_is or other_steps(steps_done(image), trained) else " as the model expects"
    why = made_of + expected if made_of else f",{expected}" if expected else ""
    where = "" if found.mask is None else f"; only inside {found.mask.path}"
    paths = ", ".join(made.path for made in found.maps.values())
    shape = " x ".join(map(str, first.shape))
    size, seen = (" x ".join(f"{v:g}" for v in volume.voxel_size_nm) for volume in (first, image))
    interpolated = "" if size == seen else f", interpolated from {seen} nm"
    typer.echo(f"{paths}: {shape} voxels of {size} nm{interpolated}, {first.dtype}, from {image.path}{why}{where}")


def segment(
    probability: Annotated[str, typer.Argument(help="Layer: cell.zarr/predictions/NAME/probability.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Layer to write.", show_default="`segmentation` beside the map"),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option("--threshold", "-t", help="Probability threshold.", show_default="0.5, or the model's"),
    ] = None,
    objects: Annotated[
        bool | None,
        typer.Option("--objects/--binary", help="Number objects, or write 0 and 1.", show_default="objects"),
    ] = None,
    smallest_um3: Annotated[
        float | None,
        typer.Option(min=0, help="Remove objects smaller than this, in µm³.", show_default="0, or the model's"),
    ] = None,
    smallest_vx: Annotated[
        int | None, typer.Option(min=0, help="Remove objects with fewer voxels.", show_default="0, or the model's")
    ] = None,
    connectivity: Annotated[
        int | None,
        typer.Option(
            help="Voxels of one object share a face (6), or also an edge (18) or a corner (26).", show_default="26"
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Model whose defaults to use: a plugin, or a name from `asem models list`.",
            show_default="the one that made the map",
        ),
    ] = None,
    options: Options = None,
    workers: Workers = DEFAULT_WORKERS,
    on: On = None,
    block: BlockShape = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Turn a probability map into objects with ids, or into a binary map.

    The model decides how: the one that made the map, or `--model`. Its options can also be set with `-s`. A map of no known
    model is thresholded at 0.5. Ids follow the order of the objects' first voxels; they depend neither on blocks nor on workers.

    Examples:

        asem segment cell.zarr/predictions/mitochondria/probability --threshold 0.5 --smallest-um3 0.001

        asem segment cell.zarr/predictions/er/probability --binary -o cell.zarr/labels/er
    """
    from asem_core.catalog import load_catalog
    from asem_core.cell.node import require_layer
    from asem_core.cell.record import Record
    from asem_core.cell.store import open_volume
    from asem_core.stages.segment import advice_on_tiny, choose_segmentation
    from asem_core.stages.segment import segment as segment_volume

    advice = f"asem predict {quoted(probability)} --model NAME makes one (asem models list)"
    require_layer(probability, "a probability map", lambda name: "probability" in name.split("/"), advice)
    volume: Volume = open_volume(probability)
    target = output or Path(volume.path).with_name("segmentation")
    run = make_run(workers, block, quiet, on)
    said = {"threshold": threshold, "objects": objects, "connectivity": connectivity}
    said |= {"smallest_um3": smallest_um3, "smallest_vx": smallest_vx}
    chosen = {key: value for key, value in said.items() if value is not None} | read_options(options)
    by = choose_segmentation(load_catalog(), volume, model, chosen, "asem segment")
    made = segment_volume(volume, target, run, by, overwrite=overwrite)
    about = Record.of(made)
    count, sizes = about.num_objects, about.object_sizes_vx
    um3 = [n * math.prod(made.voxel_size_nm) * 1e-9 for n in sizes] or None
    if as_json:
        found = {"num_objects": count, "object_volumes_um3": um3}
        print_json({"path": made.path, "shape": list(made.shape), "dtype": str(made.dtype), **found})
        return
    typer.echo(f"{made.path}: {made.dtype}" + (f", {count} objects" if count is not None else ""))
    if um3:
        typer.echo(
            "Median volume {1}; smallest {0}, largest {2}.".format(
                *(f"{v:.3g} µm³ ({n:,} voxel{'s' * (n != 1)})" for v, n in zip(um3, sizes, strict=True))
            )
        )
    if advice := advice_on_tiny(made, by):
        typer.echo(advice)
