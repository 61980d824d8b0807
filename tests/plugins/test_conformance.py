"""The conformance kit of its kind runs over every registered plugin."""

from __future__ import annotations

import inspect
import json
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import foreign_files as foreign

from asem_core.catalog import load_catalog
from asem_core.cell.store import create_volume, finish_volume
from asem_core.testing import KITS, example_image, example_labels


def _tiff_stack(folder: Path) -> dict[str, Any]:
    import tifffile

    planes = folder / "planes"
    planes.mkdir(exist_ok=True)
    for i, plane in enumerate(example_image().read()):
        tifffile.imwrite(planes / f"cell_{i:03}.tif", plane)
    return {"path": str(planes), "voxel_size_nm": [5.0, 5.0, 5.0]}


def _container(folder: Path) -> dict[str, Any]:
    target = folder / "example.zarr" / "raw"
    if not target.exists():
        image = example_image()
        out = create_volume(target, image.spec, block=32, made_by={"stage": "example"})
        out.data[...] = image.read()
        finish_volume(out)
    return {"path": str(target.parent)}


def _plain_zarr(folder: Path) -> dict[str, Any]:
    import zarr

    path = folder / "example.zarr" / "volumes" / "raw"
    array = zarr.open_array(path, mode="w", shape=example_image().shape, dtype="u1", zarr_format=2)
    array[...] = example_image().read()
    array.attrs.update({"resolution": [5, 5, 5], "offset": [0, 0, 0]})
    return {"path": str(path)}


def _reference(folder: Path) -> dict[str, Any]:
    return {"reference": _container(folder)["path"] + "/raw"}


def _n5(folder: Path) -> dict[str, Any]:
    """Write one block of raw bytes, as the N5 specification says: big-endian header, x varying fastest."""
    image = example_image().read()
    array = folder / "example.n5" / "raw"
    (array / "0" / "0").mkdir(parents=True, exist_ok=True)
    size = list(image.shape[::-1])
    about = {"dataType": "uint8", "compression": {"type": "raw"}, "blockSize": size, "dimensions": size}
    (array / "attributes.json").write_text(json.dumps(about))
    (array.parent / "attributes.json").write_text('{"n5": "2.5.1"}')
    (array / "0" / "0" / "0").write_bytes(struct.pack(">HH3I", 0, 3, *size) + image.tobytes())
    return {"path": str(array.parent), "voxel_size_nm": 5.0}


def _once(path: Path, write: Callable[[Path], Path]) -> str:
    return str(path if path.exists() else write(path.parent))


def _label_file(folder: Path) -> dict[str, Any]:
    import tifffile

    tifffile.imwrite(folder / "labels.tif", (example_labels().read() > 0).astype(np.uint8))
    return {"path": str(folder / "labels.tif")}


def _table(folder: Path) -> dict[str, Any]:
    rows = [f"0.98,0.17,{z / 3},-0.17,0.98,{-z}" for z in range(example_image().shape[0])]
    (folder / "table.csv").write_text("\n".join(rows))
    return {"table": str(folder / "table.csv")}


def _onnx(folder: Path) -> dict[str, Any]:
    """Write a network of one convolution, filled up with zeros at its borders."""
    onnx = pytest.importorskip("onnx", reason="pip install 'asem-core[bioimageio]'")
    pytest.importorskip("onnxruntime", reason="pip install 'asem-core[bioimageio]'")
    return {"onnx": str(foreign.write_onnx(folder, onnx)), "tile": (12, 12, 12), "halo": (2, 2, 2)}


# What a plugin cannot do without: files, mostly. Everything else runs on its defaults.
OPTIONS: dict[tuple[str, str], Callable[[Path], dict[str, Any]]] = {
    ("source", "tiff-stack"): _tiff_stack,
    ("source", "ome-zarr"): _container,
    ("source", "plain-zarr"): _plain_zarr,
    ("source", "n5"): _n5,
    ("source", "amira"): lambda folder: {"path": str(foreign.write_amira(folder))},
    ("source", "digital-micrograph"): lambda folder: {
        "path": str(foreign.write_dm3(folder / "a.dm3", example_image().read()))
    },
    ("source", "hdf5"): lambda folder: {"path": _once(folder / "example.h5", foreign.write_hdf5)},
    ("source", "image-stack"): lambda folder: {"path": str(foreign.write_planes(folder)), "voxel_size_nm": 5.0},
    ("source", "imaris"): lambda folder: {"path": str(foreign.write_imaris(folder))},
    ("source", "janelia-dat"): lambda folder: {
        "path": str(foreign.write_dat(folder)),
        "voxel_size_nm": 5.0,
        "channel": 0,
    },
    ("source", "mrc"): lambda folder: {
        "path": str(foreign.write_mrc(folder, example_image().read().astype(np.uint16)))
    },
    ("source", "precomputed"): lambda folder: {
        "path": _once(folder / "example_precomputed", foreign.write_precomputed)
    },
    ("model", "bioimage-io"): _onnx,
    ("annotator", "from-file"): _label_file,
    ("annotator", "threshold"): lambda _: {"high": 90.0},
    ("preprocessor", "crop"): lambda _: {"box": "2:,3:,4:30"},
    ("preprocessor", "cell-mask"): lambda _: {"darkest": 2.0, "brightest": 180.0, "smallest_vx": 50},
    ("preprocessor", "match-histogram"): _reference,
    ("preprocessor", "transform-planes"): _table,
}
# Two networks on their defaults; of the others, which are built by the same code, smaller ones: they take a tenth of the time.
OPTIONS |= {
    ("model", name): lambda _: {"features": 2}
    for name in ("clathrin-coats", "endoplasmic-reticulum", "golgi", "nuclear-pores", "organelles")
}
WRITTEN = {"hdf5": "w.h5", "mrc": "w.mrc", "n5": "w.n5", "plain-zarr": "w.zarr/raw", "tiff-stack": "w.tif"}
ON_LABELS = {"clean-labels", "dilate-labels", "exclusion-zone"}


def _cases() -> list[Any]:
    cases = []
    for offer in load_catalog().offers:
        kit = KITS[offer.kind]
        for name, _ in inspect.getmembers(kit, inspect.isfunction):
            if name.startswith("test_"):
                cases.append(pytest.param(offer, name, id=f"{offer.kind}-{offer.name}-{name}"))
    return cases


@pytest.mark.parametrize(("offer", "test"), _cases())
def test_plugin_passes_its_kit(offer: Any, test: str, tmp_path: Path) -> None:
    """Each registered plugin does what its kind promises."""
    kit = KITS[offer.kind]()
    options = OPTIONS.get((offer.kind, offer.name), lambda _: {})
    kit.make = lambda folder: offer.cls(**_tuples(options(folder)))  # type: ignore[method-assign]
    if offer.name in WRITTEN:
        kit.written = WRITTEN[offer.name]  # type: ignore[attr-defined]
    if offer.name in ON_LABELS:
        kit.on_labels = True  # type: ignore[attr-defined]
    getattr(kit, test)(tmp_path)


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in options.items()}


def test_examples_are_what_they_say() -> None:
    """The example scene has two objects and a grey image, so that kits test something."""
    assert set(np.unique(example_labels().read())) == {0, 1, 2}
    assert example_image().read().std() > 10
