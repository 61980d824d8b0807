"""Connected components over blocks are those of the whole volume."""

from functools import partial

import cc3d
import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.volume import Box
from asem_core.voxels.components import components

QUIET = Run(progress=False)


def part(mask, box):
    return mask[box.slices]


def whole(mask, connectivity):
    """Label the whole mask at once, ids in the order of first voxels."""
    labels = cc3d.connected_components(mask, connectivity=connectivity)
    ids, first = np.unique(labels, return_index=True)
    new = np.zeros(labels.max() + 1, np.int64)
    new[[i for i in ids[np.argsort(first)] if i]] = np.arange(1, labels.max() + 1)
    return new[labels]


@pytest.mark.parametrize("connectivity", [6, 26])
@pytest.mark.parametrize("block", [(7, 5, 9), (24, 20, 22), (4, 4, 4)])
@pytest.mark.parametrize("density", [0.03, 0.12, 0.3])
def test_components_equal_those_of_the_whole_mask(connectivity, block, density):
    mask = np.random.default_rng(3).random((24, 20, 22)) < density
    expected = whole(mask, connectivity)
    found = components(partial(part, mask), Box.of_shape(mask.shape), block, QUIET, connectivity)
    labels = np.zeros(mask.shape, np.int64)
    for tile in Box.of_shape(mask.shape).blocks(block):
        labels[tile.slices] = found.read(tile)
    np.testing.assert_array_equal(labels, expected)
    np.testing.assert_array_equal(found.voxels, np.bincount(expected.ravel())[1:])
    for row in range(len(found)):
        at = np.argwhere(expected == row + 1)
        assert found.begin[row].tolist() == at.min(axis=0).tolist()
        assert found.end[row].tolist() == (at.max(axis=0) + 1).tolist()
        touches = (at == 0).any() or (at == np.array(mask.shape) - 1).any()
        assert found.touches_border[row] == touches


def test_objects_of_different_values_stay_apart():
    """Two touching objects with different numbers in the mask are two objects, and keep their number as `value`."""
    mask = np.zeros((6, 6, 12), np.uint8)
    mask[1:4, 1:4, 1:6], mask[1:4, 1:4, 6:11] = 2, 5
    found = components(partial(part, mask), Box.of_shape(mask.shape), (4, 4, 4), QUIET)
    assert found.value.tolist() == [2, 5]
    assert found.voxels.tolist() == [45, 45]
    assert not found.touches_border.any()


def test_select_drops_objects_and_renumbers():
    mask = np.zeros((8, 8, 8), bool)
    mask[0, 0, 0], mask[3:6, 3:6, 3:6], mask[7, 7, 7] = True, True, True
    found = components(partial(part, mask), Box.of_shape(mask.shape), (5, 5, 5), QUIET)
    large = found.select(found.voxels > 1)
    assert len(large) == 1
    assert large.read(Box((0, 0, 0), (5, 5, 5)))[4, 4, 4] == 1
    assert large.read(Box((0, 0, 0), (5, 5, 5)))[0, 0, 0] == 0
    assert large.read(Box((5, 5, 5), (8, 8, 8))).sum() == 1


def test_two_workers_and_a_box_inside_the_volume_give_the_same():
    mask = np.random.default_rng(5).random((20, 20, 20)) < 0.15
    box = Box((2, 3, 4), (18, 20, 19))
    one = components(partial(part, mask), box, (6, 6, 6), QUIET)
    two = components(partial(part, mask), box, (9, 8, 5), Run(workers=2, progress=False))
    np.testing.assert_array_equal(one.voxels, two.voxels)
    np.testing.assert_array_equal(one.begin, two.begin)
    expected = whole(mask[box.slices], 26)
    first = Box(box.begin, (8, 9, 10))
    np.testing.assert_array_equal(one.read(first), expected[:6, :6, :6])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int16", "uint64"])
@pytest.mark.parametrize("block", [(7, 5, 9), (16, 16, 16)])
def test_background_is_objects_too_with_their_neighbours(dtype, block):
    """Pieces of each value, of 0 as well, and which of them share a face: those of the whole volume, also for the last number."""
    values = np.random.default_rng(4).choice([0, 0, 1, 1, 2], (14, 13, 15))
    mask = (values > 0) if dtype == "bool" else values.astype(dtype)
    if dtype != "bool":
        mask[values == 2] = -1 if dtype == "int16" else np.iinfo(dtype).max
    expected = whole(np.unique(mask, return_inverse=True)[1].reshape(mask.shape) + 1, 6)
    found = components(partial(part, mask), Box.of_shape(mask.shape), block, QUIET, 6, background=True)
    everywhere = Box.of_shape(mask.shape)
    np.testing.assert_array_equal(found.read(everywhere), expected)
    np.testing.assert_array_equal(found.voxels, np.bincount(expected.ravel())[1:])
    np.testing.assert_array_equal(np.concatenate([[0], found.value])[expected].astype(mask.dtype), mask)
    touching = set()
    for axis in range(3):
        a, b = np.delete(expected, -1, axis), np.delete(expected, 0, axis)
        touching |= {tuple(sorted(pair)) for pair in zip(a[a != b] - 1, b[a != b] - 1, strict=True)}
    assert {tuple(pair) for pair in found.neighbours.tolist()} == touching

    kept = found.select(found.value == 0)
    assert len(kept.neighbours) == 0
    np.testing.assert_array_equal(kept.read(everywhere) > 0, mask == 0)


def test_any_box_can_be_painted():
    """Boxes across blocks and inside one: each voxel has the value of its object; all alike, as in the mask, or neither."""
    mask = np.random.default_rng(8).random((12, 13, 14)) < 0.4
    everywhere = Box.of_shape(mask.shape)
    found = components(partial(part, mask), everywhere, (5, 4, 6), QUIET, 6, background=True)
    ids = found.read(everywhere)
    for values in (np.arange(len(found) + 1) * 3, np.full(len(found) + 1, 7), np.concatenate([[0], found.value])):
        for box in (Box((1, 2, 3), (11, 12, 13)), Box((5, 4, 6), (10, 8, 12)), Box((6, 5, 7), (8, 7, 9))):
            np.testing.assert_array_equal(found.paint(box, values), values[ids][box.slices])


def test_neighbours_are_grouped():
    """Joined are those that touch, directly or through others, and are among those asked for."""
    mask = np.zeros((3, 3, 12), np.uint8)
    for x, value in enumerate((1, 1, 2, 2, 3, 0, 0, 4, 5, 0, 6, 6)):
        mask[:, :, x] = value
    found = components(partial(part, mask), Box.of_shape(mask.shape), (3, 3, 5), QUIET, 6, background=True)
    groups = found.groups(found.value > 0)
    of = {int(v): int(g) for v, g in zip(found.value, groups, strict=True) if v}
    assert of[1] == of[2] == of[3]
    assert of[4] == of[5]
    assert len({of[1], of[4], of[6]}) == 3


def test_an_empty_mask_has_no_objects():
    found = components(partial(part, np.zeros((9, 9, 9), bool)), Box.of_shape((9, 9, 9)), (4, 4, 4), QUIET)
    assert len(found) == 0
    assert found.read(Box((0, 0, 0), (4, 4, 4))).sum() == 0


def test_a_killed_run_goes_on_from_its_scratch_folder(tmp_path):
    """Blocks that left their findings in the scratch folder are not labelled again."""
    mask = np.random.default_rng(6).random((12, 12, 12)) < 0.2
    box, run = Box.of_shape(mask.shape), Run(scratch=tmp_path, progress=False)
    once = components(partial(part, mask), box, (6, 6, 6), run)
    again = components(partial(part, mask), box, (6, 6, 6), run)
    np.testing.assert_array_equal(once.voxels, again.voxels)
