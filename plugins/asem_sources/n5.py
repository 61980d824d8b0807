"""N5 containers, local or remote: multiscale groups and arrays, as OpenOrganelle publishes them.

The format is that of https://github.com/saalfeldlab/n5: one `attributes.json` a group or array, one file a block, with
axes, block indices and shapes in the order x, y, z. Zarr 3 no longer reads it, so this module does.
"""

from __future__ import annotations

import bz2
import functools
import gzip
import itertools
import json
import lzma
import math
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_core.abilities import WritesVolumes
from asem_core.errors import BadInput, MissingExtra, UnknownName
from asem_core.files import fingerprint
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Box, Volume
from asem_core.voxels.axes import arrange
from asem_core.voxels.limits import require_chunk_fits
from asem_core.voxels.n5_dialects import n5_axes, n5_scales
from asem_core.voxels.scale import settle
from asem_core.voxels.values import converted

if TYPE_CHECKING:
    from asem_core.blocks import Run


@attrs.frozen
class N5(Source, WritesVolumes):
    """An N5 container, group or array, on disk or at an `s3://`, `gs://` or `https://` address.

    Voxel size and origin are read from `transform`, `pixelResolution`, `resolution` (with `units`), `pixelWidth` and OME's
    `multiscales` attributes of the array or of the multiscale group around it.

    Parameters
    ----------
    path
        The container (`cell.n5`), or a group or array inside it (`cell.n5/em/fibsem-uint16`). Written is one array, at the path.
    voxel_size_nm
        z, y, x; overrides what the file says. None uses that of the file.
    channel, time
        Which one to use if an array has several, from 0.
    axes
        What the axes of an array are, slowest first, if it does not name them or names them wrongly: `czyx`.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        What the voxels are: whole floats of labels are ids.
    """

    name: ClassVar[str] = "n5"
    dtypes: ClassVar[Sequence[str]] = (
        *("uint8", "uint16", "uint32", "uint64"),
        *("int8", "int16", "int32", "int64", "float32"),
    )
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    channel: int | None = None
    time: int | None = None
    axes: str | None = None
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        if "://" in path:
            return ".n5" in path
        folder = Path(path)
        return (folder / "attributes.json").is_file() or (
            folder.is_dir() and any(p.suffix == ".n5" for p in (folder, *folder.parents))
        )

    @classmethod
    def can_write(cls, path: str) -> bool:
        return "://" not in path and any(p.suffix == ".n5" for p in (Path(path), *Path(path).parents))

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
        stored = _array(fs, path, attributes, address)
        group = _attributes(fs, path.rpartition("/")[0])
        axes = list(self.axes.lower()) if self.axes else n5_axes(path, attributes, group, stored.shape, address)
        settled = settle(address, self.voxel_size_nm, n5_scales(path, attributes, group, axes))
        volume = arrange(stored, axes, address, {"c": self.channel, "t": self.time}, asked=bool(self.axes))
        data = converted(volume, address, self.kind, self.grey_range)
        planes = [str(name) for name in attributes.get("planes", [])]
        return attrs.evolve(settled.volume(data, address, planes=planes), attributes={"n5": attributes})

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write a volume as an array with its place (`transform` of cellmap, `pixelResolution` of Fiji) and what made it."""
        from asem_core.blocks import run_blocks
        from asem_sources._writing import WriteBlocks, block_of, chunk_shape

        folder = Path(self.path)
        folder.mkdir(parents=True, exist_ok=True)
        about = {
            "n5": "2.5.1",
            "dataType": str(volume.dtype),
            "dimensions": list(volume.shape[::-1]),
            "blockSize": list(chunk_shape(volume)[::-1]),
            "compression": {"type": "gzip", "level": 1, "useZlib": False},
            "transform": {
                "axes": ["z", "y", "x"],
                "units": ["nm"] * 3,
                "scale": list(volume.voxel_size_nm),
                "translate": list(volume.origin_nm),
            },
            "pixelResolution": {"unit": "nm", "dimensions": list(volume.voxel_size_nm[::-1])},
            "offset": list(volume.origin_nm[::-1]),
            "planes": list(volume.planes),
            "made_by": volume.attributes.get("made_by", {}),
        }
        (folder / "attributes.json").write_text(json.dumps(about), encoding="utf-8")
        run_blocks(WriteBlocks(volume, _Into(self.path)), volume.box, block_of(volume), run, name="export")
        return []

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
            known = [name for name in self.layers() if name]
            what = (
                f"It holds {', '.join(known)}."
                if known
                else "It holds none: is it another folder, or not copied whole?"
            )
            raise UnknownName(f"{address} is not an N5 array or multiscale group. {what}")
        return address, fs, path, attributes


# --- blocks -----------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False)
class _Array:
    """A lazy view of an N5 array, slowest axis first; blocks that do not exist are zero."""

    fs: Any
    path: FilePath
    address: str
    shape: tuple[int, ...]
    chunks: tuple[int, ...]
    dtype: np.dtype[Any]
    compression: Mapping[str, Any]

    def __getitem__(self, key: Any) -> np.ndarray:
        keys = key if isinstance(key, tuple) else (key,)
        keys += (slice(None),) * (len(self.shape) - len(keys))
        spans = [
            k.indices(n) if isinstance(k, slice) else (int(k) % n, int(k) % n + 1, 1)
            for k, n in zip(keys, self.shape, strict=True)
        ]
        steps = tuple(
            slice(None, None, step) if isinstance(k, slice) else 0 for k, (_, _, step) in zip(keys, spans, strict=True)
        )
        return self._read([b for b, _, _ in spans], [max(b, e) for b, e, _ in spans])[steps]

    def _read(self, begin: Sequence[int], end: Sequence[int]) -> np.ndarray:
        result = np.zeros([e - b for b, e in zip(begin, end, strict=True)], self.dtype)
        if not result.size:
            return result
        grid = [range(b // c, -(-e // c)) for b, e, c in zip(begin, end, self.chunks, strict=True)]
        places = {"/".join([self.path, *map(str, at[::-1])]): at for at in itertools.product(*grid)}
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
            there = [p * c for p, c in zip(place, self.chunks, strict=True)]
            common = [(max(b, t), min(e, t + n)) for b, e, t, n in zip(begin, end, there, block.shape, strict=True)]
            if all(low < high for low, high in common):
                into = tuple(slice(low - b, high - b) for (low, high), b in zip(common, begin, strict=True))
                part = tuple(slice(low - t, high - t) for (low, high), t in zip(common, there, strict=True))
                result[into] = block[part]
        return result

    def _read_one(self, path: str) -> dict[str, Any]:
        try:
            return {path: self.fs.cat_file(path)}
        except Exception as error:  # judged by the caller, as those that `cat` returns
            return {path: error}

    def _decode(self, data: bytes, path: str) -> np.ndarray:
        try:
            mode, axes = struct.unpack_from(">HH", data)
            num = len(self.shape)
            if mode != 0 or axes != num:
                raise BadInput(
                    f"{self.address}: block {path} has mode {mode} and {axes} axes; images have mode 0 and, here, {num} axes."
                )
            shape = struct.unpack_from(f">{num}I", data, 4)
            raw = _DECODERS[str(self.compression["type"])](data[4 + 4 * num :], self.compression)
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
    if not isinstance(compression, Mapping):
        compression = {"type": str(compression)}
    if compression.get("type") not in _DECODERS:
        raise BadInput(f"{address} is compressed by '{compression.get('type')}'; known: {', '.join(_DECODERS)}.")
    if attributes.get("isLabelMultiset"):
        raise BadInput(
            f"{address} holds label multisets of Paintera: several ids for each voxel. Convert them to one id for each voxel (scalar labels)."
        )
    shape, chunks = (_whole_numbers(attributes, key, address)[::-1] for key in ("dimensions", "blockSize"))
    if len(shape) != len(chunks):
        raise BadInput(
            f"{address}: attributes.json states {len(shape)} dimensions but blocks of {len(chunks)}. Is it damaged?"
        )
    try:
        dtype = np.dtype(attributes.get("dataType"))
    except TypeError:
        raise BadInput(f"{address}: attributes.json states no known dataType. Is it damaged?") from None
    require_chunk_fits(address, chunks, dtype.itemsize)
    return _Array(fs, path, address, tuple(shape), tuple(chunks), dtype, compression)


def _whole_numbers(attributes: Mapping[str, Any], key: str, address: str) -> list[int]:
    found = attributes.get(key)
    if not isinstance(found, list) or not found or not all(type(n) is int and n > 0 for n in found):
        raise BadInput(
            f"{address}: attributes.json states {key} as {found!r}, not as whole numbers above 0. Is it damaged?"
        )
    return found


@attrs.frozen
class _Into:
    """Opens an array for writing."""

    path: FilePath

    def __call__(self) -> Callable[[Box, np.ndarray], None]:
        array = _opened(str(Path(self.path).resolve()))

        def write(box: Box, block: np.ndarray) -> None:
            array[box.slices[::-1]].write(block.transpose()).result()

        return write


@functools.lru_cache(maxsize=8)
def _opened(folder: str) -> Any:
    try:
        import tensorstore
    except ImportError:
        raise MissingExtra.of("precomputed", f"{folder} is N5, which tensorstore writes") from None
    spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{folder}/"}}
    return tensorstore.open(spec, open=True, read=True, write=True).result()


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


@hookimpl
def register_sources() -> list[type[Source]]:
    return [N5]
