"""Surfaces of objects for a viewer, each made when it is looked at, from the finest level that its size allows."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence

import attrs
import numpy as np

from asem_core.viewing.mesh import Surface, precomputed_fragment, surfaces
from asem_core.volume import Box, Volume, as_zyx
from asem_core.voxels.ids import numbered

SEARCHED_VOXELS = 6e6
"""Where objects lie is looked up in the finest level with at most so many voxels."""
OBJECT_VOXELS = 4e6
"""An object is meshed in the finest level in which the box around it has at most so many voxels."""
ALL_VOXELS = 1.5e8
"""The boxes around all objects hold about so many voxels at most: of many objects, each is coarser."""


@attrs.define(eq=False)
class Surfaces:
    """Neuroglancer's legacy meshes of the objects of a pyramid of labels (finest first)."""

    levels: Sequence[Volume]
    boxes_nm: dict[int, tuple[np.ndarray, np.ndarray]] = attrs.field(
        default=attrs.Factory(lambda self: _boxes_nm(self.levels), takes_self=True)
    )
    """The box around every object, as a coarse level shows it: begin and end in nm."""
    _made: dict[int, bytes] = attrs.field(factory=dict)
    _making: threading.Lock = attrs.field(factory=threading.Lock)

    def is_slow(self, key: str) -> bool:
        """Whether an object must be meshed for the answer."""
        return key.isdigit() and int(key) not in self._made

    def get(self, key: str) -> bytes | None:
        """Return the description (`info`), what makes up an object (`7:0`), or its triangles (`7`)."""
        if key == "info":
            return b'{"@type": "neuroglancer_legacy_mesh"}'
        match = re.fullmatch(r"(\d{1,20})(:0)?", key)
        if match is None:
            return None
        object_id = int(match[1])
        if match[2]:
            return json.dumps({"fragments": [match[1]] if object_id in self.boxes_nm else []}).encode()
        if object_id not in self.boxes_nm:
            return None
        with self._making:
            if object_id not in self._made:
                surface = self.surface(object_id)
                self._made[object_id] = b"" if surface is None else precomputed_fragment(surface)
            return self._made[object_id] or None

    def surface(self, object_id: int) -> Surface | None:
        """Mesh one object, closed where the volume ends and never beyond."""
        begin_nm, end_nm = self.boxes_nm[object_id]
        most = min(OBJECT_VOXELS, max(ALL_VOXELS / len(self.boxes_nm), 1e5))
        volume, box = next(
            ((v, b) for v, b in ((v, _box_in(v, begin_nm, end_nm)) for v in self.levels) if b.size <= most),
            (self.levels[-1], _box_in(self.levels[-1], begin_nm, end_nm)),
        )
        # A border of background closes what leaves the volume.
        mask = np.pad(volume.read(box) == object_id, 1)
        size = volume.voxel_size_nm
        z, y, x = (o + (b - 1) * s for o, b, s in zip(volume.origin_nm, box.begin, size, strict=True))
        found = surfaces(mask, size, (z, y, x)).get(1)
        return None if found is None else Surface(self._inside(found.vertices), found.faces)

    def _inside(self, vertices: np.ndarray) -> np.ndarray:
        """Keep a surface (x, y, z in nm) within the volume, whose coarse levels reach beyond it."""
        finest = self.levels[0]
        size, origin = np.array(finest.voxel_size_nm), np.array(finest.origin_nm)
        low, high = origin - size / 2, origin + (np.array(finest.shape) - 0.5) * size
        return np.asarray(np.clip(vertices, low[::-1], high[::-1]))


def _boxes_nm(levels: Sequence[Volume]) -> dict[int, tuple[np.ndarray, np.ndarray]]:
    from scipy.ndimage import find_objects

    coarse = next((v for v in levels if v.box.size <= SEARCHED_VOXELS), levels[-1])
    labels = np.asarray(coarse.read())
    ids, small = numbered(labels)
    size, origin = np.array(coarse.voxel_size_nm), np.array(coarse.origin_nm)
    boxes = {}
    for object_id, slices in zip(ids, find_objects(small + 1), strict=True):
        if object_id != 0 and slices is not None:
            begin, end = np.array([s.start for s in slices]), np.array([s.stop for s in slices])
            # A voxel more on each side: the object may reach farther in finer levels.
            boxes[int(object_id)] = (origin + (begin - 1.5) * size, origin + (end + 0.5) * size)
    return boxes


def _box_in(volume: Volume, begin_nm: np.ndarray, end_nm: np.ndarray) -> Box:
    """The voxels of a level that lie in a box of nm."""
    size, origin = np.array(volume.voxel_size_nm), np.array(volume.origin_nm)
    begin = np.floor((begin_nm - origin) / size).astype(int)
    end = np.ceil((end_nm - origin) / size).astype(int) + 1
    return Box(as_zyx(begin.tolist()), as_zyx(end.tolist())) & volume.box
