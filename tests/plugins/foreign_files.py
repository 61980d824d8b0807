"""Small files of each format, written by the library that others use or as the format's document says; and how they are checked."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asem_core.catalog import load_catalog
from asem_core.interfaces import Source
from asem_core.stages.import_ import choose_source
from asem_core.testing import example_image
from asem_core.volume import Box, Volume

IMAGE = example_image().read()
SIZE = (8.0, 5.0, 4.0)  # another along each axis, so that no two are mixed up
DAT_BYTES = 1024


def choose(path: Path, **options: Any) -> Source:
    """Choose the source as `asem import` does, by what can read the path."""
    return choose_source(load_catalog(), str(path), None, options)


def check_place(volume: Volume, image: np.ndarray = IMAGE) -> None:
    """The image is asymmetric and its voxels differ along each axis: nothing was flipped or swapped."""
    np.testing.assert_array_equal(volume.read(), image)
    assert volume.voxel_size_nm == pytest.approx(SIZE, rel=1e-5)
    part = Box((3, 5, 7), (9, 14, 20))
    np.testing.assert_array_equal(volume.read(part), image[part.slices])


def write_hdf5(folder: Path, image: np.ndarray = IMAGE, name: str = "volumes/raw", **attributes: Any) -> Path:
    """Write CREMI's data set."""
    import h5py

    path = folder / "example.h5"
    with h5py.File(path, "a") as file:
        data = file.create_dataset(name, data=image, compression="gzip")
        data.attrs.update(attributes or {"resolution": SIZE, "offset": (80.0, 0.0, 40.0)})
    return path


def write_planes(folder: Path, image: np.ndarray = IMAGE, ending: str = "png") -> Path:
    from PIL import Image

    planes = folder / f"planes_{ending}"
    planes.mkdir(exist_ok=True)
    for z, plane in enumerate(image):
        Image.fromarray(plane).save(planes / f"cell_{z:03}.{ending}")
    return planes


def write_mrc(folder: Path, image: np.ndarray = IMAGE, size: tuple[float, ...] = SIZE) -> Path:
    import mrcfile

    path = folder / "example.mrc"
    with mrcfile.new(path, overwrite=True) as file:
        file.set_data(image)
        file.voxel_size = tuple(s * 10 for s in size[::-1])
    return path


def write_precomputed(folder: Path, image: np.ndarray = IMAGE, **scale: Any) -> Path:
    import tensorstore

    path = folder / "example_precomputed"
    store = tensorstore.open(
        {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{path}/"},
            "multiscale_metadata": {"type": "image", "data_type": str(image.dtype), "num_channels": 1},
            "scale_metadata": {
                "size": image.shape[::-1],
                "resolution": SIZE[::-1],
                "voxel_offset": [10, 0, 10],
                "encoding": "raw",
                "chunk_size": [32, 32, 32],
                **scale,
            },
        },
        create=True,
    ).result()
    store[..., 0] = image.T
    return path


def write_dat(folder: Path, image: np.ndarray = IMAGE) -> Path:
    """Write raw planes of two detectors: the second is the negative of the first."""
    planes = folder / "raw_planes"
    planes.mkdir(exist_ok=True)
    for z, plane in enumerate(image.astype(np.int16) - 100):
        header = bytearray(DAT_BYTES)
        struct.pack_into(">IHH", header, 0, 3555587570, 9, 1)
        header[32] = 2
        struct.pack_into(">II", header, 100, plane.shape[1], plane.shape[0])
        struct.pack_into(">f", header, 464, 4.0)
        values = np.stack([plane, -plane], axis=-1).astype(">i2")
        (planes / f"Merlin_24-11-15_{z + 100:06}_0-0-0.dat").write_bytes(bytes(header) + values.tobytes())
    return planes


def write_amira(folder: Path, image: np.ndarray = IMAGE, packing: str = "", unit: str = "nm") -> Path:
    z, y, x = image.shape
    ends = [(n - 1) * s for n, s in zip((x, y, z), SIZE[::-1], strict=True)]
    data = {"": image.tobytes, "HxByteRLE": lambda: _runs(image.tobytes()), "HxZip": lambda: _zip(image.tobytes())}[
        packing
    ]()
    about = f"({packing},{len(data)})" if packing else ""
    units = f'Units {{ Coordinates "{unit}" }}' if unit else ""
    header = (
        f"# AmiraMesh BINARY-LITTLE-ENDIAN 3.0\n\n\ndefine Lattice {x} {y} {z}\n\nParameters {{\n    {units}\n"
        f'    Content "{x}x{y}x{z} byte, uniform coordinates",\n'
        f"    BoundingBox 0 {ends[0]} 0 {ends[1]} 0 {ends[2]},\n"
        f'    CoordType "uniform"\n}}\n\nLattice {{ byte Data }} @1{about}\n\n# Data section follows\n@1\n'
    )
    path = folder / "example.am"
    path.write_bytes(header.encode() + data + b"\n")
    return path


def _runs(data: bytes) -> bytes:
    """Pack by runs where bytes repeat, else by up to 127 bytes as they are."""
    packed, at = bytearray(), 0
    while at < len(data):
        run = 1
        while run < 127 and at + run < len(data) and data[at + run] == data[at]:
            run += 1
        if run > 2:
            packed += bytes([run, data[at]])
            at += run
        else:
            part = data[at : at + 50]
            packed += bytes([128 | len(part)]) + part
            at += len(part)
    return bytes(packed)


def _zip(data: bytes) -> bytes:
    import zlib

    return zlib.compress(data)


def write_imaris(folder: Path, image: np.ndarray = IMAGE, channels: int = 1) -> Path:
    """Write the finest level, padded to whole chunks, as Imaris does."""
    import h5py

    def letters(text: object) -> np.ndarray:
        return np.array(list(str(text)), "S1")

    path = folder / "example.ims"
    padded = np.pad(image, [(0, -n % 16) for n in image.shape])
    with h5py.File(path, "w") as file:
        for c in range(channels):
            group = file.create_group(f"DataSet/ResolutionLevel 0/TimePoint 0/Channel {c}")
            group.create_dataset(
                "Data", data=padded if c == 0 else 255 - padded, chunks=(16, 16, 16), compression="gzip"
            )
        info = file.create_group("DataSetInfo/Image").attrs
        info["Unit"] = letters("um")
        for i, (axis, n, s) in enumerate(zip("XYZ", image.shape[::-1], SIZE[::-1], strict=True)):
            info[axis] = letters(n)
            info[f"ExtMin{i}"], info[f"ExtMax{i}"] = letters("1.000"), letters(f"{1 + n * s / 1000:.6f}")
    return path


def write_dm3(path: Path, image: np.ndarray, size: tuple[float, ...] = SIZE, unit: str = "nm", copies: int = 1) -> Path:
    """Write a DM3 file: a tree of tags, big-endian names and little-endian values; of several copies the first is the thumbnail."""

    def tag(name: str, body: bytes, is_group: bool = False) -> bytes:
        return bytes([20 if is_group else 21]) + struct.pack(">H", len(name)) + name.encode() + body

    def value(kind: int, form: str, number: float) -> bytes:
        return b"%%%%" + struct.pack(">ii", 1, kind) + struct.pack(f"<{form}", number)

    def text(words: str) -> bytes:
        return b"%%%%" + struct.pack(">iiii", 3, 20, 4, len(words)) + words.encode("utf-16-le")

    def group(*tags: bytes) -> bytes:
        return b"\1\0" + struct.pack(">i", len(tags)) + b"".join(tags)

    codes = {"uint8": (10, 6), "int16": (2, 1), "uint16": (4, 10), "float32": (6, 2)}
    array, image_kind = codes[str(image.dtype)]
    data = (
        b"%%%%" + struct.pack(">iiii", 3, 20, array, image.size) + image.astype(image.dtype.newbyteorder("<")).tobytes()
    )
    axes = list(zip(image.shape, size[-image.ndim :], strict=True))[::-1]
    calibration = [
        tag("", group(tag("Origin", value(6, "f", 0)), tag("Scale", value(6, "f", s)), tag("Units", text(unit))), True)
        for _, s in axes
    ]
    dimensions = [tag("", value(5, "I", n)) for n, _ in axes]
    depth = tag("PixelDepth", value(5, "I", image.dtype.itemsize))
    image_data = group(
        tag("Calibrations", group(tag("Dimension", group(*calibration), True)), True),
        tag("Data", data),
        tag("DataType", value(5, "I", image_kind)),
        tag("Dimensions", group(*dimensions), True),
        depth,
    )
    images = [tag("", group(tag("ImageData", image_data, True)), True)] * copies
    root = group(tag("ImageList", group(*images), True))
    path.write_bytes(struct.pack(">iii", 3, len(root), 1) + root + bytes(8))
    return path


def axistags(axes: str) -> str:
    """Name axes as ilastik does."""
    return json.dumps({"axes": [{"key": a, "typeFlags": 2, "resolution": 0, "description": ""} for a in axes]})


def write_onnx(folder: Path, onnx: Any) -> Path:
    """Write a network of one convolution of 3 x 3 x 3 voxels, which gives as many as it takes."""
    weights = np.random.default_rng(0).standard_normal((1, 1, 3, 3, 3)).astype(np.float32)
    free = ["b", 1, "z", "y", "x"]
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Conv", ["image", "w"], ["logits"], pads=[1] * 6)],
        "one convolution",
        [onnx.helper.make_tensor_value_info("image", onnx.TensorProto.FLOAT, free)],
        [onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, free)],
        [onnx.numpy_helper.from_array(weights, "w")],
    )
    file = folder / "convolution.onnx"
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    file.write_bytes(made.SerializeToString())
    return file
