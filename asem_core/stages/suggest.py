"""Where to annotate next: places where the map is unsure, that look unlike what was annotated, and where opinions differ."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from asem_core.cell.store import open_annotation
from asem_core.errors import BadInput, Option
from asem_core.progress import counted
from asem_core.stages.loop import Session
from asem_core.training.rounds import PredictBox
from asem_core.volume import Box, Labels, Volume, Zyx, as_zyx, full_range
from asem_core.voxels.strokes import parts_of

SIDE = 48
"""Edge of a place in the plane, in voxels: what is seen at once while painting."""

ENDS = 8
"""An eighth of the image at either end of each axis, but no more than a place is wide, is not suggested: there maps are unsure because the image ends."""

LOOKED_AT = 64
"""So many places are looked at, spread over the image: they bound the time."""


@attrs.frozen
class Place:
    """A place to annotate.

    Attributes
    ----------
    centre : voxel of the image
    unsure : 0 where all probabilities are 0 or 1, 1 where all are 0.5
    differs : mean difference of the two maps that were compared, from 0 to 1
    unlike : distance of its grey values from those of the nearest annotated place, in standard deviations over all places
    score : what places are ranked by
    """

    centre: Zyx
    unsure: float
    differs: float
    unlike: float
    score: float


def suggest(session: Session, number: int = 10, seed: int = 0, *, progress: bool = False) -> list[Place]:
    """Rank places of a session's image, the best first; they are spread over the image.

    The network's opinion is compared with its own of the mirror image. Without a network, the classifier's stands alone.

    Raises
    ------
    BadInput
        No round was finished yet.
    """
    maps = session.opinions()
    painted = session.strokes()
    boxes = parts_of(open_annotation(painted.path))
    return rank(session.image, maps[0], maps[-1], annotated_at(painted, boxes), number, seed, progress=progress)


def rank(
    image: Volume,
    first: PredictBox,
    other: PredictBox,
    annotated: Sequence[Zyx],
    number: int,
    seed: int = 0,
    *,
    progress: bool = False,
) -> list[Place]:
    """Rank places by two maps and by how they look.

    Each measure is turned into a rank among the places, and the ranks are added: none needs a scale. Then the best are taken
    one by one, and what lies near one taken counts less.

    Parameters
    ----------
    annotated : voxels around which was annotated
    """
    if number < 1:
        raise BadInput(Option("number"), f" is {number}; it must be at least 1.")
    boxes = candidates(image, seed)
    unsure, differs, looks = [], [], []
    for box in counted("suggest", boxes, "places", shown=progress):
        p, q = (predict(box).astype(np.float32) / 255 for predict in (first, other))
        unsure.append(float((1 - np.abs(2 * p - 1)).mean()))
        differs.append(float(np.abs(p - q).mean()))
        looks.append(look_of(image, box))
    known = [look_of(image, around(image, voxel)) for voxel in annotated]
    unlike = _distances(np.array(looks), np.array(known))
    ranks = sum(
        (np.argsort(np.argsort(v, kind="stable"), kind="stable") for v in (unsure, differs, unlike)), np.zeros(1)
    )
    score = ranks / max(1, 3 * (len(boxes) - 1))
    centres = np.array([[(b + e) // 2 for b, e in zip(box.begin, box.end, strict=True)] for box in boxes])
    found = []
    for i in spread(centres, score, image.shape, min(number, len(boxes))):
        measures = (round(float(v[i]), 4) for v in (unsure, differs, unlike, score))
        found.append(Place(as_zyx(centres[i].tolist()), *measures))
    return found


def candidates(image: Volume, seed: int) -> list[Box]:
    """Draw places: one in each cell of a lattice over the image without its ends, at a random position; single planes of `SIDE` pixels."""
    rng = np.random.default_rng(seed)
    end = np.minimum(np.array(image.shape) // ENDS, SIDE)
    shape = np.array(image.shape) - 2 * end
    edge = (shape.prod() / LOOKED_AT) ** (1 / 3)
    counts = np.maximum(1, np.rint(shape / edge)).astype(int)
    while counts.prod() > LOOKED_AT:
        counts[int(np.argmax(counts))] -= 1
    found = []
    for place in np.ndindex(*counts):
        low, high = end + shape * place // counts, end + shape * (np.array(place) + 1) // counts
        voxel = rng.integers(low, np.maximum(high, low + 1))
        found.append(around(image, as_zyx(voxel.tolist())))
    return found


def around(image: Volume, voxel: Zyx) -> Box:
    """Return the plane of `SIDE` pixels around a voxel, inside the image."""
    z, y, x = voxel
    begin = [min(max(0, c - SIDE // 2), max(0, n - SIDE)) for c, n in zip((y, x), image.shape[1:], strict=True)]
    return Box((z, begin[0], begin[1]), (z + 1, begin[0] + SIDE, begin[1] + SIDE)) & image.box


def look_of(image: Volume, box: Box) -> np.ndarray:
    """Describe how a place looks: nine quantiles of its grey values, and of their differences along both axes; float64 (18,)."""
    values = image.read(box)[0].astype(np.float64) / full_range(image.dtype)
    steps = (
        np.concatenate([np.abs(np.diff(values, axis=a)).ravel() for a in (0, 1)]) if values.size > 1 else np.zeros(1)
    )
    shares = np.linspace(0.1, 0.9, 9)
    return np.concatenate([np.quantile(values, shares), np.quantile(steps, shares)])


def spread(centres: np.ndarray, score: np.ndarray, shape: Sequence[int], number: int) -> list[int]:
    """Take the best places, each far from those taken before: within a quarter of the image's diagonal it counts less."""
    reach = float(np.linalg.norm(shape)) / 4
    taken: list[int] = []
    weight = np.ones(len(score))
    for _ in range(number):
        best = int(np.argmax(np.where(np.isin(np.arange(len(score)), taken), -1.0, score * weight)))
        taken.append(best)
        away = np.linalg.norm(centres - centres[best], axis=1)
        weight *= np.clip(away / reach, 0.1, 1)
    return taken


def annotated_at(painted: Labels, boxes: Sequence[Box], most: int = 64) -> list[Zyx]:
    """List voxels of what was painted, at most so many, evenly drawn."""
    points = [np.argwhere(painted.read(part)) + part.begin for box in boxes for part in box.blocks(512)]
    found = np.concatenate([np.zeros((0, 3), int), *points])
    chosen = found[np.unique(np.linspace(0, len(found) - 1, most).astype(int))] if len(found) else found
    return [as_zyx(voxel.tolist()) for voxel in chosen]


def _distances(looks: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Measure how far each look is from the nearest known one, each number in its standard deviations."""
    if not len(known):
        return np.zeros(len(looks))
    scale = np.maximum(looks.std(axis=0), 1e-6)
    away = np.linalg.norm((looks[:, None] - known[None]) / scale, axis=2) / np.sqrt(looks.shape[1])
    nearest: np.ndarray = away.min(axis=1)
    return nearest
