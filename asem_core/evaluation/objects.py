"""Compare a prediction with the truth, object by object: which were found, missed, merged and made up."""

from __future__ import annotations

from typing import Any

import attrs
import numpy as np

from asem_core.blocks import Run, Work, map_blocks
from asem_core.evaluation.instances import InstanceScores, instance_scores
from asem_core.evaluation.scores import BLOCK, Counts, known_in_both, matched, read_like, require_covered
from asem_core.volume import Box, Labels, Volume, Zyx, as_zyx
from asem_core.voxels.components import Components, components, has_ids
from asem_core.voxels.resample import on_grid_of, on_spec
from asem_core.voxels.thresholds import at_least

PAIRS_WAITING = 1_000_000
"""Rows of objects that overlap in single blocks, kept before they are added up: 32 MB."""


@attrs.frozen(eq=False)
class ObjectScores:
    """Which objects of the truth were found, and which predicted ones are not there."""

    truth_id: np.ndarray  # uint64 (n,): the objects of the truth
    size_vx: np.ndarray  # int64 (n,): their size inside the compared box and mask
    covered: np.ndarray  # float64 (n,): the part of each that is predicted
    false_id: np.ndarray  # uint64 (m,): predicted objects that touch no true one
    false_size_vx: np.ndarray  # int64 (m,)
    num_merged: int  # predicted objects that cover several true ones
    min_overlap: float
    instances: InstanceScores

    @property
    def found(self) -> np.ndarray:
        """Bool (n,): at least `min_overlap` of the object is predicted."""
        return self.covered >= self.min_overlap

    @property
    def counts(self) -> Counts:
        """Count objects: found, false, missed."""
        num_found = int(self.found.sum())
        return Counts(num_found, len(self.false_id), len(self.truth_id) - num_found)


def score_objects(
    prediction: Labels,
    truth: Labels,
    *,
    exclusion: Labels | None = None,
    mask: Labels | None = None,
    min_overlap: float = 0.5,
    box: Box | None = None,
    run: Run | None = None,
) -> ObjectScores:
    """Compare object by object; both volumes hold ids that are the same all over an object.

    A true object is found if at least `min_overlap` of its voxels are predicted, in the exclusion zone too (of a thin
    object nothing else may be left). A predicted object is false if it touches no true one and is not altogether
    inside the exclusion zone. Voxels outside the mask, or outside the box, are not there.

    Raises
    ------
    VoxelSizeMismatch, ShapeMismatch, OutsideVolume
        As for `score`.
    """
    box = truth.box if box is None else box
    prediction, truth, mask, exclusion, box = matched(prediction, truth, mask, exclusion, box)
    require_covered(prediction, truth, box)
    load = _Overlaps(prediction, truth, exclusion, mask)
    pairs, waiting = np.empty((0, 4), np.uint64), [np.empty((0, 4), np.uint64)]
    for _, found in map_blocks(load, box, BLOCK, run or Run(progress=False), name="objects"):
        waiting.append(found)
        if sum(map(len, waiting)) > PAIRS_WAITING + len(pairs):
            pairs, waiting = _add_up(np.concatenate([pairs, *waiting])), []
    pairs = _add_up(np.concatenate([pairs, *waiting]))
    true_id, predicted_id, size, scored = pairs.T

    ids, which = np.unique(true_id[true_id > 0], return_inverse=True)
    sizes = np.bincount(which, size[true_id > 0], len(ids)).astype(np.int64)
    hit = (true_id > 0) & (predicted_id > 0)
    place = np.searchsorted(ids, true_id[hit])
    covered = np.bincount(place, size[hit], len(ids)) / sizes if len(ids) else np.empty(0)
    covers = size[hit] >= min_overlap * sizes[place]
    _, times = np.unique(predicted_id[hit][covers], return_counts=True)
    alone = (true_id == 0) & ~np.isin(predicted_id, predicted_id[hit]) & (scored > 0)
    return ObjectScores(
        ids,
        sizes,
        covered,
        predicted_id[alone],
        size[alone].astype(np.int64),
        int((times > 1).sum()),
        min_overlap,
        instance_scores(true_id, predicted_id, scored),
    )


@attrs.frozen
class _Overlaps:
    """Lists which objects overlap in a block; travels to worker processes."""

    prediction: Labels
    truth: Labels
    exclusion: Labels | None
    mask: Labels | None

    def __call__(self) -> Work:
        return self._pairs

    def _pairs(self, box: Box) -> np.ndarray:
        """Return uint64 (n, 4): id of the truth, id of the prediction, their common voxels, those that are scored."""
        truth, predicted = self.truth.read(box), read_like(self.truth, self.prediction, box)
        there = (truth != 0) | (predicted != 0)
        there &= known_in_both(self.truth, self.prediction, self.mask, box)
        scored = np.ones(int(there.sum()), np.uint64)
        if self.exclusion is not None:
            scored = (read_like(self.truth, self.exclusion, box)[there] == 0).astype(np.uint64)
        truth, predicted = truth[there], predicted[there]
        new = np.ones(len(truth), bool)  # of neighbours along x most are of one pair: sorting them all would be slow
        new[1:] = (truth[1:] != truth[:-1]) | (predicted[1:] != predicted[:-1])
        begins = np.flatnonzero(new)
        if not len(begins):
            return np.empty((0, 4), np.uint64)
        counts = np.diff(begins, append=len(truth)), np.add.reduceat(scored, begins)
        return _add_up(np.stack([truth[begins], predicted[begins], *counts], axis=1).astype(np.uint64))


def _add_up(pairs: np.ndarray) -> np.ndarray:
    """Sum the counts (columns 2 and 3) of rows with the same ids (columns 0 and 1)."""
    order = np.lexsort((pairs[:, 1], pairs[:, 0]))
    pairs = pairs[order]
    new = np.ones(len(pairs), bool)
    new[1:] = (pairs[1:, :2] != pairs[:-1, :2]).any(axis=1)
    begins = np.flatnonzero(new)
    if len(begins) == 0:
        return pairs
    return np.concatenate([pairs[begins, :2], np.add.reduceat(pairs[:, 2:], begins, axis=0)], axis=1)


def number_objects(volume: Volume, grid: Labels, run: Run, *, threshold: float = 0.5, box: Box | None = None) -> Labels:
    """Give each object an id, on the grid of the truth, for `score_objects` of the same box.

    Labels that hold ids already (more than one value besides 0) are returned as they are. Otherwise objects are the connected
    parts (26 neighbours) of the labels, or of the voxels whose probability is at least `threshold`.
    """
    box = grid.box if box is None else box
    volume = on_grid_of(grid, volume)
    if isinstance(volume, Labels) and has_ids(volume, run):
        return volume
    mask = _Foreground(grid, volume, threshold)
    found = components(mask, box, BLOCK, attrs.evolve(run, scratch=None))
    known = volume.known if isinstance(volume, Labels) else None
    numbered = Volume(_Numbered(found, grid.shape), grid.voxel_size_nm, grid.origin_nm, f"objects of {volume.path}")
    return Labels.of(numbered, None if known is None else on_spec(known, grid.spec))


@attrs.frozen
class _Foreground:
    grid: Labels
    volume: Volume
    threshold: float

    def __call__(self, box: Box) -> np.ndarray:
        values = read_like(self.grid, self.volume, box)
        return values != 0 if isinstance(self.volume, Labels) else at_least(values, self.threshold)


@attrs.frozen(eq=False)
class _Numbered:
    """The ids of connected objects as a lazy array, which can be read by the blocks they were found in."""

    found: Components
    shape: Zyx

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.found.dtype

    def __getitem__(self, key: Any) -> np.ndarray:
        return self.found.read(Box(as_zyx([k.start for k in key]), as_zyx([k.stop for k in key])))
