"""Steps that change the grid: crop and downsample."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asem_core.blocks import Run
from asem_core.cell.apply import apply, apply_in_memory
from asem_core.cell.record import Record
from asem_core.errors import BadInput
from asem_core.volume import Box, Labels, Volume
from asem_preprocessors.crop import Crop
from asem_preprocessors.downsample import Downsample


def test_crop_keeps_the_place_and_is_remembered(image: Callable[..., Volume], tmp_path: Path) -> None:
    """The origin moves along, and the layer says which box of which shape it is."""
    volume = image((20, 30, 40))  # voxels of 8 x 5 x 5 nm from (80, 0, 35) on
    run = Run(progress=False)
    made = apply(Crop(box="2:12,:20,5:"), volume, tmp_path / "cell.zarr" / "raw_crop", run)
    np.testing.assert_array_equal(made.read(), volume.read()[2:12, :20, 5:])
    assert made.origin_nm == (96.0, 0.0, 60.0)
    kept = Record.of(made).findings["crop"]
    assert kept == {"begin": [2, 0, 5], "end": [12, 20, 40], "source_shape": [20, 30, 40], "source": volume.path}
    back = np.zeros(volume.shape, np.uint8)
    back[volume.box_of(made).slices] = made.read()
    np.testing.assert_array_equal(back[2:12, :20, 5:], volume.read()[2:12, :20, 5:])


def test_crop_finds_regions_in_zeros(caplog: pytest.LogCaptureFixture) -> None:
    """Of two tilted regions in zeros the larger is kept, and the other is named, as a box that can be given."""
    data = np.zeros((32, 256, 512), np.uint8)
    _, y, x = np.indices(data.shape)
    data[(np.abs(y - 100 - x // 16) < 40) & (x < 200)] = 120
    data[(np.abs(y - 180) < 40) & (x > 360)] = 100
    data[data > 0] += np.random.default_rng(0).integers(0, 60, data.shape, dtype=np.uint8)[data > 0]
    made = Crop(margin_vx=0).fit(Volume(data, 5.0, path="atlas"), Run(progress=False))
    assert made.box.contains(Box((0, 80, 16), (32, 144, 192)))
    assert made.box.end[2] <= 208
    assert "atlas: crop keeps the largest region" in caplog.text
    other = Box.parse(caplog.text.partition("leaves out another, [")[2].partition("]")[0])
    assert other.contains(Box((0, 160, 380), (32, 208, 500)))


def test_crop_in_nm(image: Callable[..., Volume]) -> None:
    """A box in nm keeps the voxels whose centres lie in it."""
    made = apply_in_memory(Crop(begin_nm=(96, 0, 58), end_nm=(176, 100, 235)), image((20, 30, 40)))
    assert (made.shape, made.origin_nm) == ((10, 20, 35), (96.0, 0.0, 60.0))
    open_end = apply_in_memory(Crop(begin_nm=(96, 0, 60)), image((20, 30, 40)))
    assert open_end.shape == (18, 30, 35)


def test_crop_finds_the_cell() -> None:
    """Black padding, bright resin and a speck of dirt are cut off; the cell stays whole, with its margin."""
    data = np.full((160, 200, 240), 230, np.uint8)
    data[:, :20] = 0
    z, y, x = np.indices(data.shape)
    inside = ((z - 90) / 50) ** 2 + ((y - 110) / 60) ** 2 + ((x - 100) / 70) ** 2 < 1
    data[inside] = 120
    data[10:20, 180:190, 225:235] = 120
    run = Run(progress=False)
    box = Crop(margin_vx=0).fit(Volume(data, 5), run).box
    begin, end = np.argwhere(inside).min(axis=0), np.argwhere(inside).max(axis=0) + 1
    assert np.all(np.abs(np.array(box.begin) - begin) <= 32)
    assert np.all(np.abs(np.array(box.end) - end) <= 32)
    wide = Crop(margin_vx=32).fit(Volume(data, 5), run).box
    assert inside[wide.slices].sum() == inside.sum()
    as_uint16 = Volume(data.astype(np.uint16) * 257, 5)
    assert Crop(margin_vx=0).fit(as_uint16, run).box == box  # thresholds follow the dtype


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"box": "0:5,0:5,0:99"}, "not inside"),
        ({"box": "5:5,:,:"}, "empty"),
        ({"begin_nm": (1e4, 0, 0)}, "not inside"),
        ({"darkest": 250, "brightest": 255}, "finds no cell.*Set darkest and brightest"),
        ({"darkest": 9, "brightest": 3}, "must be less than brightest"),
    ],
    ids=str,
)
def test_crop_refuses_boxes_it_cannot_cut(image: Callable[..., Volume], options: dict[str, Any], text: str) -> None:
    """Each mistake is named."""
    with pytest.raises(BadInput, match=text):
        apply_in_memory(Crop(**options), image((20, 30, 40)))


def test_crop_refuses_two_boxes_empty_images_and_nan() -> None:
    """A box is given once; an image of one value shows no cell; NaN has no mean."""
    with pytest.raises(BadInput, match=r"in voxels .* and in nm"):
        Crop(box=":,:,:", begin_nm=(0, 0, 0))
    with pytest.raises(BadInput, match="has the value 0"):
        apply_in_memory(Crop(), Volume(np.zeros((4, 5, 6), np.float32), 5))
    with pytest.raises(BadInput, match="NaN or infinite"):
        apply_in_memory(Crop(darkest=0, brightest=1), Volume(np.full((4, 5, 6), np.nan), 5))


@pytest.mark.parametrize("factor", [1, 2, 3, (2, 1, 4)])
def test_mean_of_whole_cells(image: Callable[..., Volume], factor: int | tuple[int, int, int]) -> None:
    """Each voxel is the rounded mean of its cell; the last may cover less; the place stays."""
    volume = image((13, 30, 21))
    made = apply_in_memory(Downsample(factor=factor), volume, block=8)
    f = np.broadcast_to(factor, 3)
    data = volume.read()
    for at in ((0, 0, 0), tuple(n - 1 for n in made.shape), (2, 5, 3)):
        cell = data[tuple(slice(a * k, (a + 1) * k) for a, k in zip(at, f, strict=True))]
        assert made.read()[at] == np.rint(cell.mean())
    assert made.shape == tuple(-(-n // k) for n, k in zip(volume.shape, f, strict=True))
    size = np.array(volume.voxel_size_nm)
    np.testing.assert_allclose(made.voxel_size_nm, size * f)
    np.testing.assert_allclose(made.origin_nm, volume.origin_nm + (f - 1) / 2 * size)


def test_labels_keep_the_most_frequent_id() -> None:
    """Ids are not mixed; of equally frequent values the least id wins over background."""
    data = np.zeros((2, 2, 8), np.uint32)
    data[..., 2:4] = 70_000
    data[0, 0, 2] = 3
    data[:, 0, 4:6] = 9
    data[0, :, 6:8] = 5
    data[1, :, 6:8] = 4
    made = apply_in_memory(Downsample(), Labels(data, 5))
    assert made.read().ravel().tolist() == [0, 70_000, 9, 4]
    assert made.dtype == np.uint32


def test_downsample_to_a_voxel_size(image: Callable[..., Volume]) -> None:
    """The factor follows from the voxel size; one that is no multiple is refused, as are two ways of saying it."""
    made = apply_in_memory(Downsample(to_voxel_size_nm=(8, 10, 10)), image((4, 6, 6)))
    assert (made.shape, made.voxel_size_nm) == ((4, 3, 3), (8.0, 10.0, 10.0))
    with pytest.raises(BadInput, match="not a whole multiple"):
        apply_in_memory(Downsample(to_voxel_size_nm=12), image((4, 6, 6)))
    with pytest.raises(BadInput, match="both given"):
        Downsample(factor=2, to_voxel_size_nm=10)
    with pytest.raises(BadInput, match="at least 1"):
        Downsample(factor=0)
    with pytest.raises(BadInput, match="'mode' is for labels"):
        apply_in_memory(Downsample(method="mode"), Volume(np.zeros((2, 2, 2), np.float32), 5))


def test_crop_finds_the_cell_in_a_real_run_of_atlas(
    real_data: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    """Of 85 % of zeros, the larger region of interest is kept, which lies at y 3800:4298, x 1880:3810; the other is named."""
    from asem_sources.tiff_stack import TiffStack

    whole = TiffStack(str(real_data("formats/fibics_atlas"))).open()
    volume = whole.crop(Box((0, 3500, 0), (3, 4500, 9600)))  # the rest is zeros, too: 98 %
    box = Crop(margin_vx=0).fit(volume, Run(progress=False)).box
    assert (box.begin[0], box.end[0]) == (0, 3)
    np.testing.assert_allclose([box.begin[1:], box.end[1:]], [[300, 1880], [798, 3810]], atol=48)
    assert "leaves out another, [0:3, " in caplog.text
