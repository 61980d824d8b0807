"""The tunnels through objects, counted block by block from their Euler characteristic."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from asem_core.volume import Box, as_zyx

if TYPE_CHECKING:
    from asem_core.blocks import Run
    from asem_core.voxels.components import Components

BLOCK = 128


def count_tunnels(pieces: Components, run: Run) -> np.ndarray:
    """Count the tunnels through each connected piece (voxels that share a corner belong together): int64 (n,).

    A piece has one minus its Euler characteristic plus its cavities. The characteristic is that of the voxels as closed cubes: corners
    - edges + faces - cubes, each counted in one block. Cavities are pieces of background (voxels that share a face) that do not reach the border.
    """
    from asem_core.blocks import map_blocks
    from asem_core.voxels.components import components

    euler, cavities = np.zeros(len(pieces) + 1, np.int64), np.zeros(len(pieces) + 1, np.int64)
    if not len(pieces):
        return euler[1:]
    # One more corner than voxels along each axis.
    corners = Box(pieces.box.begin, as_zyx([e + 1 for e in pieces.box.end]))
    for _, rows in map_blocks(partial(_load_euler, pieces), corners, run.block or BLOCK, run, name="tunnels"):
        np.add.at(euler, rows[:, 0], rows[:, 1])
    empty = components(partial(_background, pieces), pieces.box, pieces.block, run, 6, name="cavities")
    for row in np.flatnonzero(~empty.touches_border).tolist():
        # The first voxel of a cavity has the piece around it in front.
        around = Box(as_zyx(empty.begin[row].tolist()), as_zyx(empty.end[row].tolist()))
        first = around.begin[0]
        plane = empty.read(Box(around.begin, (first + 1, *around.end[1:])))[0] == row + 1
        y, x = np.argwhere(plane)[0]
        at = Box(
            (first - 1, around.begin[1] + y, around.begin[2] + x),
            (first, around.begin[1] + y + 1, around.begin[2] + x + 1),
        )
        cavities[int(pieces.read(at)[0, 0, 0])] += 1
    return (1 - euler + cavities)[1:]


def _background(pieces: Components, box: Box) -> np.ndarray:
    return np.asarray(pieces.read(box) == 0)


def _load_euler(pieces: Components) -> Callable[[Box], np.ndarray]:
    return partial(_euler, pieces)


def _euler(pieces: Components, box: Box) -> np.ndarray:
    """Add up what the corners, edges, faces and cubes of a block give: int64 (n, 2), piece and sum."""
    around = Box(as_zyx([b - 1 for b in box.begin]), box.end)
    inside = around & pieces.box
    ids = np.zeros(around.shape, pieces.dtype)
    if not inside.is_empty:
        ids[inside.shift([-b for b in around.begin]).slices] = pieces.read(inside)
    rows = [(piece, euler_characteristic(ids == piece)) for piece in np.unique(ids[ids > 0]).tolist()]
    return np.array(rows, np.int64).reshape(-1, 2)


def euler_characteristic(mask: np.ndarray) -> int:
    """Add up corners - edges + faces - cubes of the voxels behind the first plane of each axis, as closed cubes.

    The first planes belong to the block before; of an empty border they count nothing.
    """
    total = 0
    for axes in itertools.product(
        (False, True), repeat=3
    ):  # along which axes a cell of the complex lies between two voxels
        cell = mask
        for axis, between in enumerate(axes):
            ahead = [slice(None)] * 3
            ahead[axis] = slice(1, None)
            behind = [slice(None)] * 3
            behind[axis] = slice(None, -1)
            cell = cell[tuple(ahead)] | cell[tuple(behind)] if between else cell[tuple(ahead)]
        total += (-1) ** (3 - sum(axes)) * int(np.count_nonzero(cell))
    return total
