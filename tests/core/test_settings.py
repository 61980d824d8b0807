"""Settings chosen from the labels: what is measured, and what follows from it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from asem_core.catalog import load_catalog
from asem_core.interfaces import Region
from asem_core.recipe import build
from asem_core.stages.plan import _in_time
from asem_core.training.fingerprint import fingerprint
from asem_core.training.settings import (
    CHECKPOINT_COST,
    MIRRORS_COST,
    Setting,
    Settings,
    choose_settings,
    downsampling,
    even_odds,
    finer,
    iterations,
    layout,
    num_checkpoints,
    smallest_object,
    threshold,
    touching,
    watched_part,
)
from asem_core.volume import Box, Labels

sys.path.insert(0, str(Path(__file__).parent))
from planned_cell import SHAPE, balls, found, region


def test_fingerprint_measures_balls() -> None:
    """Balls of 14 voxels are about as thick, in nm (their jagged surface takes off some); pieces and share are counted."""
    objects = balls(7)
    about = fingerprint([region(objects, (8, 8, 8))])
    assert about.thickness_nm == pytest.approx(100, abs=20)
    assert (about.num_objects, about.num_planes, about.num_annotated_vx) == (4, 40, objects.size)
    assert about.foreground_fraction == pytest.approx(objects.mean())
    assert about.contrast > 2


def test_fingerprint_looks_only_at_what_is_annotated() -> None:
    """A border of the annotation makes no object thin, and what lies beyond is no background."""
    objects, mask = balls(7), np.zeros(SHAPE, bool)
    mask[:, :, :20] = True  # through the middle of balls
    about = fingerprint([region(objects, (8, 8, 8), mask)])
    assert about.num_annotated_vx == mask.sum()
    assert about.foreground_fraction == pytest.approx((objects & mask).sum() / mask.sum())
    assert about.thickness_nm > 80


def test_planes_that_lie_far_apart_are_measured_in_the_plane() -> None:
    """A cylinder across planes 50 nm apart is as thick as its outline."""
    y, x = np.indices(SHAPE[1:])
    disk = (y - 32) ** 2 + (x - 32) ** 2 < 15**2
    objects = np.zeros(SHAPE, bool)
    objects[18:20] = disk
    assert fingerprint([region(objects, (50, 5, 5))]).thickness_nm == pytest.approx(150, abs=15)


def test_pixels_are_averaged_only_where_objects_stay_thick_enough() -> None:
    boxes = [Box((0, 0, 0), (100, 100, 100)), Box((7, 7, 7), (27, 37, 37))]
    for factors, changes in [
        ([1, 1, 1], {"thickness_nm": 24.0}),
        ([4, 4, 4], {"thickness_nm": 160.0}),
        ([1, 4, 4], {"voxel_size_nm": (30, 6, 6), "thickness_nm": 110.0}),
        ([4, 4, 4], {"voxel_size_nm": (5, 5, 5), "thickness_nm": 1e4}),
    ]:
        assert downsampling(found(**changes), boxes).value == factors
    assert downsampling(found(thickness_nm=160.0), [Box((9, 0, 0), (10, 64, 3))]).value == [1, 2, 2], "one is whole"


def test_templates_follow_the_planes() -> None:
    assert layout(found(), (1, 1, 1))[0] == "isotropic"
    assert layout(found(voxel_size_nm=(30, 6, 6)), (1, 4, 4))[0] == "anisotropic"
    assert layout(found(voxel_size_nm=(100, 10, 10), plane_correlation=0.2), (1, 2, 2))[0] == "planes"
    assert layout(found(planes_together=1), (1, 1, 1))[0] == "planes"


@pytest.mark.parametrize("number", [1, 3, 7])
def test_what_is_watched_never_touches_what_is_learnt(number: int) -> None:
    """And it holds object: of many boxes whole ones, of few an end of the largest."""
    boxes = [Box((40 * i, 0, 0), (40 * i + 30, 60, 60)) for i in range(number)]
    profiles = [[np.full(30, 50), np.full(60, 25), np.full(60, 25)] for _ in boxes]
    split = watched_part(boxes, profiles, (1, 2, 2), (4, 4, 4))
    assert split.watched
    for _, watched in split.watched:
        for _, learnt in split.learnt:
            assert (watched.grow(1) & learnt).is_empty
    share = sum(b.size for _, b in split.watched) / sum(b.size for b in boxes)
    assert 0.05 < share < 0.25


def test_the_watched_end_holds_object() -> None:
    """An end without any is not taken."""
    planes = np.zeros(50)
    planes[20:] = 100
    across = np.full(60, planes.sum() / 60)
    split = watched_part([Box((0, 0, 0), (50, 60, 60))], [[planes, across, across]], (1, 1, 1), (2, 2, 2))
    assert split.watched[0][1] != Box((0, 0, 0), (4, 60, 60))


def test_time_is_used_unless_labels_are_few() -> None:
    length = iterations(600, 0.5, 10**8, 10**5)
    assert not length.time_is_left
    assert length.iterations + num_checkpoints(1200) * CHECKPOINT_COST + MIRRORS_COST == 1200, (
        "validation takes its part of the time"
    )
    length = iterations(1e6, 0.5, 10**6, 10**5)
    assert length.iterations == 4000
    assert length.time_is_left
    assert "would memorise the labels" in length.why


def test_time_that_is_left_goes_into_finer_pixels() -> None:
    """Until thin parts are twice as many pixels wide as they must be."""
    thick = found(thickness_nm=144.0, voxel_size_nm=(50.0, 10.0, 10.0))
    assert finer(thick, (1, 4, 4)) == [1, 2, 2]
    assert finer(thick, (1, 2, 2)) is None
    assert finer(found(thickness_nm=35.0, voxel_size_nm=(10.0, 10.0, 10.0)), (1, 1, 1)) is None
    assert finer(found(thickness_nm=100.0, voxel_size_nm=(10.0, 10.0, 10.0)), (2, 2, 2)) == [1, 1, 1]


def test_few_objects_say_nothing_of_the_threshold() -> None:
    for size, told in ((40, False), (200, True)):
        assert threshold(found(), [Box((0, 0, 0), (size, size, size))])[0].value is told


def test_a_validation_part_of_ones_own_chooses_the_threshold_too() -> None:
    """As one that the plan sets aside would; all other boxes are learnt from."""
    boxes, profiles, own = (
        [Box((0, 0, 0), (200, 200, 200))],
        [[np.full(200, 10**4)] * 3],
        Box((0, 0, 0), (200, 200, 90)),
    )
    made = choose_settings(found(), boxes, profiles, {}, lambda _: "balanced", watch=[own])
    assert made.split.learnt == [(0, boxes[0])]
    assert not made.split.watched
    assert made.table()["train"]["choose_threshold"]
    assert made.table()["train"]["choose_mirrors"]
    without = choose_settings(found(), boxes, profiles, {}, lambda _: "balanced", watch=False).table()["train"]
    assert not without["choose_threshold"]
    assert not without["choose_mirrors"]


def test_few_labels_are_varied_more() -> None:
    boxes, profiles = [Box((0, 0, 0), (48, 48, 48))], [[np.full(48, 100)] * 3]
    few = choose_settings(found(num_annotated_vx=48**3), boxes, profiles, {}, lambda _: "balanced").table()["train"]
    many = choose_settings(found(num_annotated_vx=10**8), boxes, profiles, {}, lambda _: "balanced").table()["train"]
    assert few["optimizer"]["weight_decay"] > many["optimizer"]["weight_decay"]
    assert few["augment"]["gamma"] != [1.0, 1.0] == many["augment"]["gamma"]


@pytest.mark.parametrize(
    ("seconds", "most_features", "features", "batch"),
    [(0.5, 99, 16, 1), (0.01, 99, 32, 1), (1e-4, 99, 64, 8), (1e-4, 32, 32, 1)],
)
def test_much_time_makes_the_network_wider(seconds: float, most_features: int, features: int, batch: int) -> None:
    """As long as the iterations stay many, and the memory holds it."""
    model = load_catalog().get("model", "mitochondria")
    boxes = [Box((0, 0, 0), (500, 500, 500))]
    settings = choose_settings(
        found(num_annotated_vx=500**3),
        boxes,
        [[np.full(500, 10**5)] * 3],
        {"isotropic": model.network_options("isotropic")},
        lambda _: "balanced",
    )
    settings = attrs.evolve(settings, lines=[*settings.lines, Setting("train", "block", [46, 46, 46])])

    def each(tried: Settings) -> float:
        tables = tried.table()
        if tables["model"]["features"] > most_features:
            raise MemoryError
        return seconds * tables["model"]["features"] ** 2 / 16**2 * tables["train"].get("batch", 1)

    larger, length = _in_time(settings, model, each, 600.0, lambda: 0.0)
    tables = larger.table()
    assert (tables["model"]["features"], tables["train"].get("batch", 1)) == (features, batch)
    assert length.iterations * each(larger) <= 600


def test_pairs_of_objects_that_touch_are_counted() -> None:
    """By ids that share faces, on what is annotated; labels of ones and zeros have none."""
    ids = np.zeros(SHAPE, np.uint16)
    ids[5:15, 5:15, 5:15], ids[5:15, 15:25, 5:15], ids[5:15, 25:35, 5:15], ids[20:30, 40:50, 40:50] = 1, 2, 3, 4
    known = np.ones(SHAPE, bool)
    known[:, 25:35] = False
    assert fingerprint([labelled(ids)]).num_touching == 2
    assert "2 pairs of objects touch" in fingerprint([labelled(ids)]).in_words()[1]
    assert fingerprint([labelled(ids, known)]).num_touching == 1
    assert fingerprint([labelled(ids > 0)]).num_touching == 0


def labelled(ids: np.ndarray, known: np.ndarray | None = None) -> Region:
    made = region(ids > 0, (8, 8, 8), known)
    return attrs.evolve(made, labels=Labels(ids.astype(np.uint32), 8.0))


@pytest.mark.parametrize(("size", "reach"), [((8, 8, 8), [2, 2, 2]), ((50, 8, 8), [0, 2, 2])])
def test_objects_that_touch_are_told_apart(size: tuple[float, float, float], reach: list[int]) -> None:
    """Where enough do, and the model can: with fine pixels, and blocks around the contacts."""
    model = load_catalog().get("model", "mitochondria")
    boxes, profiles = [Box((0, 0, 0), (500, 500, 500))], [[np.full(500, 10**5)] * 3]

    def tables(number: int, options: Any = model.touching_options) -> dict[str, Any]:
        about = found(voxel_size_nm=size, thickness_nm=400.0, num_touching=number)
        return choose_settings(about, boxes, profiles, {}, lambda kind: kind, options).table()

    many = tables(9)
    assert many["model"] == {"contacts_vx": reach, "split": True, "merge_below": 0.3}
    assert many["sampler"]["use"] == "instances"
    assert many["train"]["downsample"][1:] == [1, 1]
    assert not many["train"]["loss"]["ignore_exclusion"], "objects that touch meet at their outlines"
    assert not touching(found(num_touching=9, share_annotated=0.1), "isotropic", model.touching_options), (
        "strokes have no ids"
    )
    for other in (tables(2), tables(9, None)):
        assert "model" not in other
        assert other["sampler"]["use"] != "instances"
        assert other["train"]["downsample"][1:] == [4, 4]


@pytest.mark.parametrize(("share", "even"), [(0.05, 0.6), (0.45, 0.55), (0.5, None), (0.9, 0.4)])
def test_where_no_threshold_is_chosen_objects_are_cut_at_even_odds(share: float, even: float | None) -> None:
    """Classes are weighted by their frequencies, 1.5 : 1 at most; a chosen or given threshold stays."""
    catalog = load_catalog()
    about = attrs.evolve(found(), foreground_fraction=share)
    mitochondria = catalog.get("model", "mitochondria")()
    lines = [Setting("train", "choose_threshold", False), Setting("train.loss", "least_frequency", 0.4)]
    made = even_odds(about, lines, mitochondria)
    assert [(line.table, line.key, line.value) for line in made] == (
        [] if even is None else [("model", "threshold", even)]
    )
    assert not even_odds(about, [Setting("train", "choose_threshold", True), lines[1]], mitochondria)


def test_of_several_classes_those_that_are_scarce_are_cut_at_their_even_odds() -> None:
    """The others' thresholds are chosen; where all are scarce, none is."""
    watched = [Box((0, 0, 0), (10, 200, 200))]
    about = attrs.evolve(found(), classes=(("er", 0.7, 100.0), ("pores", 0.005, 100.0)))
    lines = threshold(about, watched)
    assert [(line.key, line.value) for line in lines] == [("choose_threshold", True), ("keep_threshold", ["pores"])]
    several = build(load_catalog().get("model", "organelles"), {"classes": ["er", "pores"]}, "test")
    loss = Setting("train.loss", "least_frequency", 0.4)
    (line,) = even_odds(about, [*lines, loss], several)
    assert (line.key, line.value) == ("per_class", {"pores": {"threshold": 0.6}})
    lines = threshold(about, [Box((0, 0, 0), (1, 9, 9))])
    (line,) = even_odds(about, [*lines, loss], several)
    assert (lines[0].value, line.value) == (False, {"er": {"threshold": 0.4}, "pores": {"threshold": 0.6}})


def test_what_is_too_small_for_an_object_is_left_out() -> None:
    """Of models that count objects: a ball half as thick as their thin parts; not of membranes, strokes or several classes."""
    catalog = load_catalog()
    mitochondria, membrane, several = (
        catalog.get("model", name)() for name in ("mitochondria", "membrane", "organelles")
    )
    about = attrs.evolve(found(), thickness_nm=120.0)
    (line,) = smallest_object(about, mitochondria)
    assert (line.table, line.key) == ("model", "smallest_segment_um3")
    assert line.value == pytest.approx(np.pi / 6 * 0.06**3, rel=0.05)
    assert not smallest_object(about, membrane)
    assert not smallest_object(about, several)
    assert not smallest_object(attrs.evolve(about, share_annotated=0.1), mitochondria)
