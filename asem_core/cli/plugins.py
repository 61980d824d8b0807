"""`asem plugins`: what is installed, what each option means, and a new plugin project."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Annotated, Any

import typer

from asem_core.cli._options import AsJson, print_json


def mount(app: typer.Typer) -> None:
    group = typer.Typer(
        no_args_is_help=True, help="List, explain and create plugins.\n\nExample: `asem plugins show clahe`"
    )
    group.command("list")(list_)
    group.command("show", no_args_is_help=True)(show)
    group.command("new", no_args_is_help=True)(new)
    app.add_typer(group, name="plugins")


def list_(
    kind: Annotated[str | None, typer.Argument(help="Only this kind: source, preprocessor, ...")] = None,
    as_json: AsJson = False,
) -> None:
    """List every plugin, and those that did not load with the reason.

    Example: `asem plugins list preprocessor`
    """
    from asem_core.catalog import KINDS, load_catalog
    from asem_core.errors import UnknownName

    if kind is not None and kind not in KINDS:
        raise UnknownName(f"'{kind}' is not a kind of plugin. Kinds: {', '.join(KINDS)}.")
    catalog = load_catalog()
    offers = [
        o for k in KINDS for o in sorted(catalog.offers, key=lambda o: o.name) if o.kind == k and kind in (None, k)
    ]
    if as_json:
        rows = [
            {"kind": o.kind, "name": o.name, "distribution": o.distribution, "version": o.version, "summary": o.summary}
            for o in offers
        ]
        problems = [
            {"entry_point": p.entry_point, "distribution": p.distribution, "reason": p.reason} for p in catalog.problems
        ]
        print_json({"plugins": rows, "problems": problems})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    for heading in ("kind", "name", "from", "what it does"):
        table.add_column(heading, no_wrap=heading != "what it does")
    for o in offers:
        table.add_row(o.kind, o.name, f"{o.distribution} {o.version}", o.summary)
    Console().print(table)
    for problem in catalog.problems:
        typer.secho(f"Not loaded: {problem}", err=True, fg="yellow")


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
    folder: Annotated[Path, typer.Option("--output", "-o", help="Where the project's folder is made.")] = Path(),
) -> None:
    """Write a whole plugin project: pyproject, a model for one organelle, its test and a README.

    Example: `asem plugins new lipid-droplets && pip install -e asem-lipid-droplets && asem plugins show lipid-droplets`
    """
    from asem_core.catalog import load_catalog
    from asem_core.errors import BadInput
    from asem_core.new_plugin import write_project

    taken = next((o for o in load_catalog().offers if o.name == name), None)
    if taken is not None:
        raise BadInput(f"A {taken.kind} of {taken.distribution} is called '{name}' already. Choose another name.")
    made = write_project(name, folder)
    typer.echo(f"{made}/ is ready. Next:\n  pip install -e {made}[test]\n  pytest {made}\n  asem plugins show {name}")
