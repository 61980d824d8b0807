"""The pyramid of resolutions of a layer, built block by block, so that viewers open large volumes at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Self

import attrs
import numpy as np

from asem_core.blocks import Run, run_blocks
from asem_core.cell.chunks import chunk_shape, create_array
from asem_core.cell.metadata import ome_attributes
from asem_core.cell.provenance import kind_by_name, what_it_holds
from asem_core.volume import Box, Volume, Zyx, ZyxNm, as_zyx, as_zyx_nm
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
    group.update_attributes(ome_attributes(Path(volume.path).name, levels, group.metadata.zarr_format))


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
    return (what_it_holds(volume) or kind_by_name(volume.path)) == "labels"


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
