"""Watershed, random walker and threshold take the same seeds as the graph cut."""

from __future__ import annotations

import numpy as np
import pytest

from asem_annotators.graph_cut import GraphCut
from asem_annotators.random_walker import RandomWalker
from asem_annotators.threshold import Threshold
from asem_annotators.watershed import Watershed
from asem_core.blocks import Run
from asem_core.errors import BadInput
from asem_core.testing import AnnotatorKit, example_image
from asem_core.volume import Volume

QUIET = Run(progress=False)


class TestWatershed(AnnotatorKit):
    plugin = Watershed()


class TestWatershedOnGrey(AnnotatorKit):
    plugin = Watershed(landscape="grey")


class TestRandomWalker(AnnotatorKit):
    plugin = RandomWalker()


class TestThreshold(AnnotatorKit):
    plugin = Threshold(high=100.0)


def two_chambers() -> tuple[Volume, np.ndarray]:
    """A bright box parted by a dark wall, and one stroke in each half."""
    image = np.full((16, 16, 32), 160.0) + np.random.default_rng(0).normal(0, 3, (16, 16, 32))
    image[:, :, 14:17] = 60
    seeds = np.zeros(image.shape, np.uint8)
    seeds[8, 8, 2:6] = 1
    seeds[8, 8, 26:30] = 2
    return Volume(image.clip(0, 255).astype(np.uint8), 10), seeds


@pytest.mark.parametrize("annotator", [GraphCut(), Watershed(), Watershed(landscape="grey"), RandomWalker()])
def test_stops_at_the_wall(annotator) -> None:
    """Whichever annotator is chosen, the object fills its half and nothing of the other."""
    image, seeds = two_chambers()
    result = annotator.prepare(image, image.box, QUIET)(seeds)
    assert result[:, :, :13].mean() > 0.99
    assert result[:, :, 18:].mean() < 0.01


def test_threshold_keeps_what_object_seeds_touch() -> None:
    """With seeds only the connected part; without, everything in range."""
    image, seeds = two_chambers()
    prepared = Threshold(low=120.0).prepare(image, image.box, QUIET)
    assert prepared(seeds)[:, :, 18:].sum() == 0
    assert prepared(np.zeros_like(seeds))[:, :, 18:].mean() > 0.99


def test_threshold_needs_a_range() -> None:
    """Neither end, or a range upside down, is an error that shows what to write."""
    image = example_image()
    with pytest.raises(BadInput, match="give low, high or both"):
        Threshold().prepare(image, image.box, QUIET)
    with pytest.raises(BadInput, match=r"low \(9\) must not be more than high \(3\)"):
        Threshold(low=9, high=3)


def test_options_are_checked() -> None:
    """Smoothing by nothing, or a walk that nothing deters, is refused by name."""
    with pytest.raises(BadInput, match="sigma_nm must be more than 0"):
        Watershed(sigma_nm=0.0)
    with pytest.raises(BadInput, match="beta and tolerance must be more than 0"):
        RandomWalker(beta=0.0)
