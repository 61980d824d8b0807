"""How a layer's arrays are cut into chunks: so that viewers read little, and no two blocks write to one chunk."""

from __future__ import annotations

from typing import Any

import numpy as np

from asem_core.volume import Zyx, as_zyx

LARGEST_CHUNK = 64  # voxels along an edge; small enough for viewers, large enough for file systems


def create_array(group: Any, name: str, shape: Zyx, dtype: np.dtype[Any], block: Zyx, fill: float = 0) -> Any:
    """Create an array in a layer's group, in the group's version of Zarr and in chunks that divide the blocks to be written."""
    how: dict[str, Any] = {"cname": "zstd", "clevel": 1}
    if group.metadata.zarr_format == 2:
        from numcodecs import Blosc

        compressor = Blosc(**how, shuffle=Blosc.SHUFFLE if dtype.itemsize > 1 else Blosc.NOSHUFFLE)
        versioned: dict[str, Any] = {"chunk_key_encoding": {"name": "v2", "separator": "/"}}
    else:
        from zarr.codecs import BloscCodec

        compressor = BloscCodec(**how, shuffle="shuffle" if dtype.itemsize > 1 else "noshuffle")
        versioned = {"dimension_names": ["z", "y", "x"]}
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=chunk_shape(shape, block),
        fill_value=dtype.type(fill),
        compressors=compressor,
        overwrite=True,
        **versioned,
    )


def chunk_shape(shape: Zyx, block: Zyx) -> Zyx:
    """Choose chunks of at most 64 voxels along an edge that divide the block, so that no two blocks share one."""
    edges = []
    for n, b in zip(shape, block, strict=True):
        largest = min(b, LARGEST_CHUNK)
        edge = next(c for c in range(largest, 0, -1) if b % c == 0)
        # A block with no useful divisor (a prime edge) is its own chunk.
        edges.append(min(n, b if edge < 16 <= b else edge))
    return as_zyx(edges)
