"""Write the reference pages that the program itself knows best: `python docs/generate.py`.

A test compares the pages with what this writes, so they never go stale.
"""

from __future__ import annotations

import inspect
import tempfile
from pathlib import Path
from typing import Any, Protocol

import attrs
import typer.main

from asem_core import abilities, hookspecs
from asem_core.catalog import KINDS, load_catalog
from asem_core.cli import make_app
from asem_core.cli.new_plugin import write_project

DOCS = Path(__file__).parent


def plugins_page() -> str:
    """List the built-in plugins with their options."""
    lines = [
        "# Built-in plugins",
        "",
        "What `asem plugins list` shows of a plain installation, and each plugin's options with their defaults.",
        "This page is written by `python docs/generate.py`.",
        "",
    ]
    catalog = load_catalog(["asem-core"])
    for kind in KINDS:
        offers = sorted((o for o in catalog.offers if o.kind == kind), key=lambda o: o.name)
        lines += [f"## {kind.capitalize()}s", "", "| name | what it does | options |", "|---|---|---|"]
        lines += [f"| `{o.name}` | {o.summary} | {_options(o.cls)} |" for o in offers]
        lines.append("")
    return "\n".join(lines)


def _options(cls: type) -> str:
    shown = []
    for field in attrs.fields(cls):
        if not field.init:
            continue
        default = field.default.factory() if isinstance(field.default, attrs.Factory) else field.default  # type: ignore[arg-type]
        shown.append(f"`{field.name}`" if field.default is attrs.NOTHING else f"`{field.name} = {default!r}`")
    return ", ".join(shown) or "none"


EXAMPLES = {
    "source": "npy-files",
    "preprocessor": "smooth-cube",
    "annotator": "nearest-grey",
    "sampler": "from-the-middle",
    "model": "lipid-droplets",
    "analyzer": "sizes",
}


def examples_page() -> str:
    """Show what `asem plugins new` writes for each kind."""
    lines = [
        "# One plugin of each kind",
        "",
        "What `asem plugins new NAME --kind KIND` writes: the module, and the test that holds it to the promises of its kind.",
        "This page is written by `python docs/generate.py`; the tests run every block.",
        "",
    ]
    with tempfile.TemporaryDirectory() as scratch:
        for kind, name in EXAMPLES.items():
            project = write_project(name, Path(scratch), kind)
            module = name.replace("-", "_")
            code = (project / f"asem_{module}/__init__.py").read_text()
            test = (project / f"tests/test_{module}.py").read_text()
            lines += [f"## {kind.capitalize()}: {name}", "", "```python", code.rstrip(), "```", ""]
            lines += ["```text", test.rstrip(), "```", ""]
    return "\n".join(lines)


def hooks_page() -> str:
    """Give every hook with its exact signature."""
    lines = [
        "# Hooks",
        "",
        "A plugin module says what it offers by implementing these hooks, marked with `asem_core.hookspecs.hookimpl`; the",
        "module is named by an entry point of the group `asem`. See [Write a plugin](write_a_plugin.md).",
        f"A module may state the version of the hooks that it was written for, `ASEM_CONTRACT = {hookspecs.CONTRACT}`; if ASEM has another version,",
        "the module is not loaded, and a message says so.",
        "This page is written by `python docs/generate.py`.",
        "",
    ]
    for name in sorted(n for n in dir(hookspecs) if n.startswith("register_")):
        hook = getattr(hookspecs, name)
        lines += [
            f"## {name}",
            "",
            "```text",
            f"def {name}{inspect.signature(hook)}",
            "```",
            "",
            inspect.getdoc(hook) or "",
            "",
        ]
    return "\n".join([*lines, *_abilities()])


def _abilities() -> list[str]:
    """Give the source of each optional ability: it is short, and says all."""
    lines = [
        "## Optional abilities",
        "",
        "Abilities that a plugin, or an object that it makes, may have in addition to its kind: small protocols in `asem_core.abilities` to derive from.",
        "",
    ]
    for name, found in vars(abilities).items():
        if Protocol in getattr(found, "__bases__", ()):
            lines += [f"### {name}", "", "```text", inspect.getsource(found).rstrip(), "```", ""]
    return lines


def cli_page() -> str:
    """Give the help of every command."""
    lines = [
        "# Commands",
        "",
        "What `asem COMMAND --help` says. This page is written by `python docs/generate.py`.",
        "",
    ]
    app: Any = typer.main.get_command(make_app())
    _describe(app, "asem", lines)
    return "\n".join(lines)


def _describe(command: Any, path: str, lines: list[str]) -> None:
    if path != "asem":
        lines += [f"## {path}", "", inspect.cleandoc(command.help or ""), ""]
        rows = [_row(p) for p in command.params if not getattr(p, "hidden", False) and p.name != "help"]
        if rows:
            lines += ["| option | what it means | default |", "|---|---|---|", *rows, ""]

    for name in command.list_commands(None) if hasattr(command, "commands") else ():
        _describe(command.commands[name], f"{path} {name}", lines)


def _row(parameter: Any) -> str:
    names = ", ".join(f"`{o}`" for o in [*parameter.opts, *parameter.secondary_opts])
    if parameter.param_type_name == "argument":
        names = f"`{(parameter.metavar or parameter.name).upper()}`"
    default, told = parameter.default, getattr(parameter, "show_default", None)
    if parameter.required:
        shown = "needed"
    elif isinstance(told, str):
        shown = told
    else:
        without = default is None or default is False or default in ((), [], "") or callable(default)
        shown = "" if without else f"`{default}`"
    text = (getattr(parameter, "help", None) or "").replace("|", "\\|").replace("\n", " ")
    return f"| {names} | {text} | {shown} |"


PAGES = {
    "plugin_examples.md": examples_page,
    "plugins.md": plugins_page,
    "plugin_hooks.md": hooks_page,
    "cli.md": cli_page,
}


def main() -> None:
    """Write all pages."""
    for name, page in PAGES.items():
        (DOCS / name).write_text(page().rstrip() + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
