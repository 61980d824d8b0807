"""N5 containers, local or remote: multiscale groups and arrays, as OpenOrganelle publishes them.

The format is that of https://github.com/saalfeldlab/n5: one `attributes.json` a group or array, one file a block, with
axes, block indices and shapes in the order x, y, z. Zarr 3 no longer reads it, so this module does.
"""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import attrs
import numpy as np

from asem_core.errors import BadInput, UnknownName
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.volume import Box, Volume, ZyxNm, as_zyx, as_zyx_nm

_NM_PER = {"nm": 1.0, "nanometer": 1.0, "um": 1e3, "µm": 1e3, "micrometer": 1e3, "mm": 1e6, "m": 1e9}
_XYZ = ("x", "y", "z")


@attrs.frozen
class N5(Source):
    """An N5 container, group or array, on disk or at an `s3://`, `gs://` or `https://` address.

    Voxel size and origin are read from `transform`, `pixelResolution` or `resolution` attributes of the array or of the
    multiscale group around it.

    Parameters
    ----------
    path
        The container (`cell.n5`), or a group or array inside it (`cell.n5/em/fibsem-uint16`).
    voxel_size_nm
        z, y, x; overrides what the file says. None takes the file's.
    """

    name: ClassVar[str] = "n5"
    path: str
    voxel_size_nm: float | tuple[float, float, float] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        if "://" in path:
            return ".n5" in path
        folder = Path(path)
        return (folder / "attributes.json").is_file() or (
            folder.is_dir() and any(p.suffix == ".n5" for p in (folder, *folder.parents))
        )

    def layers(self) -> list[str]:
        """List arrays and multiscale groups; empty if the path is one itself, or if its server cannot list."""
        fs, root = _filesystem(self.path)
        found: list[str] = []

        def visit(folder: str, prefix: str) -> None:
            inside = [p.rstrip("/").rsplit("/", 1)[-1] for p in _folders(fs, folder)]
            if prefix and ("s0" in inside or "dimensions" in _attributes(fs, folder)):
                found.append(prefix.rstrip("/"))
                return
            if "dimensions" in _attributes(fs, folder):
                return
            for name in sorted(inside):
                visit(f"{folder}/{name}", f"{prefix}{name}/")

        visit(root, "")
        return sorted(found, key=lambda name: (not {"raw", "em"} & set(name.split("/")), name)) or [""]

    def open(self, layer: str | None = None) -> Volume:
        """Open an array, or the finest level of a group; without a layer, the container's first."""
        address, fs, path, attributes = self._find(layer)
        size, origin = _placement(fs, path, attributes)
        if self.voxel_size_nm is not None:
            size = as_zyx_nm(self.voxel_size_nm)
        if size is None:
            raise BadInput(
                f"{address} says nothing of its voxel size: it has no 'transform', 'pixelResolution' or 'resolution' "
                f"attribute. Give it: asem import {self.path} --voxel-size 5,5,5 -o CELL.zarr"
            )
        return Volume(_array(fs, path, attributes, address), size, origin, address, {"n5": attributes})

    def fingerprint(self, layer: str | None = None) -> str | None:
        """Sum names, sizes and times of the files of a layer's finest array; None of a remote one."""
        if "://" in self.path:
            return None
        _, _, path, _ = self._find(layer)
        return fingerprint(Path(path))

    def _find(self, layer: str | None) -> tuple[str, Any, str, dict[str, Any]]:
        """Find the array of a layer: its address, its file system, its path there and its attributes."""
        if layer is None:
            layer = self.layers()[0]
        address = "/".join(part for part in (self.path.rstrip("/"), layer) if part)
        fs, path = _filesystem(address)
        attributes = _attributes(fs, path)
        if "dimensions" not in attributes and "dimensions" in (finest := _attributes(fs, f"{path}/s0")):
            path, attributes = f"{path}/s0", finest
        if "dimensions" not in attributes:
            raise UnknownName(
                f"{address} is not an N5 array or multiscale group. `asem import` lists what {self.path} holds."
            )
        return address, fs, path, attributes


@hookimpl
def register_sources() -> list[type[Source]]:
    return [N5]


# --- blocks -----------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class _Array:
    """A lazy zyx view of an N5 array; blocks that do not exist are zero."""

    fs: Any
    path: str
    address: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    compression: Mapping[str, Any]

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        keys += (slice(None),) * (3 - len(keys))
        spans = [
            k.indices(n) if isinstance(k, slice) else (int(k) % n, int(k) % n + 1, 1)
            for k, n in zip(keys, self.shape, strict=True)
        ]
        box = Box(as_zyx([b for b, _, _ in spans]), as_zyx([max(b, e) for b, e, _ in spans]))
        steps = tuple(
            slice(None, None, step) if isinstance(k, slice) else 0 for k, (_, _, step) in zip(keys, spans, strict=True)
        )
        return self._read(box)[steps]

    def _read(self, box: Box) -> np.ndarray:
        result = np.zeros(box.shape, self.dtype)
        if box.is_empty:
            return result
        first = [b // c for b, c in zip(box.begin, self.chunks, strict=True)]
        last = [math.ceil(e / c) for e, c in zip(box.end, self.chunks, strict=True)]
        places = {
            "/".join([self.path, *map(str, at.begin[::-1])]): at.begin
            for at in Box(as_zyx(first), as_zyx(last)).blocks(1)
        }
        found = (
            self.fs.cat(list(places), on_error="return", recursive=False)
            if len(places) > 1
            else self._read_one(*places)
        )
        for path, place in places.items():
            data = found.get(path, found.get(path.lstrip("/")))
            if isinstance(data, FileNotFoundError):
                continue
            if not isinstance(data, bytes):
                raise OSError(f"{self.address}: block {path} cannot be read: {type(data).__name__}: {data}")
            block = self._decode(data, path)
            begin = [p * c for p, c in zip(place, self.chunks, strict=True)]
            there = Box(as_zyx(begin), as_zyx([b + n for b, n in zip(begin, block.shape, strict=True)]))
            common = there & box
            if not common.is_empty:
                source = common.shift([-b for b in there.begin])
                result[common.shift([-b for b in box.begin]).slices] = block[source.slices]
        return result

    def _read_one(self, path: str) -> dict[str, Any]:
        try:
            return {path: self.fs.cat_file(path)}
        except Exception as error:  # judged by the caller, as those that `cat` returns
            return {path: error}

    def _decode(self, data: bytes, path: str) -> np.ndarray:
        try:
            mode, axes = struct.unpack_from(">HH", data)
            if mode != 0 or axes != 3:
                raise BadInput(
                    f"{self.address}: block {path} has mode {mode} and {axes} axes; images have mode 0 and 3 axes."
                )
            shape = struct.unpack_from(">3I", data, 4)
            raw = _DECODERS[str(self.compression["type"])](data[16:], self.compression)
            return np.frombuffer(raw, self.dtype.newbyteorder(">"), math.prod(shape)).reshape(shape[::-1])
        except (struct.error, ValueError, RuntimeError, EOFError, OSError, zlib.error, lzma.LZMAError) as error:
            raise BadInput(f"{self.address}: block {path} is damaged ({error}). Copy it again.") from None


def _unzip(data: bytes, about: Mapping[str, Any]) -> bytes:
    return zlib.decompress(data) if about.get("useZlib") else gzip.decompress(data)


def _numcodec(name: str) -> Callable[[bytes, Mapping[str, Any]], bytes]:
    def decode(data: bytes, _about: Mapping[str, Any]) -> bytes:
        import numcodecs

        return bytes(numcodecs.get_codec({"id": name}).decode(data))

    return decode


def _unlz4(data: bytes, _about: Mapping[str, Any]) -> bytes:
    """Decode the stream of Java's LZ4BlockOutputStream: frames of magic, token, sizes, checksum and bytes."""
    from numcodecs import lz4

    result, at = [], 0
    while at < len(data):
        magic, token, packed, size, _ = struct.unpack_from("<8sBiiI", data, at)
        if magic != b"LZ4Block":
            raise ValueError("not an LZ4 block stream")
        at += 21
        piece = data[at : at + packed]
        result.append(piece if token & 0xF0 == 0x10 else lz4.decompress(struct.pack("<i", size) + piece))
        at += packed
    return b"".join(result)


_DECODERS: Mapping[str, Callable[[bytes, Mapping[str, Any]], bytes]] = {
    "raw": lambda data, _: data,
    "gzip": _unzip,
    "bzip2": lambda data, _: bz2.decompress(data),
    "xz": lambda data, _: lzma.decompress(data),
    "lz4": _unlz4,
    "blosc": _numcodec("blosc"),
    "zstd": _numcodec("zstd"),
}


def _array(fs: Any, path: str, attributes: Mapping[str, Any], address: str) -> _Array:
    compression = attributes.get("compression", {"type": attributes.get("compressionType", "raw")})
    if compression.get("type") not in _DECODERS:
        raise BadInput(f"{address} is compressed by '{compression.get('type')}'; known: {', '.join(_DECODERS)}.")
    shape, chunks = attributes["dimensions"][::-1], attributes["blockSize"][::-1]
    if len(shape) != 3:
        raise BadInput(f"{address} has {len(shape)} axes {shape}; a volume has three (z, y, x).")
    return _Array(fs, path, address, tuple(shape), tuple(chunks), np.dtype(attributes["dataType"]), compression)


# --- groups and attributes --------------------------------------------------------------------------------------


def _filesystem(address: str) -> tuple[Any, str]:
    import fsspec

    from asem_core.files import storage_options

    fs, path = fsspec.core.url_to_fs(address, **storage_options(address))
    return fs, str(path).rstrip("/")


def _attributes(fs: Any, folder: str) -> dict[str, Any]:
    path = f"{folder}/attributes.json"
    try:
        found = json.loads(fs.cat_file(path))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except ValueError:
        raise BadInput(f"{path} is not JSON. Copy the container again.") from None
    return found if isinstance(found, dict) else {}


def _folders(fs: Any, folder: str) -> list[str]:
    try:
        return [item["name"] for item in fs.ls(folder, detail=True) if item["type"] == "directory"]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _placement(fs: Any, path: str, attributes: Mapping[str, Any]) -> tuple[ZyxNm | None, ZyxNm]:
    """Voxel size and origin in nm of an array, from its own attributes or its group's."""
    parent, _, level = path.rpartition("/")
    group = _attributes(fs, parent)
    for multiscale in group.get("multiscales", []):
        for dataset in multiscale.get("datasets", []):
            if dataset.get("path") == level and "transform" in dataset:
                attributes = {"transform": dataset["transform"], **attributes}
    if "transform" in attributes:
        return _transform(attributes["transform"])
    factors = attributes.get("downsamplingFactors", [1, 1, 1])
    for table in (attributes, group):
        size = _resolution(table)
        if size is not None:
            if table is group:
                size = [s * f for s, f in zip(size, factors, strict=True)]
            offset = table.get("offset", [0, 0, 0])
            return as_zyx_nm(size[::-1]), as_zyx_nm(offset[::-1], "offset")
    return None, (0.0, 0.0, 0.0)


def _resolution(table: Mapping[str, Any]) -> list[float] | None:
    """Read x, y, z in nm."""
    found = table.get("pixelResolution", table.get("resolution"))
    if isinstance(found, dict):
        return [float(v) * _NM_PER.get(str(found.get("unit", "nm")), 1.0) for v in found["dimensions"]]
    return [float(v) for v in found] if found is not None else None


def _transform(table: Mapping[str, Any]) -> tuple[ZyxNm, ZyxNm]:
    axes = [str(a).lower() for a in table.get("axes", ("z", "y", "x"))]
    if sorted(axes) != sorted(_XYZ):
        raise BadInput(f"An N5 'transform' has the axes {axes}; expected z, y and x.")
    units = table.get("units", ["nm"] * 3)
    order = [axes.index(a) for a in "zyx"]
    nm = [_NM_PER.get(str(units[i]), 1.0) for i in order]
    scale = [float(table["scale"][i]) * f for i, f in zip(order, nm, strict=True)]
    shift = [float(table.get("translate", [0, 0, 0])[i]) * f for i, f in zip(order, nm, strict=True)]
    return as_zyx_nm(scale), as_zyx_nm(shift, "origin")
