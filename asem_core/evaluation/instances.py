"""Scores of a segmentation into objects, from the table of how many voxels each pair of objects has in common."""

from __future__ import annotations

import math

import attrs
import numpy as np


@attrs.frozen
class InstanceScores:
    """How well objects are told apart. A ratio of nothing to nothing is NaN.

    Voxels that the truth calls background count in no entropy and no pair of voxels (as with `ignore_labels=[0]` in
    scikit-image), but do count in the size of a predicted object. Predicted background is one more piece.

    Attributes
    ----------
    voi_split, voi_merge : conditional entropies H(prediction | truth) and H(truth | prediction), bits (Meila 2007)
    rand_precision, rand_recall : of pairs of voxels; `adapted_rand_error` is 1 - their F1 (SNEMI3D)
    panoptic_quality : sum of the IoU of matched objects (IoU > 0.5) over TP + FP/2 + FN/2 (Kirillov 2019)
    average_precision_50, average_precision_75 : TP / (TP + FP + FN) of objects matched with an IoU > 0.5, >= 0.75
    """

    num_truth: int
    num_predicted: int
    num_matched: int
    voi_split: float
    voi_merge: float
    rand_precision: float
    rand_recall: float
    panoptic_quality: float
    average_precision_50: float
    average_precision_75: float

    @property
    def voi(self) -> float:
        """Variation of information, bits."""
        return self.voi_split + self.voi_merge

    @property
    def adapted_rand_error(self) -> float:
        both = self.rand_precision + self.rand_recall
        return 1 - 2 * self.rand_precision * self.rand_recall / both if both else math.nan


def instance_scores(truth_id: np.ndarray, predicted_id: np.ndarray, size_vx: np.ndarray) -> InstanceScores:
    """Score from the contingency table: row i holds how many voxels a pair of ids shares; 0 is background.

    Pairs may be listed once only; the pair of both backgrounds may be missing.
    """
    some = (size_vx > 0) & ((truth_id > 0) | (predicted_id > 0))
    truth_id, predicted_id, size = truth_id[some], predicted_id[some], size_vx[some].astype(np.float64)
    row = np.unique(truth_id, return_inverse=True)[1]
    column = np.unique(predicted_id, return_inverse=True)[1]
    true_size, predicted_size = np.bincount(row, size), np.bincount(column, size)
    pair = (truth_id > 0) & (predicted_id > 0)
    overlap = size[pair] / (true_size[row[pair]] + predicted_size[column[pair]] - size[pair])
    num_truth, num_predicted = len(np.unique(truth_id[truth_id > 0])), len(np.unique(predicted_id[predicted_id > 0]))
    matched = overlap[overlap > 0.5]  # above a half, an object has one match at most
    objects = num_truth + num_predicted
    good = int(np.count_nonzero(overlap >= 0.75))

    inside = truth_id > 0
    size, row, column = size[inside], row[inside], column[inside]
    total = size.sum()
    of_truth, of_predicted = np.bincount(row, size), np.bincount(column, size)
    with_both = (size**2).sum() - total  # twice the pairs of voxels that are together in both
    joint = _plogp(size, total)
    return InstanceScores(
        num_truth,
        num_predicted,
        len(matched),
        voi_split=joint - _plogp(of_truth, total),
        voi_merge=joint - _plogp(of_predicted, total),
        rand_precision=_ratio(with_both, (of_predicted**2).sum() - total),
        rand_recall=_ratio(with_both, (of_truth**2).sum() - total),
        panoptic_quality=_ratio(2 * matched.sum(), objects),
        average_precision_50=_ratio(len(matched), objects - len(matched)),
        average_precision_75=_ratio(good, objects - good),
    )


def _plogp(sizes: np.ndarray, total: float) -> float:
    """Entropy in bits of a partition into parts of these sizes; NaN of nothing."""
    if not total:
        return math.nan
    share = sizes[sizes > 0] / total
    return float(-(share * np.log2(share)).sum())


def _ratio(part: float, whole: float) -> float:
    return float(part / whole) if whole else math.nan
