"""What a round of the loop learns from: strokes as they were when it began, some of them set aside for its score.

A snapshot is a layer of strokes (see `asem_core.voxels.strokes`): 1 object, 2 background; 3 and 4 are the same, set aside.
A stroke is set aside when it is first seen, and stays so until it is painted over or erased.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np

from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.errors import BadInput, Option
from asem_core.volume import Box, Labels, Spec, Volume
from asem_core.voxels.known import Meaning, by_meaning
from asem_core.voxels.strokes import MEANING, SET_ASIDE, TILE, parts_of

EVERY = 5
"""Of so many strokes of a class, one is set aside: the third, the eighth, ..."""

_FIRST = 2

LARGEST_PART = 512
"""Edge of what is looked at at once, in voxels: strokes that reach further count as several."""


@attrs.frozen
class Snapshot:
    """What a snapshot holds.

    Attributes
    ----------
    boxes : around all of its strokes
    num_strokes : of object and of background, so far
    learnt_vx, set_aside_vx : voxels of object and of background
    new : a box around each stroke that was not there before and is learnt from
    """

    boxes: Sequence[Box]
    num_strokes: tuple[int, int]
    learnt_vx: tuple[int, int]
    set_aside_vx: tuple[int, int]
    new: Sequence[Box]


def take_snapshot(
    strokes: Labels, output: Path, before: Labels | None, num_strokes: tuple[int, int] = (0, 0)
) -> Snapshot:
    """Copy strokes to the layer `output`.

    Parameters
    ----------
    strokes : as stored (0, 1, 2), as large as the image
    before : the last snapshot, as stored
    num_strokes : of object and background, until then
    """
    import cc3d

    spec = Spec(strokes.shape, "uint8", strokes.voxel_size_nm, strokes.origin_nm)
    out = create_volume(output, spec, block=TILE, made_by={"stage": "loop"}, about=Record("labels"), anew=True)
    numbers, new = list(num_strokes), []
    learnt, aside = [0, 0], [0, 0]
    boxes = parts_of(by_meaning(strokes, Meaning((0,), (2,))))
    for box in (block for part in boxes for block in part.blocks(LARGEST_PART)):
        values = strokes.read(box)
        then = np.zeros_like(values) if before is None else before.read(box)
        fresh = (values != 0) & (then == 0)
        kept = (then > SET_ASIDE) & (values == then - np.uint8(SET_ASIDE))
        for c in (1, 2):
            marks: Any = cc3d.connected_components((fresh & (values == c)).astype(np.uint8), connectivity=26)
            count = int(marks.max())
            held = [k + 1 for k in range(count) if (numbers[c - 1] + k) % EVERY == _FIRST]
            kept |= np.isin(marks, held)
            numbers[c - 1] += count
            stays = [k + 1 for k in range(count) if k + 1 not in held]
            around = cc3d.statistics(marks)["bounding_boxes"]
            new += [Box(*zip(*((b.start, b.stop) for b in around[k]), strict=True)).shift(box.begin) for k in stays]
            aside[c - 1] += int((kept & (values == c)).sum())
            learnt[c - 1] += int((~kept & (values == c)).sum())
        out.data[box.slices] = np.where(kept, values + np.uint8(SET_ASIDE), values)  # type: ignore[index]
    finish_volume(out, pyramid=False)
    return Snapshot(boxes, (numbers[0], numbers[1]), (learnt[0], learnt[1]), (aside[0], aside[1]), new)


def set_aside(snapshot: Path) -> Labels:
    """Open the strokes of a snapshot that were set aside: 1 object, 0 background, known where they are."""
    stored: Labels = open_volume(snapshot, kind=Labels)
    return by_meaning(stored, Meaning((0, 1, 2), (2 + SET_ASIDE,)))


def learnt_from(snapshot: Path) -> Labels:
    """Open the strokes of a snapshot that are learnt from: 1 object, 0 background, known where they are."""
    return by_meaning(open_volume(snapshot, kind=Labels), MEANING)


def require_contrast(image: Volume, boxes: Sequence[Box]) -> None:
    """Refuse an image that shows nothing where strokes are.

    Raises
    ------
    BadInput
    """
    values = {float(v) for box in boxes for part in box.blocks(256) for v in _ends(image.read(part))}
    if len(values) == 1:
        raise BadInput(
            f"The image {image.path} has the one value {values.pop():g} wherever strokes are: there is nothing to learn. Is it the right "
            "layer (",
            Option("raw"),
            ")?",
        )


def _ends(values: np.ndarray) -> tuple[Any, Any]:
    return values.min(), values.max()
