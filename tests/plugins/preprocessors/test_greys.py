"""Steps that change grey values: invert, normalize, match-histogram."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from skimage.exposure import match_histograms

from asem_core.blocks import Run
from asem_core.cell.store import create_volume, finish_volume
from asem_core.errors import BadInput
from asem_core.interfaces import Preprocessor
from asem_core.stages.preprocess import apply_in_memory
from asem_core.volume import Volume
from asem_preprocessors.invert import Invert
from asem_preprocessors.match_histogram import MatchHistogram
from asem_preprocessors.normalize import Normalize

SHAPE = (20, 30, 40)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "bool"])
def test_inverting_twice_gives_the_image_back(image: Callable[..., Volume], dtype: str) -> None:
    """Whole numbers are mirrored within their dtype."""
    volume = Volume(image(SHAPE).read().astype(dtype), 5)
    once = apply_in_memory(Invert(), volume)
    assert once.dtype == volume.dtype
    if dtype == "uint8":
        np.testing.assert_array_equal(once.read(), 255 - volume.read())
    np.testing.assert_array_equal(apply_in_memory(Invert(), once).read(), volume.read())


def test_fractions_are_inverted_within_their_range() -> None:
    """The least becomes the greatest."""
    data = np.linspace(-1, 3, 60).reshape(3, 4, 5).astype(np.float32)
    np.testing.assert_allclose(apply_in_memory(Invert(), Volume(data, 5)).read(), 2 - data, atol=1e-6)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_percentiles_become_black_and_white(image: Callable[..., Volume], dtype: str) -> None:
    """Greys at the two percentiles of the whole volume become 0 and 255."""
    data = image(SHAPE, dtype="uint16").read()
    data = data / 51000 if dtype == "float32" else data // (200 if dtype == "uint8" else 1)
    data = data.astype(dtype)
    made = apply_in_memory(Normalize(low=2, high=98), Volume(data, 5)).read()
    low, high = np.percentile(data, (2, 98), method="inverted_cdf").astype(float)
    wanted = np.rint(np.clip((data - low) / (high - low), 0, 1) * 255)
    assert made.dtype == np.uint8
    assert np.abs(made - wanted).max() <= (1 if dtype == "float32" else 0)


def test_zscore_has_mean_0_and_deviation_1(image: Callable[..., Volume]) -> None:
    """Of the whole volume, not of blocks; padding can be ignored."""
    data = image(SHAPE).read()
    made = apply_in_memory(Normalize(method="zscore", cut=50.0), Volume(data, 5), block=16).read()
    assert made.dtype == np.float32
    assert abs(made.mean()) < 1e-4
    assert abs(made.std() - 1) < 1e-4
    padded = np.concatenate([np.zeros_like(data), np.maximum(data, 1)])
    for ignore in ((0,), None):
        made = apply_in_memory(Normalize(method="zscore", ignore=ignore, cut=50.0), Volume(padded, 5)).read()
        assert abs(made[SHAPE[0] :].mean()) < 1e-4
    step = Normalize(method="zscore").fit(Volume(padded, 5), Run(progress=False))
    assert step.attributes == {"normalize": {"ignored": [0.0]}}
    step = Normalize(method="zscore").fit(Volume(data, 5), Run(progress=False))
    assert not step.attributes


@pytest.fixture
def reference(image: Callable[..., Volume], tmp_path: Path) -> tuple[str, np.ndarray]:
    """Write a darker image with less contrast."""
    volume = image((25, 26, 27), seed=3)
    data = (volume.read() // 3 + 20).astype(np.uint8)
    path = tmp_path / "other.zarr" / "raw"
    out = create_volume(path, Volume(data, 5).spec, block=64, made_by={"test": 1})
    out.data[:] = data  # type: ignore[index]
    finish_volume(out)
    return str(path), data


def test_matching_equals_scikit_image(image: Callable[..., Volume], reference: tuple[str, np.ndarray]) -> None:
    """The whole volume's histogram becomes the reference's, as by `match_histograms`, rounded."""
    volume = image(SHAPE)
    made = apply_in_memory(MatchHistogram(reference=reference[0]), volume, block=16).read()
    wanted = match_histograms(volume.read(), reference[1])
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, np.rint(wanted))


def test_ignored_greys_stay(image: Callable[..., Volume], reference: tuple[str, np.ndarray]) -> None:
    """Padding takes no part and keeps its value."""
    data = np.maximum(image(SHAPE).read(), 1)
    padded = np.concatenate([data, np.zeros_like(data)])
    step = MatchHistogram(reference=reference[0], ignore=(0,))
    made = apply_in_memory(step, Volume(padded, 5)).read()
    assert not made[SHAPE[0] :].any()
    wanted = np.rint(match_histograms(data, reference[1]))
    np.testing.assert_array_equal(made[: SHAPE[0]], wanted)


@pytest.mark.parametrize("step", [Normalize(), Normalize(method="zscore"), Invert()], ids=str)
def test_refuses_constant_and_not_finite_fractions(step: Preprocessor) -> None:
    """Neither NaN nor garbage comes out of an image that has no scale."""
    with pytest.raises(BadInput, match=r"has the value 0\.5"):
        apply_in_memory(step, Volume(np.full((3, 4, 5), 0.5, np.float32), 5))
    for value in (np.nan, np.inf):
        data = np.linspace(0, 1, 60).reshape(3, 4, 5)
        data[1, 2, 3] = value
        with pytest.raises(BadInput, match=r"NaN or infinite values in box \[0:3"):
            apply_in_memory(step, Volume(data, 5))


def test_refuses_options_and_images_without_a_range() -> None:
    """Options without meaning, coinciding percentiles, and ignoring everything are explained."""
    with pytest.raises(BadInput, match="0 <= low < high <= 100"):
        Normalize(low=60, high=40)
    with pytest.raises(BadInput, match="cut must be positive"):
        Normalize(cut=0)
    with pytest.raises(BadInput, match="'percentile' or 'zscore'"):
        Normalize(method="z")  # type: ignore[arg-type]
    data = np.zeros((10, 10, 10), np.uint8)
    data[0, 0, 0] = 9
    with pytest.raises(BadInput, match="both grey 0, which leaves nothing to stretch"):
        apply_in_memory(Normalize(low=1, high=99), Volume(data, 5))
    with pytest.raises(BadInput, match="among the ignored grey values"):
        apply_in_memory(Normalize(ignore=(0, 9)), Volume(data, 5))
