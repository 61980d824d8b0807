"""Augmentation: image and labels stay aligned, and each option does what it says."""

from __future__ import annotations

from itertools import islice
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import map_coordinates

from asem_core.errors import RecipeError
from asem_core.interfaces import Region
from asem_core.training.augment import Augment, Warp, _sample_on_cpu, _sample_on_gpu
from asem_core.training.regions import IGNORE
from asem_core.training.stream import BlockStream
from asem_core.training.targets import Need
from asem_core.volume import Box, Labels, Volume
from asem_samplers.annotated import AroundAnnotated

STILL = Augment.none()
seeds = st.integers(0, 2**32 - 1)


def sample(warp: Warp, array: np.ndarray, box: Box, mode: str = "bilinear") -> np.ndarray:
    need = warp.needs(box)
    source = Volume(array.astype(np.float32), 1.0).read(need, outside="reflect")
    return warp.sample(torch.from_numpy(source), need, box, mode).numpy()  # type: ignore[arg-type]


def coordinates(shape: tuple[int, int, int]) -> list[np.ndarray]:
    """Three volumes whose grey value is the place of the voxel along z, y and x."""
    return list(np.indices(shape).astype(np.float32))


@settings(max_examples=25, deadline=None)
@given(seed=seeds, jitter=st.floats(0, 3), slip=st.floats(0, 0.3), cubic=st.booleans(), zoom=st.floats(0.7, 1.4))
def test_image_and_labels_stay_aligned(seed: int, jitter: float, slip: float, cubic: bool, zoom: float) -> None:
    """Labels sampled in the middle equal the threshold of the image sampled over the whole, wherever that is clear."""
    rng = np.random.default_rng(seed)
    z, y, x = np.indices((70, 70, 70))
    image = 30 + 20 * np.sin(z / 9) * np.sin(y / 7 + 1) * np.cos(x / 8)
    labels = (image > 30).astype(np.uint8)
    augment = Augment(elastic_jitter_vx=(jitter,) * 3, slip_probability=slip, elastic_spacing_vx=(12, 16, 16))
    augment = attrs.evolve(augment, zoom=(zoom, zoom))
    voxel_size = (5.0, 5.0, 5.0) if cubic else (20.0, 5.0, 5.0)
    whole = Box((20, 18, 22), (44, 50, 46))
    middle = Box((26, 24, 27), (39, 41, 40))
    warp = augment.draw_warp(whole, voxel_size, rng)
    grey = sample(warp, image, whole)
    found = sample(warp, labels, middle, "nearest")
    part = grey[middle.shift([-b for b in whole.begin]).slices]
    clear = np.abs(part - 30) > 4
    np.testing.assert_array_equal(found[clear], part[clear] > 30)


def test_a_flat_block_is_not_turned_out_of_the_place_drawn_for_it() -> None:
    """It would stand across the plane of a stroke that it was drawn around, and hold hardly any of it; unless asked for."""
    box, rng = Box.of_shape((6, 24, 24)), np.random.default_rng(0)

    def planes_needed(transpose: str) -> set[int]:
        augment = attrs.evolve(STILL, mirror="zyx", transpose=transpose)
        return {augment.draw_warp(box, (5.0, 5.0, 5.0), rng).needs(box).shape[0] for _ in range(40)}

    assert max(planes_needed("auto")) < 12
    assert max(planes_needed("zyx")) >= 24


@pytest.mark.parametrize("most", [{}, {"shift_probability": 1.0, "misalign_vx": 30}])
def test_no_block_loses_the_stroke_that_it_was_drawn_around(most: dict[str, Any]) -> None:
    """Turned and enlarged, a fifth of flat blocks would; those are varied anew, and stay as drawn where that does not help."""
    image = Volume(np.zeros((12, 80, 80), np.uint8), 10.0)
    known = np.zeros(image.shape, np.uint8)
    known[6, 40, 40] = 1
    region = Region("stroke", image, Labels(known, 10.0), mask=Labels(known, 10.0))
    strong = attrs.evolve(STILL, mirror="zyx", rotation_deg=(0, 90), zoom=(0.75, 1.35), **most)
    stream = BlockStream(AroundAnnotated(), [region], (6, 24, 24), (2, 2, 2), strong, seed=0)
    held = [cut.to_tensors(torch.device("cpu"))[1][Need()] for cut in islice(stream.cuts(0), 60)]
    assert all((labels != IGNORE).any() for labels in held)
    at = np.concatenate([np.argwhere((labels != IGNORE).numpy())[:, 1:] for labels in held])
    assert at.min() < 6
    assert at.max() >= 18, "strokes are seen at the edges of blocks, too"


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_mirror_and_transpose_permute_voxels(seed: int) -> None:
    """Mirrors and transposes alone return the very voxels of a block of the same centre, each once."""
    augment = attrs.evolve(STILL, mirror="zyx", transpose="zyx")
    box = Box((6, 6, 6), (16, 16, 16))
    array = np.arange(22**3, dtype=np.float32).reshape(22, 22, 22)
    warp = augment.draw_warp(box, (5.0, 5.0, 5.0), np.random.default_rng(seed))
    found = sample(warp, array, box)
    np.testing.assert_allclose(np.sort(found.ravel()), np.sort(array[box.slices].ravel()), atol=0.05)


def test_without_augmentation_the_block_is_the_image() -> None:
    """`Augment.none()` samples each voxel from its own place."""
    array = np.random.default_rng(0).random((20, 21, 22)).astype(np.float32)
    box = Box((3, 4, 5), (15, 16, 18))
    warp = STILL.draw_warp(box, (8.0, 4.0, 4.0), np.random.default_rng(0))
    np.testing.assert_allclose(sample(warp, array, box), array[box.slices], atol=1e-4)
    shade = STILL.draw_shade(12, np.random.default_rng(0))
    image = torch.from_numpy(array[box.slices].copy())
    assert torch.equal(shade(image.clone()), image)


def test_rotation_turns_about_z_and_keeps_lengths_in_nm() -> None:
    """By 30 degrees, in voxels that are not square: places turn about the block's centre in nm, and z stays."""
    augment = attrs.evolve(STILL, rotation_deg=(30.0, 30.0))
    box = Box((10, 40, 30), (21, 61, 51))
    voxel_size = (20.0, 4.0, 8.0)
    warp = augment.draw_warp(box, voxel_size, np.random.default_rng(0))
    places = [sample(warp, c, box) for c in coordinates((32, 100, 80))]
    z, y, x = np.indices(box.shape)
    dy, dx = (y - 10) * 4.0, (x - 10) * 8.0
    cos, sin = np.cos(np.pi / 6), np.sin(np.pi / 6)
    np.testing.assert_allclose(places[0], z + 10, atol=1e-3)
    np.testing.assert_allclose(places[1], 50 + (cos * dy - sin * dx) / 4, atol=1e-2)
    np.testing.assert_allclose(places[2], 40 + (sin * dy + cos * dx) / 8, atol=1e-2)


def test_zoom_magnifies_about_the_centre() -> None:
    """Twice as large, a block shows the half of itself around its centre; every ratio in a range is as likely."""
    box = Box((10, 12, 14), (31, 33, 35))
    warp = attrs.evolve(STILL, zoom=(2.0, 2.0)).draw_warp(box, (8.0, 4.0, 4.0), np.random.default_rng(0))
    for places, own, centre in zip(coordinates((42, 44, 46)), np.indices(box.shape), (20, 22, 24), strict=True):
        np.testing.assert_allclose(sample(warp, places, box), centre + (own - 10) / 2, atol=1e-3)

    factors = []
    for seed in range(200):
        warp = attrs.evolve(STILL, zoom=(0.5, 2.0)).draw_warp(box, (8.0, 4.0, 4.0), np.random.default_rng(seed))
        factors.append(
            np.ptp(STILL.draw_warp(box, (8.0, 4.0, 4.0), np.random.default_rng(0)).lattice) / np.ptp(warp.lattice)
        )
    assert 0.5 <= min(factors) < 0.6 < 1.7 < max(factors) <= 2
    assert 0.85 < np.exp(np.mean(np.log(factors))) < 1.18


def test_elastic_deformation_is_smooth_and_as_strong_as_asked() -> None:
    """At the control points the displacement has the given sigma; between neighbours it changes little."""
    augment = attrs.evolve(STILL, elastic_jitter_vx=(0.0, 2.0, 2.0), elastic_spacing_vx=(16, 16, 16))
    box = Box((20, 20, 20), (20 + 97,) * 3)
    shifts = []
    for seed in range(3):
        warp = augment.draw_warp(box, (5.0, 5.0, 5.0), np.random.default_rng(seed))
        places = [sample(warp, c, box) for c in coordinates((140, 140, 140))]
        for axis, own in enumerate(np.indices(box.shape)):
            shift = places[axis] - own - 20
            assert np.abs(np.diff(shift, axis=axis)).max() < 1.5
            if axis == 0:
                assert np.abs(shift).max() < 1e-3
            else:
                shifts.append(shift[::16, ::16, ::16])
    assert 1.85 < np.std(shifts) < 2.15


def test_shifted_planes_move_alone_or_for_good() -> None:
    """A slip moves one plane in y and x, a shift all that follow; never in z, never by more than asked each time."""
    box = Box((5, 10, 10), (35, 30, 30))
    for name in ("slip_probability", "shift_probability"):
        augment = attrs.evolve(STILL, **{name: 0.3}, misalign_vx=3)
        warp = augment.draw_warp(box, (5.0, 5.0, 5.0), np.random.default_rng(1))
        places = [sample(warp, c, box) for c in coordinates((40, 80, 80))]
        assert np.abs(places[0] - np.indices(box.shape)[0] - 5).max() < 1e-3
        moved = np.round(places[1][:, 0, 0] - 10).astype(int)
        np.testing.assert_allclose(
            places[1] - np.indices(box.shape)[1] - 10, moved[:, None, None] * np.ones(box.shape), atol=1e-2
        )
        assert moved.any()
        steps = np.diff(moved)
        assert np.abs(moved if name.startswith("slip") else steps).max() <= 3
        assert (steps == 0).sum() > 5


def test_sampling_equals_scipy() -> None:
    """Trilinear sampling equals scipy's at the same places."""
    rng = np.random.default_rng(3)
    array = rng.random((60, 60, 60)).astype(np.float32)
    box = Box((20, 22, 18), (36, 40, 38))
    augment = Augment(elastic_spacing_vx=(8, 8, 8), intensity_shift=(0, 0), intensity_scale=(1, 1))
    warp = augment.draw_warp(box, (5.0, 5.0, 5.0), np.random.default_rng(5))
    places = np.stack([sample(warp, c, box) for c in coordinates(array.shape)])
    inside = ((places >= 1) & (places <= 58)).all(axis=0)
    expected = map_coordinates(array, places, order=1)
    np.testing.assert_allclose(sample(warp, array, box)[inside], expected[inside], atol=1e-3)


@settings(max_examples=10, deadline=None)
@given(seed=seeds, nearest=st.booleans())
def test_cpu_and_gpu_code_agree(seed: int, nearest: bool) -> None:
    """The compiled loop and torch's operations (here run on the CPU) sample the same values, up to rounding."""
    rng = np.random.default_rng(seed)
    source = torch.from_numpy(np.indices((40, 42, 44)).sum(axis=0).astype(np.uint8))
    lattice = rng.uniform(2, 36, (3, 6, 7, 8))
    rows, planes = [np.arange(5, 20), np.arange(30), np.arange(3, 33)], rng.integers(-2, 3, (3, 15)).astype(float)
    mode = "nearest" if nearest else "bilinear"
    a, b = (f(source, lattice, rows, (8, 8, 8), planes, mode) for f in (_sample_on_cpu, _sample_on_gpu))
    assert float((a - b).abs().mean()) < (0.05 if nearest else 1e-3)
    assert float((a - b).abs().max()) < (1.01 if nearest else 0.05)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_threads_share_the_planes(mode: str) -> None:
    """One thread, some, and more than planes sample the same voxels, to the bit."""
    rng = np.random.default_rng(7)
    array = rng.integers(0, 256, (50, 50, 50)).astype(np.uint8)
    box = Box((20, 15, 18), (31, 35, 38))
    warp = Augment().draw_warp(box, (5.0, 5.0, 5.0), rng)
    before, found = torch.get_num_threads(), []
    try:
        for num_threads in (1, 3, 16):
            torch.set_num_threads(num_threads)
            found.append(sample(warp, array, box, mode))
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(found[1], found[0])
    np.testing.assert_array_equal(found[2], found[0])


def test_shade_changes_grey_values_as_asked() -> None:
    """Scale turns about the mean, shift adds, gamma bends, noise has its sigma, missing planes are black."""
    image = torch.from_numpy(np.random.default_rng(0).uniform(0.3, 0.7, (8, 40, 40)).astype(np.float32))
    rng = np.random.default_rng(0)

    def shaded(**options: object) -> torch.Tensor:
        return attrs.evolve(STILL, **options).draw_shade(8, rng)(image.clone())

    torch.testing.assert_close(shaded(intensity_shift=(0.1, 0.1)), image + 0.1)
    torch.testing.assert_close(shaded(intensity_scale=(0.5, 0.5)), (image - image.mean()) * 0.5 + image.mean())
    torch.testing.assert_close(shaded(gamma=(2.0, 2.0)), image**2)
    assert 0 < float((shaded(noise=0.05) - image).std()) <= 0.05
    assert float(shaded(blur_vx=3.0).std()) < float(image.std())
    assert bool((shaded(missing_probability=1.0) == 0).all())


def test_the_same_seed_draws_the_same() -> None:
    """Two draws from equal generators are equal to the bit."""
    box = Box((20, 20, 20), (40, 40, 40))
    array = np.random.default_rng(0).random((60, 60, 60)).astype(np.float32)
    augment = Augment(noise=0.1, blur_vx=1.0, missing_probability=0.1)
    found = []
    for _ in range(2):
        rng = np.random.default_rng([1, 2])
        warp, shade = augment.draw_warp(box, (5.0, 5.0, 5.0), rng), augment.draw_shade(20, rng)
        found.append(shade(torch.from_numpy(sample(warp, array, box).copy())).numpy())
    np.testing.assert_array_equal(found[0], found[1])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mirror": "xw"}, "mirror is 'xw'"),
        ({"rotation_deg": (90.0, 0.0)}, "smaller number first"),
        ({"shift_probability": 1.5}, "a probability must be from 0 to 1"),
        ({"elastic_spacing_vx": (0, 8, 8)}, "elastic_spacing_vx must be at least 1"),
        ({"gamma": (0.0, 1.0)}, "an exponent must be above 0"),
        ({"zoom": (0.0, 1.0)}, "a factor must be above 0"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, object], said: str) -> None:
    """A wrong number is told when the recipe is read, not in the middle of a run."""
    with pytest.raises(RecipeError, match=said):
        Augment(**options)  # type: ignore[arg-type]
