"""What every source checks first."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from asem_core.errors import BadInput
from asem_core.files import near_path


def is_file_of(path: str, endings: Collection[str]) -> bool:
    """Tell whether a file is there that ends so, in any case of letters."""
    return Path(path).is_file() and Path(path).suffix.lower() in endings


_BEGINNINGS = (
    (b"\x89PNG", "a PNG image", ".png"),
    (b"\xff\xd8\xff", "a JPEG image", ".jpg"),
    (b"II*\0", "a TIFF", ".tif"),
    (b"MM\0*", "a TIFF", ".tif"),
    (b"II+\0", "a TIFF", ".tif"),
    (b"MM\0+", "a TIFF", ".tif"),
    (b"\x89HDF\r\n", "HDF5", ".h5"),
)
_PACKED = (b"PK\3\4", b"\x1f\x8b", b"7z\xbc\xaf", b"Rar!", b"BZh")


def what_it_is(path: str | Path, but: str = "") -> str:
    """Say what a file that cannot be read as what its ending says is by its first bytes, and what to do; or nothing.

    `but` is the ending of what it was tried as.
    """
    try:
        with open(path, "rb") as file:
            begin = file.read(256)
    except OSError:
        return ""
    if begin.startswith(b"version https://git-lfs"):
        return "It is only a pointer of Git LFS: fetch the file itself by git lfs pull."
    if begin.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        return "It is a web page, as a server sends instead of a file that needs a login: download the file again."
    if begin.startswith(_PACKED):
        return "It is packed: unpack it first."
    for magic, what, ending in _BEGINNINGS:
        if begin.startswith(magic) and ending != but.lower().replace("jpeg", "jpg"):
            return f"It is {what}: let its name end in {ending}."
    return ""


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
