"""`asem inspect`: what is there and the command that imports it, whatever it asks."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.stages.import_ import what_it_takes
from asem_core.stages.inspect_ import contrast_of
from asem_core.testing import example_image
from asem_core.volume import Volume

IMAGE = example_image((12, 30, 40)).read()


def run(*words: str) -> str:
    done = CliRunner().invoke(make_app(), list(words))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_says_what_is_there_and_what_to_type(tmp_path: Path) -> None:
    """Two channels without a voxel size: both are asked, and the command that is suggested imports the image."""
    path = tmp_path / "two.tif"
    tifffile.imwrite(path, np.stack([IMAGE, 255 - IMAGE], 1), imagej=True, metadata={"axes": "ZCYX"})
    picture = tmp_path / "two.png"
    text = run("inspect", str(path), "--picture", str(picture))
    for line in ("tiff-stack", "12 x 30 x 40 voxels, uint8", "not stated", "has 2 channels", "--voxel-size 5,5,5"):
        assert line in text
    assert Image.open(picture).size[0] > 500
    found = json.loads(run("inspect", str(path), "--json"))
    assert (found["shape"], found["voxel_size_nm"], len(found["asks"])) == ([12, 30, 40], None, 2)
    assert found["greys"]["highest"] == IMAGE.max()
    assert sum(found["greys"]["histogram"]) == IMAGE.size
    words = shlex.split(found["command"])
    words[-1] = str(tmp_path / words[-1])
    run(*words[1:], "--quiet")
    np.testing.assert_array_equal(open_volume(tmp_path / "two.zarr" / "raw").read(), IMAGE)
    of_cell = run("inspect", str(tmp_path / "two.zarr"))
    assert "a cell already" in of_cell
    assert "asem import" not in of_cell


@pytest.mark.parametrize(
    ("values", "odd"),
    [
        (np.where(np.arange(30)[:, None] < 20, 0, IMAGE), "67% of the sampled voxels are 0: .* padding"),
        (IMAGE.astype(np.uint16) * 16, "12 bits in uint16"),
        (np.full_like(IMAGE, 7), "every voxel is 7 in the 12 planes sampled, of 12"),
    ],
)
def test_what_is_odd(tmp_path: Path, values: np.ndarray, odd: str) -> None:
    """Padding, 12 bits in 16 and a constant are pointed out."""
    tifffile.imwrite(tmp_path / "a.tif", values.astype(np.uint16 if values.max() > 255 else np.uint8))
    found = json.loads(run("inspect", str(tmp_path / "a.tif"), "--voxel-size", "5", "--json"))
    assert any(re.search(odd, question) for question in found["questions"])


def test_what_is_refused_is_still_told(tmp_path: Path) -> None:
    """A gap is asked for with the flag that answers; colour has no answer, and is said; nothing there is an error."""
    folder = tmp_path / "planes"
    folder.mkdir()
    for i in (1, 2, 4):
        tifffile.imwrite(folder / f"a_{i}.tif", IMAGE[i])
    text = run("inspect", str(folder), "--voxel-size", "5")
    assert "--set allow_gaps=true -o planes.zarr" in text
    tifffile.imwrite(tmp_path / "rgb.tif", np.stack([IMAGE[0]] * 3, -1), photometric="rgb")
    assert "is a colour image" in run("inspect", str(tmp_path / "rgb.tif"))
    assert CliRunner().invoke(make_app(), ["inspect", str(tmp_path / "nothing")]).exit_code != 0


def test_ids_with_unknown_voxels_are_taken_for_labels(tmp_path: Path) -> None:
    """Signed integers down to -1 are asked about as labels first, and the command that is suggested imports them."""
    ids = IMAGE.astype(np.int32)
    ids[6] = -1
    tifffile.imwrite(tmp_path / "ids.tif", ids)
    found = json.loads(run("inspect", str(tmp_path / "ids.tif"), "--voxel-size", "5", "--json"))
    assert "--kind labels" in found["command"]
    assert "grey_range" not in found["command"]


def test_an_import_that_is_refused_points_here(tmp_path: Path) -> None:
    """The error ends with the command that shows what is there."""
    tifffile.imwrite(tmp_path / "a.tif", IMAGE)
    done = CliRunner().invoke(make_app(), ["import", str(tmp_path / "a.tif"), "-o", str(tmp_path / "cell.zarr")])
    assert f"asem inspect {tmp_path / 'a.tif'}" in done.output + str(done.exception)


def test_of_many_planes_a_few_are_read(tmp_path: Path) -> None:
    """Every header is, but not every voxel."""
    for i in range(300):
        tifffile.imwrite(tmp_path / f"a_{i:04}.tif", IMAGE[i % 12])
    found = json.loads(run("inspect", str(tmp_path), "--voxel-size", "5", "--json"))
    assert found["planes"] == {"num": 300, "first": "a_0000.tif", "last": "a_0299.tif"}
    assert found["greys"]["num_planes"] <= 48


def test_one_empty_plane_is_not_taken_for_an_empty_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow a plane is to read, more are read while all that was seen is one value."""
    monkeypatch.setattr("asem_core.stages.inspect_.SECONDS", -1.0)
    padded = IMAGE.copy()
    padded[3:9] = 0  # the middle one, which is read first, among them
    for name, stack, num in (("padded.tif", padded, (2, 11)), ("full.tif", IMAGE, (1, 1))):
        tifffile.imwrite(tmp_path / name, stack)
        found = json.loads(run("inspect", str(tmp_path / name), "--voxel-size", "5", "--json"))
        assert num[0] <= found["greys"]["num_planes"] <= num[1]
        assert not any("every voxel" in question for question in found["questions"])


def test_what_a_large_import_takes(tmp_path: Path) -> None:
    """Disk and time are said; the disk is about what is then written."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 128, 128)).astype(np.uint8)
    text = what_it_takes(Volume(noise, 5.0), tmp_path / "cell.zarr" / "raw", Run(workers=1))
    assert float(text.partition("about ")[2].split()[0]) == pytest.approx(noise.size * 8 / 7 / 1e9, rel=0.2)
    assert "seconds" in text


def test_padding_does_not_decide_the_contrast() -> None:
    """In 98 % of zeros, the picture shows the greys of the tissue."""
    plane = np.zeros((100, 100), np.uint16)
    plane[40:50, 30:50] = np.linspace(9000, 15000, 200).reshape(10, 20)
    low, high = contrast_of(plane)
    assert 9000 <= low < 9200
    assert 14800 < high <= 15000
    assert contrast_of(np.full((4, 4), 7)) == (7, 7)
