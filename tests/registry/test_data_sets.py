"""Public data sets: listed, and a box copied, fetching only its chunks; remote Zarr read without a download."""

from __future__ import annotations

import attrs
import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutsideVolume, UnknownName
from asem_core.volume import Box
from asem_registry import datasets
from asem_registry.datasets import DataSet, NotReachable, find_data_set, load_data_sets, outline, pull

QUIET = Run(progress=False)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 255, (96, 96, 96), np.uint8)


@pytest.fixture
def cell(s3, s3_server, settings, image, tmp_path, monkeypatch):
    """A cell as the paper publishes it (Zarr v2, nm attributes), in its bucket; settings that reach it."""
    monkeypatch.setenv("ASEM_S3_ENDPOINT", s3_server)
    group = zarr.open_group(str(tmp_path / "cell_6.zarr"), mode="w", zarr_format=2)
    for name in ("volumes/raw_equalized_0.02", "volumes/labels/er"):
        array = group.create_array(name, shape=image.shape, chunks=(32, 32, 32), dtype="uint8")
        array[:] = image
        array.attrs.update(resolution=[5, 5, 5], offset=[50, 0, 0])
    s3.create_bucket(Bucket="asem-project", ACL="public-read")
    for path in (tmp_path / "cell_6.zarr").rglob("*"):
        if path.is_file():
            key = f"datasets/cell_6/cell_6.zarr/{path.relative_to(tmp_path / 'cell_6.zarr')}"
            s3.put_object(Bucket="asem-project", Key=key, Body=path.read_bytes())
    return attrs.evolve(settings, s3_endpoint=s3_server)


def layers(data_set, settings):
    return [entry.path for entry in outline(data_set, settings)]


def test_every_data_set_is_described():
    """Name, words, address, licence and citation."""
    sets = load_data_sets()
    assert {"asem-cell-6-example", "asem-cell-6", "jrc-hela-2", "jrc-hela-2-truth"} <= set(sets)
    for found in sets.values():
        assert found.about.endswith(".")
        assert found.url.startswith("s3://")
        assert found.licence
        assert found.citation


def test_names():
    """A wrong name gets the nearest; an address is a data set of its own."""
    with pytest.raises(UnknownName, match=r"No data set is called 'asem-cell6'\. Did you mean 'asem-cell-6'"):
        find_data_set("asem-cell6")
    assert find_data_set("s3://bucket/x.zarr").url == "s3://bucket/x.zarr"


def test_layers_of_a_remote_cell(cell):
    """The volumes of the container, without knowing them beforehand."""
    assert layers(find_data_set("asem-cell-6"), cell) == ["volumes/labels/er", "volumes/raw_equalized_0.02"]


def test_a_box_is_copied_in_its_place_and_only_its_chunks_are_read(cell, image, s3, tmp_path):
    """All other chunks are deleted from the server first: the copy needs none of them."""
    layer = "volumes/raw_equalized_0.02"
    box = Box((32, 33, 64), (64, 60, 96))
    for z in range(3):
        for y in range(3):
            for x in range(3):
                if (z, y, x) != (1, 1, 2):
                    key = f"datasets/cell_6/cell_6.zarr/{layer}/{z}.{y}.{x}"
                    s3.delete_object(Bucket="asem-project", Key=key)
    made = pull(find_data_set("asem-cell-6"), layer, "32:64,33:60,64:96", tmp_path / "c.zarr" / "raw", QUIET, cell)
    np.testing.assert_array_equal(made.read(), image[box.slices])
    assert made.voxel_size_nm == (5, 5, 5)
    assert made.origin_nm == (50 + 160, 165, 320)
    again = pull(find_data_set("asem-cell-6"), layer, "32:64,33:60,64:96", tmp_path / "c.zarr" / "raw", QUIET, cell)
    assert again.path == made.path


def test_workers_copy_in_parallel(cell, image, tmp_path):
    """Blocks are fetched by processes, with the same result."""
    run = Run(workers=2, block=(64, 64, 64), progress=False)
    made = pull(
        find_data_set("asem-cell-6"), "volumes/labels/er", None, tmp_path / "c.zarr" / "labels" / "er", run, cell
    )
    np.testing.assert_array_equal(made.read(), image)


def test_what_can_go_wrong(cell, tmp_path):
    """A box that sticks out, a volume that is not there, a data set that moved, no network: each says what to do."""
    cell_6, out = find_data_set("asem-cell-6"), tmp_path / "c.zarr" / "raw"
    with pytest.raises(OutsideVolume, match=r"Cannot crop .* to \[0:10, 0:10, 90:100\]"):
        pull(cell_6, "volumes/raw_equalized_0.02", "0:10,0:10,90:100", out, QUIET, cell)
    with pytest.raises(BadInput, match="is not a Zarr array or group"):
        pull(cell_6, "volumes/golgi", None, out, QUIET, cell)
    moved = attrs.evolve(cell_6, url="s3://asem-project/datasets/cell_6/cell_6_old.zarr")
    with pytest.raises(NotReachable, match=r"no longer at .*There: s3://asem-project/datasets/cell_6/cell_6\.zarr"):
        layers(moved, cell)
    with pytest.raises(NotReachable, match="ASEM_OFFLINE is set"):
        layers(cell_6, attrs.evolve(cell, offline=True))
    dead = attrs.evolve(cell, s3_endpoint="http://127.0.0.1:9", attempts=1)
    with pytest.raises(NotReachable, match="Is there a network connection"):
        layers(cell_6, dead)


def test_the_commands(cell, image, tmp_path):
    """`asem data list`, `asem data pull NAME` for the volumes, and with a box and an output for the copy."""

    def asem(*words):
        result = CliRunner().invoke(make_app(), [str(w) for w in words])
        assert result.exit_code == 0, result.output
        return result.stdout

    assert "asem-cell-6 " in asem("data", "list")
    assert "asem-cell-6" in asem("data", "list", "--json")
    assert "volumes/labels/er" in asem("data", "pull", "asem-cell-6")
    layer, out = "volumes/raw_equalized_0.02", tmp_path / "c.zarr" / "raw"
    said = asem("data", "pull", "asem-cell-6", layer, "--box", "0:40,10:50,20:60", "-o", out, "-q", "-j", "1")
    assert "[40, 40, 40] voxels of [5.0, 5.0, 5.0] nm" in said
    np.testing.assert_array_equal(open_volume(out).read(), image[:40, 10:50, 20:60])


def test_remote_zarr_is_read_in_place(cell, image):
    """`open_volume` and the Zarr source read `s3://` without a download."""
    url = "s3://asem-project/datasets/cell_6/cell_6.zarr"
    volume = open_volume(f"{url}/volumes/raw_equalized_0.02")
    assert volume.voxel_size_nm == (5, 5, 5)
    box = Box((10, 20, 30), (50, 52, 61))
    np.testing.assert_array_equal(volume.read(box), image[box.slices])
    source = load_catalog().get("source", "ome-zarr")(url)
    np.testing.assert_array_equal(source.open("volumes/labels/er").read(box), image[box.slices])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_over_http_is_read_in_place(server, image, tmp_path, zarr_format):
    """Arrays on a plain web server, which cannot list folders, are read by their address."""
    path = tmp_path / "raw.zarr"
    array = zarr.create_array(str(path), shape=image.shape, chunks=(32, 32, 32), dtype="uint8", zarr_format=zarr_format)
    array[:] = image
    array.attrs.update(resolution=[4, 4, 4], offset=[0, 0, 8])
    for file in path.rglob("*"):
        if file.is_file():
            server.files[f"/raw.zarr/{file.relative_to(path)}"] = file.read_bytes()
    volume = open_volume(server.url("/raw.zarr"))
    assert volume.origin_nm == (0, 0, 8)
    box = Box((10, 20, 30), (50, 52, 61))
    np.testing.assert_array_equal(volume.read(box), image[box.slices])


def test_an_n5_data_set(cell, s3, image, tmp_path, monkeypatch):
    """OpenOrganelle's containers are copied in the same way."""
    import json
    import struct

    meta = {"dimensions": [96, 96, 96], "blockSize": [96, 96, 96], "dataType": "uint8", "compression": {"type": "raw"}}
    s3.create_bucket(Bucket="organelles", ACL="public-read")
    meta["pixelResolution"] = {"dimensions": [4, 4, 3.24], "unit": "nm"}
    s3.put_object(Bucket="organelles", Key="j/j.n5/em/s0/attributes.json", Body=json.dumps(meta).encode())
    block = struct.pack(">HH3I", 0, 3, 96, 96, 96) + image.tobytes()
    s3.put_object(Bucket="organelles", Key="j/j.n5/em/s0/0/0/0", Body=block)
    jrc = DataSet("jrc", "", "s3://organelles/j/j.n5", "CC BY 4.0", "")
    assert layers(jrc, cell) == ["em"]
    made = pull(jrc, "em", "0:30,10:40,20:50", tmp_path / "j.zarr" / "raw", QUIET, cell)
    np.testing.assert_array_equal(made.read(), image[:30, 10:40, 20:50])
    assert made.voxel_size_nm == (3.24, 4, 4)
    assert datasets.BLOCK == 256
