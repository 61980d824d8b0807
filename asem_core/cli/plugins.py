"""`asem plugins`: what is installed, what each option means, and a new plugin project."""

import inspect
import itertools
import shutil
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asem_core.commands import AsJson, print_json
from asem_core.errors import quoted

if TYPE_CHECKING:
    from asem_core.catalog import Offer


def mount(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, help="List, explain and create plugins.\n\nExample: `asem plugins show clahe`"
    )
    group.command("list")(list_)
    group.command("show", no_args_is_help=True)(show)
    group.command("new", no_args_is_help=True)(new)
    app.add_typer(group, name="plugins")


def list_(
    kind: Annotated[str | None, typer.Argument(help="List only this kind: source, preprocessor, ...")] = None,
    as_json: AsJson = False,
) -> None:
    """List all plugins, and the reason why any could not be loaded.

    Example: `asem plugins list preprocessor`
    """
    from asem_core.catalog import KINDS, load_catalog
    from asem_core.errors import UnknownName

    if kind is not None and kind not in KINDS:
        raise UnknownName(f"'{kind}' is not a kind of plugin. Kinds: {', '.join(KINDS)}.")
    catalog = load_catalog()
    kinds = [kind] if kind is not None else list(KINDS)
    offers = sorted(
        (o for o in catalog.offers if o.kind in kinds),
        key=lambda o: (kinds.index(o.kind), o.distribution != "asem-core", o.distribution, o.name),
    )
    if as_json:
        rows = [
            {"kind": o.kind, "name": o.name, "distribution": o.distribution, "version": o.version, "summary": o.summary}
            for o in offers
        ]
        problems = [
            {"entry_point": p.entry_point, "distribution": p.distribution, "reason": p.reason} for p in catalog.problems
        ]
        print_json({"plugins": rows, "problems": problems, "clashes": catalog.clashes()})
        return
    typer.echo(_as_text(offers))
    for problem in catalog.problems:
        typer.secho(f"Not loaded: {problem}", err=True, fg="yellow")
    for clash in catalog.clashes():
        typer.secho(f"Not usable: {clash}", err=True, fg="yellow")


def _as_text(offers: "list[Offer]") -> str:
    """Lay out names and what they do, under headings that say kind and distribution, as wide as the terminal."""
    room = shutil.get_terminal_size().columns
    width = max((len(o.name) for o in offers), default=0)
    blocks = []
    for (kind, owner, version), group in itertools.groupby(offers, lambda o: (o.kind, o.distribution, o.version)):
        lines = [f"{kind} ({owner} {version})"]
        for offer in group:
            name = f"  {offer.name:{width}}  "
            lines += textwrap.wrap(
                offer.summary, max(room, len(name) + 20), initial_indent=name, subsequent_indent=" " * len(name)
            ) or [name.rstrip()]
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def show(
    name: Annotated[str, typer.Argument(help="Name of a plugin, as in `asem plugins list`.")],
    as_json: AsJson = False,
) -> None:
    """Explain a plugin: what it does, its options with types and defaults, and where it comes from.

    Example: `asem plugins show clahe`
    """
    from asem_core.catalog import load_catalog

    offers = load_catalog().find_all(name)
    if as_json:
        print_json([_described(o) for o in offers])
        return
    for offer in offers:
        typer.secho(f"{offer.kind} {offer.name}  ({offer.distribution} {offer.version})", bold=True)
        typer.echo(inspect.cleandoc(offer.cls.__doc__ or ""))
        typer.echo("\nOptions:")
        for option in _described(offer)["options"]:
            required = "(needed)" if option["required"] else f"= {option['default']!r}"
            typer.echo(f"  {option['name']}: {option['type']} {required}")
        typer.echo("")


def _described(offer: Any) -> dict[str, Any]:
    import attrs

    options = []
    for field in attrs.fields(offer.cls):
        if field.init:
            default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type, misc]
            required = field.default is attrs.NOTHING
            kind = field.type if isinstance(field.type, str) else getattr(field.type, "__name__", str(field.type))
            options.append(
                {"name": field.name, "type": str(kind), "required": required, "default": None if required else default}
            )
    return {
        "kind": offer.kind,
        "name": offer.name,
        "distribution": offer.distribution,
        "version": offer.version,
        "doc": inspect.cleandoc(offer.cls.__doc__ or ""),
        "options": options,
    }


def new(
    name: Annotated[str, typer.Argument(help="Lower-case words joined by '-', for example lipid-droplets.")],
    kind: Annotated[str, typer.Option(help="source, preprocessor, annotator, sampler, model or analyzer.")] = "model",
    folder: Annotated[Path, typer.Option("--output", "-o", help="Where to create the project folder.")] = Path(),
) -> None:
    """Write a complete plugin project of any kind: pyproject, a working plugin, its test and a README.

    Example: `asem plugins new lipid-droplets && pip install -e asem-lipid-droplets && asem plugins show lipid-droplets`
    """
    from asem_core.catalog import load_catalog
    from asem_core.cli.new_plugin import write_project
    from asem_core.errors import BadInput

    taken = next((o for o in load_catalog().offers if o.name == name), None)
    if taken is not None:
        raise BadInput(f"A {taken.kind} of {taken.distribution} is called '{name}' already. Choose another name.")
    made = write_project(name, folder, kind)
    typer.echo(
        f"{made}/ is ready. Next:\n  pip install -e {quoted(f'{made}[test]')}\n  pytest {quoted(made)}\n  asem plugins show {quoted(name)}"
    )
