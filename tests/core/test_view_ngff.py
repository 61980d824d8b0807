"""Cells are OME-Zarr that other programs open: the validator, the reference reader, and neuroglancer's own reader."""

from __future__ import annotations

import functools
import http.server
import threading

import numpy as np
import pytest

from asem_core.cell.node import layers
from asem_core.cell.record import Record
from asem_core.cell.store import create_volume, finish_volume
from asem_core.viewing.scene import Layer
from asem_core.viewing.virtual_zarr import VirtualZarr
from asem_core.volume import Spec, Volume


@pytest.fixture(scope="module")
def layer(tmp_path_factory):
    path = tmp_path_factory.mktemp("cells") / "cell.zarr" / "raw"
    out = create_volume(
        path, Spec((70, 140, 200), np.uint8, (10, 5, 5), (40, 5, 0)), block=64, made_by={"stage": "test"}
    )
    out.data[:] = np.random.default_rng(0).integers(0, 255, out.shape, np.uint8)
    return finish_volume(out)


def test_layers_pass_the_validator(layer):
    models = pytest.importorskip("ome_zarr_models")
    import zarr

    found = models.open_ome_zarr(zarr.open_group(layer.path, mode="r"))
    assert found.ome_zarr_version == "0.5"
    (image,) = found.attributes.ome.multiscales
    assert [axis.name for axis in image.axes] == ["z", "y", "x"]
    assert len(image.datasets) >= 3


@pytest.mark.parametrize("zarr_format", [3, 2])
def test_labels_are_listed_as_the_format_wants(tmp_path, zarr_format):
    """In the cells' own version and in containers of v2: all labels, with the image that they lie on; removed ones go off the list."""
    import shutil

    import zarr

    models = pytest.importorskip("ome_zarr_models")
    cell = tmp_path / "cell.zarr"
    zarr.open_group(str(cell), mode="w", zarr_format=zarr_format)
    for name, kind in (("raw", "image"), ("labels/golgi", "labels"), ("labels/er", "labels")):
        out = create_volume(
            cell / name, Spec((20, 20, 20), np.uint8, 5), block=64, made_by={"of": name}, about=Record(kind)
        )
        finish_volume(out)
    group = zarr.open_group(str(cell / "labels"), mode="r")
    assert group.metadata.zarr_format == zarr_format
    about = group.attrs["ome"] if zarr_format == 3 else group.attrs
    assert about["labels"] == ["er", "golgi"]
    version = "0.5" if zarr_format == 3 else "0.4"
    found = models.open_ome_zarr(group, version=version)
    assert type(found).__name__ == "Labels"
    assert found.ome_zarr_version == version
    golgi = group["er"].attrs.get("ome", group["er"].attrs)
    assert golgi["image-label"]["source"] == {"image": "../../raw"}
    assert (cell / "labels/er/../../raw").resolve() == cell / "raw"
    assert layers(cell) == ["raw", "labels/er", "labels/golgi"]
    shutil.rmtree(cell / "labels" / "er")
    finish_volume(
        create_volume(
            cell / "labels/pores",
            Spec((20, 20, 20), np.uint8, 5),
            block=64,
            made_by={"of": "pores"},
            about=Record("labels"),
        )
    )
    listed = dict(zarr.open_group(str(cell / "labels"), mode="r").attrs)
    assert listed.get("ome", listed)["labels"] == ["golgi", "pores"]


def test_served_layers_pass_the_validator(layer, tmp_path):
    models = pytest.importorskip("ome_zarr_models")
    import zarr

    offer = VirtualZarr("raw", [Volume(layer.data, layer.voxel_size_nm, layer.origin_nm)])
    for key in ("zarr.json", "s0/zarr.json"):
        (tmp_path / key).parent.mkdir(exist_ok=True)
        (tmp_path / key).write_bytes(offer.get(key))
    assert models.open_ome_zarr(zarr.open_group(str(tmp_path), mode="r")).ome_zarr_version == "0.5"


def test_the_reference_reader_gives_every_level_in_place(layer):
    reader = pytest.importorskip("ome_zarr.reader")
    from ome_zarr.io import parse_url

    (node,) = list(reader.Reader(parse_url(layer.path))())
    np.testing.assert_array_equal(node.data[0].compute(), layer.read())
    assert node.data[1].shape == (70, 70, 100)  # the finer axes are halved first
    assert node.metadata["coordinateTransformations"][0][0]["scale"] == [10, 5, 5]
    assert node.metadata["coordinateTransformations"][0][1]["translation"] == [40, 5, 0]


class AllowAnyOrigin(http.server.SimpleHTTPRequestHandler):
    def end_headers(self):
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *_args):
        """Say nothing."""


def test_neuroglancer_opens_the_files_themselves(layer, browser):
    """Served as plain files by any web server, with no help of ours."""
    pytest.importorskip("neuroglancer", reason="the extra 'view' is not installed")
    from asem_core.viewing.server import serve

    handler = functools.partial(AllowAnyOrigin, directory=layer.path)
    with (
        http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files,
        serve([Layer("raw", "image", [layer])]) as served,
    ):
        threading.Thread(target=files.serve_forever, daemon=True).start()
        with served.viewer.txn() as state:
            state.layers[0].layer.source = f"http://127.0.0.1:{files.server_port}/|zarr3:"
            state.layout = "xy"
            state.show_axis_lines = state.show_scale_bar = state.show_default_annotations = False
        browser.open(served.url)
        browser.wait_for(lambda seen: 40 < seen[seen.shape[0] // 2, seen.shape[1] // 2 - 50 :][:100].std() < 120)
        files.shutdown()
