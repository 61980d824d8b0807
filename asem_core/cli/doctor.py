"""`asem doctor`: what is installed and what this machine has, as text to paste; and where unexpected errors go."""

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer


def mount(app: typer.Typer) -> None:
    app.command("doctor")(doctor)


def doctor(
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the text to this file instead.")] = None,
) -> None:
    """Show what is installed and what this machine has, as text to paste into a problem report.

    Lines that begin with `!` point out problems.

    Example: `asem doctor`
    """
    text = "\n".join(_lines()).replace(str(Path.home()), "~") + "\n"
    if output is None:
        typer.echo(text, nl=False)
    else:
        output.write_text(text, encoding="utf-8")
        typer.echo(str(output))


def _lines() -> Iterator[str]:
    from asem_core import __version__

    yield f"asem {__version__} in {Path(__file__).parents[1]}"
    yield f"Python {platform.python_version()} ({sys.executable})"
    yield f"{platform.system()} {platform.release()}, {platform.machine()}"
    yield from _machine()
    yield from _devices()
    yield from _places()
    yield from _packages()
    yield from _plugins()
    told = [f"{name}={value}" for name, value in sorted(os.environ.items()) if name.startswith("ASEM_")]
    yield "environment: " + (", ".join(told) or "no ASEM_ variables")


def _machine() -> Iterator[str]:
    import psutil

    from asem_core.engine.machine import available_cores

    memory = psutil.virtual_memory()
    yield f"{available_cores()} cores, {memory.total / 1e9:.1f} GB of memory, {memory.available / 1e9:.1f} GB free"


def _devices() -> Iterator[str]:
    try:
        import torch
    except Exception as error:  # whatever its libraries raise is what the reader wants to know
        yield f"! torch cannot be loaded: {type(error).__name__}: {error}"
        return
    yield f"torch {torch.__version__}, built for CUDA {torch.version.cuda or 'none'}"
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(i)
        yield f"cuda:{i}: {about.name}, {about.total_memory / 1e9:.1f} GB"
    if torch.backends.mps.is_available():
        yield "mps: Apple GPU"
    elif not torch.cuda.is_available():
        yield "no GPU that torch can use: networks run on the CPU"


def _places() -> Iterator[str]:
    import psutil
    from platformdirs import user_cache_path, user_data_path

    places = {
        "current folder": Path.cwd(),
        "temporary files": Path(tempfile.gettempdir()),
        "cache of models": Path(os.environ.get("ASEM_CACHE") or user_cache_path("asem")),
        "your models": Path(os.environ.get("ASEM_HOME") or user_data_path("asem")),
    }
    for name, path in places.items():
        there = next(p for p in (path, *path.parents) if p.exists())
        free = psutil.disk_usage(str(there)).free / 1e9
        writable = os.access(there, os.W_OK)
        yield f"{'' if writable else '! '}{name}: {path}, {free:.1f} GB free" + ("" if writable else ", not writable")


def _packages() -> Iterator[str]:
    import re
    from importlib.metadata import PackageNotFoundError, requires, version

    from asem_core.errors import install_command

    def found(lines: list[str]) -> dict[str, str | None]:
        names = {re.split(r"[\[<>=!~ ;]", line)[0] for line in lines}
        versions: dict[str, str | None] = {}
        for name in sorted(names, key=str.lower):
            try:
                versions[name] = version(name)
            except PackageNotFoundError:
                versions[name] = None
        return versions

    try:
        lines = requires("asem-core") or []
    except PackageNotFoundError:
        yield "! asem-core is not installed: run from a source tree"
        return
    extras: dict[str, list[str]] = {}
    for line in lines:
        match = re.search(r"extra == ['\"]([\w-]+)['\"]", line)
        extras.setdefault(match[1] if match else "", []).append(line)
    for name, listed in sorted(extras.items()):
        if name in ("all", "test", "docs"):
            continue
        versions = found(listed)
        missing = [package for package, there in versions.items() if there is None]
        text = ", ".join(f"{package} {there}" for package, there in versions.items() if there)
        if not name:
            yield f"packages: {text}"
            if missing:
                yield f"! missing: {', '.join(missing)}"
        elif missing:
            yield f"optional {name}: not installed ({', '.join(missing)}). Install it: {install_command(name)}"
        else:
            yield f"optional {name}: {text}"


def _plugins() -> Iterator[str]:
    from asem_core.catalog import load_catalog

    catalog = load_catalog()
    others = sorted({f"{o.distribution} {o.version}" for o in catalog.offers if o.distribution != "asem-core"})
    yield f"{len(catalog.offers)} plugins" + (f"; of other packages: {', '.join(others)}" if others else "")
    for problem in catalog.problems:
        yield f"! plugin {problem.entry_point}: {problem.reason}"


def note_crash(error: BaseException) -> str:
    """Write the traceback of an unexpected error to a file and say what to tell the user."""
    import time

    from asem_core import __version__

    text = "".join(traceback.format_exception(error))
    about = f"asem {__version__}, Python {platform.python_version()}, {platform.platform()}\n{' '.join(sys.argv)}\n\n"
    try:
        handle, name = tempfile.mkstemp(prefix=time.strftime("asem-error-%Y%m%d-%H%M%S-"), suffix=".txt")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(about + text)
    except OSError:  # nowhere to write: the traceback itself is better than nothing
        return text
    return (
        f"Unexpected error: {type(error).__name__}: {error}\n"
        f"This is a bug in ASEM or in a plugin, not your mistake. Its traceback is in {name}: please report it with that "
        "file and the output of `asem doctor`."
    )
