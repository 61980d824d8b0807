"""The pyramid of resolutions of a layer, built block by block, so that viewers open large volumes at once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run, run_blocks
from asem_core.chunks import create_array
from asem_core.metadata import ome_attributes
from asem_core.provenance import kind_by_name, what_it_holds
from asem_core.volume import Box, Volume, Zyx, as_zyx, as_zyx_nm

SMALLEST_LEVEL = 64  # the pyramid ends when every edge is at most this many voxels
BLOCK = as_zyx(128)


def build_pyramid(group: Any, volume: Volume, run: Run) -> None:
    """Add coarser levels to the group of a layer, each from the one before, and describe them in its metadata."""
    levels = [("s0", volume.voxel_size_nm, volume.origin_nm)]
    is_label = _holds_labels(volume)
    source = group["s0"]
    while max(source.shape) > SMALLEST_LEVEL:
        size, origin = levels[-1][1], levels[-1][2]
        # Halve the axes that are finest, so that anisotropic voxels become isotropic as the pyramid narrows.
        factor = as_zyx([2 if s <= 1.5 * min(size) and n > 1 else 1 for s, n in zip(size, source.shape, strict=True)])
        if factor == (1, 1, 1):
            break
        shape = as_zyx([-(-n // f) for n, f in zip(source.shape, factor, strict=True)])
        name = f"s{len(levels)}"
        target = create_array(group, name, shape, volume.dtype, BLOCK)
        quiet = attrs.evolve(run, progress=False, scratch=None, workers=1 if math.prod(shape) < 5e7 else run.workers)
        run_blocks(_Halve(source, target, factor, is_label), Box.of_shape(shape), BLOCK, quiet, name=f"pyramid-{name}")
        new_size = as_zyx_nm([s * f for s, f in zip(size, factor, strict=True)])
        shift = [0.0 if is_label else (n - s) / 2 for n, s in zip(new_size, size, strict=True)]
        levels.append((name, new_size, as_zyx_nm([o + d for o, d in zip(origin, shift, strict=True)], "origin")))
        source = target
    group.attrs.update(ome_attributes(Path(volume.path).name, levels))


def average(block: np.ndarray, factor: Zyx, dtype: Any) -> np.ndarray:
    """Average each cell of `factor` voxels, rounded if `dtype` is of whole numbers; cells at the far border may be cut."""
    from asem_core._mean_kernel import means

    result = np.empty([-(-n // f) for n, f in zip(block.shape, factor, strict=True)], dtype)
    means(np.ascontiguousarray(block), factor, result, result.dtype.kind != "f")
    return result


def _holds_labels(volume: Volume) -> bool:
    return (what_it_holds(volume) or kind_by_name(volume.path)) == "labels"


@attrs.frozen
class _Halve:
    """Average (images) or subsample (labels: ids must not be mixed) by `factor`, one block of the result at a time."""

    source: Any
    target: Any
    factor: Zyx
    is_label: bool

    def __call__(self) -> Any:
        return self.halve

    def halve(self, box: Box) -> None:
        begin = [b * f for b, f in zip(box.begin, self.factor, strict=True)]
        end = [min(e * f, n) for e, f, n in zip(box.end, self.factor, self.source.shape, strict=True)]
        block = np.asarray(self.source[Box(as_zyx(begin), as_zyx(end)).slices])
        if self.is_label:
            self.target[box.slices] = block[tuple(slice(None, None, f) for f in self.factor)]
        else:
            self.target[box.slices] = average(block, self.factor, block.dtype)
