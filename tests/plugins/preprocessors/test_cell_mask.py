"""The cell mask equals scipy and scikit-image on the whole volume."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from scipy import ndimage
from skimage import morphology

from asem_core.blocks import Run
from asem_core.cell.apply import apply_in_memory
from asem_core.errors import BadInput, NothingToDo
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
    step = CellMask(2, 180, opening_vx=opening, closing_vx=closing, smallest_vx=smallest)
    made = apply_in_memory(step, Volume(cell, 5), Run(block=block, progress=False), block=block).read()
    assert made.dtype == np.uint8
    np.testing.assert_array_equal(made, wanted)


@pytest.mark.parametrize(("nm", "opening", "closing"), [(5, 3, 2), (10, 1, 1), (40, 0, 0)])
def test_lengths_are_those_of_the_publication_at_any_voxel_size(
    cell: np.ndarray, nm: float, opening: int, closing: int
) -> None:
    """15 and 10 nm, and objects of 100,000 voxels of 5 nm; in voxels where that is asked for."""
    made = apply_in_memory(CellMask(2, 180), Volume(cell, nm)).read()
    smallest = min(round(100_000 * (5 / nm) ** 3), cell.size)
    by_hand = CellMask(2, 180, opening_vx=opening, closing_vx=closing, smallest_vx=smallest)
    np.testing.assert_array_equal(made, apply_in_memory(by_hand, Volume(cell, nm)).read())


def test_holes_can_stay(cell: np.ndarray) -> None:
    """Without fill_holes the mask has less in it."""
    volume = Volume(cell, 5)
    filled, open_ = (
        apply_in_memory(CellMask(2, 180, opening_vx=1, smallest_vx=9, fill_holes=f), volume).read()
        for f in (True, False)
    )
    assert open_.sum() < filled.sum()
    assert (filled >= open_).all()


def test_refuses_an_empty_mask(cell: np.ndarray) -> None:
    """Nothing between the thresholds, or only small pieces: says what there is and what to set."""
    with pytest.raises(
        BadInput, match=r"finds nothing .* largest connected component has 0 voxels.*Look at the histogram"
    ):
        apply_in_memory(CellMask(darkest=254, brightest=255), Volume(cell, 5))
    with pytest.raises(BadInput, match="smallest_vx is 100000000"):
        apply_in_memory(CellMask(2, 180, smallest_vx=100_000_000), Volume(cell, 5))
    with pytest.raises(BadInput, match="must not be negative"):
        CellMask(opening_vx=-1)


def stack(with_resin: bool, with_padding: bool) -> tuple[np.ndarray, np.ndarray]:
    """Grey values of a noisy block, (64, 96, 112), and where it is tissue: with bright cytoplasm, as bright as the resin."""
    rng = np.random.default_rng(1)
    shape = (64, 96, 112)
    texture = ndimage.gaussian_filter(rng.normal(size=shape), 2)
    grey = 125 + 32 * texture / texture.std()
    tissue = np.ones(shape, bool)
    if with_resin:
        _, y, x = np.indices(shape)
        tissue &= ((y - 40) / 50) ** 2 + ((x - 50) / 56) ** 2 < 1
        grey[~tissue] = 205
    grey = np.clip(grey + rng.normal(0, 8, shape), 20, 230)
    if with_padding:
        grey[:, 90:] = 0
        tissue[:, 90:] = False
    return grey, tissue


KINDS = {
    "bytes": lambda grey: grey.astype(np.uint8),
    "12 bits": lambda grey: (grey * 16).astype(np.uint16),
    "floats": lambda grey: (grey / 100 - 1).astype(np.float32),
    "dark resin": lambda grey: (255 - grey).astype(np.uint8),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("with_resin", "with_padding"), [(True, False), (False, True), (True, True)])
def test_finds_what_is_outside(kind: str, with_resin: bool, with_padding: bool) -> None:
    """Without limits, resin and padding are found from the histogram, whatever the grey scale: at most 1 % of bright tissue is lost."""
    grey, tissue = stack(with_resin, with_padding)
    made = apply_in_memory(CellMask(), Volume(KINDS[kind](grey), 5)).read() > 0
    inner = ndimage.binary_erosion(
        tissue, iterations=6, border_value=1
    )  # bright tissue at the very border of resin cannot be told
    bright = inner & (grey > 170)
    assert bright.sum() > 5000
    assert (bright & ~made).sum() <= 0.01 * bright.sum()
    assert (tissue & ~made).sum() <= 0.02 * tissue.sum()
    away = ndimage.binary_erosion(~tissue, iterations=6, border_value=1)
    assert (away & made).sum() <= 0.01 * away.sum()


@pytest.mark.parametrize("kind", KINDS)
def test_all_tissue_gets_no_mask(kind: str) -> None:
    """A block that is tissue throughout has no outside, and says what would be needed if it had."""
    grey, _ = stack(with_resin=False, with_padding=False)
    with pytest.raises(NothingToDo, match=r"No mask: .* neither padding nor empty resin .*mask.darkest"):
        apply_in_memory(CellMask(), Volume(KINDS[kind](grey), 5))
    with pytest.raises(NothingToDo, match="No mask"):
        apply_in_memory(CellMask(), Volume(KINDS[kind](grey[:48, :48, :48]), 5))


def test_small_cells_are_not_refused() -> None:
    """Fewer voxels than the smallest object of a whole cell: the largest piece stays."""
    grey, tissue = stack(with_resin=False, with_padding=True)
    made = apply_in_memory(CellMask(), Volume(grey[:16].astype(np.uint8), 5)).read() > 0
    assert (made != tissue[:16]).mean() < 0.03


def test_limits_that_cut_into_tissue_are_questioned(caplog: pytest.LogCaptureFixture) -> None:
    """Given limits that punch holes: they are filled, and what share they were is said; good limits are not questioned."""
    grey, _ = stack(with_resin=True, with_padding=False)
    volume = Volume(grey.astype(np.uint8), 5)
    apply_in_memory(CellMask(brightest=190), volume)
    assert "cell-mask fills" not in caplog.text
    apply_in_memory(CellMask(brightest=150, opening_vx=1), volume)
    assert "cell-mask fills" in caplog.text
    assert "limits may cut into tissue" in caplog.text


@pytest.mark.parametrize("step", [CellMask(), CellMask(opening_vx=1, smallest_vx=500)], ids=str)
def test_found_limits_do_not_depend_on_blocks(step: CellMask) -> None:
    """Means over the borders of blocks are the same."""
    grey, _ = stack(with_resin=True, with_padding=True)
    volume = Volume((grey / 100).astype(np.float32), 5)
    whole = apply_in_memory(step, volume, Run(block=256, progress=False), block=256).read()
    made = apply_in_memory(step, volume, Run(block=29, progress=False), block=29).read()
    np.testing.assert_array_equal(made, whole)


def test_real_tissue(real_data: Callable[[str], Path]) -> None:
    """fib25 is tissue throughout: no mask. With the published limits 8 % of it were holes; in resin, few of its voxels are lost."""
    planes = sorted((real_data("fib25") / "raw").glob("*.tif"))[:64]
    image = np.stack([tifffile.imread(p) for p in planes])
    with pytest.raises(NothingToDo):
        apply_in_memory(CellMask(), Volume(image, 10))
    y, x = np.indices((250, 250))
    tissue = np.broadcast_to((y - 125) ** 2 + (x - 125) ** 2 < 110**2, image.shape)
    resin = np.random.default_rng(0).normal(225, 8, image.shape)
    made = apply_in_memory(CellMask(), Volume(np.where(tissue, image, resin).clip(0, 255).astype(np.uint8), 10)).read()
    bright = ((y - 125) ** 2 + (x - 125) ** 2 < 105**2) & (image >= 180)
    assert (bright & (made == 0)).sum() <= 0.01 * bright.sum()
    assert made[~tissue].mean() < 0.06


def test_refuses_nan() -> None:
    """NaN is neither cell nor resin."""
    with pytest.raises(Exception, match="NaN or infinite values"):
        apply_in_memory(CellMask(darkest=0, brightest=1), Volume(np.full((8, 8, 8), np.nan, np.float32), 5))
