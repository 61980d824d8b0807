"""Plain Zarr v2 arrays with `resolution` and `offset` in nm, as Gallusser et al. 2022, gunpowder and funlib keep them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs

from asem_core.abilities import WritesVolumes
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Source
from asem_core.paths import FilePath
from asem_core.volume import Volume
from asem_core.voxels.opening import require_one_volume

if TYPE_CHECKING:
    import numpy as np

    from asem_core.blocks import Run
    from asem_core.volume import Box


@attrs.frozen
class PlainZarr(Source, WritesVolumes):
    """One array in a Zarr v2 container, for programs that do not read OME-Zarr.

    The container is laid out as by the authors: images as `cell.zarr/volumes/raw`, labels as `cell.zarr/volumes/labels/<organelle>`,
    masks of scored voxels (0 = ignored) as `cell.zarr/volumes/metric_masks/<organelle>`.

    Parameters
    ----------
    path
        The array in its container: `cell.zarr/volumes/labels/golgi`.
    voxel_size_nm
        z, y, x; overrides what the array says. None takes the array's.
    """

    name: ClassVar[str] = "plain-zarr"
    part_of: ClassVar[Sequence[str]] = (".zgroup", ".zattrs")
    dtypes: ClassVar[Sequence[str]] = (
        *("uint8", "uint16", "uint32", "uint64"),
        *("int8", "int16", "int32", "int64", "float16", "float32"),
    )
    path: FilePath
    voxel_size_nm: float | tuple[float, float, float] | None = None

    @classmethod
    def can_read(cls, path: str) -> bool:
        return "://" not in path and (Path(path) / ".zarray").is_file()

    @classmethod
    def can_write(cls, path: str) -> bool:
        return "://" not in path and any(folder.suffix == ".zarr" for folder in Path(path).parents)

    def layers(self) -> list[str]:
        return ["raw"]

    def open(self, layer: str | None = None) -> Volume:
        """Open the array lazily."""
        from asem_core import open_volume

        require_one_volume(self.path, layer, "one array")
        return open_volume(self.path, voxel_size_nm=self.voxel_size_nm)

    def write(self, volume: Volume, run: Run) -> Sequence[str]:
        """Write a volume as an array with its place, and what made it; the groups around it are made as needed."""
        import zarr
        from numcodecs import Blosc

        from asem_core.blocks import run_blocks
        from asem_sources._writing import WriteBlocks, block_of, chunk_shape

        target = Path(self.path)
        for folder in _groups_around(target):
            zarr.open_group(folder, mode="a", zarr_format=2)
        if (target / ".zarray").exists():  # of an interrupted call, whose blocks stay
            array = zarr.open_array(str(target), mode="r+")
        else:
            array = zarr.create_array(
                str(target),
                shape=volume.shape,
                dtype=volume.dtype,
                chunks=chunk_shape(volume),
                compressors=Blosc("zstd", 1, Blosc.SHUFFLE if volume.dtype.itemsize > 1 else Blosc.NOSHUFFLE),
                fill_value=0,
                zarr_format=2,
            )
        array.update_attributes(
            {
                "resolution": [_plain(v) for v in volume.voxel_size_nm],
                "offset": [_plain(v) for v in volume.origin_nm],
                "planes": list(volume.planes),
                "made_by": volume.attributes.get("made_by", {}),
            }
        )
        run_blocks(WriteBlocks(volume, _Into(self.path)), volume.box, block_of(volume), run, name="export")
        return []


def _groups_around(array: Path) -> list[Path]:
    """List the folders that are groups, outermost first: from the container down; half-written exports lie in none."""
    parents = [p for p in array.parents if not p.name.endswith(".partial")]
    outermost = max((n for n, p in enumerate(parents) if p.suffix == ".zarr"), default=-1)
    return [
        p for p in reversed(parents[: outermost + 1]) if not (p / ".zgroup").exists() and not (p / "zarr.json").exists()
    ]


def _plain(length: float) -> int | float:
    return int(length) if float(length).is_integer() else float(length)


@attrs.frozen
class _Into:
    path: str

    def __call__(self) -> Callable[[Box, np.ndarray], None]:
        import zarr

        # An empty chunk, too, takes the place of one that an earlier export left.
        array: Any = zarr.open_array(self.path, mode="r+", config={"write_empty_chunks": True})

        def write(box: Box, block: np.ndarray) -> None:
            array[box.slices] = block

        return write


@hookimpl
def register_sources() -> list[type[Source]]:
    return [PlainZarr]
