"""The functions for notebooks do what the commands do, and say what is wrong in Python's words."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

import asem_core as asem
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume
from asem_core.errors import BadInput, OutputExists, RecipeError, UnknownName
from asem_core.volume import Labels, Spec, Volume

QUIET = asem.Run(progress=False)


@pytest.fixture
def cell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> asem.Cell:
    """A cube of probability 1, and an image and labels beside it."""
    monkeypatch.chdir(tmp_path)
    raw = np.full((24, 32, 40), 200, np.uint8)
    raw[8:16, 8:16, 8:16] = 50
    tifffile.imwrite("raw.tif", raw)
    tifffile.imwrite("cube.tif", (raw == 50).astype(np.uint8))
    cell = asem.open("raw.tif", "cell.zarr", voxel_size_nm=10, run=QUIET)
    layer(cell, "predictions/cube/probability", np.where(raw == 50, 255, 0).astype(np.uint8))
    return asem.open("cube.tif", cell.path, layer="labels/cube", voxel_size_nm=(10, 10, 10), run=QUIET)


def layer(cell: asem.Cell, name: str, values: np.ndarray, size: float = 10.0) -> None:
    about = Record("probability" if values.max() == 255 else "labels")
    out = create_volume(
        f"{cell}/{name}", Spec(values.shape, values.dtype, size), block=64, made_by={"stage": "test"}, about=about
    )
    out.data[...] = values  # type: ignore[index]
    finish_volume(out)


def test_a_cell_opens_and_lists_its_layers(cell: asem.Cell) -> None:
    """By its path, again and again; what is no cell must be imported, which the message shows how to do."""
    again = asem.open("cell.zarr")
    assert again == cell
    assert again.layers == ["raw", "labels/cube", "predictions/cube/probability"]
    assert "labels/cube: 24 x 32 x 40 voxels of 10 x 10 x 10 nm, uint8, labels" in repr(again)
    assert type(again["labels/cube"]) is Labels
    assert again.image.path == "cell.zarr/raw"
    with pytest.raises(UnknownName, match="Its layers: raw, labels/cube"):
        again["labels/cubes"]
    with pytest.raises(BadInput, match=r"raw.tif .*"):
        asem.open("raw.tif")
    with pytest.raises(BadInput, match="nothing.zarr does not exist"):
        asem.open("nothing.zarr")
    with pytest.raises(OutputExists, match="cell.zarr/raw"):
        asem.open("cube.tif", "cell.zarr", voxel_size_nm=10, run=QUIET)


def test_segment_and_measure(cell: asem.Cell) -> None:
    """Results lie where the commands write them; made again, they are found."""
    found = asem.segment("cell.zarr/predictions/cube/probability", threshold=0.4, run=QUIET)
    assert found.path == "cell.zarr/predictions/cube/segmentation"
    assert found.read().sum() == 8**3
    report = asem.measure(found, "morphometry", run=QUIET, smallest_um3=1e-5)
    assert report.page == Path("cell_reports/morphometry-cube/report.html")
    assert report.numbers["objects"] == 1
    assert report.tables["objects"]["volume_um3"].to_pylist() == pytest.approx([8**3 * 1e-6])
    before = report.page.stat().st_mtime_ns
    assert asem.measure(found, "morphometry", run=QUIET, smallest_um3=1e-5).page.stat().st_mtime_ns == before
    assert "table objects: 1 rows" in repr(report)
    with pytest.raises(OutputExists, match="made from other data or with other options"):
        asem.measure(found, "morphometry", run=QUIET, smallest_um3=2e-5)
    with pytest.raises(RecipeError, match="asem.segment: unknown option 'treshold'. Did you mean 'threshold'?"):
        asem.segment(cell["predictions/cube/probability"], treshold=0.4, run=QUIET)
    with pytest.raises(BadInput, match="asem.predict: unknown option 'boxx'. Did you mean 'box'?"):
        asem.predict(cell, "membrane-fibsem-10nm", boxx="0:8,:,:", run=QUIET)


def test_what_is_measured_has_the_image_of_its_own_voxels(cell: asem.Cell) -> None:
    """Of a prediction at a lower resolution that is not `raw`, but what was predicted; here there is none."""
    from asem_core.stages.analyze import image_beside

    coarse = asem.apply(asem_step("downsample", factor=2), cell["raw"], "cell.zarr/raw_coarse", QUIET)
    layer(cell, "labels/coarse", np.ones(coarse.shape, np.uint8), 20.0)
    assert image_beside(cell["labels/cube"]).path == "cell.zarr/raw"  # type: ignore[arg-type, union-attr]
    of_coarse = asem.apply(asem_step("normalize"), coarse, "cell.zarr/raw_normal", QUIET)
    chain = Labels.of(of_coarse)  # stands for labels that were made of it
    assert image_beside(chain).path == "cell.zarr/raw_coarse"  # type: ignore[union-attr]


def asem_step(name: str, **options: object) -> object:
    from asem_core.catalog import load_catalog

    return load_catalog().get("preprocessor", name)(**options)


def test_pictures(cell: asem.Cell, tmp_path: Path) -> None:
    """A layer is drawn over its cell's image; a notebook gets a PNG."""
    picture = asem.show(cell["labels/cube"], plane="z=10")
    assert picture.pixels.shape == (32 * 20, 40 * 20, 3)  # enlarged to 800 pixels
    assert np.ptp(picture.pixels[210, 210].astype(int)) > 30  # coloured
    assert np.ptp(picture.pixels[50, 610].astype(int)) == 0  # grey
    assert picture._repr_png_().startswith(b"\x89PNG")
    assert picture.save(tmp_path / "cube.png").stat().st_size > 100
    alone = asem.show(cell, "raw", plane="z=10").pixels
    assert np.ptp(alone.astype(int), axis=2).max() == 0
    with pytest.raises(BadInput, match="there is no z=99"):
        asem.show(cell, plane="z=99")


def test_what_cannot_be_done(cell: asem.Cell) -> None:
    """A volume in memory has no place for results; a foreign image needs a cell to write to."""
    with pytest.raises(BadInput, match="import it into a cell first"):
        asem.segment(Volume(np.zeros((4, 4, 4), np.uint8), 10), run=QUIET)
    with pytest.raises(BadInput, match="Say which model"):
        asem.predict(cell)
    with pytest.raises(BadInput, match="there is no step 'crops'"):
        asem.prepare(cell, skip=["crops"])


def test_prepare(cell: asem.Cell) -> None:
    """Options are given by step; the image of the cell is what it made."""
    image = asem.prepare(cell, skip=["crop", "mask"], clahe={"kernel_vx": 16, "clip_limit": 0.02}, run=QUIET)
    assert image.path == "cell.zarr/raw_clahe"
    assert cell.image.path == image.path
