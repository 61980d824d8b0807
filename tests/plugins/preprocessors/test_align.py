"""Aligning finds the shifts that were put in, and leaves an aligned stack alone."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from asem_core.blocks import Run
from asem_core.cell.apply import apply_in_memory
from asem_core.errors import BadInput
from asem_core.volume import Volume
from asem_preprocessors._registration import find_shift, positions
from asem_preprocessors.align import Align

QUIET = Run(progress=False)


def shifted(stack: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Move each plane by whole voxels; black comes in at the borders."""
    return np.stack([ndimage.shift(p, s, order=0) for p, s in zip(stack, shifts, strict=True)])


def positions_of(stack: np.ndarray, step: Align | None = None) -> np.ndarray:
    return (step or Align()).plane_positions(Volume(stack, 10), QUIET)


@pytest.mark.slow
def test_recovers_random_shifts_of_a_real_stack(fib25: np.ndarray) -> None:
    """Of 250 planes shifted by up to 10 voxels along y and x, 99 % are found to within half a voxel."""
    for seed in (0, 1):
        shifts = np.random.default_rng(seed).integers(-10, 11, (len(fib25), 2))
        error = positions_of(shifted(fib25, shifts)) - shifts
        error -= np.median(error, axis=0)
        assert (np.abs(error).max(axis=1) <= 0.5).mean() >= 0.99


@pytest.mark.slow
def test_recovers_jitter_by_fractions_of_a_real_stack(fib25: np.ndarray) -> None:
    """Of planes shifted by fractions of up to a voxel, four of five are found to within half a voxel."""
    shifts = np.random.default_rng(0).uniform(-1, 1, (len(fib25), 2))
    moved = np.stack([ndimage.shift(p.astype(float), s, mode="mirror") for p, s in zip(fib25, shifts, strict=True)])
    error = positions_of(moved[:, 8:-8, 8:-8].clip(0, 255).astype(np.uint8)) - shifts
    error -= np.median(error, axis=0)
    assert (np.abs(error).max(axis=1) <= 0.5).mean() >= 0.8


@pytest.mark.parametrize(("jitter", "jump", "allowed"), [(0.3, 0, 0.12), (1, 0, 0.3), (3, 0, 0.7), (0.3, 30.4, 0.3)])
def test_jitter_by_fractions_is_told_from_slow_drift(jitter: float, jump: float, allowed: float) -> None:
    """Jitter, and a jump in the middle, are found; the drift of structures stays. Root mean square error in voxels."""
    rng = np.random.default_rng(0)
    rates = np.full((299, 2), 0.2)
    for i in range(1, len(rates)):
        rates[i] = 0.2 + 0.75 * (rates[i - 1] - 0.2) + rng.normal(0, 0.1, 2)
    put_in = rng.uniform(-jitter, jitter, (300, 2))
    put_in[120:] += jump
    found = positions(np.diff(put_in, axis=0) + rates, np.ones(299, int), kept_drift=1)
    assert (found - put_in).std(axis=0).max() < allowed


def test_an_odd_drift_in_an_aligned_stack_is_no_shift() -> None:
    """A third of a voxel back and forth, as measured in an aligned stack, is drift; the same in whole voxels, a shift."""
    rng = np.random.default_rng(0)
    rates = np.zeros((255, 2))
    for i in range(1, len(rates)):
        rates[i] = 0.75 * rates[i - 1] + rng.normal(0, 0.1, 2)
    rates[9:13, 1] = 0.22, -0.37, -0.27, 0.30
    every = np.ones(255, int)
    assert (positions(rates, every, kept_drift=1) == 0).all()
    put_in = np.zeros((256, 2))
    put_in[[40, 90]] = 1
    put_in[200:] = -1
    found = positions(rates + np.diff(put_in, axis=0), every, kept_drift=1)
    np.testing.assert_array_equal(found - np.median(found, axis=0), put_in)


@pytest.mark.parametrize("jitter", [0.1, 0.15, 0.2, 0.5])
def test_small_fractions_are_not_taken_for_whole_voxels(jitter: float) -> None:
    """Jitter lessens, and no plane lands as far off as a shift by a whole voxel would put it."""
    rng = np.random.default_rng(0)
    rates = np.full((255, 2), 0.25)
    for i in range(1, len(rates)):
        rates[i] = 0.25 + 0.75 * (rates[i - 1] - 0.25) + rng.normal(0, 0.1, 2)
    put_in = rng.uniform(-jitter, jitter, (256, 2))
    error = positions(np.diff(put_in, axis=0) + rates, np.ones(255, int), kept_drift=1) - put_in
    assert np.abs(error - np.median(error, axis=0)).max() < max(0.3, 1.2 * jitter)
    assert error.std() < put_in.std()


@pytest.mark.slow
def test_leaves_an_aligned_real_stack_alone(fib25: np.ndarray) -> None:
    """Slanted structures drift by a quarter of a voxel a plane; none of it is taken for a shift."""
    assert np.abs(positions_of(fib25)).max() <= 0.2


@pytest.mark.slow
def test_leaves_another_aligned_real_stack_alone(other_block: np.ndarray) -> None:
    """Its content moves by up to half a voxel from plane to plane, back and forth; none of it is taken for a shift."""
    assert np.abs(positions_of(other_block)).max() <= 0.2


def test_undoes_shifts_in_the_image(fib25: np.ndarray) -> None:
    """The result equals the stack before it was shifted, up to one common shift, where there is data."""
    stack = fib25[100:130]
    shifts = np.random.default_rng(1).integers(-8, 9, (30, 2))
    made = apply_in_memory(Align(), Volume(shifted(stack, shifts), 10), block=64).read()
    common = -np.round(np.median(shifts, axis=0)).astype(int)
    inner = (slice(None), slice(30, -30), slice(30, -30))
    candidates = [np.roll(stack, (common[0] + y, common[1] + x), (1, 2)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    assert any((made[inner] == c[inner]).all() for c in candidates)


def test_grown_canvas_loses_nothing(fib25: np.ndarray) -> None:
    """With room for all planes every voxel is kept, and the origin says where the grid went."""
    stack = shifted(fib25[:12, :80, :90], np.random.default_rng(2).integers(-6, 7, (12, 2)))
    fitted = Align(canvas="grow").fit(Volume(stack, 10, 0), QUIET)
    made = apply_in_memory(Align(canvas="grow"), Volume(stack, 10, 0), block=32)
    assert [p[p > 0].sum() for p in made.read()] == [p[p > 0].sum() for p in stack]
    low = -np.array(fitted.at).astype(int).max(axis=0)
    assert made.shape[1:] >= stack.shape[1:]
    assert made.origin_nm[0] == 0
    assert len(fitted.attributes["plane_shifts_vx"]) == 12
    assert (low <= 0).all()


def test_finds_fractions_of_a_voxel(fib25: np.ndarray) -> None:
    """The same plane with new noise, shifted by up to 9.9 voxels: to within a tenth."""
    rng = np.random.default_rng(0)
    for z in range(0, 100, 20):
        shift = rng.uniform(-9.9, 9.9, 2)
        moved = ndimage.shift(fib25[z].astype(float), shift, order=3, mode="nearest") + rng.normal(0, 4, fib25[z].shape)
        found = find_shift(fib25[z] + rng.normal(0, 4, fib25[z].shape), moved, 40)
        np.testing.assert_allclose(found[:2], shift, atol=0.1)


def test_shifts_by_fractions_interpolate_linearly() -> None:
    """A ramp read half a voxel further along is a ramp half a step higher; without data there is fill."""
    ramp = np.broadcast_to(10.0 * np.arange(40), (3, 40, 40)).astype(np.float32)
    from asem_preprocessors.align import FittedAlign

    volume = Volume(ramp, 5)
    fitted = FittedAlign(volume.spec, volume.box, np.array([[0, 0.5], [0, -1.25], [50, 0]]), 7, {})
    made = fitted(volume.read(fitted.needs(volume.box)), volume.box)
    np.testing.assert_allclose(made[0, :, :39], ramp[0, :, :39] + 5)
    np.testing.assert_allclose(made[1, :, 2:], ramp[1, :, 2:] - 12.5)
    assert (made[0, :, 39] == 7).all()
    assert (made[2] == 7).all()


def test_passes_over_damaged_planes(fib25: np.ndarray) -> None:
    """A blank plane and one of noise stay with the plane before; the others are found as without them."""
    shifts = np.random.default_rng(3).integers(-8, 9, (40, 2))
    stack = shifted(fib25[:40], shifts)
    stack[10] = 0
    stack[25] = np.random.default_rng(4).integers(0, 255, stack[25].shape)
    found = positions_of(stack)
    whole = np.delete(np.arange(40), (10, 25))
    error = (found - shifts)[whole]
    assert np.abs(error - np.median(error, axis=0)).max() <= 1
    np.testing.assert_array_equal(found[[10, 25]], found[[9, 24]])


def test_slow_drift_is_removed_beyond_the_limit() -> None:
    """Planes that each lie 5 voxels further than the last are brought back."""
    rng = np.random.default_rng(0)
    texture = ndimage.gaussian_filter(rng.normal(size=(200, 300)), 1.5)
    texture = (texture / texture.std() * 40 + 128).clip(0, 255).astype(np.uint8)
    stack = np.stack([texture[40:150, 200 - 5 * z : 300 - 5 * z] for z in range(12)])
    found = positions_of(stack)
    np.testing.assert_array_equal(np.diff(found, axis=0), np.tile([0, 5], (11, 1)))


def test_one_plane_needs_no_aligning(image: Callable[..., Volume]) -> None:
    """A single plane stays where it is."""
    volume = image((1, 40, 40))
    np.testing.assert_array_equal(apply_in_memory(Align(), volume).read(), volume.read())


def test_refuses_what_cannot_be_compared(image: Callable[..., Volume]) -> None:
    """Small planes, constant and unrelated ones, NaN, and options without meaning."""
    with pytest.raises(BadInput, match="planes of at least 32 x 32"):
        apply_in_memory(Align(), image((3, 20, 40)))
    with pytest.raises(BadInput, match=r"no plane .* resembles its neighbour"):
        apply_in_memory(Align(), Volume(np.full((5, 40, 40), 9, np.uint8), 5))
    with pytest.raises(BadInput, match="'same' or 'grow'"):
        Align(canvas="wide")
    with pytest.raises(BadInput, match="largest_vx must be at least 1"):
        Align(largest_vx=0)
    with pytest.raises(BadInput, match="compared_vx must be at least 32"):
        Align(compared_vx=3)
    data = np.random.default_rng(0).random((3, 40, 40))
    data[1, 2, 3] = np.nan
    with pytest.raises(Exception, match="NaN or infinite"):
        apply_in_memory(Align(), Volume(data, 5))
