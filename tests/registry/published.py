"""Public data in the layouts of their publishers, small: written into folders, and put into buckets of a loopback server."""

from __future__ import annotations

import bz2
import gzip
import itertools
import json
import lzma
import math
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import zarr

SCALE = (5.24, 4.0, 4.0)  # nm, of the image of jrc_hela-2


def cell_and_truth(seed: int = 0, shape: tuple[int, ...] = (20, 40, 48)) -> tuple[np.ndarray, np.ndarray]:
    """Make an image of 20 x 40 x 48 voxels, and COSEM ids at half its voxel size in 8:12, 10:22, 20:36 of it.

    A mitochondrion (ids 3 and 4) beside cytosol (35); a slab in front was not annotated (0).
    """
    rng = np.random.default_rng(seed)
    image = rng.integers(1000, 60000, shape, np.uint16)
    ids = np.full((8, 24, 32), 35, np.uint64)
    ids[:, 4:16, 6:20] = 3
    ids[:, 6:14, 8:18] = 4
    ids[:, :, 28:] = 0
    return image, ids


BEGIN = (8, 10, 20)  # of the crop, in voxels of the image


def write_openorganelle(folder: Path, image: np.ndarray, ids: np.ndarray, *, crops: bool = True) -> Path:
    """Write a Zarr v2 container as OpenOrganelle does: an image with a pyramid, crops with a group for each class."""
    root = zarr.open_group(str(folder), mode="w", zarr_format=2)
    _multiscale(root, "recon-1/em/fibsem-uint8", [image >> 8, (image >> 8)[::2, ::2, ::2]], np.uint8, SCALE, (0, 0, 0))
    if crops:
        write_crop(root.create_group("recon-1/labels/groundtruth/crop7"), ids)
    return folder


def write_crop(group: Any, ids: np.ndarray) -> None:
    """Write a crop of CellMap: mito (one id), mito_mem, vesicles by instance (absent), and all; unknown is 255."""
    fine = [s / 2 for s in SCALE]
    # The centre of the first voxel: half a voxel of the image before its corner, half a finer one after it.
    origin = [b * s - s / 2 + f / 2 for b, s, f in zip(BEGIN, SCALE, fine, strict=True)]
    made = {"mito": np.isin(ids, [3, 4, 5]), "mito_mem": ids == 3, "ves": ids == 9}
    for name, where in made.items():
        labels = np.where(ids == 0, 255, where).astype(np.uint8)
        levels = [labels, labels[::2, ::2, ::2]]
        kind = "instance" if name == "ves" else "semantic"
        encoding = {"absent": 0, "unknown": 255, **({} if name == "ves" else {"present": 1})}
        about = {"class_name": name, "annotation_type": {"type": f"{kind}_segmentation", "encoding": encoding}}
        _multiscale(group, name, levels, np.uint8, fine, origin, about)
    _multiscale(group, "all", [ids], np.uint64, fine, origin)
    group.attrs["cellmap"] = {"annotation": {"version": "0.1.1", "class_names": [*made]}}


def _multiscale(root: Any, path: str, levels: Any, dtype: Any, scale: Any, origin: Any, about: Any = None) -> None:
    group = root.create_group(path)
    datasets = []
    for n, data in enumerate(levels):
        array = group.create_array(
            f"s{n}",
            shape=data.shape,
            chunks=(8, 16, 16),
            dtype=dtype,
            chunk_key_encoding={"name": "v2", "separator": "/"},
        )
        array[:] = data
        size = [s * 2**n for s in scale]
        place = [o + (t - s) / 2 for o, s, t in zip(origin, scale, size, strict=True)]
        steps = [{"type": "scale", "scale": size}, {"type": "translation", "translation": place}]
        datasets.append({"path": f"s{n}", "coordinateTransformations": steps})
        if about:
            unknown = int((data == about["annotation_type"]["encoding"]["unknown"]).sum())
            counts = {"absent": int((data == 0).sum()), "unknown": unknown}
            array.attrs["cellmap"] = {"annotation": {**about, "complement_counts": counts}}
    axes = [{"name": a, "type": "space", "unit": "nanometer"} for a in "zyx"]
    group.attrs["multiscales"] = [{"version": "0.4", "name": "", "axes": axes, "datasets": datasets}]
    if about:
        group.attrs["cellmap"] = {"annotation": about}


def write_cosem(folder: Path, image: np.ndarray, ids: np.ndarray) -> Path:
    """Write an N5 container as Heinrich et al. 2021 publish it: offsets in nm are those of corners."""
    fine = [s / 2 for s in SCALE]
    offset = [b * s for b, s in zip(BEGIN, SCALE, strict=True)]
    place = {"resolution": fine[::-1], "offset": offset[::-1]}
    write_n5(
        folder / "volumes" / "raw", image, image.shape, pixelResolution={"unit": "nm", "dimensions": list(SCALE[::-1])}
    )
    labels = folder / "volumes" / "groundtruth" / "0003" / "Crop7" / "labels"
    write_n5(labels / "all", ids, ids.shape, **place)
    write_n5(
        labels / "ribosomes",
        (ids == 35).astype(np.uint64) * np.arange(ids.shape[2], dtype=np.uint64),
        ids.shape,
        **place,
    )
    (folder / "attributes.json").write_text(json.dumps({"n5": "2.0.0"}))
    return folder


def upload(s3: Any, folder: Path, address: str) -> None:
    """Put a folder into a bucket, which is made if need be."""
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    if bucket not in [b["Name"] for b in s3.list_buckets()["Buckets"]]:
        s3.create_bucket(Bucket=bucket, ACL="public-read")
    for path in folder.rglob("*"):
        if path.is_file():
            s3.put_object(Bucket=bucket, Key=f"{prefix}/{path.relative_to(folder).as_posix()}", Body=path.read_bytes())


def _lz4(data):
    """Frames as Java's LZ4BlockOutputStream writes them: one compressed, one stored, one empty at the end."""
    from numcodecs import lz4

    half = len(data) // 2
    packed = lz4.compress(data[:half])[4:]
    frames = struct.pack("<8sBiiI", b"LZ4Block", 0x26, len(packed), half, 0) + packed
    frames += struct.pack("<8sBiiI", b"LZ4Block", 0x16, len(data) - half, len(data) - half, 0) + data[half:]
    return frames + struct.pack("<8sBiiI", b"LZ4Block", 0x16, 0, 0, 0)


def _numcodec(codec):
    def encode(data):
        import numcodecs

        return bytes(numcodecs.get_codec(codec).encode(data))

    return encode


COMPRESSIONS = {
    "raw": ({"type": "raw"}, lambda data: data),
    "gzip": ({"type": "gzip", "level": -1}, gzip.compress),
    "zlib": ({"type": "gzip", "useZlib": True}, zlib.compress),
    "bzip2": ({"type": "bzip2", "blockSize": 9}, bz2.compress),
    "xz": ({"type": "xz", "preset": 6}, lzma.compress),
    "lz4": ({"type": "lz4", "blockSize": 65536}, _lz4),
    "blosc": ({"type": "blosc", "cname": "zstd"}, _numcodec({"id": "blosc", "cname": "zstd"})),
    "zstd": ({"type": "zstd", "level": 3}, _numcodec({"id": "zstd"})),
}


def write_n5(folder, array, block=(16, 20, 24), compression="gzip", leave_out=(), **attributes):
    """Write a zyx array by the N5 specification; blocks whose zyx index is in `leave_out` are not written."""
    about, compress = COMPRESSIONS[compression]
    folder.mkdir(parents=True)
    meta = {
        "dimensions": list(array.shape[::-1]),
        "blockSize": list(block[::-1]),
        "dataType": array.dtype.name,
        "compression": about,
        **attributes,
    }
    (folder / "attributes.json").write_text(json.dumps(meta))
    for index in itertools.product(*(range(math.ceil(n / b)) for n, b in zip(array.shape, block, strict=True))):
        if index in leave_out:
            continue
        part = array[tuple(slice(i * b, (i + 1) * b) for i, b in zip(index, block, strict=True))]
        header = struct.pack(">HH3I", 0, 3, *part.shape[::-1])
        path = folder.joinpath(*map(str, index[::-1]))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(header + compress(part.astype(part.dtype.newbyteorder(">")).tobytes()))
    return folder
