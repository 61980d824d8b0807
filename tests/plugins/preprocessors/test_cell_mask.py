"""The cell mask equals scipy and scikit-image on the whole volume."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage
from skimage import morphology

from asem_core.blocks import Run
from asem_core.cell.apply import apply_in_memory
from asem_core.errors import BadInput
from asem_core.volume import Volume
from asem_preprocessors.cell_mask import CellMask


@pytest.fixture
def cell() -> np.ndarray:
    """A noisy body with vacuoles of all sizes, that leaves the volume on one side, and debris around it."""
    rng = np.random.default_rng(0)
    shape = (60, 70, 80)
    blobs = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    grey = np.where(blobs > np.quantile(blobs, 0.45), 120.0, 220.0)
    return np.clip(grey + rng.normal(0, 10, shape), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("block", [24, 33, 128])
@pytest.mark.parametrize(("opening", "closing", "smallest"), [(1, 2, 3000), (3, 0, 0), (0, 1, 500)])
def test_equals_scipy_and_scikit_image(cell: np.ndarray, block: int, opening: int, closing: int, smallest: int) -> None:
    """Threshold, opening, closing, holes, small objects: voxel by voxel, also where holes span blocks."""
    wanted = (cell > 2) & (cell < 180)
    if opening:
        wanted = morphology.opening(wanted, morphology.ball(opening))
    if closing:
        wanted = morphology.closing(wanted, morphology.ball(closing))
    wanted = ndimage.binary_fill_holes(wanted)
    if smallest:
        wanted = morphology.remove_small_objects(wanted, max_size=smallest - 1)
    step = CellMask(opening_vx=opening, closing_vx=closing, smallest_vx=smallest)
    made = apply_in_memory(step, Volume(cell, 5), Run(block=block, progress=False), block=block).read()
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, wanted)


def test_holes_can_stay(cell: np.ndarray) -> None:
    """Without fill_holes the mask has less in it."""
    volume = Volume(cell, 5)
    filled, open_ = (
        apply_in_memory(CellMask(opening_vx=1, smallest_vx=9, fill_holes=f), volume).read() for f in (True, False)
    )
    assert open_.sum() < filled.sum()
    assert (filled >= open_).all()


def test_refuses_an_empty_mask(cell: np.ndarray) -> None:
    """Nothing between the thresholds, or only small pieces: says what there is and what to set."""
    with pytest.raises(BadInput, match=r"finds nothing .* largest piece has 0 voxels.*Look at the histogram"):
        apply_in_memory(CellMask(darkest=254, brightest=255), Volume(cell, 5))
    with pytest.raises(BadInput, match="smallest_vx is 100000000"):
        apply_in_memory(CellMask(smallest_vx=100_000_000), Volume(cell, 5))
    with pytest.raises(BadInput, match="must not be negative"):
        CellMask(opening_vx=-1)


def test_refuses_nan() -> None:
    """NaN is neither cell nor resin."""
    with pytest.raises(Exception, match="NaN or infinite values"):
        apply_in_memory(CellMask(darkest=0, brightest=1), Volume(np.full((8, 8, 8), np.nan, np.float32), 5))
