"""Boxes and volumes: places, units, and reading outside the image."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asem_core.errors import BadInput, OutsideVolume, ShapeMismatch, VoxelSizeMismatch
from asem_core.volume import Box, Labels, Volume

triples = st.tuples(*[st.integers(1, 9)] * 3)


def volume(shape: tuple[int, int, int] = (3, 4, 5), origin: tuple[float, float, float] = (0, 0, 0)) -> Volume:
    return Volume(np.arange(np.prod(shape), dtype=np.uint16).reshape(shape), (10.0, 5.0, 5.0), origin)


@given(shape=triples, before=st.tuples(*[st.integers(0, 12)] * 3), after=st.tuples(*[st.integers(0, 12)] * 3))
def test_reflect_equals_numpy(shape: tuple[int, int, int], before: tuple[int, ...], after: tuple[int, ...]) -> None:
    """Reading beyond the border by reflection equals numpy's padding of the whole volume."""
    v = volume(shape)
    box = Box([-b for b in before], [n + a for n, a in zip(shape, after, strict=True)])
    expected = np.pad(v.read(), list(zip(before, after, strict=True)), mode="reflect")
    np.testing.assert_array_equal(v.read(box, outside="reflect"), expected)


def test_constant_outside() -> None:
    """A constant fills what lies outside, even for a box that misses the image."""
    v = volume()
    assert v.read(Box((-1, 0, 0), (1, 1, 1)), outside=7).ravel().tolist() == [7, 0]
    assert (v.read(Box((90, 0, 0), (91, 2, 2)), outside=7) == 7).all()


def test_outside_is_an_error_unless_allowed() -> None:
    """Without a policy, a box that sticks out is refused, with both shapes in the message."""
    with pytest.raises(OutsideVolume, match=r"\[-1:1, 0:1, 0:1\] extends beyond .* \[3, 4, 5\]"):
        volume().read(Box((-1, 0, 0), (1, 1, 1)))


@settings(max_examples=50)
@given(shape=triples, block=triples)
def test_blocks_tile(shape: tuple[int, int, int], block: tuple[int, int, int]) -> None:
    """The blocks of a box cover each of its voxels once."""
    count = np.zeros(shape, int)
    for tile in Box.of_shape(shape).blocks(block):
        count[tile.slices] += 1
    assert (count == 1).all()


def test_crop_keeps_its_place() -> None:
    """A crop's origin moves along in nm, so it can be found again in the whole."""
    v = volume(origin=(100, 0, 0))
    part = v.crop(Box((1, 2, 0), (3, 4, 5)))
    assert part.origin_nm == (110, 10, 0)
    assert v.box_of(part) == Box((1, 2, 0), (3, 4, 5))
    np.testing.assert_array_equal(part.read(), v.read()[1:3, 2:4])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(part)).read(), part.read())


def test_grids_that_do_not_fit() -> None:
    """Volumes off by shape, voxel size or a fraction of a voxel are refused with both sides named."""
    v = volume()
    with pytest.raises(VoxelSizeMismatch, match="5.0, 5.0, 5.0"):
        v.require_same_grid(Volume(v.data, 5.0))
    with pytest.raises(ShapeMismatch, match=r"\[2, 4, 5\]"):
        v.require_same_grid(volume((2, 4, 5)))
    with pytest.raises(ShapeMismatch, match="cropped differently"):
        v.require_same_grid(volume(origin=(10, 0, 0)))
    with pytest.raises(ShapeMismatch, match="not a whole number"):
        v.box_of(volume(origin=(3, 0, 0)))


@pytest.mark.parametrize("size", [0, -5, float("nan"), (5, 5), (5, 5, 0)])
def test_bad_voxel_size(size: object) -> None:
    """Zero, negative, missing or too few numbers are no voxel size."""
    with pytest.raises(BadInput, match="voxel size"):
        Volume(np.zeros((2, 2, 2)), size)  # type: ignore[arg-type]


def test_labels_are_whole_numbers() -> None:
    """A probability map is not taken for labels."""
    with pytest.raises(BadInput, match="labels are whole numbers"):
        Labels(np.zeros((2, 2, 2), np.float32), 5.0)


@pytest.mark.parametrize(
    ("text", "box"), [("0:2,:,3", Box((0, 0, 3), (2, 4, 4))), (" 1:,:2,: ", Box((1, 0, 0), (3, 2, 5)))]
)
def test_parse_box(text: str, box: Box) -> None:
    """Boxes are written as slices; an empty side is the volume's own."""
    assert Box.parse(text, (3, 4, 5)) == box


@pytest.mark.parametrize("text", ["", "1:2", "a:b,0:1,0:1", "2:1,:,:"])
def test_parse_bad_box(text: str) -> None:
    """What is not a box is refused with an example."""
    with pytest.raises(BadInput, match="box"):
        Box.parse(text, (3, 4, 5))
