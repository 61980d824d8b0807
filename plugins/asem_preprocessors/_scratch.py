"""Results of fitting that are as large as the volume: kept on disk, block by block."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from asem_core.blocks import run_blocks
from asem_core.chunks import chunk_shape
from asem_core.interfaces import Fitted, Preprocessor
from asem_core.provenance import made_by
from asem_core.volume import Box, Outside, Spec, Volume, Zyx, as_zyx

if TYPE_CHECKING:
    from asem_core.blocks import Run

WORK_BLOCK = as_zyx(128)

BlockOf = Callable[[Box], np.ndarray]


def own_scratch(run: Run, step: Preprocessor, volume: Volume) -> Run:
    """Keep what a step gathers apart from what it gathered with other options, or from another input."""
    record = json.dumps(made_by("fit", step=step, inputs=[volume]), sort_keys=True)
    return run.within(hashlib.sha256(record.encode()).hexdigest()[:12])


@attrs.frozen(eq=False)
class Stored:
    """A zyx array on disk. The process that made it removes it with its folder if that was temporary; copies do not."""

    array: Any
    _folder: tempfile.TemporaryDirectory[str] | None = None

    def __call__(self, box: Box) -> np.ndarray:
        return np.asarray(self.array[box.slices])

    def __reduce__(self) -> tuple[Any, ...]:
        return Stored, (self.array,)


def store(block_of: BlockOf, box: Box, dtype: Any, run: Run, name: str) -> Stored:
    """Call `block_of` for every block of `box` and keep the results; a killed run goes on where it stopped.

    `block_of` must be picklable.
    """
    import zarr

    folder = tempfile.TemporaryDirectory(prefix="asem-") if run.scratch is None else None
    path = (Path(folder.name) if folder is not None else run.scratch or Path()) / f"{name}.zarr"
    block = work_block(run)
    array: Any = None
    with contextlib.suppress(FileNotFoundError):
        array = zarr.open_array(str(path), mode="r+")
    if array is None:
        array = zarr.create_array(
            str(path), shape=box.shape, dtype=dtype, chunks=chunk_shape(box.shape, block), fill_value=0
        )
    run_blocks(functools.partial(functools.partial, _write, block_of, array), box, block, run, name=name)
    return Stored(array, folder)


def _write(block_of: BlockOf, array: Any, box: Box) -> None:
    array[box.slices] = block_of(box)


@attrs.frozen(eq=False)
class FittedStored(Fitted):
    """A step whose whole result was made while fitting, because each voxel depends on the whole volume."""

    output: Spec
    result: Stored
    attributes: dict[str, Any]
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return Box(box.begin, box.begin)  # nothing

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return self.result(box).astype(self.output.dtype, copy=False)


def work_block(run: Run) -> Zyx:
    """Return the blocks that a stage works in."""
    return run.block or WORK_BLOCK
