"""Serve volumes as OME-Zarr without files: metadata and chunks are made when they are asked for.

A viewer reads only what is offered here: addresses name a level and a chunk, never a file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from asem_core.volume import Box, Chunked, Computed, Volume, Zyx, as_zyx, as_zyx_nm

CHUNK = 64
_CHUNK_KEY = re.compile(r"s(\d{1,2})/c/(\d{1,7})/(\d{1,7})/(\d{1,7})")
_ARRAY_KEY = re.compile(r"s(\d{1,2})/zarr\.json")


def within_the_finest(levels: Sequence[Volume]) -> list[Volume]:
    """Show coarse levels within the finest: what reaches beyond it would show as a fringe.

    Levels of labels are sampled: their voxels lie at the first of those that they stand for, and are shown over all of them.
    The last voxels that still reach beyond the finest level are left out.
    """
    finest = levels[0]
    begin = np.array(finest.origin_nm) - 0.5 * np.array(finest.voxel_size_nm)
    end = np.array(finest.origin_nm) + (np.array(finest.shape) - 0.5) * finest.voxel_size_nm
    kept = []
    for volume in levels:
        size = np.array(volume.voxel_size_nm)
        origin = np.maximum(volume.origin_nm, begin + size / 2)
        volume = attrs.evolve(volume, origin_nm=as_zyx_nm(origin.tolist()))  # type: ignore[misc]
        inside = np.floor((end - volume.origin_nm) / size + 0.5 + 1e-3).astype(int)
        shape = np.clip(inside, 1, volume.shape)
        kept.append(volume if tuple(shape) == volume.shape else volume.crop(Box.of_shape(as_zyx(shape.tolist()))))
    return kept


@attrs.frozen(eq=False)
class VirtualZarr:
    """A pyramid of volumes (finest first) as a Zarr v3 group with OME-Zarr 0.5 metadata."""

    name: str
    levels: Sequence[Volume] = attrs.field(converter=within_the_finest)

    def is_slow(self, key: str) -> bool:
        """Whether voxels are computed when they are asked for."""
        return isinstance(self.levels[0].data, Computed)

    def get(self, key: str) -> bytes | None:
        """Return what lies under a key of the store (`zarr.json`, `s0/zarr.json`, `s0/c/0/1/2`), or None."""
        if key == "zarr.json":
            return json.dumps(self._group()).encode()
        if match := _ARRAY_KEY.fullmatch(key):
            level = int(match[1])
            return json.dumps(_array(self.levels[level])).encode() if level < len(self.levels) else None
        if match := _CHUNK_KEY.fullmatch(key):
            level, *index = (int(part) for part in match.groups())
            return _chunk(self.levels[level], as_zyx(index)) if level < len(self.levels) else None
        return None

    def _group(self) -> dict[str, Any]:
        datasets = [
            {
                "path": f"s{i}",
                "coordinateTransformations": [
                    {"type": "scale", "scale": list(v.voxel_size_nm)},
                    {"type": "translation", "translation": list(v.origin_nm)},
                ],
            }
            for i, v in enumerate(self.levels)
        ]
        axes = [{"name": axis, "type": "space", "unit": "nanometer"} for axis in "zyx"]
        ome = {"version": "0.5", "multiscales": [{"name": self.name, "axes": axes, "datasets": datasets}]}
        return {"zarr_format": 3, "node_type": "group", "attributes": {"ome": ome}}


def served_type(volume: Volume) -> np.dtype[Any]:
    """Choose the type that is sent: what every viewer knows."""
    if volume.dtype == bool:
        return np.dtype(np.uint8)
    return np.dtype(np.float32) if volume.dtype.kind == "f" else volume.dtype


def chunk_of(volume: Volume) -> Zyx:
    """Choose the chunks that are sent: those that are stored, where they are of a size that suits a viewer."""
    stored = (volume.data.chunks if isinstance(volume.data, Chunked) else None) or (CHUNK,) * 3
    return as_zyx([min(n, c if 32 <= c <= 128 else CHUNK) for c, n in zip(stored, volume.shape, strict=True)])


def _array(volume: Volume) -> dict[str, Any]:
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": list(volume.shape),
        "data_type": served_type(volume).name,
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunk_of(volume))}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [
            {"name": "bytes", "configuration": {"endian": "little"}},
            {"name": "zstd", "configuration": {"level": 1, "checksum": False}},
        ],
        "attributes": {},
        "dimension_names": ["z", "y", "x"],
    }


def _chunk(volume: Volume, index: Zyx) -> bytes | None:
    from numcodecs.zstd import Zstd

    shape = chunk_of(volume)
    begin = as_zyx([i * n for i, n in zip(index, shape, strict=True)])
    box = Box(begin, as_zyx([b + n for b, n in zip(begin, shape, strict=True)]))
    inside = box & volume.box
    if inside.is_empty:
        return None
    kind = served_type(volume)
    block = np.zeros(shape, kind.newbyteorder("<"))  # chunks at the border are padded to their full shape
    block[tuple(slice(0, n) for n in inside.shape)] = volume.read(inside)
    return bytes(Zstd(level=1).encode(block))
