"""Scores are counted exactly, over any number of blocks, and only where there is truth."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from skimage.metrics import adapted_rand_error, variation_of_information

from asem_core.blocks import Run
from asem_core.errors import AsemError, BadInput, OutsideVolume, VoxelSizeMismatch
from asem_core.evaluation import objects as evaluate
from asem_core.evaluation.objects import number_objects, score_objects
from asem_core.evaluation.report import sections
from asem_core.evaluation.scores import Counts, exclusion_of, score, with_pooled
from asem_core.report import write_report
from asem_core.volume import Box, Labels, Spec, Volume

NM = 5.0


def labels(array, origin_nm=(0, 0, 0)):
    return Labels(np.asarray(array), NM, origin_nm, "labels/mito")


def blobs(shape=(20, 33, 41), seed=0, part=0.2):
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).random(shape), 2)
    return (noise > np.quantile(noise, 1 - part)).astype(np.uint8)


def probability(truth, seed=1, dtype=np.uint8):
    rng = np.random.default_rng(seed)
    p = np.clip(0.6 * truth + 0.2 + 0.25 * rng.standard_normal(truth.shape), 0, 1)
    return (p * 255).astype(np.uint8) if dtype == np.uint8 else p.astype(dtype)


def counted(predicted, truth, scored):
    """Count the slow and plain way."""
    predicted, truth = predicted[scored], truth[scored]
    return Counts(
        int((predicted & truth).sum()),
        int((predicted & ~truth).sum()),
        int((~predicted & truth).sum()),
        int((~predicted & ~truth).sum()),
    )


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(evaluate, "BLOCK", (8, 16, 16))


def test_a_hand_counted_case():
    counts = Counts(6, 2, 4, 88)
    assert counts.precision == 0.75
    assert counts.recall == 0.6
    assert counts.f1 == pytest.approx(2 / 3)
    assert counts.jaccard == 0.5


def test_a_ratio_of_nothing_is_nan():
    empty = score(labels(np.zeros((4, 4, 4), np.uint8)), labels(np.zeros((4, 4, 4), np.uint8))).at(0.5)
    assert empty.true_negative == 64
    assert all(np.isnan([empty.precision, empty.recall, empty.f1, empty.jaccard]))


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float16])
@pytest.mark.parametrize("threshold", [0.5, 0.3, 0.71, 1.0])
def test_scores_equal_a_plain_count_at_every_threshold(dtype, threshold):
    truth = blobs()
    p = probability(truth, dtype=dtype)
    found = score(Volume(p, NM), labels(truth), thresholds=[threshold]).at(threshold)
    real = p / 255 if dtype == np.uint8 else p
    threshold = threshold if dtype == np.uint8 else dtype(threshold)  # 0.71 is what the map calls so
    assert found == counted(real >= threshold, truth > 0, np.ones(truth.shape, bool))


def test_the_exclusion_zone_and_what_is_not_annotated_count_for_nothing():
    truth = blobs()
    p = probability(truth)
    zone = ndimage.binary_dilation(truth) & ~ndimage.binary_erosion(truth)
    mask = np.zeros(truth.shape, np.uint8)
    mask[3:17, 2:30, 5:40] = 7
    scores = score(Volume(p, NM), labels(truth), exclusion=labels(zone.view(np.uint8)), mask=labels(mask))
    assert scores.at(0.5) == counted(p >= 128, truth > 0, (mask > 0) & ~zone)
    assert scores.num_ignored == truth.size - int(((mask > 0) & ~zone).sum())


@settings(max_examples=15, deadline=None)
@given(begin=st.tuples(*[st.integers(0, 9)] * 3), seed=st.integers(0, 100))
def test_volumes_are_matched_by_their_place(begin, seed):
    """A truth that covers a part of the cell is compared with that part of the prediction."""
    whole = blobs((24, 26, 28), seed)
    p = probability(whole)
    box = Box(begin, [b + 12 for b in begin])
    part = labels(whole[box.slices], [b * NM for b in begin])
    found = score(Volume(p, NM), part, mask=labels(np.ones(whole.shape, np.uint8))).at(0.5)
    assert found == counted(p[box.slices] >= 128, whole[box.slices] > 0, np.ones(box.shape, bool))


def test_a_box_restricts_the_comparison():
    truth, box = blobs(), Box((2, 3, 4), (11, 30, 25))
    p = probability(truth)
    found = score(Volume(p, NM), labels(truth), box=box).at(0.5)
    assert found == counted(p[box.slices] >= 128, truth[box.slices] > 0, np.ones(box.shape, bool))


def test_several_workers_give_the_same_scores():
    truth = blobs()
    p = Volume(probability(truth), NM)
    alone = score(p, labels(truth))
    together = score(p, labels(truth), run=Run(workers=2, progress=False))
    np.testing.assert_array_equal(alone.foreground_vx, together.foreground_vx)
    np.testing.assert_array_equal(alone.background_vx, together.background_vx)


def test_pooled_scores_are_counted_over_all_voxels():
    a, b = blobs(seed=1), blobs(seed=2)
    scores = {"a": score(Volume(probability(a), NM), labels(a)), "b": score(Volume(probability(b), NM), labels(b))}
    both = score(Volume(probability(np.concatenate([a, b])), NM), labels(np.concatenate([a, b])))
    pooled = with_pooled(scores)["pooled"].at(0.5)
    assert pooled.true_positive + pooled.false_negative == both.foreground_vx.sum()
    assert pooled.true_positive == scores["a"].at(0.5).true_positive + scores["b"].at(0.5).true_positive
    assert list(with_pooled({"a": scores["a"]})) == ["a"]


def test_a_threshold_of_k_255ths_is_k():
    """Whatever floating point makes of k / 255 * 255."""
    scores = score(
        Volume(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), NM), labels(np.ones((1, 16, 16), np.uint8))
    )
    assert [scores.at(k / 255).true_positive for k in range(1, 256)] == [256 - k for k in range(1, 256)]


def test_the_best_threshold_has_the_highest_f1():
    truth = blobs()
    scores = score(Volume(probability(truth) // 2, NM), labels(truth))
    assert scores.at(scores.best()).f1 == max(np.nan_to_num([scores.at(t).f1 for t in np.arange(1, 256) / 255]))
    assert scores.best() < 0.4


def test_segmentations_are_compared_as_they_are():
    truth = blobs()
    objects = ndimage.label(np.roll(truth, 1, axis=2))[0].astype(np.uint32)
    found = score(labels(objects), labels(truth)).at(0.5)
    assert found == counted(objects > 0, truth > 0, np.ones(truth.shape, bool))


@pytest.mark.parametrize(
    ("prediction", "options", "error", "words"),
    [
        (Volume(np.zeros((4, 4, 4), np.uint8), 7), {}, VoxelSizeMismatch, r"voxels of \[7.0, 7.0, 7.0\] nm"),
        (Volume(np.zeros((4, 4, 3), np.uint8), NM), {}, OutsideVolume, r"covers \[0:4, 0:4, 0:3\] of labels/mito"),
        (Volume(np.zeros((4, 4, 4), np.uint16), NM), {}, BadInput, "holds uint16.*segmentation=True"),
        (Volume(np.full((4, 4, 4), 2.5), NM), {}, AsemError, "values from 2.5 to 2.5.*logits"),
        (Volume(np.full((4, 4, 4), np.nan), NM), {}, AsemError, "values from nan to nan"),
        (Volume(np.zeros((4, 4, 4), np.uint8), NM), {"thresholds": [128]}, BadInput, "at most 1, got 128"),
        (
            Volume(np.zeros((4, 4, 4), np.uint8), NM),
            {"box": Box((0, 0, 0), (4, 4, 5))},
            OutsideVolume,
            "extends beyond",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(prediction, options, error, words):
    with pytest.raises(error, match=words):
        score(prediction, labels(np.zeros((4, 4, 4), np.uint8)), **options)


def test_scores_of_different_kinds_are_not_pooled():
    truth = labels(blobs())
    with pytest.raises(BadInput, match="Only scores of one kind can be pooled"):
        score(Volume(probability(truth.data), NM), truth) + score(truth, truth)


@attrs.frozen
class Shell:
    """The neighbours of the truth, as a preprocessor: a fitted one is its own output."""

    spec: Spec
    outside = 0

    @property
    def output(self):
        return self.spec

    def needs(self, box):
        return box.grow(1)

    def __call__(self, block, box):
        return (ndimage.binary_dilation(block) & (block == 0))[1:-1, 1:-1, 1:-1].astype(np.uint8)


@attrs.frozen
class ShellStep:
    name = "shell"

    def fit(self, volume, run):
        return Shell(volume.spec)


def test_an_exclusion_zone_is_computed_where_it_is_read():
    truth = labels(blobs())
    zone = exclusion_of(truth, ShellStep(), Run(progress=False))
    expected = ndimage.binary_dilation(truth.data) & (truth.data == 0)
    np.testing.assert_array_equal(zone.read(), expected)
    box = Box((3, 0, 7), (9, 20, 8))
    np.testing.assert_array_equal(zone.read(box), expected[box.slices])


def three_objects():
    truth = np.zeros((10, 20, 60), np.uint16)
    truth[2:8, 2:18, 2:14], truth[2:8, 2:18, 20:32], truth[2:8, 2:18, 40:52] = 11, 12, 13
    predicted = np.zeros_like(truth)
    predicted[2:8, 2:18, 5:32] = 3  # over 11 and 12, merged
    predicted[2:8, 2:18, 48:56] = 4  # a third of 13, and beyond
    predicted[0:2, 0:2, 58:60] = 5  # nothing there
    return labels(predicted), labels(truth)


def test_objects_are_found_missed_false_or_merged():
    objects = score_objects(*three_objects())
    assert objects.truth_id.tolist() == [11, 12, 13]
    np.testing.assert_allclose(objects.covered, [0.75, 1, 1 / 3])
    assert objects.false_id.tolist() == [5]
    assert objects.false_size_vx.tolist() == [8]
    assert objects.counts == Counts(2, 1, 1)
    assert objects.num_merged == 1
    assert score_objects(*three_objects(), min_overlap=0.3).counts == Counts(3, 1, 0)


@pytest.mark.parametrize("value", [1, 255])
def test_a_mask_of_any_value_has_the_objects_that_it_shows(value):
    """0 and 255 are a mask as 0 and 1 are; ids stay what they are."""
    truth, _ = three_objects()
    mask = labels((truth.read() > 0).astype(np.uint8) * value)
    numbered = number_objects(mask, mask, Run(progress=False, workers=1))
    assert score_objects(numbered, numbered).counts.true_positive == 3
    assert number_objects(truth, truth, Run(progress=False, workers=1)) is truth


def test_a_false_object_inside_the_zone_or_outside_the_mask_is_not_counted():
    predicted, truth = three_objects()
    zone, mask = np.zeros(truth.shape, np.uint8), np.ones(truth.shape, np.uint8)
    zone[0:2, 0:2, 58:60], mask[0:2, 0:2, 57:60] = 1, 0
    assert score_objects(predicted, truth, exclusion=labels(zone)).counts.false_positive == 0
    assert score_objects(predicted, truth, mask=labels(mask)).counts.false_positive == 0


def test_no_objects_at_all_is_not_an_error():
    nothing = labels(np.zeros((4, 4, 4), np.uint8))
    assert score_objects(nothing, nothing).counts == Counts(0, 0, 0)


@pytest.mark.parametrize("seed", [0, 1])
def test_instance_scores_equal_those_of_whole_volumes(seed, monkeypatch):
    """Added up over blocks, they equal scikit-image's on the whole, and plain counts of objects matched by IoU."""
    monkeypatch.setattr(evaluate, "BLOCK", (8, 16, 16))
    monkeypatch.setattr(evaluate, "PAIRS_WAITING", 10)
    rng = np.random.default_rng(seed)
    truth = ndimage.zoom(rng.integers(0, 9, (3, 5, 5)), 7, order=0).astype(np.uint64) * 2**40
    predicted = np.roll(truth, 2, axis=1).astype(np.uint32) + (truth >> 40).astype(np.uint32)
    predicted[:, 20:25] += rng.integers(0, 2, predicted[:, 20:25].shape).astype(np.uint32)
    found = score_objects(Labels(predicted, 5), Labels(truth, 5), run=Run(workers=1, progress=False)).instances
    as_int = truth.astype(np.int64) >> 40
    split, merge = variation_of_information(as_int, predicted.astype(np.int64), ignore_labels=[0])
    error, precision, recall = adapted_rand_error(as_int, predicted.astype(np.int64), ignore_labels=[0])
    assert (found.voi_split, found.voi_merge) == pytest.approx((split, merge))
    assert found.adapted_rand_error == pytest.approx(error)
    # scikit-image 0.26 gives them the other way round than its documentation says.
    assert sorted([found.rand_precision, found.rand_recall]) == pytest.approx(sorted([precision, recall]))

    ids = [np.unique(v[v > 0]) for v in (as_int, predicted)]
    overlaps = np.array(
        [
            [((as_int == t) & (predicted == p)).sum() / ((as_int == t) | (predicted == p)).sum() for p in ids[1]]
            for t in ids[0]
        ]
    )
    objects = overlaps.shape[0] + overlaps.shape[1]
    matched = overlaps[overlaps > 0.5]
    assert (found.num_truth, found.num_predicted, found.num_matched) == (*overlaps.shape, len(matched))
    assert found.panoptic_quality == pytest.approx(2 * matched.sum() / objects)
    assert found.average_precision_50 == pytest.approx(len(matched) / (objects - len(matched)))
    good = (overlaps >= 0.75).sum()
    assert found.average_precision_75 == pytest.approx(good / (objects - good))


def test_instance_scores_of_equal_objects_are_perfect_and_of_nothing_unknown():
    ids = np.repeat(np.arange(4, dtype=np.uint8), 50).reshape(2, 10, 10)
    best = score_objects(Labels(ids, 5), Labels(ids, 5)).instances
    assert (abs(best.voi), best.adapted_rand_error, best.panoptic_quality, best.average_precision_75) == (0, 0, 1, 1)
    none = score_objects(Labels(ids * 0, 5), Labels(ids * 0, 5)).instances
    assert np.isnan([none.voi, none.adapted_rand_error, none.panoptic_quality]).all()


def test_the_report_shows_every_region_and_the_pooled_score(tmp_path):
    a, b = blobs(seed=1), blobs(seed=2)
    regions = {n: score(Volume(probability(t), NM), labels(t)) for n, t in (("a", a), ("b", b))}
    parts = sections(regions, [0.5, 0.6], {"a": score_objects(*three_objects())})
    html = write_report(tmp_path, "Scores", parts, made_by={}).read_text()
    table = (tmp_path / "tables" / "scores.csv").read_text().splitlines()
    assert len(table) == 1 + 3 * 2
    assert '"pooled",0.6' in table[-1]
    assert "precision and recall" in html
    assert (tmp_path / "tables" / "true-objects.csv").exists()
