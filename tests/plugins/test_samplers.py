"""Samplers: the published rejection rule, compared with brute force."""

from __future__ import annotations

from collections import Counter
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asem_core.errors import BadInput, RecipeError
from asem_core.interfaces import Region
from asem_core.testing import SamplerKit
from asem_core.volume import Box, Labels, Volume
from asem_samplers.balanced import Balanced, RegionCounts
from asem_samplers.touching import Touching, contacts_of
from asem_samplers.uniform import Uniform


class TestBalanced(SamplerKit):
    plugin = Balanced()


class TestBalancedInside(SamplerKit):
    plugin = Balanced(inside=True)


class TestUniform(SamplerKit):
    plugin = Uniform()


class TestTouching(SamplerKit):
    plugin = Touching()


def region(labels: np.ndarray, mask: np.ndarray | None = None, name: str = "r") -> Region:
    raw = Volume(np.zeros(labels.shape, np.uint8), 5.0)
    return Region(name, raw, Labels(labels, 5.0), None if mask is None else Labels(mask, 5.0))


def brute_force(labels: np.ndarray, mask: np.ndarray | None, box: Box) -> tuple[float, float]:
    """Fractions of foreground and of unannotated voxels, voxel by voxel."""
    known = np.ones(labels.shape, bool) if mask is None else mask != 0
    annotated = Volume(known.astype(np.uint8), 5.0).read(box, outside=0)
    foreground = Volume(((labels != 0) & known).astype(np.uint8), 5.0).read(box, outside=0)
    return foreground.sum() / box.size, 1 - annotated.sum() / box.size


def test_boxes_may_be_drawn_inside_only() -> None:
    """The published program's way: no box extends beyond a region that it fits into; by the text's rule some do."""
    rng = np.random.default_rng(0)
    regions = [region(np.ones((20, 24, 8), np.uint8)), region(np.ones((30, 16, 16), np.uint8))]
    drawn = {way: list(islice(Balanced(inside=way).boxes(regions, (12, 12, 12), rng), 400)) for way in (True, False)}

    def sticking(box: Box, index: int) -> bool:
        return not regions[index].labels.box.contains(box)

    assert not any(sticking(box, index) for index, box in drawn[True] if index == 1)
    assert all(box.begin[2] <= 0 and box.end[2] >= 8 for index, box in drawn[True] if index == 0)
    begins = {box.begin for index, box in drawn[True] if index == 1}
    assert {b[1] for b in begins} == set(range(5))
    assert {0, 18} <= {b[0] for b in begins}
    assert any(sticking(box, index) for index, box in drawn[False] if index == 1)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    size=st.tuples(*[st.integers(1, 9)] * 3),
    shape=st.tuples(*[st.integers(1, 6)] * 3),
    masked=st.booleans(),
)
def test_counts_equal_brute_force(
    seed: int, size: tuple[int, int, int], shape: tuple[int, int, int], masked: bool
) -> None:
    """For every place of a box, inside or sticking out, the table of sums gives the counted fractions."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 3, size).astype(np.uint16)
    mask = (rng.random(size) < 0.7).astype(np.uint8) if masked else None
    begins = np.array(list(np.ndindex(*[n + s for n, s in zip(size, shape, strict=True)]))) - shape
    foreground, outside = RegionCounts.of(region(labels, mask)).fractions(begins, shape)
    for begin, f, o in zip(begins, foreground, outside, strict=True):
        expected = brute_force(labels, mask, Box.of_shape(shape).shift(tuple(int(b) for b in begin)))
        assert (f, o) == pytest.approx(expected, abs=1e-12)


def test_places_follow_the_rule() -> None:
    """Each place is accepted as often as the rule says: its chance is that of a poor, an outer, or a good box."""
    rng = np.random.default_rng(0)
    labels = np.zeros((1, 6, 6), np.uint8)
    labels[0, 2:, 4:] = 1
    plugin = Balanced(least_foreground=0.3, reject_little_foreground=0.8, most_outside=0.25, reject_outside=0.9)
    shape = (1, 3, 3)
    weights = {}
    for y in range(6):
        for x in range(6):
            box = Box.of_shape(shape).shift((0, y - 1, x - 1))
            foreground, outside = brute_force(labels, None, box)
            weights[box.begin] = (0.2 if foreground < 0.3 else 1.0) * (0.1 if outside > 0.25 else 1.0)
    total, number = sum(weights.values()), 40_000
    found = Counter(box.begin for _, box in islice(plugin.boxes([region(labels)], shape, rng), number))
    assert set(found) <= set(weights)
    for begin, weight in weights.items():
        expected = number * weight / total
        assert abs(found[begin] - expected) < 5 * np.sqrt(expected) + 1


def test_regions_are_drawn_by_size() -> None:
    """A region eight times larger is drawn eight times as often."""
    regions = [region(np.ones((8, 8, 8), np.uint8)), region(np.ones((16, 16, 16), np.uint8))]
    for plugin in (Uniform(), Balanced(reject_outside=0.0)):
        drawn = Counter(i for i, _ in islice(plugin.boxes(regions, (2, 2, 2), np.random.default_rng(0)), 9000))
        assert drawn[1] / drawn[0] == pytest.approx(8, rel=0.15)


def test_uniform_boxes_lie_inside_or_around() -> None:
    """Where the region is long enough the box lies in it; where not, it covers it."""
    small = region(np.ones((3, 20, 20), np.uint8))
    for _, box in islice(Uniform().boxes([small], (5, 4, 4), np.random.default_rng(0)), 200):
        assert box.begin[0] <= 0
        assert box.end[0] >= 3
        assert min(box.begin[1:]) >= 0
        assert max(box.end[1:]) <= 20


def test_contacts_are_those_counted_voxel_by_voxel() -> None:
    """Every pair of objects that share a face, across slabs, too; background and what is masked out touch nothing."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (66, 5, 6)).astype(np.uint16)
    mask = (rng.random(labels.shape) < 0.8).astype(np.uint8)
    expected: dict[tuple[int, int], int] = {}
    seen = np.where(mask, labels, 0).astype(int)
    for at in np.ndindex(seen.shape):
        for axis in range(3):
            there = tuple(a + (i == axis) for i, a in enumerate(at))
            if there[axis] < seen.shape[axis] and 0 < seen[at] != seen[there] > 0:
                pair = tuple(sorted((seen[at], seen[there])))
                expected[pair] = expected.get(pair, 0) + 1  # type: ignore[index,arg-type]
    found = contacts_of(region(labels, mask), rng)
    assert sorted(map(len, found)) == sorted(expected.values())


def test_pairs_that_touch_are_drawn_alike() -> None:
    """A box in so many holds a contact, of a large or of a small one; the others are those of `balanced`."""
    labels = np.zeros((8, 40, 60), np.uint8)
    labels[:, :, :30], labels[:, :, 30:50], labels[2, 3, 50] = 1, 2, 3
    places = region(labels)
    rng = np.random.default_rng(0)
    drawn = [box for _, box in islice(Touching(share=1.0).boxes([places], (4, 4, 4), rng), 2000)]
    ids = [set(np.unique(places.labels.read(box, outside="reflect")).tolist()) - {0} for box in drawn]
    assert all(len(found) > 1 for found in ids)
    assert np.mean([3 in found for found in ids]) == pytest.approx(0.5, abs=0.05)
    alone = region((labels == 1).astype(np.uint8))
    one, other = (
        [box for _, box in islice(plugin.boxes([alone], (4, 4, 4), np.random.default_rng(1)), 20)]
        for plugin in (Touching(share=0.9), Balanced())
    )
    assert one == other


def test_a_rule_that_nothing_meets_is_an_error() -> None:
    """Instead of trying for ever, the sampler says what to change."""
    plugin = Balanced(reject_outside=1.0)
    with pytest.raises(BadInput, match="lower reject_outside"):
        next(plugin.boxes([region(np.ones((2, 2, 2), np.uint8))], (8, 8, 8), np.random.default_rng(0)))


def test_wrong_options_are_refused() -> None:
    """A probability above 1 is told at once."""
    with pytest.raises(RecipeError, match=r"reject_outside is 1\.5"):
        Balanced(reject_outside=1.5)
