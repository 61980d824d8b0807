"""A live layer computes what is looked at, once, and gives what a whole prediction gives."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.build import begun
from asem_core.cell.prepared import Prepared, note_prepared
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume, open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutputBusy, VoxelSizeMismatch
from asem_core.prediction.blockwise import predict_maps
from asem_core.prediction.live import block_for, live_prediction, predictor_of_boxes
from asem_core.prediction.trained import load_trained
from asem_core.stages.inputs import open_images_of
from asem_core.stages.predict import Prediction, PredictOptions, predict, predict_image
from asem_core.stages.view import ViewOptions, view
from asem_core.viewing.virtual_zarr import VirtualZarr
from asem_core.volume import Box, Computed, Spec, Volume
from asem_core.weights import save_weights
from asem_models.membrane import Membrane
from asem_models.organelles import Organelles

SMALL = {"features": 2, "factors": [[2, 2, 2]], "kernels": [[[3, 3, 3]]]}


@attrs.frozen(eq=False)
class Counting:
    """Predicts nothing but remembers where."""

    boxes: list = attrs.field(factory=list)

    def __call__(self, box):
        self.boxes.append(box)
        return np.full(box.shape, len(self.boxes), np.uint8)


def write_raw(path, shape=(40, 50, 60)):
    spec = Spec(shape, np.uint8, 5.0, (10, 0, 0))
    out = create_volume(path, spec, block=64, made_by={"stage": "test"})
    out.data[:] = np.random.default_rng(0).integers(0, 255, shape, np.uint8)
    return finish_volume(out)


def open_live(volume, path, predict, **details):
    return live_prediction(predict, volume, path, block=(16, 16, 16), details=details)


def test_only_the_blocks_looked_at_are_computed_and_only_once(tmp_path):
    raw, counting = write_raw(tmp_path / "cell.zarr" / "raw"), Counting()
    path = tmp_path / "cell.zarr" / "predictions" / "live" / "probability"
    live = open_live(raw, path, counting, model="a")
    volume = Volume(live, raw.voxel_size_nm, raw.origin_nm)
    assert volume.read(Box((3, 3, 3), (5, 18, 5))).shape == (2, 15, 2)
    assert counting.boxes == [Box((0, 0, 0), (16, 16, 16)), Box((0, 16, 0), (16, 32, 16))]
    volume.read(Box((0, 0, 0), (16, 32, 16)))
    assert len(counting.boxes) == 2
    volume.read(Box((39, 49, 59), (40, 50, 60)))
    assert counting.boxes[-1] == Box((32, 48, 48), (40, 50, 60))  # cut off at the border
    with pytest.raises(OutputBusy, match="being written or edited by another process"):
        open_live(raw, path, counting, model="a")
    live.stop_computing()

    again = open_live(raw, path, counting, model="a")
    assert again[0:16, 0:16, 0:16].max() == 1
    assert len(counting.boxes) == 3
    again.stop_computing()
    other = open_live(raw, path, counting, model="b")  # another model: nothing is kept
    other[0:1, 0:1, 0:1]
    assert len(counting.boxes) == 4
    other.stop_computing()
    first = open_live(raw, path, counting, model="a")  # what it had computed is gone, which its notes must not deny
    assert first[0:1, 0:1, 0:1].max() == len(counting.boxes) == 5
    first.stop_computing()


def test_a_served_live_layer_equals_a_whole_prediction(tmp_path):
    raw = write_raw(tmp_path / "cell.zarr" / "raw")
    torch.manual_seed(0)
    network = Membrane(features=2, factors=((2, 2, 2),), kernels=(((3, 3, 3),),)).network().eval()
    whole = predict(
        network, raw, tmp_path / "cell.zarr" / "whole", Run(progress=False), Prediction("cpu", "float32")
    ).read()
    live = open_live(raw, tmp_path / "cell.zarr" / "live", predictor_of_boxes(network, raw, "cpu"), model="a")
    found = Volume(live, raw.voxel_size_nm, raw.origin_nm).read()
    assert found.std() > 0
    np.testing.assert_array_equal(found, whole)
    offer = VirtualZarr("live", [Volume(live, raw.voxel_size_nm)])
    assert offer.get("s0/c/0/0/0") is not None
    live.stop_computing()


def test_asem_view_adds_the_layer_of_a_model_and_its_errors(tmp_path, monkeypatch):
    write_raw(tmp_path / "cell.zarr" / "raw")
    write_raw(tmp_path / "cell.zarr" / "labels" / "membrane")
    network = Membrane(features=2, factors=((2, 2, 2),), kernels=(((3, 3, 3),),)).network()
    save_weights(tmp_path / "small.safetensors", network, {"model": {"use": "membrane", **SMALL}})
    shown = []

    def serve(layers, **_options):
        shown.extend(layers)
        for layer in layers:
            layer.volume.read(Box((0, 0, 0), (4, 4, 4)))
            if isinstance(layer.volume.data, Computed):
                layer.volume.data.stop_computing()
        raise KeyboardInterrupt

    monkeypatch.setattr("asem_core.viewing.server.serve", serve)
    arguments = ["--weights", str(tmp_path / "small.safetensors"), "--device", "cpu", "--truth", "labels/membrane"]
    result = CliRunner().invoke(make_app(), ["view", str(tmp_path / "cell.zarr"), "-l", "raw", *arguments])
    assert result.exit_code == 130, result.output
    names = [(x.name, x.kind) for x in shown]
    live = "predictions/live-small/probability"
    assert names == [("raw", "image"), (live, "probability"), (f"errors of {live}", "errors")]
    assert begun(tmp_path / "cell.zarr" / "predictions" / "live-small" / "probability") is not None


def test_asem_view_shows_each_class_of_a_network_in_its_colour(tmp_path, monkeypatch):
    """Both maps equal a whole prediction; what tells objects apart is not shown."""
    cell = tmp_path / "cell.zarr"
    raw = write_raw(cell / "raw", (20, 24, 28))
    options = {"classes": ["mitochondria", "membrane"], "affinities": [[-1, 0, 0]], "instances_of": "mitochondria"}
    torch.manual_seed(0)
    network = Organelles(
        classes=("mitochondria", "membrane"), affinities=((-1, 0, 0),), instances_of="mitochondria",
        features=2, factors=((2, 2, 2),), kernels=(((3, 3, 3),),),
    ).network().eval()  # fmt: skip
    save_weights(tmp_path / "both.safetensors", network, {"model": {"use": "organelles", **SMALL, **options}})
    predict_maps(network, raw, cell / "whole/probability", Run(progress=False), Prediction("cpu", "float32"))
    shown = []

    def serve(layers, **_options):
        for layer in layers[1:]:
            shown.append((layer.name, layer.colour, layer.volume.read()))
            layer.volume.data.stop_computing()
        raise KeyboardInterrupt

    monkeypatch.setattr("asem_core.viewing.server.serve", serve)
    arguments = ["view", str(cell), "-l", "raw", "--weights", str(tmp_path / "both.safetensors"), "--device", "cpu"]
    result = CliRunner().invoke(make_app(), arguments)
    assert result.exit_code == 130, result.output
    assert [name for name, *_ in shown] == [f"predictions/live-both/{c}/probability" for c in options["classes"]]
    assert len({colour for _, colour, _ in shown}) == 2
    for c, (*_, found) in zip(options["classes"], shown, strict=True):
        np.testing.assert_array_equal(found, open_volume(cell / f"whole/{c}/probability").read())
        assert found.std() > 0


def test_networks_with_much_context_get_larger_blocks():
    assert block_for((47, 47, 47)) == (128, 128, 128)
    assert block_for((5, 8, 22)) == (64, 64, 128)


def write_cell(cell, holds="image"):
    """A cell of 5 nm with an image of 24 x 30 x 36 voxels, and a mask of its middle."""
    for name, kind, voxels in (
        ("raw", holds, np.random.default_rng(0).integers(0, 255, (24, 30, 36), np.uint8)),
        ("mask", "labels", np.pad(np.ones((12, 20, 20), np.uint8), ((6, 6), (5, 5), (8, 8)))),
    ):
        spec = Spec(voxels.shape, np.uint8, 5.0)
        out = create_volume(cell / name, spec, block=64, made_by={"stage": "test"}, about=Record(kind))
        out.data[:] = voxels
        finish_volume(out)
    note_prepared(cell, Prepared("raw", "mask"))


def both_doors(cell, **about):
    """Predict a cell with weights that say this of themselves: as `asem predict` does, and as `asem view --model` does."""
    network = Membrane(features=2, factors=((2, 2, 2),), kernels=(((3, 3, 3),),)).network()
    weights = cell.with_name("small.safetensors")
    save_weights(weights, network, {"model": {"use": "membrane", **SMALL}, **about})
    catalog, run = load_catalog(), Run(progress=False)
    trained = load_trained(catalog, None, weights)
    how = PredictOptions(device="cpu", precision="float32")
    yield (
        lambda: (
            predict_image(
                trained, open_images_of(catalog, str(cell)), cell / "predictions/whole/probability", run, how, catalog
            ).probability
        )
    )
    shown = ViewOptions(layers=["raw"], weights=weights, device="cpu")
    yield lambda: view(cell, shown, catalog)[-1].volume


def test_a_live_layer_equals_the_prediction_with_mask_mirrors_and_steps(tmp_path):
    """All that weights say of themselves, and all that the cell has, counts at both doors."""
    write_cell(tmp_path / "cell.zarr")
    steps = [{"name": "invert", "options": {}}]
    torch.manual_seed(0)
    whole, live = (
        door().read() for door in both_doors(tmp_path / "cell.zarr", mirrors=True, preprocessing=steps)
    )  # fmt: skip
    assert 0 < np.count_nonzero(whole) <= 12 * 20 * 20
    np.testing.assert_array_equal(live, whole)


def test_a_live_layer_of_averaged_voxels_equals_the_prediction(tmp_path):
    """Who trained by a plan views the model at once, with the voxels of the image; steps are done after averaging."""
    write_cell(tmp_path / "cell.zarr")
    steps = [{"name": "invert", "options": {}}]
    about = {"voxel_size_nm": [5, 10, 10], "averaged_vx": [1, 2, 2], "preprocessing": steps}
    torch.manual_seed(0)
    whole, live = (door().read() for door in both_doors(tmp_path / "cell.zarr", **about))
    assert whole.shape == (24, 30, 36)
    assert whole.std() > 0
    np.testing.assert_array_equal(live, whole)


@pytest.mark.parametrize(
    ("holds", "about", "error", "told"),
    [
        ("image", {"voxel_size_nm": [8, 8, 8]}, VoxelSizeMismatch, "was trained on 8 x 8 x 8 nm"),
        ("labels", {}, BadInput, "holds labels"),
    ],
)
def test_what_is_not_predicted_is_not_viewed_either(tmp_path, holds, about, error, told):
    write_cell(tmp_path / "cell.zarr", holds)
    for door in both_doors(tmp_path / "cell.zarr", **about):
        with pytest.raises(error, match=told):
            door()
