"""What `asem prepare` and `asem preprocess` make of a cell is what every later stage takes, whatever was skipped."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.built import build_flow
from asem_core.catalog import load_catalog
from asem_core.cell.node import layers
from asem_core.cell.prepared import open_image, open_mask, read_prepared
from asem_core.cell.provenance import steps_done
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.cli import make_app
from asem_core.flow import run_flow
from asem_core.recipe import read_recipe
from asem_core.stages.preprocess import prepare, usual_steps
from asem_core.training.options import RegionOptions
from asem_core.training.regions import open_region
from asem_core.volume import Spec
from asem_core.weights import save_weights

OPTIONS: dict[str, Any] = {"features": 3, "factors": [[2, 2, 2]]}
EXPECTED = {"name": "clahe", "options": {"kernel_vx": 128, "clip_limit": 0.02, "num_bins": 256}}
SMALL = {"crop": {"margin_vx": 0}, "mask": {"smallest_vx": 1000}}
QUIET = ("-q", "-j", 1)


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """A cell of 10 nm voxels in bright resin, with black padding."""
    rng = np.random.default_rng(0)
    data = np.full((48, 80, 80), 225, np.uint8)
    data[:, 16:64, 16:64] = rng.integers(60, 160, (48, 48, 48))
    data[:10, 16:26, 16:26] = 225
    data[:, :6] = 0
    out = create_volume(
        tmp_path / "cell.zarr/raw", Spec(data.shape, "uint8", 10), block=64, made_by={"stage": "import"}
    )
    out.data[:] = data  # type: ignore[index]
    finish_volume(out)
    return tmp_path / "cell.zarr"


@pytest.fixture
def model(tmp_path: Path) -> tuple[str, str]:
    """A tiny network that was trained at 10 nm, on images after CLAHE as `asem prepare` does it."""
    import torch

    from asem_models._unet import UNet

    torch.manual_seed(0)
    about = {"model": {"use": "membrane", **OPTIONS}, "voxel_size_nm": [10, 10, 10], "preprocessing": [EXPECTED]}
    network = UNet(features=3, feature_factor=2, factors=((2, 2, 2),), kernels=(((3, 3, 3), (3, 3, 3)),))
    return "--weights", str(save_weights(tmp_path / "membrane.safetensors", network, about))


def asem(*arguments: object) -> str:
    result = CliRunner().invoke(make_app(), [str(a) for a in arguments])
    assert result.exit_code == 0, result.output
    return result.output


def prepared(cell: Path, *skip: str, **clahe: object) -> None:
    """Do what `asem prepare` does, without the picture."""
    catalog = load_catalog()
    prepare(cell, usual_steps(catalog, set(skip), {**SMALL, "clahe": clahe}), Run(progress=False), catalog)


def predicted_from(cell: Path) -> str:
    """Return the layer that the model saw."""
    about = open_volume(cell / "predictions/membrane/probability").attributes["asem"]
    return str(about["made_by"]["inputs"][0]["path"]).rpartition(".zarr/")[2]


@pytest.mark.parametrize("skipped", [(), ("crop",), ("mask",), ("clahe",), ("crop", "mask", "clahe")], ids="-".join)
def test_prediction_takes_what_was_prepared(cell: Path, model: tuple[str, str], skipped: tuple[str, ...]) -> None:
    """The steps that the model expects are never done twice, and outside of the mask nothing is predicted."""
    prepared(cell, *skipped)
    said = asem("predict", cell, *model, "-q", "--precision", "float32")
    assert predicted_from(cell) == "raw_clahe"
    found = open_volume(cell / "predictions/membrane/probability")
    assert [s["name"] for s in steps_done(found)] == [s for s in ("crop", "clahe") if s != "crop" or s not in skipped]
    assert "raw_clahe_2" not in layers(cell)
    mask = open_mask(cell)
    assert (mask is None) == ("mask" in skipped)
    if mask is not None:
        assert not found.read()[mask.read() == 0].any()
        assert found.read().any()
        assert f"only inside {cell}/mask" in " ".join(said.split())
        everywhere = asem("predict", cell, *model, "-q", "--mask", "none", "-o", cell / "predictions/all")
        assert "only inside" not in everywhere


def test_prediction_before_preparation_takes_nothing_away_from_it(cell: Path, model: tuple[str, str]) -> None:
    """Which command comes first does not matter: `prepare` makes its own layers, and the next prediction takes them."""
    asem("predict", cell, *model, "-q", "--precision", "float32")
    assert predicted_from(cell) == "raw_clahe"
    prepared(cell)
    assert read_prepared(cell).image == "raw_clahe_2"
    asem("predict", cell, *model, "-q", "--precision", "float32", "--overwrite")
    assert predicted_from(cell) == "raw_clahe_2"
    assert open_volume(cell / "raw_clahe").shape == (48, 80, 80)


def test_a_contrast_that_the_model_does_not_know_is_made_anew(cell: Path, model: tuple[str, str]) -> None:
    """CLAHE with other options than the model's is part of the preparation, not a choice: it is done again from the crop."""
    prepared(cell, kernel_vx=16)
    asem("predict", cell, *model, "-q", "--precision", "float32", "--overwrite")
    assert predicted_from(cell) == "raw_clahe_2"
    made = open_volume(cell / "raw_clahe_2")
    assert [s["options"].get("kernel_vx") for s in steps_done(made)] == [None, 128]
    assert steps_done(open_volume(cell / "raw_clahe"))[-1]["options"]["kernel_vx"] == 16


def test_a_step_by_name_does_not_capture_the_cell(cell: Path, model: tuple[str, str]) -> None:
    """A model takes the image that it knows, which is said; and the cell can be prepared again."""
    prepared(cell)
    asem("preprocess", cell, "--use", "normalize", "-q")
    assert read_prepared(cell).image == "raw_normalize"
    asem("predict", cell, *model, "-q", "--precision", "float32")
    assert predicted_from(cell) == "raw_clahe"
    prepared(cell)
    assert read_prepared(cell).image == "raw_clahe"
    assert "raw_normalize" in layers(cell)


def test_an_image_that_changed_since_is_told(cell: Path, model: tuple[str, str]) -> None:
    """A cell whose raw image was imported anew is not predicted from what was prepared of the old one."""
    prepared(cell)
    spec = Spec((48, 80, 80), np.uint8, 10)
    finish_volume(create_volume(cell / "raw", spec, block=64, made_by={"stage": "import", "n": 2}, overwrite=True))
    result = CliRunner().invoke(make_app(), ["predict", str(cell), *model, "-q"])
    said = " ".join(result.output.split())
    assert (
        f"which has changed since. Name the layer to use it as it is ({cell}/raw_crop), or make it again: asem prepare {cell} --overwrite"
        in said
    )


def test_one_step_by_itself(cell: Path) -> None:
    """Any preprocessor runs by its name; the cell's image is then what it made, and further steps start from that."""
    said = asem("preprocess", cell, "--use", "downsample", "-s", "factor=2", *QUIET)
    assert "raw_downsample: 24 x 40 x 40 voxels of 20 x 20 x 20 nm" in said
    assert open_image(cell).path == str(cell / "raw_downsample")
    asem("preprocess", cell, "--use", "downsample", "-s", "factor=2", *QUIET)  # the same again: nothing to do
    asem("preprocess", cell, "--use", "cell-mask", "-s", "smallest_vx=100", "-s", "opening_vx=0", *QUIET)
    assert open_mask(cell).shape == (24, 40, 40)  # type: ignore[union-attr]
    assert open_image(cell).path == str(cell / "raw_downsample")
    prepared(cell, "crop", "mask")
    assert [s["name"] for s in steps_done(open_image(cell))] == ["downsample", "clahe"]


def test_one_step_to_a_layer(cell: Path) -> None:
    """A layer gives a layer beside it, or where `-o` says; the cell's image stays what it was."""
    out = create_volume(cell / "labels/er", Spec((48, 80, 80), "uint8", 10), block=64, made_by={"stage": "annotate"})
    out.data[20:24, 30:34, 30:34] = 1  # type: ignore[index]
    finish_volume(out)
    asem("preprocess", cell / "labels/er", "--use", "dilate-labels", "-s", "radius_vx=2", *QUIET)
    assert (open_volume(cell / "labels/er_dilate-labels").read() > 0).sum() > 64
    asem("preprocess", cell / "labels/er", "--use", "downsample", "-o", cell / "labels/er_20nm", *QUIET)
    assert open_volume(cell / "labels/er_20nm").read().max() == 1  # by mode, as labels are
    assert read_prepared(cell).image == "raw"
    for words, told in (
        ((cell / "labels/er", "--use", "clahe"), "is for images"),
        ((cell, "--use", "dilate-labels"), f"is for labels: name them, as in {cell}/labels/NAME"),
    ):
        result = CliRunner().invoke(make_app(), ["preprocess", *map(str, words)])
        assert result.exit_code == 1
        assert told in " ".join(result.output.split())


@pytest.mark.parametrize("skipped", [(), ("crop",), ("mask", "clahe")])
def test_training_takes_what_was_prepared(cell: Path, skipped: tuple[str, ...]) -> None:
    """A region whose image is a cell is cut from the prepared image, and learns only inside the mask."""
    prepared(cell, *skipped)
    out = create_volume(cell / "labels/er", Spec((48, 80, 80), "uint8", 10), block=64, made_by={"stage": "annotate"})
    finish_volume(out)
    options = RegionOptions("cell.zarr", "cell.zarr/labels/er", box="0:30,0:40,0:40")
    region = open_region(options, "region 1", load_catalog(), cell.parent)
    assert region.raw.path == open_image(cell).path
    assert region.labels.origin_nm == region.raw.crop(region.raw.box_of(region.labels)).origin_nm
    mask = open_mask(cell)
    assert (region.mask is None) == (mask is None) == ("mask" in skipped)
    if region.mask is not None and mask is not None:
        np.testing.assert_array_equal(region.mask.read(), mask.read(mask.box_of(region.labels)))


def test_a_training_plan_takes_what_was_prepared(cell: Path) -> None:
    """The recipe that `asem plan` writes, and `asem train` and `annotate train` use, names the image that was made."""
    prepared(cell)
    asem(
        "annotate",
        "cut",
        cell,
        "--use",
        "threshold",
        "-s",
        "high=100",
        "--box",
        "10:30,20:40,20:40",
        "-o",
        "labels/er",
    )
    result = CliRunner().invoke(
        make_app(), ["plan", str(cell), "--labels", "er", "--model", "golgi", "--iterations", "1", "-q"]
    )
    regions = tomllib.loads(result.stdout)["train"]["regions"]
    assert {r["raw"] for r in regions} == {str(cell / "raw_clahe")}, result.output


RECIPE = """
[source]
use = "ome-zarr"
path = "cell.zarr"

[[preprocess]]
use = "crop"
margin_vx = 0

[[preprocess]]
use = "cell-mask"
smallest_vx = 1000

[[preprocess]]
use = "clahe"
kernel_vx = 128

[model]
use = "membrane"
weights = "membrane.safetensors"

[predict]
precision = "float32"
"""


def test_a_mask_among_the_steps_of_a_recipe_is_a_mask(cell: Path, model: tuple[str, str]) -> None:
    """The image goes on past `cell-mask`, and the prediction keeps to the mask; also to one that the recipe names."""

    def run(text: str, output: str) -> Path:
        (cell.parent / "recipe.toml").write_text(text)
        catalog = load_catalog()
        flow = build_flow(read_recipe(cell.parent / "recipe.toml"), catalog)
        run_flow(flow, catalog, cell.parent / output, Run(progress=False), print)
        return cell.parent / output / "cell.zarr"

    made = run(RECIPE, "out")
    assert layers(made) == [
        "raw", "raw_clahe", "raw_crop", "mask", "predictions/membrane/probability", "predictions/membrane/segmentation",
    ]  # fmt: skip
    found, mask = open_volume(made / "predictions/membrane/probability"), open_volume(made / "mask")
    assert [s["name"] for s in steps_done(found)] == ["crop", "clahe"]
    assert not found.read()[mask.read() == 0].any()
    assert found.read().any()
    # By command, what the recipe made is taken, too.
    asem("predict", made, *model, "-q", "--precision", "float32", "-o", made / "predictions/b/probability")
    assert "raw_clahe_2" not in layers(made)
    step = '[[preprocess]]\nuse = "cell-mask"\nsmallest_vx = 1000\n'
    named = run(RECIPE.replace(step, "") + 'mask = "out/cell.zarr/mask"\n', "named")
    assert "mask" not in layers(named)
    np.testing.assert_array_equal(open_volume(named / "predictions/membrane/probability").read(), found.read())


def test_a_cell_without_an_image_is_refused_with_what_to_do(cell: Path) -> None:
    """Labels are not offered as the image."""
    import shutil

    shutil.copytree(cell / "raw", cell.parent / "labels_only.zarr/labels/a")
    (cell.parent / "labels_only.zarr/zarr.json").write_text(
        '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
    )
    shutil.copyfile(cell.parent / "labels_only.zarr/zarr.json", cell.parent / "labels_only.zarr/labels/zarr.json")
    words = ["predict", str(cell.parent / "labels_only.zarr"), "--model", "membrane-fibsem-10nm"]
    done = CliRunner().invoke(make_app(), words)
    assert done.exit_code == 1
    assert "has labels but no image. Import one: asem import" in done.output


def test_voxels_are_compared_before_weights_are_fetched(cell: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered model of 5 nm on voxels of 10 nm: nothing is downloaded first."""
    monkeypatch.setattr("asem_core.pretrained.find_weights", lambda *_, **__: pytest.fail("fetched"))
    monkeypatch.setenv("ASEM_OFFLINE", "1")
    result = CliRunner().invoke(make_app(), ["predict", str(cell), "--model", "mitochondria-cf-5nm", "-q"])
    said = " ".join(result.output.split())
    assert "has voxels of 10 x 10 x 10 nm but mitochondria-cf-5nm" in said
    assert "5 x 5 x 5 nm" in said
