"""Neuroglancer precomputed volumes, on disk or at an address, by tensorstore."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Sequence
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
from asem_core.volume import Labels, Volume, as_zyx_nm
from asem_core.voxels.axes import arrange
from asem_core.voxels.scale import Scale, settle
from asem_core.voxels.values import converted

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.volume import Box

_PREFIX = "precomputed://"


@attrs.frozen
class Precomputed(Source, WritesVolumes):
    """A Neuroglancer precomputed volume: a folder with `info`, or an address such as `precomputed://https://...`.

    Voxel size and origin are those that `info` states, in nm.

    Parameters
    ----------
    path
        Folder or address (`https://`, `gs://`, `s3://`), with or without `precomputed://`.
    voxel_size_nm
        z, y, x. None uses that of `info`.
    channel
        Which one to use if there are several, from 0.
    grey_range
        For float or signed data: the grey values that become 0 and 255.
    kind
        Whether the voxels are an "image" or "labels".
    """

    name: ClassVar[str] = "precomputed"
    dtypes: ClassVar[Sequence[str]] = ("uint8", "uint16", "uint32", "uint64", "float32")
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None
    channel: int | None = None
    grey_range: tuple[float, float] | None = None
    kind: Literal["image", "labels"] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        if "://" in path:
            return path.startswith(_PREFIX)
        info = Path(path) / "info"
        try:
            return info.is_file() and "scales" in json.loads(info.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False

    @classmethod
    def can_write(cls, path: str) -> bool:
        return Path(path).suffix == ".precomputed" and "://" not in path

    def layers(self) -> list[str]:
        """List the scales, the finest first, by their keys."""
        return [str(scale["key"]) for scale in self._info()["scales"]]

    def open(self, layer: str | None = None) -> Volume:
        """Open a scale lazily, the finest by default.

        Raises
        ------
        BadInput
            Nothing is there, or `info` is none; several channels and none is chosen.
        UnknownName
            It has no such scale.
        MissingExtra
            tensorstore is not installed.
        """
        info = self._info()
        keys = self.layers()
        if layer is not None and layer not in keys:
            raise UnknownName(f"{self.path} has no scale '{layer}'. Its scales: {', '.join(keys)}.")
        index = 0 if layer is None else keys.index(layer)
        scale = info["scales"][index]
        address = f"{self.path.rstrip('/')}/{scale['key']}"
        size = as_zyx_nm(scale["resolution"][::-1])
        begin = [float(o) * s for o, s in zip(scale.get("voxel_offset", (0, 0, 0))[::-1], size, strict=True)]
        stated = Scale("the file 'info'", size, as_zyx_nm(begin, "origin"))
        shape = (*(int(n) for n in scale["size"]), int(info.get("num_channels", 1)))
        stored = _Stored(self.path, index, shape, np.dtype(str(info["data_type"])))
        array = arrange(stored, "xyzc", address, {"c": self.channel})
        kind = self.kind or ("labels" if info.get("type") == "segmentation" else None)
        settled = settle(address, self.voxel_size_nm, [stated])
        return settled.volume(converted(array, address, kind, self.grey_range), address)

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write a volume as one scale: images raw, ids of 32 and 64 bits packed as `compressed_segmentation`."""
        from asem_core.blocks import run_blocks
        from asem_sources._writing import WriteBlocks, block_of, chunk_shape, not_kept

        labels = isinstance(volume, Labels)
        packed = labels and volume.dtype.itemsize >= 4
        size = volume.voxel_size_nm[::-1]
        place = [o / s for o, s in zip(volume.origin_nm[::-1], size, strict=True)]
        begin = [round(p) for p in place]
        scale = {
            "key": "_".join(f"{s:g}" for s in size),
            "size": list(volume.shape[::-1]),
            "voxel_offset": begin,
            "resolution": list(size),
            "chunk_sizes": [list(chunk_shape(volume)[::-1])],
            "encoding": "compressed_segmentation" if packed else "raw",
            **({"compressed_segmentation_block_size": [8, 8, 8]} if packed else {}),
        }
        info = {
            "@type": "neuroglancer_multiscale_volume",
            "type": "segmentation" if labels else "image",
            "data_type": str(volume.dtype),
            "num_channels": 1,
            "scales": [scale],
        }
        folder = Path(self.path)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "info").write_text(json.dumps(info), encoding="utf-8")
        run_blocks(WriteBlocks(volume, _Into(self.path)), volume.box, block_of(volume), run, name="export")
        whole = all(abs(p - b) < 1e-3 for p, b in zip(place, begin, strict=True))
        return not_kept(volume, "Neuroglancer precomputed", origin=not whole)

    def fingerprint(self, layer: str | None = None) -> str | None:
        """Sum names, sizes and times of the files of a scale; None of a remote one."""
        if "://" in self.path:
            return None
        return fingerprint(Path(self.path) / (layer or self.layers()[0]))

    def _info(self) -> dict[str, Any]:
        import fsspec

        address = self.path.removeprefix(_PREFIX).rstrip("/")
        if "://" not in address and not Path(address).exists():
            raise BadInput(f"{self.path} does not exist.")
        try:
            with fsspec.open(
                f"{address}/info", "rb", **({"anon": True} if address.startswith("s3://") else {})
            ) as file:
                found = json.loads(file.read())
        except ImportError as error:
            raise MissingExtra.of("s3", f"{self.path} needs {error.name or 's3fs'}") from None
        except Exception as error:  # each remote file system raises its own kind
            raise BadInput(f"{address}/info cannot be read: {type(error).__name__}: {error}.") from None
        if not isinstance(found, dict) or not found.get("scales"):
            raise BadInput(
                f"{address}/info describes no volume: it has no scales. Meshes and skeletons are not imported."
            )
        return found


@attrs.frozen(eq=False)
class _Stored:
    """A scale as an x, y, z, channel array that is opened when it is read, so that it travels to workers."""

    path: FilePath
    index: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(_opened(self.path, self.index)[key].read().result())


@attrs.frozen
class _Into:
    """Opens a volume of one scale for writing."""

    path: FilePath

    def __call__(self) -> Callable[[Box, np.ndarray], None]:
        array = _opened(self.path, 0, write=True)

        def write(box: Box, block: np.ndarray) -> None:
            array[(*box.slices[::-1], 0)].write(block.transpose()).result()

        return write


@functools.lru_cache(maxsize=8)
def _opened(path: str, index: int, write: bool = False) -> Any:
    try:
        import tensorstore
    except ImportError:
        raise MissingExtra.of("precomputed", f"{path} is precomputed and needs tensorstore") from None
    address = path.removeprefix(_PREFIX).rstrip("/")
    store = {"driver": "file", "path": f"{Path(address).resolve()}/"}
    if "://" in address:
        scheme, _, rest = address.partition("://")
        bucket, _, folder = rest.partition("/")
        store = (
            {"driver": "http", "base_url": f"{address}/"}
            if scheme.startswith("http")
            else {"driver": scheme.replace("gs", "gcs"), "bucket": bucket, "path": f"{folder}/"}
        )
    try:
        spec = {"driver": "neuroglancer_precomputed", "kvstore": store, "scale_index": index}
        return tensorstore.open(spec, read=True, write=write).result()[tensorstore.d[:].translate_to[0]]
    except ValueError as error:
        raise BadInput(f"{path} cannot be opened: {str(error).partition(' [')[0]}.") from None


@hookimpl
def register_sources() -> list[type[Source]]:
    return [Precomputed]
