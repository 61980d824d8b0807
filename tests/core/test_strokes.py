"""Strokes are labels: what was painted is object or background, all else is unknown to whoever learns or scores."""

from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import open_annotation
from asem_core.errors import BadInput
from asem_core.evaluation.scores import score
from asem_core.interfaces import Region
from asem_core.run_folder import RunFolder
from asem_core.stages.annotate import Layer
from asem_core.stages.annotated import places_of
from asem_core.stages.evaluate import open_truth
from asem_core.stages.plan import PlanOptions, plan
from asem_core.stages.train import read_training_recipe, set_up
from asem_core.testing import SamplerKit
from asem_core.training.options import RegionOptions
from asem_core.training.regions import IGNORE, open_region, read_target
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.strokes import apart, parts_of
from asem_samplers.annotated import AroundAnnotated
from asem_samplers.balanced import Balanced

from .test_plan import SHAPE, balls, grey_of, write


class TestAroundAnnotated(SamplerKit):
    plugin = AroundAnnotated()


def paint(cell: Path, layer: str, values: np.ndarray, known: np.ndarray | None = None) -> None:
    """Write into a layer as the window does, with its place the whole image."""
    from asem_core.cell.store import open_volume

    with Layer.open(cell / layer, open_volume(cell / "raw")) as opened:
        opened.write(opened.volume.box, values, known)


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """Balls; one plane painted with a few strokes, a far corner with others, and a box that was cut."""
    folder, objects = tmp_path / "cell.zarr", balls(7)
    write(folder / "raw", grey_of(objects))
    strokes = np.zeros(SHAPE, np.uint8)
    strokes[10, 16, 12:20] = 1
    strokes[10, 4, 30:60] = 2
    strokes[38, 60:63, 60] = 2
    paint(folder, "seeds/mito", strokes)
    return folder


def test_strokes_alone_train_and_score(cell: Path, tmp_path: Path) -> None:
    """A name that has only strokes is learnt from; what is not painted is in no target and in no score."""
    (place,) = places_of([cell], "mito")
    assert place.labels == cell / "seeds/mito"
    region = open_region(RegionOptions(str(place.raw), str(place.labels)), "r", load_catalog(), tmp_path)
    target = read_target(region, region.labels.box, exclude=True)
    assert Counter(target.ravel().tolist()) == {1: 8, 0: 33, IGNORE: target.size - 41}
    truth = open_truth(str(cell / "seeds/mito"))
    found = score(Volume(np.full(SHAPE, 255, np.uint8), 8.0), truth, run=Run(progress=False)).at(0.5)
    assert (found.precision, found.recall) == (8 / 41, 1)


def test_strokes_lie_over_labels(cell: Path, tmp_path: Path) -> None:
    """In a box that was cut, a stroke counts more than the cut; outside of both nothing is known."""
    cut, known = np.ones(SHAPE, np.uint8), np.zeros(SHAPE, bool)
    known[8:12, :8] = True
    paint(cell, "labels/mito", cut, known)
    (place,) = places_of([cell], "mito")
    assert (place.labels, place.strokes) == (cell / "labels/mito", cell / "seeds/mito")
    options = RegionOptions(str(place.raw), str(place.labels), strokes=str(place.strokes))
    region = open_region(options, "r", load_catalog(), tmp_path)
    begin = region.raw.box_of(region.labels).begin
    whole = Box.of_shape(SHAPE).shift([-b for b in begin])
    target = read_target(region, whole, exclude=True)
    assert (target[10, 4, 30:60] == 0).all(), "painted as background"
    assert (target[10, 16, 12:20] == 1).all(), "painted outside of the box"
    assert (target[10, 5] == 1).all(), "cut"
    assert np.count_nonzero(target != IGNORE) == known.sum() + 8 + 3


def test_strokes_are_neither_cleaned_nor_lost_at_larger_voxels(cell: Path, tmp_path: Path) -> None:
    """The model's clean-up would remove strokes; averaging by the most frequent value, too."""
    catalog = load_catalog()
    text = plan(
        places_of([cell], "mito"), catalog.get("model", "mitochondria"), catalog, PlanOptions(iterations=2)
    ).text
    path = tmp_path / "r.toml"
    path.write_text(text.replace("prepare_labels = false", "prepare_labels = true"))
    setup = set_up(read_training_recipe(path, catalog), catalog, RunFolder(tmp_path / "run"))
    every = [*setup.regions, *setup.validation]
    painted = [read_target(r, r.labels.box, exclude=True) for r in every]
    assert sum(int((t == 1).sum()) for t in painted) == 8
    assert all(r.exclusion is None for r in every)
    options = RegionOptions(str(cell / "raw"), str(cell / "seeds/mito"))
    coarse = open_region(options, "r", catalog, tmp_path, (2, 2, 2))
    target = read_target(coarse, coarse.labels.box, exclude=True)
    assert Counter(target[target != IGNORE].tolist()) == {1: 4, 0: 15 + 2}


def test_strokes_far_apart_are_parts_of_their_own() -> None:
    """What lies between is not read; boxes that meet are one."""
    strokes = np.zeros((20, 200, 200), np.uint8)
    strokes[3, 5:9, 5] = strokes[10, 60:70, 66] = 1
    strokes[19, 195, 195] = 1
    labels = Labels(strokes, 5.0, known=Volume(strokes, 5.0))
    assert parts_of(labels) == [Box((3, 5, 5), (11, 70, 67)), Box((19, 195, 195), (20, 196, 196))]
    one, two, far = (Box((a, 0, 0), (a + 5, 5, 5)) for a in (0, 4, 9))
    assert apart([one, far, two]) == [far, Box((0, 0, 0), (9, 5, 5))]


def region(labels: np.ndarray, known: np.ndarray) -> Region:
    raw = Volume(np.zeros(labels.shape, np.uint8), 5.0)
    return Region("r", raw, Labels(labels.astype(np.uint8), 5.0), Labels(known.astype(np.uint8), 5.0))


def test_blocks_are_drawn_around_strokes() -> None:
    """Each holds a stroke, at any place in it; object as often as background, though it is rare; a region twice counts twice."""
    labels, known = np.zeros((30, 60, 60), bool), np.zeros((30, 60, 60), bool)
    labels[15, 20, 20:22] = known[15, 20, 20:22] = True
    known[5, 50, 10:50] = True
    few = np.zeros((30, 60, 60), bool)
    few[2, 2, 2:4] = True
    regions = [region(labels, known), region(few, few), region(few, few)]
    drawn = list(islice(AroundAnnotated().boxes(regions, (6, 8, 8), np.random.default_rng(0)), 3000))
    held = Counter()
    for index, box in drawn:
        inside = box & regions[index].labels.box
        values = regions[index].mask.read(inside) != 0  # type: ignore[union-attr]
        assert values.any()
        held["object" if (regions[index].labels.read(inside) != 0).any() else "background", index] += 1
    assert held["background", 0] == pytest.approx(1500, rel=0.1)
    assert held["object", 1] + held["object", 2] == pytest.approx(2 * held["object", 0], rel=0.15)
    assert len({box.begin for i, box in drawn if i == 1}) > 200


def test_no_sampler_draws_a_block_without_annotation() -> None:
    known = np.zeros((10, 90, 90), bool)
    known[5, 40:50, 40:44] = True
    labels = known.copy()
    for sampler in (Balanced(least_foreground=0, most_outside=1), AroundAnnotated()):
        for _, box in islice(sampler.boxes([region(labels, known)], (4, 12, 12), np.random.default_rng(0)), 100):
            assert known[(box & Box.of_shape(known.shape)).slices].any()
    with pytest.raises(BadInput, match="Nothing is annotated"):
        next(AroundAnnotated().boxes([region(labels, ~np.ones_like(known))], (4, 12, 12), np.random.default_rng(0)))


def test_seeds_hold_classes_where_they_are_painted(cell: Path) -> None:
    """Strokes as labels: 1 is object, 2 background, 0 unknown."""
    labels = open_annotation(cell / "seeds/mito")
    assert set(np.unique(labels.read())) == {0, 1}
    assert int(labels.known_in(labels.box).sum()) == 41
