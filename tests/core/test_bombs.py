"""Small files that would fill the memory, or show other files, are refused before anything is decoded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr
from safetensors.torch import save_file

from asem_annotators.from_file import FromFile
from asem_core.blocks import Run
from asem_core.cell.store import open_volume
from asem_core.errors import BadInput
from asem_core.volume import Volume
from asem_core.weights import load_weights, read_metadata
from asem_sources.hdf5 import Hdf5
from asem_sources.n5 import N5

h5py = pytest.importorskip("h5py")
HUGE = 2200
TOO_LARGE = r"chunks of \[2200, 2200, 2200\], 10\.6 GB each.*smaller chunks"


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have 8 GB free, wherever the test runs."""
    import psutil

    found = psutil.virtual_memory()
    monkeypatch.setattr(psutil, "virtual_memory", lambda: found._replace(available=8_000_000_000))


def test_a_zarr_chunk(tmp_path: Path) -> None:
    """Its declared size counts, not the size of its file."""
    array = zarr.create_array(tmp_path / "a.zarr", shape=(HUGE,) * 3, chunks=(HUGE,) * 3, dtype="uint8")
    array.attrs["resolution"] = [5, 5, 5]
    with pytest.raises(BadInput, match=TOO_LARGE):
        open_volume(tmp_path / "a.zarr")


def test_an_n5_block(tmp_path: Path) -> None:
    """As in Zarr."""
    (tmp_path / "a.n5").mkdir()
    about = {"dimensions": [HUGE] * 3, "blockSize": [HUGE] * 3, "dataType": "uint8", "resolution": [5, 5, 5]}
    (tmp_path / "a.n5" / "attributes.json").write_text(json.dumps(about))
    with pytest.raises(BadInput, match=TOO_LARGE):
        N5(str(tmp_path / "a.n5")).open()


@pytest.mark.parametrize(
    "change", [{"blockSize": None}, {"blockSize": ["a", 1, 1]}, {"blockSize": [0, 1, 1]}, {"dimensions": "many"}, {"dataType": "words"}]
)  # fmt: skip
def test_n5_without_sense(tmp_path: Path, change: dict[str, object]) -> None:
    """Metadata that are missing or of another type are said in one sentence."""
    (tmp_path / "a.n5").mkdir()
    about = {"dimensions": [8] * 3, "blockSize": [4] * 3, "dataType": "uint8", "resolution": [5, 5, 5], **change}
    about = {key: value for key, value in about.items() if value is not None}
    (tmp_path / "a.n5" / "attributes.json").write_text(json.dumps(about))
    with pytest.raises(BadInput, match=r"attributes\.json states .*Is it damaged\?"):
        N5(str(tmp_path / "a.n5")).open()


def test_a_chunk_of_hdf5(tmp_path: Path) -> None:
    """As in Zarr, as an image and as labels."""
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("main", (1500,) * 3, "u1", chunks=(1500,) * 3, compression="gzip")
        made.attrs["resolution"] = [5, 5, 5]
    with pytest.raises(BadInput, match=r"chunks of \[1500, 1500, 1500\]"):
        Hdf5(str(tmp_path / "a.h5")).open().data[:4, :4, :4]
    image = Volume(np.zeros((4, 4, 4), np.uint8), 5.0)
    with pytest.raises(BadInput, match=r"chunks of \[1500, 1500, 1500\]"):
        FromFile(str(tmp_path / "a.h5"), offset_vx=(0, 0, 0)).prepare(image, image.box, Run(progress=False))


@pytest.mark.parametrize("how", ["external", "virtual"])
def test_hdf5_in_other_files(tmp_path: Path, how: str) -> None:
    """A data set whose bytes are another file's would show any file, for example /etc/passwd, as voxels."""
    (tmp_path / "secret").write_bytes(b"secret words" * 10)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        if how == "external":
            file.create_dataset("main", (4, 4, 4), "u1", external=[(str(tmp_path / "secret"), 0, 64)])
        else:
            with h5py.File(tmp_path / "b.h5", "w") as other:
                other.create_dataset("main", data=np.ones((4, 4, 4), np.uint8))
            layout = h5py.VirtualLayout((4, 4, 4), "u1")
            layout[:] = h5py.VirtualSource(tmp_path / "b.h5", "main", (4, 4, 4))
            file.create_virtual_dataset("main", layout)
        file["main"].attrs["resolution"] = [5, 5, 5]
    with pytest.raises(BadInput, match=r"keeps its values in other files.*not followed"):
        Hdf5(str(tmp_path / "a.h5")).open().data[:, :, :]
    image = Volume(np.zeros((4, 4, 4), np.uint8), 5.0)
    with pytest.raises(BadInput, match=r"keeps its values in other files.*not followed"):
        FromFile(str(tmp_path / "a.h5"), offset_vx=(0, 0, 0)).prepare(image, image.box, Run(progress=False))


@pytest.mark.parametrize("text", ["no json", "[1, 2]", '"words"', '{"model": [1]}', "3"])
def test_metadata_of_weights_that_are_no_table(tmp_path: Path, text: str) -> None:
    """Whatever stands in their place is refused, not guessed at."""
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", {"asem": text})
    with pytest.raises(BadInput, match="are not a JSON object"):
        read_metadata(tmp_path / "a.safetensors")


@pytest.mark.parametrize("features", [100_000, 16])
def test_weights_that_describe_another_network(tmp_path: Path, features: int) -> None:
    """A network of terabytes, stated by a file of a few bytes, is not made."""
    about = json.dumps({"model": {"use": "mitochondria", "features": features}})
    save_file({"a": torch.zeros(3)}, tmp_path / "a.safetensors", {"asem": about})
    with pytest.raises(BadInput, match=r"holds 3 numbers, but the network that its metadata describe has [\d,]+\."):
        load_weights(tmp_path / "a.safetensors")


@pytest.mark.parametrize("path", ["../raw", "/etc", "a/../../b", "", "s3://bucket/a", "%2e%2e/a", "a//b", ".."])
def test_levels_outside_of_their_group(tmp_path: Path, path: str) -> None:
    """A path of OME-Zarr metadata leads to an array inside the group."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.attrs["ome"] = {"multiscales": [{"axes": list("zyx"), "datasets": [{"path": path}]}]}
    with pytest.raises(BadInput, match="a path leads to an array inside the group"):
        open_volume(tmp_path / "a.zarr")


@pytest.mark.parametrize(
    "multiscales", [[{}], [{"datasets": []}], [{"datasets": "s0"}], ["s0"], "s0", [{"datasets": ["s0"]}], {"a": 1}]
)
def test_multiscales_without_data_sets(tmp_path: Path, multiscales: object) -> None:
    """Said to be damaged, whatever stands there."""
    group = zarr.open_group(tmp_path / "a.zarr", mode="w")
    group.attrs["ome"] = {"multiscales": multiscales}
    with pytest.raises(BadInput, match="name no data sets: they are damaged"):
        open_volume(tmp_path / "a.zarr")


def ome_image(path: Path, about: dict[str, object], steps: object) -> Path:
    """Write an image of 4 × 5 × 6 voxels whose metadata are given."""
    group = zarr.open_group(path, mode="w", zarr_format=2)
    group.create_array("0", data=np.ones((4, 5, 6), np.uint8))
    group.attrs["multiscales"] = [{"datasets": [{"path": "0", "coordinateTransformations": steps}], **about}]
    return path


ZYX_NM = [{"name": name, "type": "space", "unit": "nanometer"} for name in "zyx"]
EIGHT = [{"type": "scale", "scale": [8, 4, 4]}]


@pytest.mark.parametrize("about", [{}, {"axes": None}, {"axes": []}])
def test_multiscales_without_axes(tmp_path: Path, about: dict[str, object]) -> None:
    """As in the first versions of OME-Zarr, they are z, y, x; their unit is asked for, and may be given."""
    path = ome_image(tmp_path / "a.zarr", about, EIGHT)
    with pytest.raises(BadInput, match=r"gives 8, 4, 4 without a unit.*--voxel-size"):
        open_volume(path)
    volume = open_volume(path, voxel_size_nm=5)
    assert (volume.shape, volume.voxel_size_nm) == ((4, 5, 6), (5, 5, 5))


@pytest.mark.parametrize("axes", [5, {"z": 1}, [{}] * 3, [None] * 3, [{"name": 1}] * 3])
def test_axes_without_names(tmp_path: Path, axes: object) -> None:
    """Nothing is guessed of axes that are listed otherwise than OME-Zarr does."""
    with pytest.raises(BadInput, match="list axes without names: they are damaged"):
        open_volume(ome_image(tmp_path / "a.zarr", {"axes": axes}, EIGHT))


@pytest.mark.parametrize(
    "steps",
    [
        "s", ["s"], 3, [{}], [{"type": "scale"}], [{"type": "scale", "path": "a"}], [{"type": "scale", "scale": [8, 4]}],
        [{"type": "scale", "scale": "abc"}], [{"type": "scale", "scale": [None, 4, 4]}], [*EIGHT, {"type": "rotation"}],
        [*EIGHT, {"type": "translation", "translation": [1]}],
    ],
)  # fmt: skip
def test_transformations_that_say_nothing(tmp_path: Path, steps: object) -> None:
    """A scale that cannot be read is said, and the voxel size can be given."""
    path = ome_image(tmp_path / "a.zarr", {"axes": ZYX_NM}, steps)
    with pytest.raises(BadInput, match=r"gives no scales and translations of 3 numbers.*--voxel-size"):
        open_volume(path)
    assert open_volume(path, voxel_size_nm=5).voxel_size_nm == (5, 5, 5)
