"""A recipe with pretrained weights: the image is checked, and completed, as `asem predict` does it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile

from asem_core.blocks import Run
from asem_core.built import build_flow
from asem_core.catalog import load_catalog
from asem_core.cell.node import layers
from asem_core.cell.provenance import steps_done
from asem_core.cell.store import open_volume
from asem_core.errors import AsemError, RecipeError, VoxelSizeMismatch, in_recipe
from asem_core.flow import run_flow
from asem_core.prediction.expected import require_voxel_size
from asem_core.prediction.trained import load_trained
from asem_core.recipe import read_recipe
from asem_core.stages.recipe_checks import require_inputs
from asem_core.testing import example_image
from asem_core.volume import Volume
from asem_core.weights import save_weights
from asem_models.mitochondria import Mitochondria

MODEL = {"features": 2, "factors": [[2, 2, 2]]}
STEPS = [
    {"name": "invert", "options": {}},
    {"name": "clahe", "options": {"kernel_vx": 16, "clip_limit": 0.02}},
]
INVERT = '[[preprocess]]\nuse = "invert"\n'
CLAHE = '[[preprocess]]\nuse = "clahe"\nkernel_vx = 16\nclip_limit = {}\n'

RECIPE = """
[source]
use = "tiff-stack"
path = "image.tif"
voxel_size_nm = [{size}, {size}, {size}]

{steps}
[model]
use = "mitochondria"
weights = "{weights}"

[predict]
device = "cpu"
precision = "float32"
{predict}
"""


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a file of weights that expect 5 nm, inverted and then equalized; the registry knows them as "small"."""
    from asem_registry.own import add_run, card_of_run

    for name in ("HOME", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"ASEM_{name}", str(tmp_path / name))
    network = Mitochondria(features=2, factors=((2, 2, 2),)).network()
    about = {"model": {"use": "mitochondria", **MODEL}, "voxel_size_nm": [5, 5, 5], "preprocessing": STEPS}
    file = save_weights(tmp_path / "small.safetensors", network, about)
    words = dict.fromkeys(("training_data", "preparation", "contrast", "licence", "citation"), "none: random weights")
    add_run(*card_of_run(file, "small", 1, words), words, tmp_path / "HOME")
    return file


def run(folder: Path, weights: str, steps: str = "", size: float = 5.0, predict: str = "") -> Path:
    """Run the recipe; returns the cell."""
    if not (folder / "image.tif").exists():
        tifffile.imwrite(folder / "image.tif", example_image((32, 32, 32)).read())
    (folder / "recipe.toml").write_text(RECIPE.format(weights=weights, steps=steps, size=size, predict=predict))
    catalog = load_catalog()
    out = folder / "out"
    run_flow(
        build_flow(read_recipe(folder / "recipe.toml"), catalog), catalog, out, Run(progress=False), lambda _: None
    )
    return out / "cell.zarr"


@pytest.mark.parametrize("named", ["small", "small.safetensors"])
@pytest.mark.parametrize("steps", ["", INVERT, INVERT + CLAHE.format(0.02)], ids=["none", "first", "both"])
def test_preprocessing_is_completed_and_never_done_twice(tmp_path: Path, weights: Path, named: str, steps: str) -> None:
    """Whatever part of it the recipe lists, the network sees the image inverted once and then equalized once."""
    cell = run(tmp_path, named, steps)
    probability = open_volume(cell / "predictions/mitochondria/probability")
    assert [s["name"] for s in steps_done(probability)] == ["invert", "clahe"]
    assert {name for name in layers(cell) if name.startswith("raw")} == {"raw", "raw_invert", "raw_clahe"}
    np.testing.assert_array_equal(open_volume(cell / "raw_invert").read(), 255 - open_volume(cell / "raw").read())


def test_a_step_with_other_options_is_refused(tmp_path: Path, weights: Path) -> None:
    """The step and its options are named; `as_is` predicts on the image as the recipe makes it."""
    steps = INVERT + CLAHE.format(0.05)
    with pytest.raises(RecipeError, match=r"small@1 expects the step 'clahe' with other .*as_is = true"):
        run(tmp_path, "small", steps)
    cell = run(tmp_path, "small", steps, predict="as_is = true")
    assert (cell / "predictions/mitochondria/segmentation").exists()


def test_another_preparation_is_told_first(tmp_path: Path, weights: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A recipe with another normaliser than the weights know is told, with what will be done."""
    tifffile.imwrite(tmp_path / "image.tif", example_image((8, 8, 8)).read())
    normalize = '[[preprocess]]\nuse = "normalize"\n'
    (tmp_path / "recipe.toml").write_text(RECIPE.format(weights="small", steps=normalize, size=5.0, predict=""))
    require_inputs(build_flow(read_recipe(tmp_path / "recipe.toml"), load_catalog()), load_catalog())
    told = "small@1 was trained on images prepared by invert, clahe, but the recipe's image is prepared by normalize; "
    assert told + "the missing steps are applied: invert, clahe" in caplog.text


def test_the_voxel_size_is_checked_as_by_command(tmp_path: Path, weights: Path) -> None:
    """8 nm is refused in the words of `asem predict`, before any work, unless the recipe allows it."""
    with pytest.raises(RecipeError) as told:
        run(tmp_path, "small", size=8.0)
    assert not (tmp_path / "out").exists()
    image = Volume(np.zeros((1, 1, 1)), 8.0, path=str(tmp_path / "image.tif"))
    with pytest.raises(VoxelSizeMismatch) as by_command:
        require_voxel_size(image, load_trained(load_catalog(), "small"))
    assert str(told.value) == f"recipe.toml @ source: {by_command.value.told(in_recipe)}"
    assert "8 x 8 x 8 nm but small@1 was trained on 5 x 5 x 5 nm" in str(told.value)
    assert "allow_voxel_size" in str(told.value)
    cell = run(tmp_path, "small", size=8.0, predict="allow_voxel_size = true")
    assert open_volume(cell / "predictions/mitochondria/probability").voxel_size_nm == (8, 8, 8)


def test_the_voxel_size_of_a_file_is_checked_before_preprocessing(tmp_path: Path, weights: Path) -> None:
    """What the recipe does not state, the files do: nothing is imported in vain."""
    volume = example_image((32, 32, 32), voxel_size_nm=8.0)
    tifffile.imwrite(
        tmp_path / "image.tif",
        volume.read(),
        imagej=True,
        resolution=(125, 125),
        metadata={"spacing": 0.008, "unit": "um", "axes": "ZYX"},
    )
    text = RECIPE.format(weights="small", steps=INVERT, size=8.0, predict="")
    (tmp_path / "recipe.toml").write_text(text.replace("voxel_size_nm = [8.0, 8.0, 8.0]", ""))
    catalog = load_catalog()
    with pytest.raises(RecipeError, match=r"@ source: .*image.tif has voxels of 8 x 8 x 8 nm but small@1"):
        run_flow(
            build_flow(read_recipe(tmp_path / "recipe.toml"), catalog),
            catalog,
            tmp_path / "out",
            Run(progress=False),
            print,
        )
    assert not (tmp_path / "out").exists()


def test_a_stack_without_a_voxel_size_is_told_by_a_check(tmp_path: Path, weights: Path) -> None:
    """Nothing states the size of the voxels: `--check` says so, with the line to add."""
    tifffile.imwrite(tmp_path / "image.tif", example_image((32, 32, 32)).read())
    text = RECIPE.format(weights="small", steps=INVERT, size=8.0, predict="")
    (tmp_path / "recipe.toml").write_text(text.replace("voxel_size_nm = [8.0, 8.0, 8.0]", ""))
    flow = build_flow(read_recipe(tmp_path / "recipe.toml"), load_catalog())
    with pytest.raises(RecipeError, match=r"@ source: .*voxel_size_nm = \[5, 5, 5\]"):
        require_inputs(flow, load_catalog())


def test_what_fetching_needs_is_told_first(tmp_path: Path, weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights behind s3:// need an extra, and weights that are not here a connection: `--check` says so."""
    run(tmp_path, "small")
    text = (tmp_path / "recipe.toml").read_text().replace('"small"', '"mitochondria-cf-5nm"')
    (tmp_path / "recipe.toml").write_text(text)
    flow = build_flow(read_recipe(tmp_path / "recipe.toml"), load_catalog())
    monkeypatch.setattr("importlib.util.find_spec", lambda *_: None)
    with pytest.raises(RecipeError, match=r"@ model: .*needs s3fs, which is not installed"):
        require_inputs(flow, load_catalog())
    monkeypatch.setenv("ASEM_OFFLINE", "1")
    with pytest.raises(RecipeError, match=r"@ model: .*ASEM_OFFLINE is set"):
        require_inputs(flow, load_catalog())


def test_voxels_are_averaged_to_the_size_that_is_known(tmp_path: Path, weights: Path) -> None:
    """`resample` makes 2.5 nm 5 nm, then does the rest."""
    cell = run(tmp_path, "small", size=2.5, predict="resample = true")
    probability = open_volume(cell / "predictions/mitochondria/probability")
    assert probability.voxel_size_nm == (2.5, 2.5, 2.5)
    assert open_volume(cell / "raw_downsample").voxel_size_nm == (5, 5, 5)
    assert [s["name"] for s in steps_done(probability)] == ["downsample", "invert", "clahe"]


def test_mistakes_are_told(tmp_path: Path, weights: Path) -> None:
    """A misspelt option, before anything is made; weights that are nowhere."""
    with pytest.raises(RecipeError, match="Did you mean 'as_is'"):
        run(tmp_path, "small", predict="as_iss = true")
    assert not (tmp_path / "out").exists()
    with pytest.raises(AsemError, match="Did you mean 'small'"):
        run(tmp_path, "smal")
    with pytest.raises(AsemError, match=r"none.safetensors does not exist"):
        run(tmp_path, "none.safetensors")


@pytest.mark.parametrize("named", ["small", "small.safetensors"])
def test_weights_of_another_model_are_refused(tmp_path: Path, weights: Path, named: str) -> None:
    """A file or card that names its model is only of that model; both are told, before any work."""
    tifffile.imwrite(tmp_path / "image.tif", example_image((8, 8, 8)).read())
    text = RECIPE.format(weights=named, steps="", size=5.0, predict="").replace('"mitochondria"', '"golgi"')
    (tmp_path / "recipe.toml").write_text(text)
    told = rf"@ model: The weights {named} are of the model 'mitochondria', not of 'golgi'\."
    with pytest.raises(RecipeError, match=told):
        require_inputs(build_flow(read_recipe(tmp_path / "recipe.toml"), load_catalog()), load_catalog())


def test_fine_tuning_takes_the_architecture_from_the_weights(tmp_path: Path) -> None:
    """Nobody types a shipped model's network: a recipe that only says what to train on is enough."""
    from asem_core.pretrained import find_weights
    from asem_core.stages.train import read_training_recipe
    from asem_core.weights import read_metadata

    region = 'raw = "a.zarr/raw"\nlabels = "a.zarr/labels/membrane"\n'
    (tmp_path / "new_cell.toml").write_text(f"[train]\niterations = 1\n\n[[train.regions]]\n{region}")
    recipe = read_training_recipe(tmp_path / "new_cell.toml", load_catalog(), start_from="membrane-fibsem-10nm")
    known = read_metadata(find_weights("membrane-fibsem-10nm"))["model"]
    model = recipe.model
    assert (model.name, model.features) == (known["use"], known["features"])  # type: ignore[attr-defined]
    assert [list(f) for f in model.factors] == known["factors"]  # type: ignore[attr-defined]
