"""Files, and objects at remote addresses, told apart by what they hold."""

from __future__ import annotations

import difflib
import errno
import hashlib
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import DTypeLike

SMALL_BYTES, SMALL_FILES = 64 * 2**20, 2000
"""Data up to this size are told apart by their content; larger ones by the names, sizes and times of their files."""


def sha256(path: str | Path) -> str:
    """Sum a file, in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def near_path(path: str | Path) -> str:
    """Say what may be meant by a path at which nothing is, as a sentence: what is called almost the same; "" if nothing is."""
    here = Path(path)
    missing = next((p for p in reversed((here, *here.parents)) if not p.exists()), here)
    try:
        beside = os.listdir(missing.parent)
    except OSError:
        return ""
    near = difflib.get_close_matches(missing.name, beside, 1, cutoff=0.8)
    return f" Did you mean '{missing.with_name(near[0])}'?" if near else ""


def fingerprint(place: str | Path, files: Sequence[Path] | None = None) -> str | None:
    """Sum up data, so that changed data is never taken for what was read before; None where it cannot be told.

    Small data are summed by names and content, whatever their times and wherever they lie. Of large ones (see `SMALL_BYTES`)
    no voxel is read: names, sizes and times count; of remote objects names, sizes and ETags (or times). So of large
    data one change is not seen: in place, to the same size, with the old time put back.

    Parameters
    ----------
    place : a file, a folder, or an address such as `s3://bucket/cell.zarr/raw`
    files : files in that folder that count; None takes all
    """
    if "://" in str(place):
        return _of_remote(str(place))
    here = Path(place)
    if files is None:
        if not here.exists():
            return None
        files = [here] if here.is_file() else sorted(_files_in(here))
    folder = here.parent if here.is_file() else here
    stats = [(f, os.path.relpath(f, folder) if f != here else "", f.stat()) for f in files]
    total = hashlib.sha256()
    if len(stats) <= SMALL_FILES and sum(s.st_size for _, _, s in stats) <= SMALL_BYTES:
        for file, name, stat in stats:
            total.update(f"{name}\0{stat.st_size}\0".encode(errors="surrogateescape"))
            total.update(file.read_bytes())
    else:
        _sum_list(total, ((name, stat.st_size, stat.st_mtime_ns) for _, name, stat in stats))
    return total.hexdigest()[:32]


def take_room(file: str | Path) -> None:
    """Have the disk hold every byte of a file that was only made long, before it is mapped into memory and written.

    On a full disk that is an error here, while a write through the map would end the process without a word. File systems
    that copy what is written (btrfs, ZFS) promise nothing.

    Raises
    ------
    OSError
        There is not enough room (ENOSPC); the file's name is with it.
    """
    size = os.path.getsize(file)
    try:
        with open(file, "r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, size)
    except (AttributeError, OSError) as error:  # not every system or file system can
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from None
        if shutil.disk_usage(Path(file).parent).free < size:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file)) from None


def mapped_array(file: str | Path, dtype: DTypeLike, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    """Make an array of zeros in a file (npy) that is mapped into memory, with all its room (see `take_room`).

    Raises
    ------
    OSError
        There is not enough room; nothing is left.
    """
    import numpy as np

    made: np.memmap[Any, Any] | None = None
    try:
        made = np.lib.format.open_memmap(file, mode="w+", dtype=dtype, shape=shape)
        take_room(file)
        return made
    except OSError:
        made = None  # Windows removes no file that is mapped
        Path(file).unlink(missing_ok=True)
        raise


def _files_in(folder: Path) -> Iterable[Path]:
    for at, _, names in os.walk(folder, followlinks=True):
        yield from (Path(at) / name for name in names)


def _sum_list(total: Any, files: Iterable[tuple[str, int, Any]]) -> None:
    for name, size, version in files:
        total.update(f"{name}\0{size}\0{version}\n".encode(errors="surrogateescape"))


def _of_remote(address: str) -> str | None:
    """Sum names, sizes and versions of the objects behind an address; a web server that lists nothing tells nothing."""
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(address, **storage_options(address))
        if "http" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,)):
            return None
        found = fs.find(path, detail=True)
    except Exception:  # each remote file system raises its own kind; opening the data tells what is wrong
        return None
    if not found:
        return None
    total = hashlib.sha256()
    _sum_list(
        total, ((name[len(path) :], about.get("size", 0), _version_of(about)) for name, about in sorted(found.items()))
    )
    return total.hexdigest()[:32]


def _version_of(about: Any) -> Any:
    keys = ("ETag", "etag", "md5Hash", "LastModified", "updated", "mtime")
    return next((about[key] for key in keys if about.get(key)), "")


def storage_options(address: str) -> dict[str, Any]:
    """Say how fsspec reads an address: S3 without credentials, from the server ASEM_S3_ENDPOINT names if it is set."""
    if not address.startswith("s3://"):
        return {}
    endpoint = os.environ.get("ASEM_S3_ENDPOINT")
    return {"anon": True, **({"endpoint_url": endpoint} if endpoint else {})}
