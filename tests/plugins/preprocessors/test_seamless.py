"""Every step gives the same voxels for any block size and number of workers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asem_core.blocks import Run
from asem_core.cell.apply import apply, apply_in_memory, apply_to_block
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.interfaces import Preprocessor
from asem_core.volume import Labels, Volume
from asem_preprocessors.align import Align, FittedAlign
from asem_preprocessors.cell_mask import CellMask
from asem_preprocessors.clahe import Clahe
from asem_preprocessors.clean_labels import CleanLabels
from asem_preprocessors.crop import Crop
from asem_preprocessors.dilate_labels import DilateLabels
from asem_preprocessors.downsample import Downsample
from asem_preprocessors.exclusion_zone import ExclusionZone
from asem_preprocessors.invert import Invert
from asem_preprocessors.match_histogram import MatchHistogram
from asem_preprocessors.normalize import Normalize

IMAGE_STEPS: list[Preprocessor] = [
    Clahe(kernel_vx=24),
    Clahe(kernel_vx=(7, 40, 16), clip_limit=0.0, dtype="uint16"),
    CellMask(darkest=60, brightest=140, smallest_vx=30),
    Crop(box="1:,:,0:20"),
    Downsample(factor=(2, 3, 2)),
    Normalize(),
    Normalize(method="zscore"),
    Invert(),
]
LABEL_STEPS: list[Preprocessor] = [
    CleanLabels(smallest_vx=40, largest_hole_vx=60),
    DilateLabels(radius_vx=3),
    DilateLabels(radius_nm=17.0),
    ExclusionZone(dilate_vx=2, erode_vx=1),
    Downsample(factor=2, method="mode"),
]
SHAPES = st.tuples(st.integers(2, 40), st.integers(1, 60), st.integers(20, 50))
FEW = settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def same_for(step: Preprocessor, volume: Volume, blocks: tuple[int, ...]) -> None:
    """Compare results made in blocks, fitted in blocks of the same shape, with the whole."""
    whole = apply_in_memory(step, volume, Run(block=256, progress=False), block=256)
    for block in blocks:
        made = apply_in_memory(step, volume, Run(block=block, progress=False), block=block)
        np.testing.assert_array_equal(made.read(), whole.read(), err_msg=f"{step} in blocks of {block}")


@pytest.mark.parametrize("step", IMAGE_STEPS, ids=str)
@FEW
@given(shape=SHAPES, seed=st.integers(0, 1000))
def test_images_do_not_depend_on_blocks(
    image: Callable[..., Volume], step: Preprocessor, shape: tuple[int, int, int], seed: int
) -> None:
    """Random shapes, some smaller than a block and none divisible by it: the same voxels."""
    same_for(step, image(shape, seed), (16, 29))


def test_a_cell_is_found_in_any_blocks(image: Callable[..., Volume]) -> None:
    """Grey values amid padding: the box that is kept does not depend on the blocks in which it is looked for."""
    volume = Volume(np.pad(image((40, 50, 60)).read(), 40), 5.0)
    step = Crop(darkest=20, brightest=250, margin_vx=3)
    boxes = {step.fit(volume, Run(block=block, progress=False)).box for block in (16, 29, 256)}
    assert len(boxes) == 1
    assert boxes != {volume.box}


@pytest.mark.parametrize("step", LABEL_STEPS, ids=str)
@FEW
@given(shape=SHAPES, seed=st.integers(0, 1000), num_ids=st.sampled_from([1, 4]))
def test_labels_do_not_depend_on_blocks(
    objects: Callable[..., Labels], step: Preprocessor, shape: tuple[int, int, int], seed: int, num_ids: int
) -> None:
    """Random shapes, binary masks and ids alike: the same voxels."""
    same_for(step, objects(shape, seed, num_ids), (16, 29))


@FEW
@given(shape=st.tuples(st.integers(1, 12), st.integers(1, 60), st.integers(1, 60)), seed=st.integers(0, 1000))
def test_aligning_does_not_depend_on_blocks(
    image: Callable[..., Volume], shape: tuple[int, int, int], seed: int
) -> None:
    """Planes at any positions, whole and fractional, in blocks smaller than the shifts: the same voxels."""
    volume = image(shape, seed)
    at = np.random.default_rng(seed).uniform(-20, 20, (shape[0], 2))
    for positions in (np.rint(at), at):
        fitted = FittedAlign(volume.spec, volume.box, positions, 7, {})
        whole = apply_to_block(fitted, volume, volume.box, "align")
        for block in (8, 29):
            for box in volume.box.blocks(block):
                np.testing.assert_array_equal(apply_to_block(fitted, volume, box, "align"), whole[box.slices])


@pytest.fixture(scope="module")
def cell(
    image: Callable[..., Volume], objects: Callable[..., Labels], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Write an image and labels, (66, 50, 70), as layers of a cell."""
    folder = tmp_path_factory.mktemp("seamless") / "cell.zarr"
    for layer, volume in (("raw", image((66, 50, 70))), ("labels/things", objects((66, 50, 70), num_ids=3))):
        out = create_volume(folder / layer, volume.spec, block=32, made_by={"test": layer})
        out.data[:] = volume.read()  # type: ignore[index]
        finish_volume(out)
    return folder


ON_DISK: list[Preprocessor] = [*IMAGE_STEPS, Align(), MatchHistogram(reference=""), *LABEL_STEPS]
# A worker is a process, which takes seconds to start; that each fitted step works in another one, its kit tests.
FIRST = (IMAGE_STEPS[0], LABEL_STEPS[0])
BY_WORKERS = [pytest.param(step, marks=[] if step in FIRST else pytest.mark.slow) for step in ON_DISK]


@pytest.mark.parametrize("step", ON_DISK, ids=str)
def test_layers_on_disk_are_the_same_for_blocks(cell: Path, tmp_path: Path, step: Preprocessor) -> None:
    """Blocks of 32, 48 and 64: the same voxels as in memory."""
    check_on_disk(step, cell, tmp_path / "made.zarr", {32: 1, 48: 1, 64: 1})


@pytest.mark.parametrize("step", BY_WORKERS, ids=str)
def test_layers_on_disk_are_the_same_for_workers(cell: Path, tmp_path: Path, step: Preprocessor) -> None:
    """By two workers: the same voxels as in memory."""
    check_on_disk(step, cell, tmp_path / "made.zarr", {32: 2})


def check_on_disk(step: Preprocessor, cell: Path, folder: Path, workers_by_block: dict[int, int]) -> None:
    if isinstance(step, MatchHistogram):
        step = attrs.evolve(step, reference=str(cell / "raw"))
    of_labels = step in LABEL_STEPS
    volume = open_volume(cell / ("labels/things" if of_labels else "raw"), kind=Labels if of_labels else Volume)
    whole = apply_in_memory(step, volume, block=256)
    for block, workers in workers_by_block.items():
        run = Run(workers=workers, block=block, progress=False)
        made = apply(step, volume, folder / f"{block}_{workers}", run)
        np.testing.assert_array_equal(made.read(), whole.read(), err_msg=f"blocks of {block}, {workers} workers")
        assert made.spec == whole.spec
