"""A live layer computes what is looked at, once, and gives what a whole prediction gives."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.cell.build import begun
from asem_core.cell.store import create_volume, finish_volume
from asem_core.cli import make_app
from asem_core.errors import OutputBusy
from asem_core.prediction.live import block_for, live_prediction, predictor_of_boxes
from asem_core.stages.predict import Prediction, predict
from asem_core.viewing.virtual_zarr import VirtualZarr
from asem_core.volume import Box, Spec, Volume
from asem_core.weights import save_weights
from asem_models.membrane import Membrane

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
            getattr(layer.volume.data, "close", lambda: None)()
        raise KeyboardInterrupt

    monkeypatch.setattr("asem_core.viewing.server.serve", serve)
    arguments = ["--model", str(tmp_path / "small.safetensors"), "--device", "cpu", "--truth", "labels/membrane"]
    result = CliRunner().invoke(make_app(), ["view", str(tmp_path / "cell.zarr"), "-l", "raw", *arguments])
    assert result.exit_code == 130, result.output
    names = [(x.name, x.kind) for x in shown]
    live = "predictions/live-small/probability"
    assert names == [("raw", "image"), (live, "probability"), (f"errors of {live}", "errors")]
    assert begun(tmp_path / "cell.zarr" / "predictions" / "live-small" / "probability") is not None


def test_networks_with_much_context_get_larger_blocks():
    assert block_for((47, 47, 47)) == (128, 128, 128)
    assert block_for((5, 8, 22)) == (64, 64, 128)
