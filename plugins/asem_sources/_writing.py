"""What the sources that write share: slabs and blocks that fit the memory, planes that appear when they are whole."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import numpy as np

from asem_core.temporary import write_whole
from asem_core.volume import Volume, Zyx, as_zyx

if TYPE_CHECKING:
    from asem_core.blocks import Run, Work
    from asem_core.volume import Box

CHUNK = 64
SLAB_BYTES = 256_000_000
"""Memory of what is read at a time; as many planes as a chunk of a cell holds where this allows, so that each is read once."""


def slab_of(volume: Volume) -> Zyx:
    """Give the planes to read at a time."""
    depth, y, x = volume.shape
    affordable = SLAB_BYTES // max(1, y * x * volume.dtype.itemsize)
    return (int(np.clip(affordable, 1, min(CHUNK, depth))), y, x)


def block_of(volume: Volume) -> Zyx:
    """Give the block of whole chunks to read at a time: as wide as the volume, and as high as fits."""
    _, y, x = (-(-n // CHUNK) * CHUNK for n in volume.shape)
    row = CHUNK * CHUNK * volume.dtype.itemsize
    width = int(np.clip(SLAB_BYTES // row // CHUNK * CHUNK, CHUNK, x))
    height = int(np.clip(SLAB_BYTES // (row // CHUNK * width) // CHUNK * CHUNK, CHUNK, y))
    return (CHUNK, height, width)


def write_in_order(write: Callable[[Box], None], volume: Volume, block: Zyx, run: Run) -> None:
    """Write a file that only one process can write, block by block in the order of C."""
    from asem_core.blocks import run_blocks

    alone = attrs.evolve(run, workers=1, on=None, scratch=None)
    run_blocks(lambda: write, volume.box, block, alone, name="export")


@contextlib.contextmanager
def removed_if_unfinished(file: Path) -> Iterator[None]:
    """Leave no half file, which nothing can go on with: after Ctrl-C, too."""
    try:
        yield
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def plane_names(volume: Volume, ending: str) -> list[str]:
    """Name the file of each plane: as the original's, or by its number, where the programs of Gallusser et al. 2022 look for it."""
    if volume.planes:
        return [Path(name).with_suffix(ending).name for name in volume.planes]
    depth = volume.shape[0]
    return [f"plane_{z:0{max(4, len(str(depth - 1)))}d}{ending}" for z in range(depth)]


def write_planes(
    save: Callable[[Path, np.ndarray], None], volume: Volume, folder: Path, names: Sequence[str], run: Run
) -> None:
    """Write one file a plane; planes that are there are kept. `save` must be picklable."""
    from asem_core.blocks import run_blocks

    folder.mkdir(parents=True, exist_ok=True)
    job = _WritePlanes(save, volume, folder, tuple(names))
    run_blocks(job, volume.box, slab_of(volume), attrs.evolve(run, scratch=None), name="export", skip=job.is_written)
    for left in {file.name for file in folder.iterdir()} - {*names}:  # half planes of a run that was killed
        (folder / left).unlink()


@attrs.frozen
class _WritePlanes:
    save: Callable[[Path, np.ndarray], None]
    volume: Volume
    folder: Path
    names: tuple[str, ...]

    def __call__(self) -> Work:
        return self.write

    def is_written(self, box: Box) -> bool:
        return all((self.folder / name).exists() for name in self.names[box.slices[0]])

    def write(self, box: Box) -> None:
        for name, plane in zip(self.names[box.slices[0]], self.volume.read(box), strict=True):
            with write_whole(self.folder / name, alone=True) as half:
                self.save(half, plane)


@attrs.frozen
class WriteBlocks:
    """Work for `run_blocks`: blocks into an array that every process opens for itself, by a picklable function."""

    volume: Volume
    opened: Callable[[], Callable[[Box, np.ndarray], None]]

    def __call__(self) -> Work:
        write = self.opened()
        return lambda box: write(box, self.volume.read(box))


def not_kept(volume: Volume, name: str, *, origin: bool = True, planes: bool = True, size: bool = False) -> list[str]:
    """Say what a format loses of a volume, where it has it."""
    found = []
    if size:
        found.append(f"voxel size ({', '.join(f'{v:g}' for v in volume.voxel_size_nm)} nm)")
    if origin and any(volume.origin_nm):
        found.append(f"origin ({', '.join(f'{v:g}' for v in volume.origin_nm)} nm)")
    if planes and volume.planes:
        found.append("names of the planes")
    return [f"{name} does not store: {', '.join(found)}."] if found else []


def chunk_shape(volume: Volume) -> Zyx:
    """Give the shape of the chunks of a file: no larger than the volume."""
    return as_zyx([min(CHUNK, n) for n in volume.shape])
