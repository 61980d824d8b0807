"""Seeing a volume on a finer grid."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asem_core.cell.apply import apply_in_memory
from asem_core.errors import VoxelSizeMismatch
from asem_core.evaluation.scores import score
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.resample import box_covering, on_grid_of, whole_factors
from asem_preprocessors.downsample import Downsample


def test_a_ramp_stays_a_ramp():
    """Linear interpolation between voxel centres: a straight rise is straight on the finer grid, too."""
    coarse = Volume(np.tile(np.arange(8, dtype=np.float32), (4, 5, 1)), (20.0, 20.0, 20.0), (0.0, 0.0, 8.0))
    fine = on_grid_of(Volume(np.zeros((2, 2, 2)), (20.0, 20.0, 4.0)), coarse)
    assert fine.shape == (4, 5, 40)
    assert fine.voxel_size_nm == (20.0, 20.0, 4.0)
    assert fine.origin_nm == (0.0, 0.0, 0.0)
    row = fine.read()[0, 0]
    assert row[2:-2] == pytest.approx((np.arange(2, 38) + 0.5) / 5 - 0.5)
    assert row[:2].tolist() == [0, 0]
    assert row[-2:].tolist() == [7, 7]


@settings(max_examples=30, deadline=None)
@given(
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    factor=st.tuples(*[st.integers(1, 4)] * 3),
    labels=st.booleans(),
    data=st.data(),
)
def test_any_box_equals_the_whole(shape, factor, labels, data):
    """Voxels do not depend on the box that they are read in; ids are only divided."""
    values = np.random.default_rng(0).integers(0, 255, shape, dtype=np.uint8)
    coarse = (Labels if labels else Volume)(values, tuple(4.0 * f for f in factor))
    fine = on_grid_of(Volume(np.zeros((1, 1, 1)), 4.0), coarse)
    whole = fine.read()
    begin = [data.draw(st.integers(0, n - 1)) for n in fine.shape]
    end = [data.draw(st.integers(b + 1, n)) for b, n in zip(begin, fine.shape, strict=True)]
    box = Box(begin, end)
    assert np.array_equal(fine.read(box), whole[box.slices])
    if labels:
        assert np.array_equal(whole, values.repeat(factor[0], 0).repeat(factor[1], 1).repeat(factor[2], 2))
    assert np.array_equal(apply_in_memory(Downsample(factor=factor), fine).read(), values) or not labels


@pytest.mark.parametrize(
    ("box", "factor", "expected"),
    [
        (Box((0, 4, 8), (4, 8, 20)), 4, Box((0, 1, 2), (1, 2, 5))),
        (Box((1, 4, 8), (2, 9, 20)), 3, Box((0, 1, 2), (1, 3, 7))),  # rounded outwards
        (Box((1, 4, 8), (2, 9, 20)), 1, Box((1, 4, 8), (2, 9, 20))),
        (Box((0, 0, 18), (20, 20, 20)), (1, 2, 8), Box((0, 0, 2), (20, 10, 3))),  # the last voxel sticks out
    ],
)
def test_a_box_is_found_again_among_larger_voxels(box, factor, expected):
    """It takes up the same space, wherever the image begins."""
    fine = Volume(np.zeros((20, 20, 20), np.uint8), (5.0, 4.3, 4.0), (1e5, -7.1, 3.3))
    coarse = apply_in_memory(Downsample(factor=factor), fine)
    assert box_covering(coarse, fine.crop(box)) == expected


def test_equal_voxels_are_left_alone():
    volume = Volume(np.zeros((2, 2, 2)), 4.0)
    assert on_grid_of(Volume(np.zeros((9, 9, 9)), 4.0), volume) is volume


def test_voxels_that_do_not_divide_are_refused():
    with pytest.raises(VoxelSizeMismatch, match=r"not whole multiples of the \[4.0, 4.0, 4.0\] nm of fine"):
        on_grid_of(Volume(np.zeros((2, 2, 2)), 4.0, path="fine"), Volume(np.zeros((2, 2, 2)), 10.0))
    with pytest.raises(VoxelSizeMismatch):  # finer than the grid asked for
        on_grid_of(Volume(np.zeros((2, 2, 2)), 8.0), Volume(np.zeros((2, 2, 2)), 4.0))


def test_whole_factors():
    assert whole_factors((30, 24, 24), (30, 6, 6)) == (1, 4, 4)
    assert whole_factors((30, 24, 24), (30, 7, 7)) is None
    assert whole_factors((8, 8, 8), (4.2, 4.2, 4.2), tolerance=0.15) == (2, 2, 2)


def test_a_prediction_at_larger_voxels_is_scored_on_the_grid_of_the_truth():
    """A prediction made at four times larger pixels that is right there is right on the fine truth, too."""
    truth = np.zeros((4, 32, 32), np.uint8)
    truth[:, 8:24, 8:24] = 1
    fine = Labels(truth, (30.0, 6.0, 6.0))
    coarse = apply_in_memory(Downsample(factor=(1, 4, 4)), Volume(truth * 255, fine.voxel_size_nm))
    counts = score(coarse, fine).at(0.5)
    assert counts.f1 > 0.98  # the corners of a linear interpolation are round
    assert counts.true_positive + counts.false_negative == truth.sum()
