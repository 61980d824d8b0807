"""Accept or reject an object of the map that a session shows: its voxels become strokes."""

from __future__ import annotations

from typing import Any

import numpy as np

from asem_core.errors import BadInput, OutsideVolume
from asem_core.stages.annotate import BACKGROUND, OBJECT, Layer
from asem_core.stages.loop import Session
from asem_core.volume import Box, Zyx, as_zyx

REACH = 64
"""Voxels around the given one in which an object is looked for; what lies beyond is not painted."""


def object_at(session: Session, voxel: Zyx) -> tuple[Box, np.ndarray]:
    """Find the object of the shown map that a voxel lies in, as far as `REACH` voxels from it.

    Returns
    -------
    a box, in voxels of the image, and the object in it: bool

    Raises
    ------
    BadInput
        The voxel is in no object, or no round was begun yet.
    OutsideVolume
        It lies outside of the image.
    """
    import cc3d

    around = Box(as_zyx([c - REACH for c in voxel]), as_zyx([c + REACH + 1 for c in voxel])) & session.image.box
    if not session.image.box.contains(Box(voxel, as_zyx([c + 1 for c in voxel]))):
        raise OutsideVolume(
            f"The voxel {list(voxel)} lies outside of {session.image.path}, whose shape is {list(session.image.shape)}."
        )
    at = tuple(c - b for c, b in zip(voxel, around.begin, strict=True))
    marks: Any = cc3d.connected_components((session.look(around) >= 128).astype(np.uint8), connectivity=6)
    if marks[at] == 0:
        raise BadInput(
            f"The map shows no object at {list(voxel)}: give a voxel inside of one, z,y,x in voxels of the image."
        )
    return around, marks == marks[at]


def correct_object(session: Session, voxel: Zyx, *, accept: bool) -> int:
    """Paint the object of the shown map that a voxel lies in, as object or, if it is rejected, as background.

    Strokes that are there already stay. Only the object's part within `REACH` voxels is painted.

    Returns
    -------
    how many voxels were painted

    Raises
    ------
    BadInput
        The voxel is in no object, or no round was begun yet.
    OutsideVolume
        It lies outside of the image.
    OutputBusy
        A window has the strokes open: correct there.
    """
    around, found = object_at(session, voxel)
    with Layer.open(session.seeds, session.image) as layer:
        there = layer.read(around)
        new = found & (there == 0)
        layer.write(around, np.where(new, OBJECT if accept else BACKGROUND, there).astype(np.uint8))
    return int(new.sum())
