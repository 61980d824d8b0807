"""What every source checks first."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from asem_core.errors import BadInput
from asem_core.files import near_path


def is_file_of(path: str, endings: Collection[str]) -> bool:
    """Tell whether a file is there that ends so, in any case of letters."""
    return Path(path).is_file() and Path(path).suffix.lower() in endings


def require_place(path: str) -> Path:
    """Refuse a path at which nothing is.

    Raises
    ------
    BadInput
    """
    here = Path(path)
    if not here.exists():
        raise BadInput(f"{path} does not exist.{near_path(path)}")
    return here


def require_one_volume(path: str, layer: str | None, what: str) -> Path:
    """Refuse a path at which nothing is, and a layer other than the one, "raw", that `what` ("an MRC file") has.

    Raises
    ------
    BadInput
    """
    if layer not in (None, "raw"):
        raise BadInput(f"{path} is {what}: it has one layer, 'raw', not '{layer}'.")
    return require_place(path)
