"""`asem models publish`, `registries` and `export`: models that travel from one user, or program, to others."""

from pathlib import Path
from typing import Annotated, Any

import typer

from asem_core.errors import quoted
from asem_registry.card_options import About, Aliases, Citation, Contrast, Preparation, TrainingData, VoxelSize


def mount(models: typer.Typer) -> None:
    models.command("publish", no_args_is_help=True)(publish)
    models.command("export", no_args_is_help=True)(export)
    models.command("score", no_args_is_help=True)(score)
    group = typer.Typer(
        no_args_is_help=True,
        help="Registries: folders and buckets of models that others publish.\n\nExample: `asem models registries add s3://lab/asem`",
    )
    group.command("add", no_args_is_help=True)(add)
    group.command("list")(list_)
    group.command("remove", no_args_is_help=True)(remove)
    models.add_typer(group, name="registries")


def publish(
    source: Annotated[
        str, typer.Argument(metavar="RUN|NAME", help="A training run, a .safetensors file, or the name of a model.")
    ],
    to: Annotated[str, typer.Option("--to", help="Registry: a folder, or s3://BUCKET/PREFIX.")],
    name: Annotated[
        str | None, typer.Option("--name", help="Name of a run's model: lower-case letters, digits and hyphens.")
    ] = None,
    version: Annotated[
        int | None, typer.Option("--version", min=1, help="Version; new weights need a new one.", show_default="1")
    ] = None,
    about: About = "",
    alias: Aliases = None,
    voxel_size: VoxelSize = None,
    preparation: Preparation = "not stated",
    contrast: Contrast = "not stated",
    training_data: TrainingData = "",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights; needed.")] = "not stated",
    citation: Citation = "not stated",
    scores: Annotated[
        list[Path] | None,
        typer.Option(
            "--scores",
            help="Report of `asem evaluate -o` whose scores the card states, with the commands; may be repeated.",
        ),
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample", help="Image to publish a small piece of, as the sample; by default synthetic grey values."
        ),
    ] = None,
    sample_at: Annotated[
        str | None, typer.Option("--sample-at", metavar="Z,Y,X", help="Voxel in the middle of the piece.")
    ] = None,
    recipe: Annotated[bool, typer.Option(help="Include the run's recipe, with its paths, in the card.")] = True,
) -> None:
    """Publish a model into a registry: card, weights and sample, each with its checksum in an index.

    What was written is read back as others would, loaded, and must predict its sample; only then is the model listed. A bucket
    is written with your AWS credentials.

    Examples:

        asem models publish runs/mito --name mito-mylab-8nm --licence "CC BY 4.0" --scores scores/cell_3 --to s3://mylab/asem

        asem models publish mito-mylab-8nm --licence CC0-1.0 --to /lab/asem
    """
    import attrs

    from asem_core.errors import BadInput
    from asem_registry.cache import obtain
    from asem_registry.library import load_library
    from asem_registry.own import NOT_STATED, card_of_run
    from asem_registry.publish import publish, scores_of_reports
    from asem_registry.sample import make_sample, trained_of
    from asem_registry.settings import Settings

    settings = Settings.load()
    words = {
        "about": about,
        "aliases": tuple(alias or ()),
        "preparation": preparation,
        "contrast": contrast,
        "training_data": training_data,
        "licence": licence,
        "citation": citation,
    }
    if Path(source).exists():
        if name is None:
            raise BadInput(f"{source} is a run or file, which has no name yet: add --name, for example mito-mylab-8nm.")
        card, weights = card_of_run(Path(source), name, version or 1, words, voxel_size, with_recipe=recipe)
    else:
        known = load_library(settings).find(source)
        weights = obtain(known, settings)
        stated = {key: value for key, value in words.items() if value not in NOT_STATED}
        renamed = {"name": name or known.name, "version": version or known.version}
        card = attrs.evolve(known, **renamed, **stated, **({} if recipe else {"recipe": {}}))
        from asem_core.files import sha256

        card = attrs.evolve(card, sha256=sha256(weights), size_bytes=weights.stat().st_size)
    card = attrs.evolve(card, scores=(*scores_of_reports(scores or [], card), *card.scores))
    made = make_sample(trained_of(card, weights), sample, read_numbers(sample_at, int, "--sample-at", 3))
    published = publish(card, weights, made, to, settings)
    typer.echo(
        f"{published.key} is published: {published.origin}. Read back, it predicts its sample. "
        f"Others use it after: asem models registries add {quoted(to)}"
    )


def export(
    name: Annotated[str, typer.Argument(help="A name, NAME@VERSION or alias, as in `asem models list`.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The package to write: PACKAGE.zip.")],
    author: Annotated[list[str] | None, typer.Option("--author", help="Who made the model; may be repeated.")] = None,
    licence: Annotated[
        str | None, typer.Option("--licence", help="SPDX name of the licence.", show_default="the card's")
    ] = None,
    sample: Annotated[
        str | None,
        typer.Option(
            "--sample",
            help="Image to take a piece of, as the sample; by default the published sample, or a synthetic image.",
        ),
    ] = None,
    sample_at: Annotated[
        str | None, typer.Option("--sample-at", metavar="Z,Y,X", help="Voxel in the middle of the piece.")
    ] = None,
) -> None:
    """Write a model as a package of bioimage.io, for other programs: ilastik, deepImageJ, BiaPy, and whatever runs such packages.

    The package has the weights as ONNX and as a PyTorch state dict with its source, a sample with the expected result, and the
    preprocessing as far as a package can state it; what it cannot state is printed. `bioimageio.core` tests it before it is written.

    Example: `asem models export mitochondria-cf-5nm -o mitochondria.zip --author "A. Person" --licence CC-BY-4.0`
    """
    from asem_registry.bioimageio_out import Words, require_bioimageio
    from asem_registry.bioimageio_out import export as write
    from asem_registry.cache import obtain
    from asem_registry.library import load_library
    from asem_registry.sample import make_sample, obtain_sample, trained_of
    from asem_registry.settings import Settings

    require_bioimageio()
    settings = Settings.load()
    card = load_library(settings).find(name)
    trained = trained_of(card, obtain(card, settings))
    at = read_numbers(sample_at, int, "--sample-at", 3)
    published = obtain_sample(card, settings) if sample is None else None
    piece = make_sample(trained, sample, at) if published is None else published
    for note in write(card, trained, piece, output, Words(author or (), licence)):
        typer.echo(note)
    typer.echo(f"{output} ({output.stat().st_size / 1e6:.1f} MB): bioimageio.core has tested it.")


def score(
    name: Annotated[str, typer.Argument(help="A name, NAME@VERSION or alias, as in `asem models list`.")],
    on: Annotated[str, typer.Option("--on", metavar="CELL", help="Cell with an image and ground truth.")],
    truth: Annotated[
        str | None, typer.Option("--truth", help="Labels to compare with.", show_default="those named like the model")
    ] = None,
    box: Annotated[str | None, typer.Option("--box", help="Only z0:z1,y0:y1,x0:x1, in voxels of the truth.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the report.", show_default="scores/NAME")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")] = "auto",
    workers: Annotated[int, typer.Option("--workers", "-j", min=1, help="Number of worker processes.")] = 1,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing output that was made differently.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.")] = False,
) -> None:
    """Score a model on a cell with ground truth: predict where the truth is, and compare, with the model's exclusion zone.

    The report can be stated in a card: `asem models publish NAME --scores REPORT`.

    Example: `asem models score membrane-fibsem-10nm --on fib25.zarr --truth labels/membrane --box 120:150,:,:`
    """
    from asem_core import score_on
    from asem_core.blocks import Run
    from asem_core.catalog import load_catalog
    from asem_core.errors import BadInput
    from asem_registry.cache import obtain
    from asem_registry.library import load_library
    from asem_registry.sample import trained_of
    from asem_registry.settings import Settings

    settings = Settings.load()
    card = load_library(settings).find(name)
    if "://" not in on and not Path(on).exists():  # said before weights are downloaded
        raise BadInput(f"{on} does not exist. Name a cell with an image and ground truth: --on cell.zarr.")
    trained = trained_of(card, obtain(card, settings))
    run, folder = Run(workers=workers, progress=not quiet), output or Path("scores") / card.stem
    layer, how = f"predictions/{card.name}/scored", {"truth": truth, "box": box, "device": device}
    found = score_on(trained, on, layer, folder, run, load_catalog(), overwrite=overwrite, **how)
    if as_json:
        import json

        typer.echo(json.dumps({"scores": list(found.scores), "objects": list(found.objects)}, indent=2, default=str))
        return
    for row in found.scores:
        ratios = ", ".join(f"{key} {row[key]:.4f}" for key in ("f1", "precision", "recall", "jaccard"))
        typer.echo(f"{row['region']} at {row['threshold']:g}: {ratios}")
    typer.echo(f"Report: {found.page}", err=True)


def add(
    place: Annotated[str, typer.Argument(metavar="URL", help="A folder, s3://BUCKET/PREFIX or https://... of models.")],
) -> None:
    """Add a registry: its models are then found by name, also offline once they were listed and pulled.

    Example: `asem models registries add s3://mylab/asem`
    """
    from asem_registry.places import read_place
    from asem_registry.settings import Settings, write_places

    settings = Settings.load()
    place = _normal(place)
    found = read_place(place, settings, refresh=True)
    path = write_places(list(dict.fromkeys([*settings.cards, place])))
    typer.echo(f"{place}: {_summary(found)}. It was added to {path}.")
    _say_broken(found)


def list_() -> None:
    """List the registries that you have added, and how many models each offers.

    Example: `asem models registries list`
    """
    from asem_core.errors import AsemError
    from asem_registry.places import read_place
    from asem_registry.settings import Settings, config_path

    settings = Settings.load()
    if not settings.cards:
        typer.echo(f"No registry is named in {config_path()}. Add one: asem models registries add URL")
    for place in settings.cards:
        try:
            found = read_place(place, settings)
        except AsemError as error:
            typer.secho(f"Not readable: {place}: {error}", err=True, fg="yellow")
            continue
        typer.echo(f"{place}: {_summary(found)}")
        _say_broken(found)


def remove(place: Annotated[str, typer.Argument(metavar="URL", help="As in `asem models registries list`.")]) -> None:
    """Remove a registry, and forget what was remembered of its index. Weights in the cache stay.

    Example: `asem models registries remove s3://mylab/asem`
    """
    from asem_core.errors import UnknownName
    from asem_registry.card import near_names
    from asem_registry.places import forget
    from asem_registry.settings import Settings, write_places

    settings = Settings.load()
    named = place if place in settings.cards else _normal(place)
    if named not in settings.cards:
        raise UnknownName(f"No registry {place} was added. {near_names(place, settings.cards)}")
    path = write_places([p for p in settings.cards if p != named])
    forget(named, settings)
    typer.echo(f"{named} was removed from {path}.")


def _normal(place: str) -> str:
    return (
        place
        if place.endswith("/") and place.startswith("http")
        else (place.rstrip("/") if "://" in place else str(Path(place).expanduser().resolve()))
    )


def _summary(found) -> str:  # type: ignore[no-untyped-def]
    models = f"{len(found.cards)} model{'' if len(found.cards) == 1 else 's'}"
    return f"{models}, checked by its index" if found.is_indexed else f"{models}, no index: cards are not checked"


def _say_broken(found) -> None:  # type: ignore[no-untyped-def]
    for where, why in found.broken.items():
        typer.secho(f"Not usable: {where}: {why}", err=True, fg="yellow")


def read_numbers(text: str | None, kind: type, option: str, count: int) -> Any:
    """Read `40,200,200`: so many numbers of a kind.

    Raises
    ------
    BadInput
    """
    from asem_core.errors import BadInput

    if text is None:
        return None
    try:
        found = tuple(kind(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != count:
        raise BadInput(f"{option} {text}: give {count} numbers, for example {','.join(['16', '32', '32'][:count])}.")
    return found
