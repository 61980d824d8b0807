"""AmiraMesh lattices (`.am`): images and labels of Amira and Avizo.

No living library reads them. The form is that of the "AmiraMesh file format" chapter of Amira's manual: a header in text, then
the values, x fastest, raw, as text, or packed (`HxByteRLE`, `HxZip`).
"""

from __future__ import annotations

import functools
import re
import zlib
from pathlib import Path
from typing import Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.errors import BadInput, UnknownName
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_core.voxels.opening import is_file_of, require_place
from asem_core.voxels.scale import Scale, in_units, settle
from asem_core.voxels.values import converted

_TYPES = {"byte": "u1", "short": "i2", "ushort": "u2", "int": "i4", "float": "f4", "double": "f8"}
_HEADER_BYTES = 1_000_000


@attrs.frozen
class AmiraMesh(Source):
    """A lattice of an AmiraMesh file.

    The voxel size follows from the bounding box, which joins the centres of the first and the last voxel; its unit is that of
    `Units { Coordinates }`, where the file has one.

    Parameters
    ----------
    path
        The file.
    voxel_size_nm
        z, y, x. None uses that of the file.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        Whether the voxels are an "image" or "labels".
    """

    name: ClassVar[str] = "amira"
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        return is_file_of(path, (".am",))

    def layers(self) -> list[str]:
        return [field.name for field in _read_header(self.path).fields]

    def open(self, layer: str | None = None) -> Volume:
        """Open a lattice; raw values stay on the disk, packed ones are unpacked into memory when they are first read.

        Raises
        ------
        BadInput
            No AmiraMesh, no lattice of three axes, vectors, truncated; a voxel size or a grey range must be told.
        UnknownName
            It has no such lattice.
        """
        require_place(self.path)
        header = _read_header(self.path)
        named = {field.name: field for field in header.fields}
        if layer is not None and layer not in named:
            raise UnknownName(f"{self.path} has no lattice '{layer}'. Its lattices: {', '.join(named)}.")
        field = header.fields[0] if layer is None else named[layer]
        if field.components != 1:
            raise BadInput(
                f"{self.path} holds {field.components} values for each voxel of '{field.name}'; a volume has one."
            )
        settled = settle(self.path, self.voxel_size_nm, header.scales())
        stored = _Lattice(self.path, header.shape, field)
        stored.require_whole()
        return settled.volume(converted(stored, self.path, self.kind, self.grey_range), self.path)

    def fingerprint(self, layer: str | None = None) -> str:
        """Sum name, size and time of the file."""
        return fingerprint(self.path)


@attrs.frozen
class _Field:
    """The values of one lattice: name, type, how many a voxel, which data section, how packed into how many bytes."""

    name: str
    dtype: str
    components: int
    section: str
    packing: str = ""
    num_bytes: int = 0
    is_text: bool = False


@attrs.frozen
class _Header:
    shape: tuple[int, int, int]
    fields: tuple[_Field, ...]
    bounds: tuple[float, ...] | None
    unit: str
    coordinates: str = "uniform"

    def scales(self) -> list[Scale]:
        if self.coordinates != "uniform":
            told = f"has coordinates of the type '{self.coordinates}', which are not equally spaced"
            return [Scale("the file", fault=told)]
        if self.bounds is None:
            return []
        pairs = list(zip(self.bounds[::2], self.bounds[1::2], strict=True))[::-1]
        size = [(high - low) / max(1, n - 1) for (low, high), n in zip(pairs, self.shape, strict=True)]
        return [in_units("the bounding box in the file", size, self.unit, [low for low, _ in pairs])]


def _read_header(path: str) -> _Header:
    with Path(path).open("rb") as file:
        start = file.read(_HEADER_BYTES)
    text = start.partition(b"# Data section follows")[0].decode("latin-1")
    first = text.partition("\n")[0]
    lattice = re.search(r"^\s*define\s+Lattice\s+(\d+)\s+(\d+)\s+(\d+)", text, re.MULTILINE)
    if not first.startswith("# AmiraMesh") and not first.startswith("# Avizo"):
        raise BadInput(
            f"{path} is not an AmiraMesh file: its first line is not '# AmiraMesh'. Is it of another program?"
        )
    fields = re.findall(
        r"^\s*Lattice\s*\{\s*(\w+)(?:\[(\d+)\])?\s+(\w+)\s*\}\s*=?\s*@(\d+)(?:\((\w+)(?:,(\d+))?\))?",
        text,
        re.MULTILINE,
    )
    if lattice is None or not fields:
        raise BadInput(
            f"{path} holds no lattice of voxels (a surface or a field of another kind). Export the image as AmiraMesh."
        )
    unknown = next((kind for kind, *_ in fields if kind not in _TYPES), None)
    if unknown is not None:
        raise BadInput(f"{path} holds values of type '{unknown}'; an image holds {', '.join(_TYPES)}.")
    order = ">" if "BINARY" in first and "LITTLE" not in first else "<"
    box = re.search(r"BoundingBox\s+((?:[-+.\deE]+[\s,]+){5}[-+.\deE]+)", text)
    unit = re.search(r"Units\s*\{[^}]*Coordinates\s+\"([^\"]*)\"", text)
    coordinates = re.search(r"CoordType\s+\"(\w+)\"", text)
    x, y, z = (int(n) for n in lattice.groups())
    return _Header(
        (z, y, x),
        tuple(
            _Field(name, order + _TYPES[kind], int(num or 1), section, packing, int(size or 0), "ASCII" in first)
            for kind, num, name, section, packing, size in fields
        ),
        tuple(float(v) for v in re.split(r"[\s,]+", box[1])) if box else None,
        unit[1] if unit else "",
        coordinates[1].lower() if coordinates else "uniform",
    )


@attrs.frozen(eq=False)
class _Lattice:
    path: FilePath
    shape: tuple[int, ...]
    field: _Field

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.field.dtype).newbyteorder("=")

    def require_whole(self) -> None:
        """Refuse a file that ends before its values, as far as its size tells."""
        num = self.field.num_bytes
        if self.field.is_text or (self.field.packing and not num):
            return
        if not self.field.packing:
            num = int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize
        needed = _section(self.path, self.field.section) + num
        if Path(self.path).stat().st_size < needed:
            raise BadInput(f"{self.path} is truncated: it ends before its {needed:,} bytes. Copy it again.")

    def __getitem__(self, key: Any) -> np.ndarray:
        begin = _section(self.path, self.field.section)
        if self.field.packing or self.field.is_text:
            return np.asarray(_unpacked(self.path, begin, self.shape, self.field)[key])
        return np.array(np.memmap(self.path, self.field.dtype, "r", begin, self.shape)[key])


@functools.lru_cache(maxsize=64)
def _section(path: str, section: str) -> int:
    """Find where the values of a section begin: after the line `@1` behind the header."""
    mark, step = f"\n@{section}\n".encode(), 2**24
    with Path(path).open("rb") as file:
        at, before = 0, b""
        while data := file.read(step):
            seen = before + data
            behind = 0
            if at == 0:
                behind = max(0, seen.find(b"# Data section follows"))
            found = seen.find(mark, behind)
            if found >= 0:
                return at - len(before) + found + len(mark)
            before, at = seen[-len(mark) :], at + len(data)
    raise BadInput(f"{path} is truncated: its data section @{section} is missing. Copy it again.")


@functools.lru_cache(maxsize=1)
def _unpacked(path: str, begin: int, shape: tuple[int, ...], field: _Field) -> np.ndarray:
    import psutil

    num = int(np.prod(shape, dtype=np.int64)) * np.dtype(field.dtype).itemsize
    if num > psutil.virtual_memory().available // 2:
        raise BadInput(
            f"{path} is packed and needs {num / 1e9:.3g} GB of memory to read. Save it unpacked in Amira (binary, not RLE)."
        )
    with Path(path).open("rb") as file:
        file.seek(begin)
        data = file.read(field.num_bytes or -1)
    try:
        if field.is_text:
            text = data.decode("latin-1").partition("@")[0]
            values = np.array(text.split(), np.dtype(field.dtype).newbyteorder("="))
        elif field.packing == "HxZip":
            values = np.frombuffer(zlib.decompress(data), field.dtype)
        elif field.packing == "HxByteRLE":
            values = _decode_runs(np.frombuffer(data, np.uint8), num).view(field.dtype)
        else:
            raise BadInput(f"{path} is packed by '{field.packing}', which is not known. Save it unpacked in Amira.")
        return values.reshape(shape).astype(np.dtype(field.dtype).newbyteorder("="), copy=False)
    except (ValueError, zlib.error) as error:
        raise BadInput(f"{path} is damaged or truncated: {error}. Copy it again.") from None


def _decode_runs(packed: np.ndarray, num: int) -> np.ndarray:
    """Unpack runs: a count and the byte repeated, or 128 plus a count and so many bytes as they are."""
    from asem_sources._run_kernel import decode_runs

    values = np.empty(num, np.uint8)
    written = decode_runs(packed, values)
    if written != num:
        raise ValueError(f"{written:,} of {num:,} bytes are there")
    return values


@hookimpl
def register_sources() -> list[type[Source]]:
    return [AmiraMesh]
