"""The pyramid of resolutions of a layer, built block by block, so that viewers open large volumes at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import attrs
import numpy as np

from asem_core.blocks import Run, Work, run_blocks
from asem_core.cell.chunks import chunk_shape, create_array
from asem_core.cell.metadata import image_label, ome_attributes
from asem_core.cell.provenance import kind_by_name, what_it_holds
from asem_core.volume import Box, Labels, Volume, Zyx, ZyxNm, as_zyx, as_zyx_nm
from asem_core.voxels.average import average

SMALLEST_LEVEL = 64  # the pyramid ends when every edge is at most this many voxels
SMALLEST_CHUNK = 32  # of a level that is written alongside
BLOCK = as_zyx(128)


@attrs.frozen
class Level:
    """What the next coarser level of a layer is: each of its voxels stands for `factor` voxels of the one before."""

    factor: Zyx
    shape: Zyx
    voxel_size_nm: ZyxNm
    origin_nm: ZyxNm


def next_level(shape: Zyx, voxel_size_nm: ZyxNm, origin_nm: ZyxNm, *, labels: bool) -> Level | None:
    """Halve the axes that are finest, so that anisotropic voxels become isotropic as the pyramid narrows; None ends it."""
    if max(shape) <= SMALLEST_LEVEL:
        return None
    finest = 1.5 * min(voxel_size_nm)
    factor = as_zyx([2 if s <= finest and n > 1 else 1 for s, n in zip(voxel_size_nm, shape, strict=True)])
    if factor == (1, 1, 1):
        return None
    size = as_zyx_nm([s * f for s, f in zip(voxel_size_nm, factor, strict=True)])
    shift = [0.0 if labels else (n - s) / 2 for n, s in zip(size, voxel_size_nm, strict=True)]
    origin = as_zyx_nm([o + d for o, d in zip(origin_nm, shift, strict=True)], "origin")
    return Level(factor, as_zyx([-(-n // f) for n, f in zip(shape, factor, strict=True)]), size, origin)


def build_pyramid(group: Any, volume: Volume, run: Run, *, halved: bool) -> None:
    """Add coarser levels to the group of a layer, each from the one before, and describe them in its metadata.

    `halved`: the first of them was written with the layer itself (see `halve_alongside`).
    """
    levels = [("s0", volume.voxel_size_nm, volume.origin_nm)]
    labels = holds_labels(volume)
    source = group["s0"]
    while level := next_level(as_zyx(source.shape), *levels[-1][1:], labels=labels):
        name = f"s{len(levels)}"
        if halved and name == "s1":
            target = group[name]
        else:
            target = create_array(group, name, level.shape, volume.dtype, BLOCK)
            few = math.prod(level.shape) < 5e7
            quiet = attrs.evolve(run, progress=False, scratch=None, workers=1 if few else run.workers)
            work = _Coarser(source, target, level.factor, labels)
            run_blocks(work, Box.of_shape(level.shape), BLOCK, quiet, name=f"pyramid-{name}")
        levels.append((name, level.voxel_size_nm, level.origin_nm))
        source = target
    label = image_label(volume.path) if labels and volume.dtype.kind in "ui" else None
    group.update_attributes(ome_attributes(Path(volume.path).name, levels, group.metadata.zarr_format, label))


def write_multiscale(path: Path, volume: Volume, block: Zyx, run: Run, *, zarr_format: int) -> None:
    """Write a volume as an OME-Zarr image of its own, outside of any cell: 0.5 in Zarr v3, 0.4 in v2; blocks that `run.scratch` notes are kept.

    Parameters
    ----------
    path : of the image's group
    block : shape of what is read at a time, in whole chunks of 64 voxels along an edge
    """
    import zarr

    group = zarr.open_group(str(path), mode="a", zarr_format=zarr_format)  # type: ignore[arg-type]
    if "s0" not in group:
        create_array(group, "s0", volume.shape, volume.dtype, block)
    run_blocks(_CopyInto(volume, path), volume.box, block, run, name="export")
    named = attrs.evolve(volume, path=str(path))
    build_pyramid(group, named, run, halved=False)
    group.update_attributes({"made_by": dict(volume.attributes.get("made_by", {}))})


@attrs.frozen
class _CopyInto:
    """Blocks of a volume into the finest array of a group, which every process opens for itself."""

    volume: Volume
    group: Path

    def __call__(self) -> Work:
        import zarr

        # An empty chunk, too, takes the place of one that an earlier run left.
        array: Any = zarr.open_array(str(self.group / "s0"), mode="r+", config={"write_empty_chunks": True})

        def copy(box: Box) -> None:
            array[box.slices] = self.volume.read(box)

        return copy


def halve_alongside(group: Any, volume: Volume, block: Zyx, fill: float) -> bool:
    """Make the first coarser level of a layer that will be written in blocks of `block`, to be written in the same go.

    Reading the layer again for it would take longer than anything else about the pyramid. False, and nothing is made,
    where blocks would share voxels of it, or its chunks would be too small for file systems.
    """
    level = next_level(volume.shape, volume.voxel_size_nm, volume.origin_nm, labels=holds_labels(volume))
    if level is None or any(b % f for b, f in zip(block, level.factor, strict=True)):
        return False
    part = as_zyx([b // f for b, f in zip(block, level.factor, strict=True)])
    chunks = chunk_shape(level.shape, part)
    if any(c < min(n, SMALLEST_CHUNK) for c, n in zip(chunks, level.shape, strict=True)):
        return False
    create_array(group, "s1", level.shape, volume.dtype, part, fill)
    return True


@attrs.frozen(eq=False)
class HalvedAlongside:
    """The finest array of a layer; what is written to it goes to the next coarser one, too."""

    array: Any
    coarser: _Coarser

    @classmethod
    def of(cls, group: Any, volume: Volume) -> Self:
        """Take both arrays from a group that `halve_alongside` prepared."""
        labels = holds_labels(volume)
        level = next_level(volume.shape, volume.voxel_size_nm, volume.origin_nm, labels=labels)
        assert level is not None
        return cls(group["s0"], _Coarser(group["s0"], group["s1"], level.factor, labels))

    @property
    def shape(self) -> Zyx:
        return as_zyx(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def chunks(self) -> Zyx:
        return as_zyx(self.array.chunks)

    def __getitem__(self, key: Any) -> np.ndarray:
        return np.asarray(self.array[key])

    def __setitem__(self, key: Any, values: Any) -> None:
        self.array[key] = values
        given = () if key is Ellipsis else key if isinstance(key, tuple) else (key,)
        slices = (*given, slice(None), slice(None), slice(None))[:3]
        begin, end, _ = zip(*(s.indices(n) for s, n in zip(slices, self.shape, strict=True)), strict=True)
        box = Box(begin, end)
        self.coarser.follow(box, np.broadcast_to(np.asarray(values, self.dtype), box.shape))


def holds_labels(volume: Volume) -> bool:
    """Tell whether coarser levels must not mix values."""
    return isinstance(volume, Labels) or (what_it_holds(volume) or kind_by_name(volume.path)) == "labels"


@attrs.frozen
class _Coarser:
    """Average (images) or subsample (labels: ids must not be mixed) by `factor`, one block of the result at a time."""

    source: Any
    target: Any
    factor: Zyx
    is_label: bool

    def __call__(self) -> Any:
        return self.read_and_reduce

    def read_and_reduce(self, box: Box) -> None:
        self.target[box.slices] = self._reduced(np.asarray(self.source[self._cells(box).slices]))

    def follow(self, box: Box, values: np.ndarray) -> None:
        """Bring the result up to date after `values` were written to a box of the source."""
        begin = [b // f for b, f in zip(box.begin, self.factor, strict=True)]
        end = [-(-e // f) for e, f in zip(box.end, self.factor, strict=True)]
        touched = Box(as_zyx(begin), as_zyx(end))
        if self._cells(touched) != box:  # some cells reach beyond what was written
            self.read_and_reduce(touched)
        else:
            self.target[touched.slices] = self._reduced(values)

    def _cells(self, box: Box) -> Box:
        begin = [b * f for b, f in zip(box.begin, self.factor, strict=True)]
        end = [min(e * f, n) for e, f, n in zip(box.end, self.factor, self.source.shape, strict=True)]
        return Box(as_zyx(begin), as_zyx(end))

    def _reduced(self, block: np.ndarray) -> np.ndarray:
        if self.is_label:
            return block[tuple(slice(None, None, f) for f in self.factor)]
        return average(block, self.factor, block.dtype)
