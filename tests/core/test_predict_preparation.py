"""A network gets the image it was trained on, or says what is missing; and the commands do it all."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.built import build_flow
from asem_core.catalog import load_catalog
from asem_core.cell.apply import apply, apply_in_memory
from asem_core.cell.provenance import steps_done
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, UnknownName, VoxelSizeMismatch
from asem_core.prediction.anywhere import predictor_anywhere
from asem_core.prediction.blockwise import predict_maps
from asem_core.prediction.expected import (
    as_expected,
    into_layers,
    missing_steps,
    require_voxel_size,
    resample,
    warn_of_other_steps,
)
from asem_core.prediction.trained import Trained, load_trained
from asem_core.pretrained import find_weights
from asem_core.recipe import read_recipe
from asem_core.stages.predict import predict
from asem_core.stages.recipe_checks import require_voxels_expected
from asem_core.volume import Box, Labels, Spec, Volume
from asem_core.voxels.resample import on_grid_of
from asem_core.weights import save_weights
from asem_models.golgi import Golgi
from asem_preprocessors.downsample import Downsample

sys.path.insert(0, str(Path(__file__).parent))
from predict_networks import Copy, small_unet

QUIET = Run(progress=False)
INVERT = {"name": "invert", "options": {}}
CLAHE = {"name": "clahe", "options": {"kernel_vx": 16, "clip_limit": 0.02}}
OPTIONS = {"features": 3, "factors": [[2, 2, 2], [2, 2, 2]]}


def trained(*steps, voxel_size_nm=(5.0, 5.0, 5.0)):
    return Trained(Copy(), None, voxel_size_nm, steps, {"model": "golgi-test"})


@pytest.fixture
def cell(tmp_path):
    """A cell with a raw image of 32^3 voxels of 5 nm."""
    layer_of_noise(tmp_path / "cell.zarr/raw", seed=1)
    return tmp_path / "cell.zarr"


def layer_of_noise(path, *, seed, overwrite=False):
    spec = Spec((32, 32, 32), np.uint8, 5.0)
    out = create_volume(path, spec, block=32, made_by={"stage": "import", "seed": seed}, overwrite=overwrite)
    out.data[:] = np.random.default_rng(seed).integers(0, 256, spec.shape, dtype=np.uint8)
    finish_volume(out)


def step(table):
    return load_catalog().get("preprocessor", table["name"])(**table["options"])


def test_missing_preprocessing_is_done_and_named_as_in_a_flow(cell):
    raw = open_volume(cell / "raw")
    made = as_expected(raw, trained(INVERT, CLAHE), load_catalog(), into_layers(cell, QUIET))
    assert made.path == str(cell / "raw_clahe")
    assert [s["name"] for s in steps_done(made)] == ["invert", "clahe"]
    np.testing.assert_array_equal(open_volume(cell / "raw_invert").read(), 255 - raw.read())
    assert missing_steps(made, trained(INVERT, CLAHE)) == []
    assert as_expected(made, trained(INVERT, CLAHE), load_catalog(), into_layers(cell, QUIET)) is made


def test_only_what_is_missing_is_done(cell):
    inverted = apply(step(INVERT), open_volume(cell / "raw"), cell / "raw_invert", QUIET)
    assert missing_steps(inverted, trained(INVERT, CLAHE)) == [CLAHE]


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        (
            [CLAHE],
            r"prepared by clahe, but .*raw_invert is prepared by invert; the missing steps are applied: clahe\. Leave out invert",
        ),
        ([], r"prepared by none of the steps .*raw_invert is prepared by invert; it is used unchanged"),
    ],
)
def test_preprocessing_that_the_network_does_not_know_is_told(cell, caplog, wanted, told):
    inverted = apply(step(INVERT), open_volume(cell / "raw"), cell / "raw_invert", QUIET)
    warn_of_other_steps(inverted.path, steps_done(inverted), trained(*wanted))
    assert re.search(told, caplog.text)
    caplog.clear()
    warn_of_other_steps(inverted.path, steps_done(inverted), trained(INVERT))
    warn_of_other_steps("raw", [], trained(INVERT))
    assert not caplog.text


def test_steps_that_place_voxels_are_not_asked_for(tmp_path):
    """Of the steps that a weights file notes, those that change greys are asked for: each plugin says what it changes."""
    crop = {"name": "crop", "options": {"box": "0:8,:,:"}}
    elsewhere = {"name": "of-another-lab", "options": {}, "changes": "size"}
    table = {"model": {"use": "golgi", **OPTIONS}, "preprocessing": [crop, INVERT, elsewhere]}
    found = load_trained(load_catalog(), None, save_weights(tmp_path / "golgi.safetensors", small_unet(), table))
    assert found.steps == [INVERT]


def test_a_step_in_the_wrong_place_is_named(cell):
    equalized = apply(step(CLAHE), open_volume(cell / "raw"), cell / "raw_clahe", QUIET)
    with pytest.raises(BadInput, match=r"had step 1 'clahe' without 'invert' before it\. .*: .*cell.zarr/raw\."):
        missing_steps(equalized, trained(INVERT, CLAHE))


def test_a_step_with_other_options_is_named(cell):
    other = {"name": "clahe", "options": {"kernel_vx": 16, "clip_limit": 0.05}}
    equalized = apply(step(other), open_volume(cell / "raw"), cell / "raw_clahe", QUIET)
    with pytest.raises(BadInput, match=r"with other options .* clip_limit = 0.05 instead of 0.02.*as_is=True"):
        missing_steps(equalized, trained(CLAHE))


@pytest.mark.parametrize("size", [5.0, 4.3, 5.7, (5, 5, 5.5)])
def test_a_voxel_size_within_15_percent_is_accepted(size):
    require_voxel_size(Volume(np.zeros((2, 2, 2)), size), trained())


def test_another_voxel_size_is_refused_and_resampling_offered():
    volume = Volume(np.zeros((2, 2, 2)), (2.5, 2.5, 5.2), path="cell.zarr/raw")
    with pytest.raises(
        VoxelSizeMismatch, match=r"2.5 x 2.5 x 5.2 nm but golgi-test was trained on 5 x 5 x 5 nm"
    ) as told:
        require_voxel_size(volume, trained())
    assert "Add resample=True, to average 2 x 2 x 1 voxels into one first, or allow_voxel_size=True" in str(told.value)
    require_voxel_size(volume, trained(), allow=True)
    with pytest.raises(VoxelSizeMismatch, match="Choose a model trained at this voxel size"):
        require_voxel_size(Volume(np.zeros((2, 2, 2)), 8.0), trained())


def test_resampling_makes_the_size_the_network_knows(cell):
    raw = open_volume(cell / "raw")
    made = resample(raw, trained(voxel_size_nm=(10.0, 10.0, 5.0)), load_catalog(), into_layers(cell, QUIET))
    assert made.path == str(cell / "raw_downsample")
    assert made.voxel_size_nm == (10, 10, 5)
    assert resample(raw, trained(), load_catalog(), into_layers(cell, QUIET)) is raw


def test_models_are_found_by_file_plugin_or_name(tmp_path):
    catalog, network = load_catalog(), small_unet()
    table = {"model": {"use": "golgi", **OPTIONS}, "voxel_size_nm": [4, 4, 4], "preprocessing": [CLAHE]}
    file = save_weights(tmp_path / "a.safetensors", network, table)
    for found in (load_trained(catalog, None, file), load_trained(catalog, str(file))):
        assert found.model.name == "golgi"
        assert found.voxel_size_nm == (4, 4, 4)
        assert found.steps == [CLAHE]
    plain = save_weights(tmp_path / "b.safetensors", network)
    assert load_trained(catalog, "membrane", plain, OPTIONS).details["model"] == "membrane"
    with pytest.raises(BadInput, match=r"a.safetensors are of the model 'golgi', not of 'membrane'"):
        load_trained(catalog, "membrane", file, OPTIONS)
    with pytest.raises(BadInput, match="does not say which model it belongs to: add model"):
        load_trained(catalog, None, plain)
    with pytest.raises(BadInput, match=r"'mitochondria' is a model without weights: .*mitochondria-cf-5nm"):
        load_trained(catalog, "mitochondria")
    with pytest.raises(BadInput, match="Say which model"):
        load_trained(catalog, None)
    with pytest.raises(UnknownName, match="'golgy' is not a model plugin"):
        load_trained(catalog, "golgy", plain)


def test_a_training_run_is_a_name_for_the_checkpoint_it_chose(tmp_path):
    run = tmp_path / "runs" / "m"
    for name in ("first", "second"):
        save_weights(run / "checkpoints" / f"{name}.safetensors", small_unet(), {"model": {"use": "golgi", **OPTIONS}})
    choice = {"predict_from": "checkpoints/second.safetensors", "finetune_from": "checkpoints/first.safetensors"}
    (run / "choice.json").write_text(json.dumps(choice))
    assert load_trained(load_catalog(), None, run).details["weights"] == str(run / choice["predict_from"])
    assert find_weights("m", run.parent, "finetune_from") == run / choice["finetune_from"]
    (tmp_path / "t.toml").write_text("[model]\n")
    for path, told in (
        (tmp_path / "t.toml", "is not a weights file"),
        (run.parent, "Is .*runs the folder of a training run"),
    ):
        with pytest.raises(BadInput, match=told):
            load_trained(load_catalog(), None, path)


def asem(*arguments):
    return CliRunner().invoke(make_app(), [str(a) for a in arguments])


def test_predict_and_segment_by_command(cell, tmp_path):
    """From a raw image and a weights file to objects; the preprocessing that the weights name is done on the way."""
    table = {"model": {"use": "golgi", **OPTIONS}, "voxel_size_nm": [5, 5, 5], "preprocessing": [INVERT]}
    weights = save_weights(tmp_path / "golgi.safetensors", small_unet(), table)
    result = asem("predict", cell, "--weights", weights, "--quiet", "--precision", "float32")
    assert result.exit_code == 0, result.output
    made = open_volume(cell / "predictions/golgi/probability")
    assert "32 x 32 x 32 voxels of" in result.output
    assert f"from {cell}/raw_invert, made of {cell}/raw as the model expects" in result.output
    assert [s["name"] for s in steps_done(made)] == ["invert"]
    plain = save_weights(tmp_path / "plain.safetensors", small_unet(), {**table, "preprocessing": []})
    result = asem(
        "predict", cell / "raw_invert", "-w", plain, "-q", "-o", cell / "predictions/plain", "--box", "0:8,0:8,0:8"
    )
    assert result.output.strip().endswith(f"from {cell}/raw_invert")
    result = asem("segment", made.path, "--quiet", "--smallest-vx", 5, "--threshold", 0.6, "--json")
    assert result.exit_code == 0, result.output
    assert '"num_objects"' in result.output
    assert (cell / "predictions/golgi/segmentation").exists()
    result = asem("predict", cell, "--weights", weights, "--quiet", "--box", "0:8,0:8,0:8", "-o", tmp_path / "b.zarr/p")
    assert result.exit_code == 0, result.output
    assert open_volume(tmp_path / "b.zarr/p").shape == (8, 8, 8)


def test_overwrite_replaces_the_preprocessing_too(cell, tmp_path):
    """A raw image that was imported anew is prepared and predicted anew by one command."""
    table = {"model": {"use": "golgi", **OPTIONS}, "voxel_size_nm": [5, 5, 5], "preprocessing": [INVERT]}
    words = (cell, "-w", save_weights(tmp_path / "golgi.safetensors", small_unet(), table), "-q", "--overwrite")
    assert asem("predict", *words).exit_code == 0
    spec = Spec((32, 32, 32), np.uint8, 5.0)
    finish_volume(create_volume(cell / "raw", spec, block=32, made_by={"stage": "import", "n": 2}, overwrite=True))
    result = asem("predict", *words)
    assert result.exit_code == 0, result.output
    assert (open_volume(cell / "raw_invert").read() == 255).all()


def test_a_box_is_of_the_image_given_also_when_it_is_resampled(cell, tmp_path):
    """The map has the voxels of the image that was given, 5 nm, though the network sees 10 nm."""
    table = {"model": {"use": "golgi", **OPTIONS}, "voxel_size_nm": [10, 10, 10], "preprocessing": []}
    words = (cell, "-w", save_weights(tmp_path / "golgi.safetensors", small_unet(), table), "-q", "--resample")
    told = asem("predict", *words, "--box", "0:40,:,:")
    assert "its shape is [32, 32, 32]" in told.output
    assert not (cell / "raw_downsample").exists()
    result = asem("predict", *words, "--box", "0:15,8:24,:")
    assert result.exit_code == 0, result.output
    made = open_volume(cell / "predictions/golgi/probability")
    assert (made.shape, made.voxel_size_nm, made.origin_nm) == ((15, 16, 32), (5, 5, 5), (0, 40, 0))
    assert not (cell / "raw_downsample").exists(), "only what the box needs is averaged, where it is read"
    assert asem("predict", *words, "-o", cell / "predictions/all/probability").exit_code == 0
    whole = open_volume(cell / "predictions/all/probability")
    assert np.array_equal(made.read(), whole.read(whole.box_of(made)))


def test_of_a_large_image_only_what_a_box_needs_is_prepared(cell, tmp_path):
    """The same voxels as in the whole, found again, and told apart from what was predicted as it is, or of another image."""
    table = {"model": {"use": "golgi", **OPTIONS}, "voxel_size_nm": [5, 5, 5], "preprocessing": [INVERT, CLAHE]}
    words = (
        cell,
        "-w",
        save_weights(tmp_path / "golgi.safetensors", small_unet(), table),
        "-q",
        "--box",
        "3:19,8:24,:",
    )
    for _ in range(2):
        result = asem("predict", *words)
        assert result.exit_code == 0, result.output
        assert not list(cell.glob("raw_*"))
    made = open_volume(cell / "predictions/golgi/probability")
    assert asem("predict", *words[:-2], "-o", cell / "predictions/all/probability").exit_code == 0
    assert (cell / "raw_clahe").exists()
    whole = open_volume(cell / "predictions/all/probability")
    assert np.array_equal(made.read(), whole.read(whole.box_of(made)))
    assert "was made differently" in asem("predict", *words, "--as-is").output
    layer_of_noise(cell / "raw", seed=2, overwrite=True)
    assert "was made differently" in asem("predict", *words).output


@pytest.mark.parametrize("shape", [(32, 32, 32), (33, 70, 35)])
def test_a_map_of_averaged_voxels_is_interpolated_at_those_of_the_image(shape, tmp_path):
    """The same as if the whole map of larger voxels was interpolated, whatever the blocks; 0 where the mask is."""
    given = Volume(np.random.default_rng(0).integers(0, 256, shape, np.uint8), (10.0, 5.0, 5.0), (0.0, 15.0, 0.0))
    seen = apply_in_memory(Downsample(factor=(1, 2, 3)), given)
    mask = Labels(np.ones(shape, np.uint8), given.voxel_size_nm, given.origin_nm)
    mask.data[:, :, :11] = 0
    how = (small_unet().eval(), seen)
    coarse = predict_maps(*how, tmp_path / "a.zarr/p", QUIET)[""]
    finer = on_grid_of(given, coarse)
    interpolated = finer.read(given.box.shift([-b for b in given.box_of(finer).begin]), outside="reflect")
    right = interpolated * mask.data
    for number, block in enumerate((None, (16, 16, 16))):
        run = attrs.evolve(QUIET, block=block)
        made = predict_maps(*how, tmp_path / f"{number}.zarr/p", run, mask=mask, onto=given)[""]
        made.require_same_grid(given)
        assert np.array_equal(made.read(), right)
    anywhere = predictor_anywhere(Trained(how[0], None, seen.voxel_size_nm, (), {}), given, load_catalog(), "cpu")
    part = Box((3, 5, 20), (9, 12, 31))
    assert np.abs(anywhere(part).astype(int) - interpolated[part.slices]).max() <= 1  # half precision, or not
    assert (right[:, :, 11:] > 0).any()


def test_a_mask_of_a_part_lies_anywhere_among_averaged_voxels(cell, tmp_path):
    """It needs to be on the image's grid only; one that is not is refused before anything is written."""
    table = {"model": {"use": "golgi", **OPTIONS}, "voxel_size_nm": [10, 10, 10], "preprocessing": []}
    words = (cell, "-w", save_weights(tmp_path / "golgi.safetensors", small_unet(), table), "-q", "--resample")
    assert asem("predict", *words, "-o", cell / "predictions/all/probability").exit_code == 0
    raw = open_volume(cell / "raw")
    whole = open_volume(cell / "predictions/all/probability").read()
    part, inside = Box((5, 3, 7), (12, 20, 30)), np.zeros(raw.shape, bool)
    inside[part.slices] = True
    for name, size, off in (("part", 5.0, 0.0), ("off", 2.5, 2.0)):
        spec = Spec(part.shape, np.uint8, size, tuple(5.0 * b + off for b in part.begin))
        out = create_volume(cell / "masks" / name, spec, block=32, made_by={}, fill=1)
        finish_volume(out, QUIET)
    result = asem("predict", *words, "--mask", cell / "masks/part")
    assert result.exit_code == 0, result.output
    assert np.array_equal(open_volume(cell / "predictions/golgi/probability").read(), whole * inside)
    refused = asem("predict", *words, "--mask", cell / "masks/off", "-o", cell / "predictions/off/probability")
    assert "not a whole number" in refused.output
    assert not (cell / "predictions/off").exists()


def test_a_network_trained_on_averaged_voxels_gets_such(cell, tmp_path):
    """A plan may average voxels: who trained by it needs no further option to predict, in the same or another cell."""
    table = {"model": {"use": "golgi", **OPTIONS}, "voxel_size_nm": [10, 10, 10], "preprocessing": []}
    words = (
        cell,
        "-q",
        "-w",
        save_weights(tmp_path / "a.safetensors", small_unet(), {**table, "averaged_vx": [2, 2, 2]}),
    )
    refused = asem("predict", *words, "--as-is")
    assert "Add --resample" in refused.output
    result = asem("predict", *words)
    assert result.exit_code == 0, result.output
    told = f"voxels of 5 x 5 x 5 nm, interpolated from 10 x 10 x 10 nm, uint8, from {cell}/raw_downsample"
    assert told in result.output.replace("\n", "")
    assert open_volume(cell / "raw_downsample").voxel_size_nm == (10, 10, 10)
    open_volume(cell / "predictions/golgi/probability").require_same_grid(open_volume(cell / "raw"))
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f"[source]\nuse = 'ome-zarr'\npath = '{cell}'\n[model]\nuse = 'golgi'\nweights = 'a.safetensors'\n"
    )
    flow = build_flow(read_recipe(recipe), load_catalog())
    require_voxels_expected(flow, open_volume(cell / "raw"), load_catalog())
    flow = attrs.evolve(flow, predict=attrs.evolve(flow.predict, as_is=True))
    with pytest.raises(VoxelSizeMismatch, match="resample"):
        require_voxels_expected(flow, open_volume(cell / "raw"), load_catalog())


def test_affinities_stay_at_the_voxels_that_they_speak_of(cell, tmp_path):
    """An offset in voxels of the network says nothing of those of the image."""
    options = {**OPTIONS, "affinities": [[1, 0, 0]]}
    table = {"model": {"use": "golgi", **options}, "voxel_size_nm": [10, 10, 10], "preprocessing": []}
    network = Golgi(**options).network()
    words = (cell, "-w", save_weights(tmp_path / "g.safetensors", network, table), "-q", "--resample")
    result = asem("predict", *words)
    assert result.exit_code == 0, result.output
    layers = [open_volume(p.parent) for p in (cell / "predictions").rglob("s0")]
    assert len(layers) == 2
    assert {v.voxel_size_nm for v in layers} == {(10, 10, 10)}


def probability(cell, **record):
    """Write a map that is certain of one object of 8 voxels and one of 64."""
    spec = Spec((16, 16, 16), np.uint8, 5.0)
    made = {"stage": "predict", **record}
    out = create_volume(cell / "predictions/m/probability", spec, block=16, made_by=made, overwrite=True)
    data = np.zeros(spec.shape, np.uint8)
    data[1:3, 1:3, 1:3] = data[8:12, 8:12, 8:12] = 255
    out.data[:] = data
    return finish_volume(out).path


def test_segment_takes_the_choices_of_a_registry_name_or_of_the_model_behind_the_map(cell):
    """`--model` takes the names that predict takes; without it, the map's own record says whose map it is."""
    words = ("-q", "-j", 1, "--overwrite")
    path = probability(cell)
    for name in ("membrane", "membrane-fibsem-10nm"):  # membranes come as no objects
        result = asem("segment", path, *words, "--model", name)
        assert result.output.strip().endswith("segmentation: uint8")
    assert "2 objects" in asem("segment", path, *words).output
    assert "2 objects" in asem("segment", probability(cell, model="of-another-lab"), *words).output
    result = asem("segment", probability(cell, model="membrane-fibsem-10nm@2"), *words)
    assert result.output.strip().endswith("segmentation: uint8")
    told = asem("segment", path, *words, "--model", "membranne").output
    assert "Did you mean 'membrane'? Known: bioimage-io, clathrin-coats, " in told
    assert "asem models list" in told


def test_the_commands_say_what_is_wrong(cell, tmp_path):
    weights = save_weights(tmp_path / "a.safetensors", small_unet(), {"model": {"use": "golgi", **OPTIONS}})
    told = asem("predict", cell, "-w", weights, "--precision", "half")
    assert told.exit_code == 1
    assert "precision" in told.output
    assert "There is no weights file" in asem("predict", cell, "-w", tmp_path / "none.safetensors").output
    assert "Say where to write: -o cell.zarr" in asem("predict", cell, "-w", weights, "-o", tmp_path / "out").output
    assert "takes a probability map" in asem("segment", cell / "raw", "-t", 128).output


def test_exported_planes_align_with_their_input_planes(real_data, tmp_path):
    """Import, crop, predict (with a network that copies its input), export: each voxel is where it was."""
    import tifffile

    from asem_core.stages.export import export_volume
    from asem_core.stages.import_ import choose_source, import_volume

    folder = real_data("fib25/raw")
    catalog = load_catalog()
    source = choose_source(catalog, str(folder), "tiff-stack", {"voxel_size_nm": [10, 10, 10]})
    raw = import_volume(source, tmp_path / "c.zarr/raw", QUIET, box="0:60,:,:")
    crop = catalog.get("preprocessor", "crop")(box="13:57,21:183,40:201")
    cropped = apply(crop, raw, tmp_path / "c.zarr/raw_crop", QUIET)
    made = predict(
        Copy(), cropped, tmp_path / "c.zarr/predictions/copy/probability", Run(block=(64,) * 3, progress=False)
    )
    export_volume(catalog.get("source", "tiff-stack")(str(tmp_path / "tiff")), made, QUIET)
    planes = sorted(folder.glob("*.tif"))
    exported = sorted((tmp_path / "tiff").glob("*.tif"))
    by_name = {p.name: p for p in exported}
    for z in range(13, 57):
        plane, original = tifffile.imread(by_name[planes[z].name]), tifffile.imread(planes[z])
        assert plane.shape == original.shape
        np.testing.assert_array_equal(plane[21:183, 40:201], original[21:183, 40:201])
        assert plane[:21].max() == 0
