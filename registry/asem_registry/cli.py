"""`asem models`: pretrained weights by name."""

import shutil
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from asem_core.errors import quoted
from asem_registry import cli_data, cli_registries
from asem_registry.card_options import About, Aliases, Citation, Contrast, Preparation, TrainingData, VoxelSize

AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.")]
Name = Annotated[str, typer.Argument(help="A name, NAME@VERSION or alias, as in `asem models list`.")]
Names = Annotated[list[str], typer.Argument(help="Names, as in `asem models list`.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")]


def mount(app: typer.Typer) -> None:
    models = typer.Typer(
        no_args_is_help=True,
        help="Pretrained models by name: list, show, download, check, add, transfer to another machine.\n\nExample: `asem models list`",
    )
    models.command("list")(list_models)
    models.command("show", no_args_is_help=True)(show)
    models.command("pull", no_args_is_help=True)(pull)
    models.command("verify")(verify)
    models.command("add", no_args_is_help=True)(add)
    models.command("remove", no_args_is_help=True)(remove)
    models.command("bundle", no_args_is_help=True)(bundle)
    models.command("unbundle", no_args_is_help=True)(unbundle)
    models.command("where")(where)
    cli_registries.mount(models)
    app.add_typer(models, name="models")
    cli_data.mount(app)


def list_models(
    as_json: AsJson = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="Print docs/models.md: the shipped models.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Read cards from their addresses again.")] = False,
) -> None:
    """List all models, whether each is downloaded, and whether its checksum is published or the first download is trusted.

    Example: `asem models list`
    """
    from asem_registry.library import SHIPPED, load_library, read_folder
    from asem_registry.settings import Settings

    if markdown:
        from asem_registry.pages import models_page

        typer.echo(models_page(read_folder(SHIPPED)), nl=False)
        return
    from asem_registry.cache import state_of
    from asem_registry.pages import card_json, models_table

    settings = Settings.load()
    library = load_library(settings, refresh=refresh)
    cards = library.latest()
    states = {card.key: state_of(card, settings) for card in cards}
    if as_json:
        _print_json(
            {
                "models": [{**card_json(card), "state": states[card.key]} for card in cards],
                "not_readable": dict(library.broken),
                "offered_twice": library.conflicts(),
            }
        )
        return
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None  # for other programs, a line a model
    for line in models_table(cards, states, width):
        typer.echo(line)
    for key, origins in library.conflicts().items():
        typer.secho(f"Not usable: {key} is offered twice, by {origins}.", err=True, fg="yellow")
    for place, why in library.broken.items():
        typer.secho(f"Not readable: {place}: {why}", err=True, fg="yellow")


def show(name: Name, as_json: AsJson = False) -> None:
    """Print a model's card: what it expects of an image, its scores, licence and citation, and where its file is.

    Example: `asem models show mitochondria-cf-5nm`
    """
    from asem_registry.cache import describe
    from asem_registry.library import load_library
    from asem_registry.pages import card_json, card_page
    from asem_registry.settings import Settings

    settings = Settings.load()
    card = load_library(settings).find(name)
    cached = describe(card, settings)
    if as_json:
        _print_json({**card_json(card), **cached})
    else:
        typer.echo(card_page(card, cached))


def pull(names: Names, quiet: Quiet = False) -> None:
    """Download models into the cache, unless they are there, and print the path of each.

    Example: `asem models pull mitochondria-cf-5nm er-cf-5nm`
    """
    from asem_registry.cache import obtain
    from asem_registry.library import load_library
    from asem_registry.settings import Settings

    settings = Settings.load()
    library = load_library(settings)
    for card in [library.find(name) for name in names]:
        typer.echo(str(obtain(card, settings, progress=not quiet)))


def verify(
    names: Annotated[list[str] | None, typer.Argument(help="Names; all models by default.")] = None,
    predict: Annotated[
        bool, typer.Option("--predict", help="Also predict each model's sample, if it was published with one.")
    ] = False,
) -> None:
    """Check the checksums of cached and bundled models; a damaged one is deleted, and downloaded when next used.

    Examples: `asem models verify` checks all, `asem models verify NAME --predict` also that this computer predicts what the
    publisher's did.
    """
    from asem_registry.cache import check
    from asem_registry.library import load_library
    from asem_registry.settings import Settings

    settings = Settings.load()
    library = load_library(settings)
    cards = [library.find(name) for name in names] if names else library.latest()
    results = {card.key: check(card, settings) for card in cards}
    if predict:
        from asem_registry.sample import check_sample

        for card in cards:
            if results[card.key].startswith("good"):
                results[card.key] += f"; {check_sample(card, settings)}"
    for key, result in results.items():
        typer.echo(f"{key}: {result}")
    if any(result.startswith("damaged") for result in results.values()):
        raise typer.Exit(1)


def add(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RUN|PACKAGE|URL",
            help="The folder of a training run, a .safetensors file, or a model of bioimage.io: its package, description or address.",
        ),
    ],
    name: Annotated[str, typer.Option("--name", help="Name of the model: lower-case letters, digits and hyphens.")],
    version: Annotated[
        int, typer.Option("--version", min=1, help="Version of the model; new weights need a new version.")
    ] = 1,
    about: About = "",
    alias: Aliases = None,
    voxel_size: VoxelSize = None,
    preparation: Preparation = "not stated",
    contrast: Contrast = "not stated",
    training_data: TrainingData = "",
    licence: Annotated[str, typer.Option("--licence", help="Licence of the weights.")] = "not stated",
    citation: Citation = "not stated",
    recipe: Annotated[bool, typer.Option(help="Include the run's recipe, with its paths, in the card.")] = True,
    channel: Annotated[
        str | None, typer.Option("--channel", help="Of a package: the output's channel, by name or number from 0.")
    ] = None,
    halo: Annotated[
        str | None,
        typer.Option(
            "--halo", metavar="Z,Y,X", help="Of a package that states none: voxels around a block that are cut off."
        ),
    ] = None,
    tile: Annotated[
        str | None,
        typer.Option(
            "--tile",
            metavar="Z,Y,X",
            help="Of a package: voxels of the network's input; smaller ones take less memory.",
        ),
    ] = None,
    grey_range: Annotated[
        str | None,
        typer.Option("--grey-range", metavar="BLACK,WHITE", help="Of a package that does not state its grey values."),
    ] = None,
) -> None:
    """Make a model available by name: from your own training run, or from a package of bioimage.io.

    Of a package, the ONNX network is run by onnxruntime (extra `bioimageio`); what would run other code is refused. It must be a 3D
    model of one image, and must predict its own sample here.

    Examples:

        asem models add runs/mito --name mitochondria-mylab --preparation "CF, OTO" --contrast "dark membranes"

        asem models add package.zip --name boundaries-theirs --channel 0
    """
    from asem_core.commands import read_voxel_size
    from asem_core.temporary import temporary_folder_of_libraries
    from asem_registry.bioimageio_in import Choices, card_of_package, is_package
    from asem_registry.cli_registries import read_numbers
    from asem_registry.own import card_of_run
    from asem_registry.settings import Settings

    words = {
        "about": about,
        "aliases": tuple(alias or ()),
        "preparation": preparation,
        "contrast": contrast,
        "training_data": training_data,
        "licence": licence,
        "citation": citation,
    }
    settings = Settings.load()
    if is_package(source):
        choices = Choices(
            channel,
            read_numbers(halo, int, "--halo", 3),
            read_numbers(tile, int, "--tile", 3),
            read_numbers(grey_range, float, "--grey-range", 2),
            read_voxel_size(voxel_size),
        )
        with temporary_folder_of_libraries() as folder:
            made = card_of_package(source, name, version, words, choices, folder, settings)
            _keep(*made, words, settings)
    else:
        _keep(*card_of_run(Path(source), name, version, words, voxel_size, with_recipe=recipe), words, settings)


def _keep(card: Any, weights: Path, words: dict[str, Any], settings: Any) -> None:
    """Give weights their name, and say how to use it."""
    from asem_registry.library import load_library
    from asem_registry.own import add_run

    name = card.name
    same = [card for cards in load_library(settings).cards.values() for card in cards if card.name == name]
    elsewhere = [other for other in same if Path(other.origin).parent != settings.home / "cards"]
    card = add_run(card, weights, words, settings.home, elsewhere)
    called = card.name if load_library(settings).find(card.name).key == card.key else card.key
    typer.echo(f"{card.key} has been added: {card.origin}. Use it with --model {called}.")


def remove(
    name: Name,
    forget: Annotated[
        bool, typer.Option("--forget", help="Also forget the trusted checksum of the first download.")
    ] = False,
) -> None:
    """Delete a model from the cache, or one made by `asem models add`.

    Example: `asem models remove mitochondria-cf-5nm`
    """
    from asem_registry.library import load_library
    from asem_registry.own import withdraw
    from asem_registry.settings import Settings

    settings = Settings.load()
    typer.echo(withdraw(load_library(settings).find(name), settings, forget=forget))


def bundle(
    names: Names,
    output: Annotated[Path, typer.Option("--output", "-o", help="The zip file to write.")],
) -> None:
    """Pack models into one file, to transfer to a machine without a network.

    Example: `asem models bundle mitochondria-cf-5nm er-cf-5nm -o models.zip`
    """
    from asem_core.files import sha256
    from asem_registry.bundle import bundle
    from asem_registry.library import load_library
    from asem_registry.settings import Settings

    settings = Settings.load()
    library = load_library(settings)
    path = bundle([library.find(name) for name in names], output, settings)
    typer.echo(
        f"{path} ({path.stat().st_size / 1e6:.1f} MB): copy it to the other machine, then: asem models unbundle {quoted(path.name)} --sha256 {quoted(sha256(path))}"
    )


def unbundle(
    file: Annotated[Path, typer.Argument(help="A file made by `asem models bundle`.")],
    sum_: Annotated[
        str | None,
        typer.Option(
            "--sha256", help="Checksum of the file, or its first 16 digits or more, as `asem models bundle` printed it."
        ),
    ] = None,
) -> None:
    """Check the models in a bundle and install them.

    A model whose card is known here, with the checksum of its weights, is checked against that card. For any other, the bundle
    alone says what it is: give the checksum that was printed where the bundle was made.

    Example: `asem models unbundle models.zip --sha256 9f86d081884c7d65`
    """
    from asem_registry.bundle import unbundle
    from asem_registry.settings import Settings

    for card in unbundle(file, Settings.load(), sum_):
        typer.echo(f"{card.key} is installed.")


def where() -> None:
    """Print the folders that the registry uses, and the configuration file.

    Example: `asem models where`
    """
    from asem_registry.settings import Settings, config_path

    settings = Settings.load()
    typer.echo(f"configuration  {config_path()}{'' if config_path().exists() else ' (not there)'}")
    typer.echo(f"cache          {settings.cache}")
    typer.echo(f"own models     {settings.home}")
    for place in settings.cards:
        typer.echo(f"cards          {place}")


def _print_json(value: Any) -> None:
    import json

    typer.echo(json.dumps(value, indent=2, default=str))
