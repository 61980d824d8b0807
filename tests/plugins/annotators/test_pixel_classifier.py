"""The pixel classifier: filters are those of their formulas whatever the slabs, and strokes teach it."""

from __future__ import annotations

from pathlib import Path

import attrs
import numpy as np
import pytest
from scipy import ndimage

from asem_annotators import pixel_classifier
from asem_annotators._filters import PER_SCALE, filters, gaussian, num_filters, reach
from asem_annotators.pixel_classifier import PixelClassifier
from asem_core.blocks import Run
from asem_core.errors import BadInput
from asem_core.volume import Box, Volume

QUIET = Run(progress=False)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    return ndimage.gaussian_filter(np.random.default_rng(0).random((18, 22, 26)), 1).astype(np.float32)


def rough(shape: tuple[int, int, int] = (20, 40, 40)) -> tuple[Volume, np.ndarray]:
    """Two textures of the same mean grey: only their surroundings tell them apart."""
    rng = np.random.default_rng(1)
    truth = np.zeros(shape, bool)
    truth[:, :, shape[2] // 2 :] = True
    fine = rng.normal(0, 40, shape)
    coarse = ndimage.gaussian_filter(rng.normal(0, 1, shape), 3)
    coarse *= 40 / coarse.std()
    grey = np.clip(128 + np.where(truth, coarse, fine), 0, 255).astype(np.uint8)
    return Volume(grey, 8.0), truth


def strokes(truth: np.ndarray) -> np.ndarray:
    seeds = np.zeros(truth.shape, np.uint8)
    seeds[10, 5:35, 5:8] = 2
    seeds[10, 5:35, 32:35] = 1
    return seeds


def test_gaussian_is_that_of_scipy(image: np.ndarray) -> None:
    expected = ndimage.gaussian_filter(image, (0.5, 1.5, 3.0), mode="mirror", truncate=3)
    np.testing.assert_allclose(gaussian(image, (0.5, 1.5, 3.0), Box.of_shape(image.shape)), expected, atol=2e-6)


def test_filters_follow_their_formulas(image: np.ndarray) -> None:
    """At one voxel, in nm-true geometry: Gaussian, gradient, Laplacian and eigenvalues by numpy's own."""
    spacing, scale = (2.0, 1.0, 1.0), 1.6
    found = filters(image, spacing, [scale], Box.of_shape(image.shape))
    assert found.shape == (num_filters([scale]), *image.shape)
    smooth = ndimage.gaussian_filter(image, [scale / s for s in spacing], mode="mirror", truncate=3).astype(float)
    first = [np.gradient(smooth, s, axis=a) for a, s in enumerate(spacing)]
    at = (9, 11, 13)
    np.testing.assert_allclose(found[0][at], image[at])
    np.testing.assert_allclose(found[1][at], smooth[at], rtol=1e-4)
    np.testing.assert_allclose(found[2][at], np.sqrt(sum(g[at] ** 2 for g in first)), rtol=1e-3)
    hessian = np.empty((3, 3))
    for a in range(3):
        for b in range(3):
            step_a, step_b = np.eye(3, dtype=int)[a], np.eye(3, dtype=int)[b]
            here = np.array(at)
            if a == b:
                value = smooth[tuple(here + step_a)] + smooth[tuple(here - step_a)] - 2 * smooth[at]
            else:
                value = sum(i * j * smooth[tuple(here + i * step_a + j * step_b)] / 4 for i in (1, -1) for j in (1, -1))
            hessian[a, b] = value / spacing[a] / spacing[b]
    np.testing.assert_allclose(found[3][at], np.trace(hessian), atol=1e-5)
    np.testing.assert_allclose(found[4:7, *at], np.linalg.eigvalsh(hessian)[::-1], atol=1e-4)
    tensor = np.array(
        [[ndimage.gaussian_filter(one * other, [scale / s for s in spacing], mode="mirror", truncate=3)[at]
          for other in first] for one in first]
    )  # fmt: skip
    np.testing.assert_allclose(found[7 : 1 + PER_SCALE, *at], np.linalg.eigvalsh(tensor)[::-1], atol=1e-5)


@pytest.mark.parametrize(
    "box", [Box((7, 0, 0), (8, 22, 26)), Box((0, 3, 20), (3, 9, 26)), Box((2, 0, 11), (18, 22, 12))]
)
def test_a_part_is_filtered_as_in_the_whole(image: np.ndarray, box: Box) -> None:
    """To the last bit, also at the border: only what the part looks at is worked out."""
    scales, spacing = (0.7, 2.0), (1.5, 1.0, 1.0)
    whole = filters(image, spacing, scales, Box.of_shape(image.shape))
    near = box.grow(reach(scales, spacing)) & Box.of_shape(image.shape)
    part = filters(image[near.slices], spacing, scales, box.shift([-b for b in near.begin]))
    np.testing.assert_array_equal(part, whole[:, *box.slices])


def test_strokes_teach_textures(tmp_path: Path) -> None:
    """A stroke in each half tells the rest; probabilities say the same as labels; the file of filters is used again."""
    volume, truth = rough()
    run = attrs.evolve(QUIET, scratch=tmp_path)
    prepared = PixelClassifier().prepare(volume, volume.box, run)
    seeds = strokes(truth)
    found = prepared(seeds)
    assert (found == truth).mean() > 0.9
    probability = prepared.probability(seeds)
    assert probability.dtype == np.uint8
    np.testing.assert_array_equal(found[seeds == 0], (probability >= 128)[seeds == 0])
    stamp = (tmp_path / "filters.npy").stat().st_mtime_ns
    np.testing.assert_array_equal(PixelClassifier().prepare(volume, volume.box, run)(seeds), found)
    assert (tmp_path / "filters.npy").stat().st_mtime_ns == stamp


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """The result does not depend on how many planes are filtered at once."""
    volume, truth = rough()
    options = PixelClassifier(scales=(1.0, 2.0), trees=8)
    whole = options.prepare(volume, volume.box, QUIET).probability(strokes(truth))
    monkeypatch.setattr(pixel_classifier, "SLAB_VX", 3 * 40 * 40)
    np.testing.assert_array_equal(options.prepare(volume, volume.box, QUIET).probability(strokes(truth)), whole)


def test_compiled_vote_is_that_of_sklearn() -> None:
    """Our walk through the trees gives scikit-learn's own probabilities."""
    from sklearn.ensemble import RandomForestClassifier

    rng = np.random.default_rng(2)
    values = rng.random((500, 7)).astype(np.float32)
    forest = RandomForestClassifier(10, random_state=0).fit(values, (values[:, 0] > values[:, 1]).astype(int))
    other = rng.random((300, 7)).astype(np.float32)
    judged = pixel_classifier._Forest.of(forest).judge(other)
    np.testing.assert_allclose(judged, forest.predict_proba(other)[:, 1], atol=1e-6)


def test_one_class_is_refused() -> None:
    volume = rough((8, 40, 40))[0]
    seeds = np.zeros(volume.shape, np.uint8)
    seeds[2, 2:5, 2:5] = 1
    with pytest.raises(BadInput, match="none is background"):
        PixelClassifier(scales=(1.0,)).prepare(volume, volume.box, QUIET)(seeds)


@pytest.mark.parametrize("wrong", [{"scales": ()}, {"scales": (0.0,)}, {"trees": 0}, {"threshold": 0.0}])
def test_senseless_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInput, match="pixel-classifier"):
        PixelClassifier(**wrong)  # type: ignore[arg-type]
