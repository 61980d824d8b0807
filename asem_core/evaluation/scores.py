"""Compare a prediction with the truth, voxel by voxel; `evaluation.objects` does it object by object.

Voxels in the exclusion zone (where an annotator's hand is not to be trusted), and those that nobody annotated (see
`asem_core.voxels.known`) or that lie outside a mask, count for nothing. The measures are those of Gallusser et al. 2022: precision, recall, F1, and Jaccard. Everything streams: a
block of each volume is in memory at a time, and all thresholds come out of one pass.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Self

import attrs
import numpy as np

from asem_core.blocks import Run, Work, map_blocks
from asem_core.cell.apply import apply_lazily
from asem_core.errors import BadInput, Option, OutsideVolume
from asem_core.evaluation.roles import question_roles
from asem_core.interfaces import Preprocessor
from asem_core.volume import Box, Labels, Volume, Zyx, annotated_part
from asem_core.voxels.known import extent_of_known
from asem_core.voxels.resample import AnyVolume, on_grid_of, whole_factors
from asem_core.voxels.thresholds import LEVELS, as_stored, reach

log = logging.getLogger("asem_core")

BLOCK: Zyx = (128, 256, 256)
"""Voxels compared at a time (8 MB of a uint8 volume)."""


@attrs.frozen
class Counts:
    """How many voxels (or objects) were right and wrong at one threshold. A ratio of nothing to nothing is NaN."""

    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int = 0

    @property
    def precision(self) -> float:
        return _ratio(self.true_positive, self.true_positive + self.false_positive)

    @property
    def recall(self) -> float:
        return _ratio(self.true_positive, self.true_positive + self.false_negative)

    @property
    def f1(self) -> float:
        """The Dice coefficient: 2 TP / (2 TP + FP + FN)."""
        return _ratio(2 * self.true_positive, 2 * self.true_positive + self.false_positive + self.false_negative)

    @property
    def jaccard(self) -> float:
        """Intersection over union: TP / (TP + FP + FN)."""
        return _ratio(self.true_positive, self.true_positive + self.false_positive + self.false_negative)


def _ratio(part: int, whole: int) -> float:
    return part / whole if whole else math.nan


@attrs.frozen(eq=False)
class Scores:
    """A comparison at every threshold: how many true and how many background voxels have each probability.

    Scores of several regions add up to the pooled score.
    """

    levels: np.ndarray  # float64 (n,), ascending: voxels are filed under the highest level they reach
    foreground_vx: np.ndarray  # int64 (n,): voxels of the truth, by level
    background_vx: np.ndarray  # int64 (n,): voxels of the background, by level
    num_ignored: int = 0  # voxels in the exclusion zone, not annotated or outside the mask
    num_foreground: int | None = None  # voxels of the truth, those in the exclusion zone included

    def at(self, threshold: float) -> Counts:
        """Count with every voxel whose probability is at least `threshold` taken as predicted."""
        predicted = reach(self.levels, threshold)
        found, false = int(self.foreground_vx[predicted].sum()), int(self.background_vx[predicted].sum())
        return Counts(found, false, int(self.foreground_vx.sum()) - found, int(self.background_vx.sum()) - false)

    @property
    def share_scored(self) -> float:
        """How much of the truth the exclusion zone leaves."""
        return _ratio(int(self.foreground_vx.sum()), self.num_foreground or 0)

    def best(self) -> float:
        """Find the threshold above 0 with the highest F1 (0.5 if there is none)."""
        f1 = np.array([self.at(level).f1 for level in self.levels[1:]])
        return 0.5 if np.isnan(f1).all() else float(self.levels[1:][np.nanargmax(f1)])

    def __add__(self, other: Scores) -> Self:
        if not np.array_equal(self.levels, other.levels):
            raise BadInput(
                "Only scores of one kind can be pooled: all of uint8 probabilities, all of float probabilities "
                "with the same thresholds, or all of segmentations."
            )
        return type(self)(
            self.levels,
            self.foreground_vx + other.foreground_vx,
            self.background_vx + other.background_vx,
            self.num_ignored + other.num_ignored,
            None if None in (self.num_foreground, other.num_foreground) else self.num_foreground + other.num_foreground,  # type: ignore[operator]
        )


def score(
    prediction: Volume,
    truth: Labels,
    *,
    exclusion: Labels | None = None,
    mask: Labels | None = None,
    thresholds: Sequence[float] = (0.5,),
    box: Box | None = None,
    thin: bool = False,
    run: Run | None = None,
) -> Scores:
    """Compare a prediction with the truth, voxel by voxel.

    Parameters
    ----------
    prediction : uint8 (255 = 1) or float (0 to 1) probability, or Labels (nonzero = predicted)
        May be larger than the truth, never smaller; they are matched by their origins. Larger voxels, by whole factors,
        are seen on the truth's grid (`on_grid_of`).
    truth : Labels, nonzero = the organelle
    exclusion : Labels, nonzero = not scored
    mask : Labels, nonzero = annotated; what it does not cover is not annotated
    thresholds : probabilities of interest, exact also for float predictions (uint8 ones are exact at any)
    box : the part to compare, in voxels of the truth; all of it by default
    thin : the truth is so thin that an exclusion zone which takes most of it is meant; otherwise that is questioned

    Raises
    ------
    VoxelSizeMismatch, ShapeMismatch
        A volume is not on the truth's grid, nor on one that is coarser by whole factors.
    OutsideVolume
        The prediction does not cover the truth.
    BadInput
        A float prediction has values that are not between 0 and 1.
    """
    box = truth.box if box is None else box
    prediction, truth, mask, exclusion, box = matched(prediction, truth, mask, exclusion, box)
    require_covered(prediction, truth, box)
    levels = _levels(prediction, thresholds)
    load = _Comparison(prediction, truth, exclusion, mask, levels)
    foreground, background, excluded = np.zeros((3, len(levels)), np.int64)
    for _, counts in map_blocks(load, box, BLOCK, run or Run(progress=False), name="evaluate"):
        background += counts[0]
        foreground += counts[1]
        excluded += counts[2]
    num_scored = int(foreground.sum() + background.sum())
    found = Scores(levels, foreground, background, box.size - num_scored, int(foreground.sum() + excluded.sum()))
    if not thin and (question := question_zone(truth.path, found.share_scored)):
        log.warning("%s", question)
    if question := question_roles(truth, exclusion, mask, box):
        log.warning("%s", question)
    return found


LEAST_SCORED = 0.5


def question_zone(name: str, share_scored: float) -> str | None:
    """Say so where an exclusion zone leaves less than half of the objects to score."""
    if not share_scored < LEAST_SCORED:
        return None
    return (
        f"{name}: the exclusion zone takes {1 - share_scored:.0%} of the objects' voxels out of the scores, which then describe "
        "only the rest. Make it narrower inwards: asem evaluate --zone-nm OUT,IN, or exclusion_erode_nm of the model. (If the model's labels "
        "are meant to be that thin, it declares has_thin_truth.)"
    )


def matched(
    prediction: AnyVolume, truth: Labels, mask: Labels | None, exclusion: Labels | None, box: Box
) -> tuple[AnyVolume, Labels, Labels | None, Labels | None, Box]:
    """View all on the grid of the truth, or, where it is finer, of the prediction (see `on_grid_of`).

    The box, too, without what lies beyond all that was annotated.

    Raises
    ------
    BadInput
        Nothing in the box was annotated.
    VoxelSizeMismatch
        The voxels of neither are whole multiples of the other's.
    """
    if truth.known is not None:
        within = box & extent_of_known(truth)
        if within.is_empty:
            raise BadInput(f"Nothing of {truth.path} is annotated in {box}: there is nothing to compare with.")
        box = within
    factor = whole_factors(truth.voxel_size_nm, prediction.voxel_size_nm)
    if factor is not None:  # as the prediction's voxels, or larger
        truth = on_grid_of(prediction, truth)
        box = Box(*([v * f for v, f in zip(side, factor, strict=True)] for side in (box.begin, box.end)))
    else:
        prediction = on_grid_of(truth, prediction)
    return (
        prediction,
        truth,
        None if mask is None else on_grid_of(truth, mask),
        None if exclusion is None else on_grid_of(truth, exclusion),
        box,
    )


def require_covered(prediction: Volume, truth: Labels, box: Box) -> None:
    """Check that a prediction covers a box of the truth.

    Raises
    ------
    OutsideVolume
    """
    if not truth.box.contains(box):
        raise OutsideVolume(f"Box {box} extends beyond {truth.path}, whose shape is {list(truth.shape)}.")
    place = truth.box_of(prediction)
    if not place.contains(box):
        raise OutsideVolume(
            f"{prediction.path} covers {place & truth.box} of {truth.path}, not all of {box} "
            "(in voxels of the truth). Predict there too, or compare a smaller box",
            *_as_option(place & box),
        )


def _as_option(box: Box) -> Sequence[str | Option]:
    """Write a box as it is typed; a full stop for an empty one."""
    sides = ",".join(f"{b}:{e}" for b, e in zip(box.begin, box.end, strict=True))
    return (".",) if box.is_empty else (": ", Option("box", sides))


def _levels(prediction: Volume, thresholds: Sequence[float]) -> np.ndarray:
    """Choose the probabilities that the histogram distinguishes."""
    for threshold in thresholds:
        if not 0 < threshold <= 1:
            raise BadInput(f"A threshold is a probability above 0 and at most 1, got {threshold}.")
    if isinstance(prediction, Labels):
        return np.array([0.0, 1.0])
    if prediction.dtype == np.uint8:
        return LEVELS
    if prediction.dtype.kind == "f":
        return np.union1d(LEVELS, thresholds)
    raise BadInput(
        f"{prediction.path} holds {prediction.dtype}: a probability is uint8 (255 = 1) or a float from 0 to 1. "
        "If it is a segmentation, open it as labels (",
        Option("segmentation", True),
        ").",
    )


def with_pooled(regions: Mapping[str, Scores]) -> dict[str, Scores]:
    """Add the sum of all regions as the last, `pooled`, if there are several."""
    scores = dict(regions)
    if len(scores) > 1:
        first, *rest = scores.values()
        scores["pooled"] = sum(rest, start=first)
    return scores


@attrs.frozen
class _Comparison:
    """Counts one block at a time; travels to worker processes."""

    prediction: Volume
    truth: Labels
    exclusion: Labels | None
    mask: Labels | None
    levels: np.ndarray = attrs.field(eq=False)

    def __call__(self) -> Work:
        return self._count

    def _count(self, box: Box) -> np.ndarray:
        """Return int64 (3, levels): background and foreground voxels of the box by level, and foreground in the zone."""
        truth, values = self.truth.read(box) != 0, read_like(self.truth, self.prediction, box)
        kind = truth.astype(np.intp)
        if self._leaves_out:
            counts = known_in_both(self.truth, self.prediction, self.mask, box)
            if self.exclusion is not None:
                zone = read_like(self.truth, self.exclusion, box) != 0
                kind[zone & truth] = 2
                counts &= truth | ~zone
            kind, values = kind[counts], values[counts]
        n = len(self.levels)
        found: np.ndarray = np.bincount(self._level(values.ravel()) + n * kind.ravel(), minlength=3 * n)
        return found.reshape(3, n)

    @property
    def _leaves_out(self) -> bool:
        known = self.truth.known, self.mask, self.exclusion, annotated_part(self.prediction)
        return any(volume is not None for volume in known)

    def _level(self, values: np.ndarray) -> np.ndarray:
        """File values under the highest level each reaches."""
        if isinstance(self.prediction, Labels):
            level: np.ndarray = (values != 0).astype(np.intp)
            return level
        if values.dtype == np.uint8:
            return values.astype(np.intp)
        if not (values.size == 0 or (values.min() >= 0 and values.max() <= 1)):
            raise BadInput(
                f"{self.prediction.path} has values from {values.min()} to {values.max()}; "
                "a probability lies between 0 and 1. Is this an image, or logits?"
            )
        return np.searchsorted(as_stored(self.levels, values.dtype), values, side="right") - 1


def read_like(grid: Volume, volume: Volume, box: Box) -> np.ndarray:
    """Read `volume` where the box of `grid` lies; 0 where it has nothing."""
    found: np.ndarray = volume.read(box.shift([-b for b in grid.box_of(volume).begin]), outside=0)
    return found


def known_in_both(truth: Labels, prediction: Volume, mask: Labels | None, box: Box) -> np.ndarray:
    """Tell which voxels of a box count: those annotated in the truth, in a prediction that is labels itself, and in the mask."""
    counts = truth.known_in(box)
    if mask is not None:
        counts &= read_like(truth, mask, box) != 0
    if isinstance(prediction, Labels) and prediction.known is not None:
        counts &= read_like(truth, prediction.known, box) != 0
    return counts


def exclusion_of(truth: Labels, step: Preprocessor, run: Run) -> Labels:
    """Make the exclusion zone of `truth`, nonzero where voxels are left out: computed where it is read, never stored."""
    zone = apply_lazily(step, truth, run)
    return Labels(zone.data, zone.voxel_size_nm, zone.origin_nm, f"exclusion zone of {truth.path}")
