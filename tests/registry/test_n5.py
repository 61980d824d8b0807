"""N5 containers written by the specification, and by another program, open as volumes."""

from __future__ import annotations

import json
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from published import COMPRESSIONS, write_n5

from asem_core.errors import AsemError, BadInput, UnknownName
from asem_core.files import fingerprint
from asem_core.testing import SourceKit
from asem_core.volume import Box
from asem_sources.n5 import N5


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 60000, (40, 50, 60), np.uint16)


@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_every_compression(tmp_path, image, compression):
    """The whole and a box across blocks come back exactly, for each compression of the format."""
    write_n5(tmp_path / "cell.n5" / "raw", image, compression=compression, resolution=[6, 5, 4], offset=[30, 20, 10])
    volume = N5(str(tmp_path / "cell.n5")).open("raw")
    assert volume.voxel_size_nm == (4, 5, 6)
    assert volume.origin_nm == (10, 20, 30)
    assert volume.dtype == image.dtype
    np.testing.assert_array_equal(volume.read(), image)
    box = Box((15, 3, 20), (37, 44, 51))
    np.testing.assert_array_equal(volume.read(box), image[box.slices])
    np.testing.assert_array_equal(volume.data[5], image[5])
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(volume.data))[3:4, ::2], image[3:4, ::2])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint32", "uint64", "float32", "float64"])
def test_every_kind_of_number(tmp_path, image, dtype):
    """Numbers are stored big-endian and come back as the machine's own, as unsigned integers."""
    kind = np.dtype(dtype).kind
    stored = (image / np.iinfo(image.dtype).max if kind == "f" else image >> 1).astype(dtype)
    write_n5(tmp_path / "a.n5" / "x", stored, resolution=[1, 1, 1])
    found = N5(str(tmp_path / "a.n5" / "x")).open()
    assert found.dtype == (np.uint16 if kind == "f" else np.dtype(dtype.replace("uint", "int").replace("int", "uint")))
    assert found.dtype.isnative
    expected = np.rint(stored * stored.dtype.type(65535)) if kind == "f" else stored
    np.testing.assert_array_equal(found.read(), expected)


def test_blocks_that_do_not_exist_are_zero(tmp_path, image):
    """The format leaves empty blocks out."""
    write_n5(tmp_path / "a.n5" / "x", image, leave_out={(0, 0, 0), (1, 2, 1)}, resolution=[1, 1, 1])
    expected = image.copy()
    expected[:16, :20, :24] = 0
    expected[16:32, 40:, 24:48] = 0
    np.testing.assert_array_equal(N5(str(tmp_path / "a.n5")).open("x").read(), expected)


def test_openorganelle_multiscale_group(tmp_path, image):
    """A group with `s0, s1` opens at its finest level; `transform` places it, whatever order its axes have."""
    group = tmp_path / "jrc.n5" / "em" / "fibsem-uint16"
    place = {"axes": ["z", "y", "x"], "scale": [3.24, 4, 4], "translate": [0.5, 1, 2], "units": ["nm"] * 3}
    write_n5(group / "s0", image, transform=place)
    write_n5(group / "s1", image[::2, ::2, ::2], pixelResolution={"unit": "um", "dimensions": [0.008, 0.008, 0.00648]})
    turned = {"axes": ["x", "y", "z"], "scale": [4, 4, 3.24], "translate": [2, 1, 0.5], "units": ["nm"] * 3}
    labels = tmp_path / "jrc.n5" / "labels"
    write_n5(labels / "s0", image)
    (labels / "attributes.json").write_text(
        json.dumps({"multiscales": [{"datasets": [{"path": "s0", "transform": turned}]}]})
    )
    source = N5(str(tmp_path / "jrc.n5"))
    assert source.layers() == ["em/fibsem-uint16", "labels"]
    for layer in source.layers():
        assert source.open(layer).voxel_size_nm == (3.24, 4, 4)
        assert source.open(layer).origin_nm == (0.5, 1, 2)
    coarse = source.open("em/fibsem-uint16/s1")
    assert coarse.voxel_size_nm == pytest.approx((6.48, 8, 8))
    assert coarse.shape == (20, 25, 30)


def test_group_resolution_and_factors(tmp_path, image):
    """n5-viewer's convention: the group's resolution times the level's factors."""
    group = tmp_path / "a.n5" / "setup0"
    write_n5(group / "s1", image, downsamplingFactors=[2, 2, 4])
    (group / "attributes.json").write_text(json.dumps({"pixelResolution": {"unit": "nm", "dimensions": [4, 4, 3]}}))
    assert N5(str(group)).open("s1").voxel_size_nm == (12, 8, 8)


def test_written_by_another_program(tmp_path, image):
    """A container of TensorStore reads the same as the array it was given."""
    tensorstore = pytest.importorskip("tensorstore", reason="pip install tensorstore")
    path = tmp_path / "other.n5"
    blosc = {"cname": "lz4", "clevel": 5, "shuffle": 1}
    for kind in ("raw", "gzip", "blosc", "bzip2", "xz"):
        spec = {
            "driver": "n5",
            "kvstore": {"driver": "file", "path": str(path / kind)},
            "metadata": {
                "compression": {"type": kind, **(blosc if kind == "blosc" else {})},
                "blockSize": [24, 20, 16],
            },
        }
        store = tensorstore.open(spec, create=True, dtype=tensorstore.uint16, shape=image.shape[::-1]).result()
        store[...].write(image.T).result()
        np.testing.assert_array_equal(N5(str(path / kind), voxel_size_nm=4).open().read(), image)


def test_no_voxel_size(tmp_path, image):
    """Without one there is a message with the option that gives it, and the option works."""
    write_n5(tmp_path / "a.n5" / "x", image)
    with pytest.raises(BadInput, match=r"does not state its voxel size.*voxel_size_nm=\[5, 5, 5\]"):
        N5(str(tmp_path / "a.n5")).open("x")
    assert N5(str(tmp_path / "a.n5"), voxel_size_nm=5).open("x").voxel_size_nm == (5, 5, 5)


def test_a_damaged_block_is_named(tmp_path, image):
    """A truncated block is an error that names it, never zeros."""
    folder = write_n5(tmp_path / "a.n5" / "x", image, resolution=[1, 1, 1])
    block = folder / "1" / "0" / "2"
    block.write_bytes(block.read_bytes()[:-9])
    with pytest.raises(BadInput, match=r"block .*1/0/2 is damaged"):
        N5(str(tmp_path / "a.n5")).open("x").read()


@pytest.mark.parametrize(
    ("compression", "at", "other", "sentence"),
    [
        ("raw", 0, b"\0\1", "has mode 1 and 3 axes; images have mode 0 and, here, 3 axes"),
        ("raw", 2, b"\0\2", "has mode 0 and 2 axes; images have mode 0 and, here, 3 axes"),
        ("lz4", 16, b"LZ5", r"is damaged \(not an LZ4 block stream\)\. Copy it again"),
    ],
)
def test_what_is_wrong_with_a_block(tmp_path, image, compression, at, other, sentence):
    """Some bytes of it are others."""
    block = write_n5(tmp_path / "a.n5" / "x", image, compression=compression, resolution=[1, 1, 1]) / "1" / "0" / "2"
    data = block.read_bytes()
    block.write_bytes(data[:at] + other + data[at + len(other) :])
    with pytest.raises(BadInput, match=f"block .*1/0/2 {sentence}"):
        N5(str(tmp_path / "a.n5")).open("x").read()


def test_a_block_that_cannot_be_read_is_no_empty_block(tmp_path, image):
    """Here a folder lies in its place."""
    block = write_n5(tmp_path / "a.n5" / "x", image, resolution=[1, 1, 1]) / "1" / "0" / "2"
    block.unlink()
    block.mkdir()
    with pytest.raises(OSError, match="block .*1/0/2 cannot be read: IsADirectoryError"):
        N5(str(tmp_path / "a.n5")).open("x").read()


def test_attributes_that_are_no_json(tmp_path, image):
    (write_n5(tmp_path / "a.n5" / "x", image) / "attributes.json").write_text("{")
    with pytest.raises(BadInput, match=r"x/attributes\.json is not JSON\. Copy the container again"):
        N5(str(tmp_path / "a.n5")).open("x")


def test_unknown_compression_and_layer(tmp_path, image):
    """Each says what is known."""
    write_n5(tmp_path / "a.n5" / "x", image, resolution=[1, 1, 1])
    with pytest.raises(UnknownName, match="is not an N5 array"):
        N5(str(tmp_path / "a.n5")).open("y")
    meta = tmp_path / "a.n5" / "x" / "attributes.json"
    meta.write_text(meta.read_text().replace('"gzip"', '"jpeg"'))
    with pytest.raises(BadInput, match="compressed by 'jpeg'; known: raw, gzip"):
        N5(str(tmp_path / "a.n5")).open("x")


def test_over_s3_only_the_blocks_of_the_box_are_read(tmp_path, image, s3, s3_server, monkeypatch):
    """A remote container opens by its address, anonymously."""
    monkeypatch.setenv("ASEM_S3_ENDPOINT", s3_server)
    write_n5(tmp_path / "c.n5" / "raw" / "s0", image, resolution=[4, 4, 4])
    s3.create_bucket(Bucket="organelles", ACL="public-read")
    for path in (tmp_path / "c.n5").rglob("*"):
        if path.is_file():
            s3.put_object(
                Bucket="organelles", Key=f"c.n5/{path.relative_to(tmp_path / 'c.n5')}", Body=path.read_bytes()
            )
    source = N5("s3://organelles/c.n5")
    assert source.layers() == ["raw"]
    volume = source.open("raw")
    np.testing.assert_array_equal(volume.read(), image)
    s3.delete_object(Bucket="organelles", Key="c.n5/raw/s0/0/0/0")
    box = Box((16, 20, 24), (40, 50, 60))
    np.testing.assert_array_equal(volume.read(box), image[box.slices])


class TestKit(SourceKit):
    """The N5 source does what every source must."""

    def make(self, tmp_path):
        image = np.random.default_rng(0).integers(0, 255, (60, 61, 62), np.uint8)
        if not (tmp_path / "kit.n5").exists():
            write_n5(tmp_path / "kit.n5" / "raw" / "s0", image, resolution=[4, 4, 4])
            write_n5(tmp_path / "kit.n5" / "labels" / "er", image, resolution=[4, 4, 4])
        return N5(str(tmp_path / "kit.n5"))

    def test_lists_the_image_first(self, tmp_path):
        """`raw` before `labels/er`."""
        assert self.make(tmp_path).layers() == ["raw", "labels/er"]


def test_a_changed_block_changes_the_fingerprint(tmp_path, image):
    """So an import notices it; other levels and containers elsewhere count for nothing."""
    folder = write_n5(tmp_path / "a.n5" / "raw" / "s0", image, resolution=[1, 1, 1])
    source = N5(str(tmp_path / "a.n5"))
    before = source.fingerprint("raw")
    write_n5(tmp_path / "a.n5" / "raw" / "s1", image)
    assert source.fingerprint("raw") == source.fingerprint() == before
    (folder / "1" / "0" / "2").write_bytes(b"other")
    assert source.fingerprint("raw") != before
    assert N5("s3://organelles/c.n5").fingerprint("raw") is None


def test_remote_objects_are_told_by_their_etags(s3, s3_server, monkeypatch):
    """Another content of the same size, in the same process, is other data; the content of before is the same again."""
    monkeypatch.setenv("ASEM_S3_ENDPOINT", s3_server)
    s3.create_bucket(Bucket="identity", ACL="public-read")
    found = []
    for body in (b"one", b"two", b"one"):
        s3.put_object(Bucket="identity", Key="a.zarr/raw/0", Body=body, ACL="public-read")
        found.append(fingerprint("s3://identity/a.zarr/raw"))
    assert found[0] == found[2] != found[1]
    assert None not in found
    assert fingerprint("s3://identity/nothing") is None


def test_a_folder_that_is_nothing(tmp_path):
    """Opening a folder without attributes is an `AsemError`."""
    (tmp_path / "empty.n5").mkdir()
    with pytest.raises(AsemError):
        N5(str(tmp_path / "empty.n5")).open()
