"""Options that several commands share, and how their texts are read."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from asem_core.engine.machine import available_cores
from asem_core.errors import BadInput

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.volume import Zyx, ZyxNm

Workers = Annotated[
    int, typer.Option("--workers", "-j", min=1, help="Number of worker processes.", show_default="all cores")
]
On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="CLUSTER",
        help="Run on this cluster; NAME:8 sets the number of workers. See `asem clusters`.",
    ),
]
BlockShape = Annotated[str | None, typer.Option("--block", help="Block shape in voxels: one number, or z,y,x.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing output that was made differently.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Do not show progress.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON, for programs.")]
VoxelSize = Annotated[
    str | None, typer.Option("--voxel-size", help="Voxel size in nm: one number, or z,y,x (for example 5,5,5).")
]
Options = Annotated[
    list[str] | None,
    typer.Option("--set", "-s", metavar="KEY=VALUE", help="Set an option of the plugin; may be repeated."),
]
Done = Annotated[
    str | None,
    typer.Option(help="Preprocessing already applied to the image: clahe, ...; or none.", show_default="by its name"),
]

Ignore = Annotated[
    str | None,
    typer.Option(
        help="Label values that mean 'not annotated', for example 255 or -1,3; or none.",
        show_default="by known conventions",
    ),
]
Background = Annotated[
    str | None, typer.Option(help="Further label values that mean background; or none.", show_default="0 only")
]
DEFAULT_WORKERS = available_cores()


def words_of(context: typer.Context, without: Collection[str]) -> list[str]:
    """Write the command that is being run as it could be typed, relative paths and all, without some of its options."""
    words: list[str] = (context.info_name or "").split()
    for parameter in context.command.params:
        value = context.params.get(parameter.name or "")
        if parameter.name in without or value in (None, False, parameter.default):
            continue
        values = value if isinstance(value, (list, tuple)) else [value]
        for one in values:
            option = [] if parameter.param_type_name == "argument" else [parameter.opts[0]]
            words += option if one is True else [*option, str(one)]
    return words


def make_run(workers: int, block: str | None = None, quiet: bool = False, on: str | None = None) -> Run:
    """Build the `Run` that the shared options describe."""
    from asem_core.blocks import Run
    from asem_core.engine.clusters import find_cluster
    from asem_core.volume import as_zyx

    shape = as_zyx(_numbers(block, int, "--block")) if block else None
    return Run(workers=workers, block=shape, progress=not quiet, on=find_cluster(on) if on else None)


def read_voxel_size(text: str | None) -> ZyxNm | None:
    """Read `5` or `5,5,5` (nm, z y x)."""
    from asem_core.volume import as_zyx_nm

    return None if text is None else as_zyx_nm(_numbers(text, float, "--voxel-size"))


def read_options(pairs: list[str] | None) -> dict[str, Any]:
    """Read `key=value` pairs; values are written as in TOML, and a bare word is a text."""
    import tomllib

    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, equals, value = pair.partition("=")
        if not equals:
            raise BadInput(f"'{pair}' is not KEY=VALUE, for example --set clip_limit=0.02.")
        try:
            options[key.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            options[key.strip()] = value
    return options


def print_json(value: Any) -> None:
    """Print for programs."""
    typer.echo(json.dumps(value, indent=2, default=str))


def container_of(path: Path) -> Path:
    """Return the container of a layer's path (`cell.zarr` of `cell.zarr/raw`), or the path itself."""
    from asem_core.cell.place import cell_of

    return cell_of(path)


def require_picture(path: Path, forms: Sequence[str] = (".png", ".jpg", ".jpeg", ".tif", ".tiff")) -> None:
    """Refuse a picture that could not be written, before anything is drawn.

    Raises
    ------
    BadInput
        Its folder does not exist or is part of a cell, it is a folder itself, or its ending names no form that is known.
    """
    from asem_core.cell.place import require_outside_cells

    if path.suffix.lower() not in forms:
        raise BadInput(f"{path}: the name of a picture must end in one of {', '.join(forms)}.")
    if not path.parent.is_dir() or path.is_dir():
        raise BadInput(
            f"{path} cannot be written: {path.parent} is not a folder, or {path.name} is one. Choose another name."
        )
    require_outside_cells(path)


def read_numbers(text: str, kind: type, option: str) -> list[Any]:
    """Read numbers joined by commas."""
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        whole = "whole " if kind is int else ""
        raise BadInput(f"{option} takes {whole}numbers joined by commas, not '{text}'.") from None


def read_zyx(text: str, option: str) -> Zyx:
    """Read a place or a distance in voxels: three whole numbers joined by commas."""
    from asem_core.volume import as_zyx

    numbers = read_numbers(text, int, option)
    if len(numbers) != 3:
        raise BadInput(f"{option} takes three whole numbers joined by commas (z,y,x), not '{text}'.")
    return as_zyx(numbers)


def _numbers(text: str, kind: type, option: str) -> Any:
    try:
        values = [kind(part) for part in text.split(",")]
    except ValueError:
        raise BadInput(f"{option} takes one number, or three joined by commas (z,y,x), not '{text}'.") from None
    return values[0] if len(values) == 1 else values
