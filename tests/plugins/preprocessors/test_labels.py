"""Label steps equal scipy and scikit-image on the whole volume, voxel by voxel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology

from asem_core.blocks import Run
from asem_core.cell.apply import apply_in_memory
from asem_core.errors import BadInput
from asem_core.interfaces import Preprocessor
from asem_core.volume import Labels, Volume
from asem_preprocessors._morphology import Ball
from asem_preprocessors.clean_labels import CleanLabels
from asem_preprocessors.dilate_labels import DilateLabels
from asem_preprocessors.exclusion_zone import ExclusionZone

SHAPE = (41, 50, 33)
IN_BLOCKS = Run(block=24, progress=False)


def in_blocks(step: Preprocessor, volume: Volume) -> np.ndarray:
    return apply_in_memory(step, volume, IN_BLOCKS, block=24).read()


@pytest.fixture(params=["blobs", "single voxels", "mitochondria"])
def mask(request: pytest.FixtureRequest, objects: Callable[..., Labels]) -> np.ndarray:
    """Synthetic blobs, single voxels, and real organelles."""
    if request.param == "blobs":
        return objects(SHAPE).read() > 0
    if request.param == "single voxels":
        return np.random.default_rng(0).random(SHAPE) < 0.002
    import tifffile

    classes = request.getfixturevalue("real_data")("urocell_labels/fib1-0-0-0_classes.tif")
    return tifffile.imread(classes)[100:150, :70, 60:130] == 1


@pytest.mark.parametrize("radius", [0, 1, 1.5, 3, 6])
def test_dilation_equals_scipy(mask: np.ndarray, radius: float) -> None:
    """A binary mask grows as by `binary_dilation` with scikit-image's ball."""
    made = in_blocks(DilateLabels(radius_vx=radius), Labels(mask.astype(np.uint8), 5))
    element = morphology.ball(radius) if radius == int(radius) else Ball(radius).element()
    wanted = ndimage.binary_dilation(mask, element)
    np.testing.assert_array_equal(made, wanted)


def test_dilation_in_nm_follows_anisotropic_voxels() -> None:
    """On voxels of 30 x 10 x 15 nm a ball of 30 nm reaches one plane up, three voxels along y and two along x."""
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[4, 4, 4] = 1
    made = in_blocks(DilateLabels(radius_nm=30.0), Labels(mask, (30, 10, 15)))
    z, y, x = np.indices(mask.shape) - 4
    np.testing.assert_array_equal(made, (30 * z) ** 2 + (10 * y) ** 2 + (15 * x) ** 2 <= 30**2)


def test_lengths_become_the_nearest_number_of_voxels_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    """15 nm, as of mitochondria, are 2 voxels of 8 nm, 1 of 16 nm and none of 30 nm; halves go down. The same on each axis."""
    mask = np.zeros((9, 9, 9), np.uint8)
    mask[4, 4, 4] = 1
    for size, reached in ((5, (3, 3, 3)), (8, (2, 2, 2)), (10, (1, 1, 1)), (16, (1, 1, 1)), ((30, 6, 5), (0, 2, 3))):
        with caplog.at_level("INFO", "asem_core.remarks"):
            made = apply_in_memory(DilateLabels(radius_nm=15.0), Labels(mask, size)).read()
        assert tuple((np.argwhere(made).max(axis=0) - 4).tolist()) == reached
    np.testing.assert_array_equal(
        apply_in_memory(DilateLabels(radius_nm=15.0), Labels(mask, 8)).read()[2:7, 2:7, 2:7], morphology.ball(2)
    )
    assert "dilate-labels: radius 15 nm = 2 voxels of 8 nm" in caplog.text
    assert "dilate-labels: radius 15 nm = z, y, x = 0, 2, 3 voxels of 30 x 6 x 5 nm" in caplog.text
    with caplog.at_level("INFO", "asem_core.remarks"):
        apply_in_memory(CleanLabels(largest_hole_um3=0.0025), Labels(mask, (20, 10, 10)))
        apply_in_memory(ExclusionZone(dilate_nm=20.0, erode_nm=15.0), Labels(mask, 8))
    assert "clean-labels: largest hole 0.0025 µm³ = 1,250 voxels of 20 x 10 x 10 nm" in caplog.text
    assert "exclusion-zone: dilate 20 nm = 2, erode 15 nm = 2 voxels of 8 nm" in caplog.text


def test_dilation_gives_each_voxel_the_nearest_id(objects: Callable[..., Labels]) -> None:
    """Ids grow by distance, the least id wins a tie, and no object loses a voxel."""
    labels = objects(SHAPE, num_ids=5)
    data = labels.read()
    ids = np.unique(data)[1:]
    distances = np.stack([ndimage.distance_transform_edt(data != i) for i in ids])
    wanted = np.where(distances.min(axis=0) <= 4, ids[distances.argmin(axis=0)], 0)
    wanted = np.where(data > 0, data, wanted)
    np.testing.assert_array_equal(in_blocks(DilateLabels(radius_vx=4), labels), wanted)


@pytest.mark.parametrize(("outwards", "inwards"), [(4, 4), (2, 2), (1, 1), (3, 1), (0, 2), (2, 0)])
@pytest.mark.parametrize("unit", ["vx", "nm"])
def test_exclusion_zone_is_the_published_diamond(mask: np.ndarray, outwards: int, inwards: int, unit: str) -> None:
    """The published widths of every organelle: iterations of the cross, dilated less eroded, on the whole volume."""
    size = 1 if unit == "vx" else 5
    zone = ExclusionZone(**{f"dilate_{unit}": outwards * size, f"erode_{unit}": inwards * size})
    cross = ndimage.generate_binary_structure(3, 1)
    dilated = ndimage.binary_dilation(mask, cross, iterations=outwards) if outwards else mask
    eroded = ndimage.binary_erosion(mask, cross, iterations=inwards, border_value=1) if inwards else mask
    np.testing.assert_array_equal(in_blocks(zone, Labels(mask.astype(np.uint8), 5)), dilated & ~eroded)


@pytest.mark.parametrize(("outwards", "inwards"), [(4, 4), (3, 1), (0, 2)])
def test_exclusion_zone_of_balls_equals_scikit_image(mask: np.ndarray, outwards: int, inwards: int) -> None:
    """The other shape: dilated less eroded by balls, on the whole volume."""
    zone = ExclusionZone(dilate_vx=outwards, erode_vx=inwards, shape="ball")
    made = in_blocks(zone, Labels(mask.astype(np.uint8), 5))
    dilated = morphology.dilation(mask, morphology.ball(outwards))
    # Outside of the volume an object goes on: scikit-image's erosion pads with foreground, too.
    eroded = ndimage.binary_erosion(mask, morphology.ball(inwards), border_value=1)
    np.testing.assert_array_equal(made, dilated & ~eroded)


def test_ball_equals_scikit_image() -> None:
    """The structuring element is the one that everybody uses."""
    for radius in (1, 2, 3, 4, 7):
        np.testing.assert_array_equal(Ball(radius).element(), morphology.ball(radius))


@pytest.mark.parametrize(("smallest", "hole"), [(27, 0), (0, 200), (27, 200), (400, 20_000)])
def test_clean_up_equals_scikit_image(objects: Callable[..., Labels], smallest: int, hole: int) -> None:
    """Objects and holes that span blocks count as wholes."""
    labels = objects(SHAPE)
    wanted = labels.read() > 0
    if smallest:
        wanted = morphology.remove_small_objects(wanted, max_size=smallest - 1)
    if hole:
        wanted = morphology.remove_small_holes(wanted, max_size=hole - 1)
    made = in_blocks(CleanLabels(smallest_vx=smallest, largest_hole_vx=hole), labels)
    np.testing.assert_array_equal(made, wanted)
    assert (made != labels.read()).any()


def test_holes_take_the_one_id_around_them() -> None:
    """A hole inside object 5 becomes 5; one between 5 and 9 stays."""
    data = np.zeros((30, 30, 60), np.uint16)
    data[5:25, 5:25, 5:25] = 5
    data[5:25, 5:25, 25:50] = 9
    wanted = data.copy()
    data[14, 14, 12:15] = 0
    data[14, 14, 24:26] = wanted[14, 14, 24:26] = 0
    made = in_blocks(CleanLabels(largest_hole_vx=10), Labels(data, 5))
    np.testing.assert_array_equal(made, wanted)


def test_sizes_in_um3() -> None:
    """0.0025 um3 are 20,000 voxels of 5 nm: a cube of 27 voxels (19,683) is a hole, one of 28 (21,952) is not."""
    data = np.ones((40, 40, 90), np.uint8)
    data[5:32, 5:32, 5:32] = 0
    data[5:33, 5:33, 50:78] = 0
    made = in_blocks(CleanLabels(largest_hole_um3=0.0025), Labels(data, 5))
    assert (made[5:32, 5:32, 5:32] == 1).all()
    assert (made[5:33, 5:33, 50:78] == 0).all()


def test_nothing_to_clean_leaves_labels_as_they_are(objects: Callable[..., Labels]) -> None:
    """Neither an option, nor anything small: the same labels."""
    labels = objects(SHAPE, num_ids=3)
    np.testing.assert_array_equal(in_blocks(CleanLabels(), labels), labels.read())
    np.testing.assert_array_equal(in_blocks(CleanLabels(smallest_vx=1, largest_hole_vx=1), labels), labels.read())


@pytest.mark.parametrize("fill", [0, 1])
def test_empty_and_full_labels(fill: int) -> None:
    """Labels without objects, and an object without background, have no outline: nothing grows, no zone."""
    labels = Labels(np.full((10, 11, 12), fill, np.uint8), 5)
    np.testing.assert_array_equal(in_blocks(DilateLabels(radius_vx=3), labels), labels.read())
    np.testing.assert_array_equal(in_blocks(CleanLabels(smallest_vx=9, largest_hole_vx=9), labels), labels.read())
    assert not in_blocks(ExclusionZone(dilate_vx=3, erode_vx=3), labels).any()


@pytest.mark.parametrize("step", [DilateLabels(), ExclusionZone(), CleanLabels()], ids=str)
def test_refuses_images_of_fractions(step: Preprocessor) -> None:
    """A probability map is not labels; the message says so."""
    with pytest.raises(BadInput, match=r"holds float32.*Threshold it first"):
        apply_in_memory(step, Volume(np.zeros((3, 3, 3), np.float32), 5))


def test_refuses_two_units_and_negative_lengths() -> None:
    """A length is given once, and is not negative."""
    with pytest.raises(BadInput, match="radius_vx and radius_nm are both given"):
        DilateLabels(radius_vx=1, radius_nm=5)
    with pytest.raises(BadInput, match="erode_vx and erode_nm are both given"):
        ExclusionZone(erode_vx=1, erode_nm=5)
    with pytest.raises(BadInput, match="smallest_vx and smallest_um3 are both given"):
        CleanLabels(smallest_vx=1, smallest_um3=5)
    with pytest.raises(BadInput, match="radius_nm must be a number from 0 on, got -1"):
        DilateLabels(radius_nm=-1)
