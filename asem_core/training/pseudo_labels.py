"""Pseudo-labels: what a pixel classifier makes of the surroundings of strokes, for a network to learn from beside the strokes themselves.

A few strokes say nothing of most voxels of a block, and a network that learns from them alone takes thousands of iterations. Labelled by a
classifier of the same strokes (self-training with another learner: Lee 2013), every voxel around them teaches, and what is wrong without a
pattern averages out.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume
from asem_core.training.rounds import PredictBox
from asem_core.volume import Box, Labels, Spec, Volume, Zyx, as_zyx
from asem_core.voxels.strokes import TILE

PLACE_VX = 110_000
"""Voxels of the place around a stroke: somewhat more than the block that a small network learns from at once."""

MOST_PLACES = 24
"""Places of the newest strokes are labelled: they bound the time."""


def places_around(strokes: Sequence[Box], image: Volume) -> list[Box]:
    """Choose places in an image around strokes, given from the oldest to the newest.

    Where strokes lie close together, one place holds several; where the image has one value, as beside what was scanned, there is none.
    """
    found: list[Box] = []
    for stroke in reversed(strokes):
        place, middle = place_around(stroke, image), Box.of_shape((1, 1, 1)).shift(_middle(stroke))
        if len(found) < MOST_PLACES and not any(p.contains(middle) for p in found) and np.ptp(image.read(place)) > 0:
            found.append(place)
    return found[::-1]


def place_around(stroke: Box, image: Volume) -> Box:
    """Return a place of about `PLACE_VX` voxels around the middle of a stroke, moved into the image.

    It is a cube in nm; where planes lie 1.5 times further apart than pixels, a square of one plane, which shows more of what is around.
    """
    size = np.array(image.voxel_size_nm)
    edges = np.maximum(1, np.rint((PLACE_VX * size.prod()) ** (1 / 3) / size)).astype(int)
    if size[0] > 1.5 * size[1]:
        edges = np.array([1, *[round(PLACE_VX**0.5)] * 2])
    edges = np.minimum(edges, image.shape)
    begin = np.clip(_middle(stroke) - edges // 2, 0, image.shape - edges)
    return Box(as_zyx(begin.tolist()), as_zyx((begin + edges).tolist()))


def write_pseudo_labels(
    places: Sequence[Box], predict: PredictBox, strokes: Labels, image: Volume, output: Path
) -> None:
    """Label places of an image as a map has them, and as was painted where it was; elsewhere nothing is labelled.

    Parameters
    ----------
    predict : the map: box in voxels of the image -> uint8, 255 = object; object from 0.5
    strokes : what is learnt from: known where it was painted, object where not 0
    output : `.../labels/<name>`, replaced
    """
    spec = Spec(image.shape, "uint8", image.voxel_size_nm, image.origin_nm)
    made_by = {"stage": "loop", "from": "pseudo-labels"}
    out = create_volume(output, spec, block=TILE, made_by=made_by, about=Record("labels"), anew=True)
    for place in places:
        painted = strokes.known_in(place)
        out.data[place.slices] = np.where(painted, strokes.read(place) != 0, predict(place) >= 128)  # type: ignore[index]
    finish_volume(out, pyramid=False)


def _middle(box: Box) -> Zyx:
    return as_zyx([(b + e) // 2 for b, e in zip(box.begin, box.end, strict=True)])
