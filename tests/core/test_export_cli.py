"""`asem export` reverts the crop of a real chain of steps, from the TIFF stack on."""

from __future__ import annotations

import numpy as np
import tifffile
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.apply import apply
from asem_core.cell.store import open_volume
from asem_core.cli import make_app


def asem(*arguments):
    result = CliRunner().invoke(make_app(), [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result


def test_a_cropped_layer_goes_back_to_the_planes_it_came_from(tmp_path):
    rng = np.random.default_rng(0)
    stack = rng.integers(1, 255, (12, 40, 50), np.uint8)
    (tmp_path / "planes").mkdir()
    for z, plane in enumerate(stack):
        tifffile.imwrite(tmp_path / "planes" / f"scan_{z + 7:04d}.tif", plane)
    cell = tmp_path / "cell.zarr"
    asem("import", tmp_path / "planes", "--voxel-size", "5,4,4", "-o", cell, "-q", "-j", 1)
    crop = load_catalog().get("preprocessor", "crop")(box="2:10,5:35,10:45")
    apply(crop, open_volume(cell / "raw"), cell / "raw_crop", Run(progress=False))
    asem("export", cell / "raw_crop", "-o", tmp_path / "out", "-q", "-j", 1)
    files = sorted((tmp_path / "out").iterdir())
    assert [f.name for f in files] == [f"scan_{z + 7:04d}.tif" for z in range(12)]
    expected = np.zeros_like(stack)
    expected[2:10, 5:35, 10:45] = stack[2:10, 5:35, 10:45]
    np.testing.assert_array_equal(np.stack([tifffile.imread(f) for f in files]), expected)


def test_a_stack_is_exported_under_its_own_names_but_never_onto_itself(tmp_path):
    (tmp_path / "planes").mkdir()
    for z in range(3):
        tifffile.imwrite(tmp_path / "planes" / f"a{z}.tif", np.full((8, 9), z, np.uint8))
    asem("import", tmp_path / "planes", "--voxel-size", "5", "-o", tmp_path / "cell.zarr", "-q", "-j", 1)
    arguments = ["export", f"{tmp_path}/cell.zarr/raw", "-q", "-j", "1"]
    result = CliRunner().invoke(make_app(), [*arguments, "--overwrite", "-o", f"{tmp_path}/planes"])
    assert "is the original stack, which is never written to" in " ".join(result.output.split())
    asem(*arguments, "-o", tmp_path / "one.tif")
    assert tifffile.imread(tmp_path / "one.tif")[2, 0, 0] == 2


def test_mistakes_are_explained(tmp_path):
    result = CliRunner().invoke(make_app(), ["export", str(tmp_path / "no.zarr" / "raw"), "-o", str(tmp_path / "o")])
    assert result.exit_code == 1
    assert "does not exist" in result.output
