"""The command `asem`. Each module of this package holds the commands of one stage and adds them by `mount(app)`;
`_OWN_MODULES` says which.

Modules import what is heavy inside their functions, so that `asem --help` answers at once. Further distributions add
commands by an entry point of the group `asem.cli` that names a module with `mount(app)`.
"""

from __future__ import annotations

import errno
import gc
import importlib
import io
import logging
import signal
import sys
from importlib.metadata import entry_points
from typing import Annotated, Any

import typer
import typer.core

from asem_core.cli._later import put_off
from asem_core.engine.interrupt import STOPPED, leave
from asem_core.errors import AsemError, as_flag, is_full_disk, spelled

_OWN_MODULES = {
    "demo": None, "inspect": "inspect", "import": "importing", "prepare": "prepare", "preprocess": "prepare",
    "annotate": "annotate", "loop": "loop", "plan": "train", "train": "train", "finetune": "train", "preflight": "train", "predict": "predict", "segment": "predict",
    "proofread": "proofread", "evaluate": "evaluate", "analyze": "analyze", "compare": "compare", "export": "export", "run": "run",
    "view": "view", "snapshot": "view", "movie": "view", "models": None, "data": None, "plugins": "plugins",
    "clusters": "clusters", "doctor": "doctor",
}  # fmt: skip
"""Commands in flow order, and the module of this package that mounts each; None: another package does."""
_FLOW_ORDER = tuple(_OWN_MODULES)

_WITHOUT_IMAGES = {"", "--version", "plugins list", "models list"}
"""Commands that read no image and no file but their own; so does help."""
_PUT_OFF = ("numpy", "hashlib", "platformdirs", "xml.etree.ElementTree")
"""What many modules import and none of these commands uses: a fifth of their time."""

_NO_ROOM = " Free some space, then run the same command again."
_REFUSED = " Choose another place with -o, or change its permissions."
_NO_MEMORY = (
    " Is the shape that the file states right? If so, use smaller blocks (--block), fewer workers (-j), a box of the volume, or "
    "a machine with more memory."
)
_ADVICE = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EACCES: _REFUSED,
    errno.EPERM: _REFUSED,
    errno.EROFS: _REFUSED,
}

USAGE = 2  # the exit code of a command that lacks an argument
INTERRUPTED = 130  # the exit code of a program that Ctrl-C ended


class _Commands(typer.core.TyperGroup):
    """Lists commands in flow order, and prints an `AsemError` as its text."""

    def list_commands(self, ctx: Any) -> list[str]:
        known = super().list_commands(ctx)
        return sorted(known, key=lambda n: _FLOW_ORDER.index(n) if n in _FLOW_ORDER else len(_FLOW_ORDER))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write plain text: for a list of commands, loading rich would take as long as all the rest."""
        super(typer.core.TyperGroup, self).format_help(ctx, formatter)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args:  # typer takes it for shown by rich, which `format_help` leaves out
            typer.echo(ctx.get_help())
            raise typer.Exit(USAGE)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a file's name may be no text, as Latin-1 from a Windows share
        try:
            with spelled(as_flag):
                return super().invoke(ctx)
        except AsemError as error:
            if logging.getLogger("asem_core").isEnabledFor(logging.DEBUG):
                logging.getLogger("asem_core").exception("What led to the error:")
            typer.secho(f"Error: {error.told(as_flag)}", err=True, fg="red")
            raise typer.Exit(1) from None
        except typer.BadParameter.__base__ as error:  # type: ignore[misc]  # click's error of usage, wherever typer keeps it
            if "unexpected extra argument" in error.message:
                error.message += (
                    ". A path with spaces needs quotes ('my cell/'), and numbers are joined by commas (5,5,5)."
                )
            raise
        except KeyboardInterrupt as stop:
            typer.echo(str(stop) or STOPPED, err=True)
            raise typer.Exit(INTERRUPTED) from None
        except MemoryError as error:  # a file may state any shape
            told = f" ({error})" if str(error) else ""
            typer.secho(f"Error: Not enough memory for this{told}.{_NO_MEMORY}", err=True, fg="red")
            raise typer.Exit(1) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as error:
            # An error of a pipe is left to typer, which ends quietly when `| head` has read enough.
            if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
                about = f": {error.filename}" if error.filename else ""
                told = f"{error.strerror}{about}.{_ADVICE.get(error.errno, '')}"
            elif is_full_disk(error):
                told = f"The disk is full.{_NO_ROOM}"
            else:
                raise
            typer.secho(f"Error: {told}", err=True, fg="red")
            raise typer.Exit(1) from None


def _show_version(shown: bool) -> None:
    if shown:
        from asem_core import __version__

        typer.echo(f"asem {__version__}")
        raise typer.Exit


def make_app(command: str | None = None) -> typer.Typer:
    """Build the command-line program from this package's modules and those of other distributions.

    If `command` is one of this package's, only the module that mounts it is imported: the others would be built in vain.
    """
    app = typer.Typer(
        cls=_Commands,
        pretty_exceptions_enable=False,
        rich_markup_mode="markdown",
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 140},
    )

    @app.callback()
    def asem(
        version: Annotated[
            bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
        ] = False,
        verbose: Annotated[
            int,
            typer.Option("-v", "--verbose", count=True, help="Show more messages; -vv shows all.", show_default=False),
        ] = 0,
    ) -> None:
        """Segment organelles in FIB-SEM volumes with plugins chosen by name.

        Start with `asem demo`, or with your own stack: `asem import PLANES/ --voxel-size 5,5,5 -o cell.zarr`.
        """
        level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
        logging.basicConfig(format="%(message)s")
        logging.getLogger("asem_core").setLevel(level)
        logging.getLogger("asem_core.remarks").setLevel(min(level, logging.INFO))
        if not verbose:  # what matters of a damaged file is told in our own words
            logging.getLogger("tifffile").setLevel(logging.CRITICAL)

    own = _OWN_MODULES.get(command or "")
    for module in [own] if own else sorted({m for m in _OWN_MODULES.values() if m}):
        importlib.import_module(f"{__name__}.{module}").mount(app)
    if own:
        return app
    for point in entry_points(group="asem.cli"):
        try:
            point.load().mount(app)
        except (Exception, SystemExit) as error:  # a stranger's module must not take the other commands away
            typer.secho(f"Note: the commands of '{point.name}' cannot be loaded: {error}", err=True, fg="yellow")
    return app


def main() -> None:
    """Run the program: the entry point of the script `asem`."""
    words = sys.argv[1:]
    if " ".join(words[:2]) in _WITHOUT_IMAGES or words[-1] in ("-h", "--help"):
        for name in _PUT_OFF:
            put_off(name)
        gc.disable()  # what is made for a list is all still needed when it ends
    else:
        from asem_core.engine.machine import keep_compiled_functions, set_up_torch
        from asem_core.temporary import sweep

        keep_compiled_functions()
        set_up_torch()
        sweep()
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        # A queue, a service manager or a container asks in this way: it is Ctrl-C to us, which loses nothing.
        signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        make_app(*words[:1])(prog_name="asem")
    except SystemExit as end:
        if end.code == INTERRUPTED:
            leave(INTERRUPTED)
        raise
    except Exception as error:
        from asem_core.cli.doctor import note_crash

        typer.secho(note_crash(error), err=True, fg="red")
        sys.exit(1)
