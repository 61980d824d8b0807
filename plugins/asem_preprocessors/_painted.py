"""What fitting gathers of the whole volume: masks kept on disk, and results that are painted object by object."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
import numpy as np

from asem_core.interfaces import Fitted
from asem_core.temporary import write_whole
from asem_core.volume import Box, Outside, Spec, Zyx, as_zyx
from asem_preprocessors._greys import PASS_BLOCK
from asem_preprocessors._morphology import Bits

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.voxels.components import Components


@attrs.frozen(eq=False)
class StoredMask:
    """A mask on disk, 8 voxels a byte, a file a block: boxes of any shape are read cheaply.

    The process that made it removes it with its folder if that was temporary; copies do not.
    """

    folder: Path
    box: Box
    _temporary: contextlib.ExitStack | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return StoredMask, (self.folder, self.box)

    def around(self, box: Box, margin: Zyx) -> tuple[Bits, Box]:
        """Read a box and at least `margin` voxels around it, as far as the mask goes; also says which box that is."""
        z, y, x = (box.grow(margin) & self.box).slices
        have = Box((z.start, y.start, x.start // 8 * 8), (z.stop, y.stop, -(-x.stop // 8) * 8)) & self.box
        octets = np.empty((*have.shape[:2], -(-have.shape[2] // 8)), np.uint8)
        first = as_zyx([b // PASS_BLOCK * PASS_BLOCK for b in have.begin])
        for corner in Box(first, have.end).blocks(PASS_BLOCK):
            file = _file(self.folder, corner.begin)
            stored = Box(corner.begin, as_zyx([b + PASS_BLOCK for b in corner.begin])) & have
            to, of = (_in_octets(stored.shift([-b for b in begin])) for begin in (have.begin, corner.begin))
            octets[to] = np.load(file, mmap_mode="r")[of]
        return Bits.packed(octets, have.shape[2]), have


def store_mask(mask_of: Callable[[Box], np.ndarray], box: Box, run: Run, name: str) -> StoredMask:
    """Call `mask_of` for every block of `box`, which begins at 0, and keep the results; a killed run goes on where it stopped.

    `mask_of` must be picklable.
    """
    from asem_core.blocks import run_blocks, temporary_folder

    temporary = contextlib.ExitStack()
    folder = temporary.enter_context(temporary_folder()) if run.scratch is None else run.scratch / name
    folder.mkdir(parents=True, exist_ok=True)
    load = functools.partial(functools.partial, _store_block, mask_of, folder)
    run_blocks(load, box, PASS_BLOCK, run, name=name)
    return StoredMask(folder, box, temporary)


def _store_block(mask_of: Callable[[Box], np.ndarray], folder: Path, box: Box) -> None:
    with write_whole(_file(folder, box.begin), alone=True) as half, half.open("wb") as file:
        np.save(file, np.packbits(mask_of(box), axis=2, bitorder="little"))


def _file(folder: Path, begin: Zyx) -> Path:
    return folder / ("-".join(map(str, begin)) + ".npy")


def _in_octets(box: Box) -> tuple[slice, slice, slice]:
    z, y, x = box.slices
    return z, y, slice(x.start // 8, -(-x.stop // 8))


@attrs.frozen(eq=False)
class FittedPainted(Fitted):
    """A step that gives each object of the whole volume one value."""

    output: Spec
    objects: Components
    values: np.ndarray  # id -> value
    attributes: dict[str, Any]
    outside: ClassVar[Outside] = "error"

    def needs(self, box: Box) -> Box:
        return Box(box.begin, box.begin)  # nothing

    def __call__(self, block: np.ndarray, box: Box) -> np.ndarray:
        return self.objects.paint(box, self.values)
