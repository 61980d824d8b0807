"""Boundaries between cells, from labels with an id for each."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from asem_core.volume import Box, Labels, as_zyx


def boundaries_of(ids: Labels) -> Labels:
    """See the boundaries between cells as an object, where they are read: 1 on both sides of each face between two ids, and where there is none.

    Cells that fill the volume have boundaries two voxels wide; of labels that leave membranes out, as 0, these are the boundaries. Faces
    between planes count only where planes are not more than 1.5 times further apart than pixels: else a membrane lies in a plane.
    """
    return attrs.evolve(ids, data=_Boundaries(ids))


@attrs.frozen(eq=False)
class _Boundaries:
    ids: Labels

    @property
    def shape(self) -> tuple[int, ...]:
        return self.ids.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.uint8)

    def __getitem__(self, key: Any) -> np.ndarray:
        edges = [s.indices(n) for s, n in zip(key, self.shape, strict=True)]
        box = Box(as_zyx([e[0] for e in edges]), as_zyx([e[1] for e in edges]))
        around = box.grow(1) & self.ids.box
        values = self.ids.read(around)
        found = values == 0
        size = self.ids.voxel_size_nm
        for axis in range(1 if size[0] > 1.5 * size[1] else 0, 3):
            one, other = (np.moveaxis(a, axis, 0) for a in (values, found))
            meets = (one[:-1] != one[1:]) & (one[:-1] != 0) & (one[1:] != 0)
            other[:-1] |= meets
            other[1:] |= meets
        inner = box.shift([-b for b in around.begin])
        result: np.ndarray = found[inner.slices].astype(np.uint8)
        return result
