"""Present scores to people: tables, and the precision-recall curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from asem_core.evaluation.objects import ObjectScores
from asem_core.evaluation.scores import Scores, with_pooled
from asem_core.interfaces import Column
from asem_core.report import Section

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def sections(
    regions: Mapping[str, Scores],
    thresholds: Sequence[float] = (0.5,),
    objects: Mapping[str, ObjectScores] | None = None,
) -> list[Section]:
    """Make the parts of a report: scores of each region and, if there are several, of all pooled; then objects."""
    scores = with_pooled(regions)
    last = scores[list(scores)[-1]]
    numbers = {
        "F1": last.at(thresholds[0]).f1,
        "precision": last.at(thresholds[0]).precision,
        "recall": last.at(thresholds[0]).recall,
        "Jaccard": last.at(thresholds[0]).jaccard,
        "threshold": thresholds[0],
        "threshold of the highest F1": last.best(),
        "highest F1": last.at(last.best()).f1,
    }
    text = (
        "Each voxel of the truth is compared with the prediction; voxels in the exclusion zone, and those that "
        "nobody annotated, are ignored."
    )
    figures = {} if len(last.levels) <= 2 else {"precision and recall": curves(scores, thresholds)}
    voxels = Section("Voxels", text, numbers, {"scores": score_table(scores, thresholds)}, figures)
    return [voxels, _object_section(objects)] if objects else [voxels]


def score_table(scores: Mapping[str, Scores], thresholds: Sequence[float]) -> dict[str, Column]:
    """Make the table of scores: one row for each region and threshold."""
    rows = [(name, t, s.at(t), s.num_ignored) for name, s in scores.items() for t in thresholds]
    about = "NaN (empty) if undefined"
    return {
        "region": Column(np.array([name for name, *_ in rows]), "the ground truth that was compared"),
        "threshold": Column(np.array([t for _, t, _, _ in rows], float), "smallest probability of a predicted voxel"),
        "f1": Column(np.array([c.f1 for *_, c, _ in rows]), f"2 TP / (2 TP + FP + FN); {about}"),
        "precision": Column(np.array([c.precision for *_, c, _ in rows]), f"TP / (TP + FP); {about}"),
        "recall": Column(np.array([c.recall for *_, c, _ in rows]), f"TP / (TP + FN); {about}"),
        "jaccard": Column(np.array([c.jaccard for *_, c, _ in rows]), f"TP / (TP + FP + FN); {about}"),
        "true_positive_vx": Column(np.array([c.true_positive for *_, c, _ in rows]), "predicted and true"),
        "false_positive_vx": Column(np.array([c.false_positive for *_, c, _ in rows]), "predicted, not true"),
        "false_negative_vx": Column(np.array([c.false_negative for *_, c, _ in rows]), "true, not predicted"),
        "ignored_vx": Column(
            np.array([n for *_, n in rows]), "in the exclusion zone, not annotated, or outside the mask"
        ),
    }


def curves(scores: Mapping[str, Scores], thresholds: Sequence[float]) -> Figure:
    """Draw precision against recall, and F1 against the threshold, of each region; the asked thresholds are marked."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    recall = np.linspace(0.01, 1, 200)
    for f1 in (0.2, 0.4, 0.6, 0.8, 0.9):
        precision = np.where(2 * recall > f1, f1 * recall / np.maximum(2 * recall - f1, 1e-9), np.nan)
        left.plot(recall, np.where(precision <= 1, precision, np.nan), color="0.85", linewidth=0.8)
        left.text(1.005, f1 / (2 - f1), f"F1 {f1}", color="0.6", fontsize=7, va="center")
    for name, s in scores.items():
        width = 2.0 if name == "pooled" or len(scores) == 1 else 1.0
        counts = [s.at(level) for level in s.levels[1:]]
        (line,) = left.plot([c.recall for c in counts], [c.precision for c in counts], linewidth=width, label=name)
        right.plot(s.levels[1:], [c.f1 for c in counts], linewidth=width, color=line.get_color(), label=name)
        for threshold in thresholds:
            at = s.at(threshold)
            left.plot(at.recall, at.precision, "o", color=line.get_color(), markersize=5)
            right.plot(threshold, at.f1, "o", color=line.get_color(), markersize=5)
    left.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), aspect="equal")
    right.set(xlabel="threshold (probability)", ylabel="F1", xlim=(0, 1), ylim=(0, 1.02))
    right.legend(fontsize=8, loc="lower center")
    return figure


def _object_section(objects: Mapping[str, ObjectScores]) -> Section:
    counts = {name: o.counts for name, o in objects.items()}
    some = next(iter(objects.values()))
    text = (
        f"A true object is found if at least {some.min_overlap:.0%} of its voxels are predicted; a predicted object is "
        "false if it touches no true one. A predicted object is merged if it covers several true ones."
    )
    summary = {
        "region": Column(np.array(list(objects)), "the ground truth that was compared"),
        "num_found": Column(np.array([c.true_positive for c in counts.values()]), "true objects that were found"),
        "num_missed": Column(np.array([c.false_negative for c in counts.values()]), "true objects that were not found"),
        "num_false": Column(
            np.array([c.false_positive for c in counts.values()]), "predicted objects that touch no true one"
        ),
        "num_merged": Column(
            np.array([o.num_merged for o in objects.values()]), "predicted objects that cover several true ones"
        ),
        "precision": Column(np.array([c.precision for c in counts.values()]), "found / (found + false)"),
        "recall": Column(np.array([c.recall for c in counts.values()]), "found / (found + missed)"),
        "f1": Column(np.array([c.f1 for c in counts.values()]), "2 found / (2 found + false + missed)"),
    }
    each = {
        "region": Column(
            np.repeat(list(objects), [len(o.truth_id) for o in objects.values()]), "the ground truth that was compared"
        ),
        "id": Column(np.concatenate([o.truth_id for o in objects.values()]), "the object's id in the truth"),
        "size_vx": Column(
            np.concatenate([o.size_vx for o in objects.values()]), "number of its voxels that were compared"
        ),
        "covered": Column(np.concatenate([o.covered for o in objects.values()]), "the part of it that is predicted"),
        "found": Column(np.concatenate([o.found for o in objects.values()]), "whether enough of it is predicted"),
    }
    false = {
        "region": Column(
            np.repeat(list(objects), [len(o.false_id) for o in objects.values()]), "the ground truth that was compared"
        ),
        "id": Column(np.concatenate([o.false_id for o in objects.values()]), "the object's id in the prediction"),
        "size_vx": Column(np.concatenate([o.false_size_vx for o in objects.values()]), "number of its voxels"),
    }
    tables = {"objects": summary, "instances": _instance_table(objects), "true objects": each, "false objects": false}
    return Section("Objects", text, {}, tables)


def _instance_table(objects: Mapping[str, ObjectScores]) -> dict[str, Column]:
    about = {
        "num_truth": "objects of the truth",
        "num_predicted": "predicted objects",
        "num_matched": "pairs of a true and a predicted object with an IoU above 0.5",
        "voi_split": "variation of information due to splits, H(prediction | truth), in bits; only where the truth is not 0",
        "voi_merge": "variation of information due to mergers, H(truth | prediction), in bits",
        "voi": "variation of information, the sum of both",
        "adapted_rand_error": "1 - F1 over pairs of voxels that lie in the same object",
        "rand_precision": "share of the pairs in one predicted object that are also in one true object",
        "rand_recall": "share of the pairs in one true object that are also in one predicted object",
        "panoptic_quality": "sum of the IoU of matched objects over TP + FP/2 + FN/2",
        "average_precision_50": "TP / (TP + FP + FN) of objects matched with an IoU above 0.5",
        "average_precision_75": "the same with an IoU of at least 0.75",
    }
    table = {"region": Column(np.array(list(objects)), "the ground truth that was compared")}
    for name, what in about.items():
        table[name] = Column(np.array([getattr(o.instances, name) for o in objects.values()]), what)
    return table
