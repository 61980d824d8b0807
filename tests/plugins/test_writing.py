"""What the sources write is read back by another program's library, and by the sources themselves."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest

from asem_core.abilities import WritesVolumes
from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.errors import BadInput, OutputExists
from asem_core.interfaces import Source
from asem_core.stages.export import choose_writer, export_volume
from asem_core.stages.import_ import choose_source
from asem_core.volume import Box, Labels, Volume
from asem_sources import _writing, n5

QUIET = Run(progress=False)
NM, ORIGIN = (8.0, 4.0, 5.0), (16.0, -8.0, 10.0)
SHAPE = (70, 66, 131)  # blocks are cut on every axis
RNG = np.random.default_rng(0)
GREYS = RNG.integers(1, 255, SHAPE, np.uint8)
IDS = RNG.integers(0, 2**63, SHAPE, np.uint64)


def written(
    path: Path, values: np.ndarray = GREYS, use: str | None = None, run: Run = QUIET, **options: object
) -> Path:
    kind = Labels if values.dtype == np.uint64 else Volume
    names = [f"slice_{i:04d}.tif" for i in range(len(values))]
    volume = kind(values, NM, ORIGIN, planes=names)
    writer: Any = choose_writer(load_catalog(), str(path), use, options)
    from asem_core.stages.export import Original

    return export_volume(writer, volume, run, original=Original(volume.spec, names))


@pytest.mark.parametrize(("version", "zarr_format"), [("0.5", 3), ("0.4", 2)])
def test_ome_zarr(tmp_path: Path, version: str, zarr_format: int) -> None:
    """The format's validator accepts image and labels in either version; the pyramid lies in place, and ids are not mixed."""
    import zarr

    models = pytest.importorskip("ome_zarr_models")
    for name, values in (("greys.zarr", GREYS), ("ids.ome.zarr", IDS)):
        path = written(tmp_path / name, values, version=version)
        group = zarr.open_group(str(path), mode="r")
        assert group.metadata.zarr_format == zarr_format
        found = models.open_ome_zarr(group, version=version)
        assert found.ome_zarr_version == version
        about = found.attributes.ome if version == "0.5" else found.attributes
        levels = about.multiscales[0].datasets
        assert [d.path for d in levels] == ["s0", "s1", "s2"][: len(levels)]
        assert len(levels) > 1
        scale, place = levels[0].coordinateTransformations
        assert (tuple(scale.scale), tuple(place.translation)) == (NM, ORIGIN)
        np.testing.assert_array_equal(group["s0"][:], values)
        assert ("image-label" in (group.attrs.get("ome", group.attrs))) == (values is IDS)
        if values is IDS:
            assert np.isin(group["s1"][:], values).all()
        ours = read_again(path)
        assert (ours.voxel_size_nm, ours.origin_nm) == (NM, ORIGIN)
        np.testing.assert_array_equal(ours.read(), values)


def read_again(path: Path, **options: Any) -> Volume:
    return choose_source(load_catalog(), str(path), None, options).open()


def test_hdf5(tmp_path: Path) -> None:
    """h5py finds voxels, the place of CREMI, the axes of ilastik; we find the names of planes, too."""
    import h5py

    for name, values in (("greys.h5", GREYS), ("ids.hdf5", IDS)):
        path = written(tmp_path / name, values)
        with h5py.File(path) as file:
            data = file["exported_data"]
            assert data.dtype == values.dtype
            np.testing.assert_array_equal(data[:], values)
            np.testing.assert_array_equal(data.attrs["resolution"], NM)
            np.testing.assert_array_equal(data.attrs["offset"], ORIGIN)
            assert [a["key"] for a in json.loads(data.attrs["axistags"])["axes"]] == ["z", "y", "x"]
            assert json.loads(file["exported_data.made_by"][()])["stage"] == "export"
        ours = read_again(path)
        assert (ours.voxel_size_nm, ours.origin_nm, ours.planes[69]) == (NM, ORIGIN, "slice_0069.tif")
        np.testing.assert_array_equal(ours.read(), values)


def test_mrc(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """mrcfile finds a valid volume with its voxel size and statistics; what is lost is said."""
    import mrcfile

    path = written(tmp_path / "greys.mrc")
    assert "MRC does not store: origin (16, -8, 10 nm), names of the planes." in caplog.text
    assert mrcfile.validate(path)
    with mrcfile.open(path) as file:
        np.testing.assert_array_equal(file.data, GREYS)
        assert [float(file.voxel_size[a]) for a in "zyx"] == pytest.approx([80, 40, 50])
        assert (file.header.dmin, file.header.dmax) == (GREYS.min(), GREYS.max())
        assert float(file.header.dmean) == pytest.approx(GREYS.mean())
        assert float(file.header.rms) == pytest.approx(GREYS.std())
    ours = read_again(path)
    assert ours.voxel_size_nm == pytest.approx(NM)
    np.testing.assert_array_equal(ours.read(), GREYS)
    with pytest.raises(BadInput, match=r"has an id of \d+, beyond what 'mrc' holds"):
        written(tmp_path / "ids.mrc", IDS)


@pytest.mark.parametrize("values", [GREYS, IDS], ids=["greys", "ids"])
def test_precomputed(tmp_path: Path, values: np.ndarray) -> None:
    """tensorstore finds voxels, size and offset; ids are a segmentation."""
    import tensorstore

    path = written(tmp_path / "v.precomputed", values)
    spec = {"driver": "neuroglancer_precomputed", "kvstore": {"driver": "file", "path": f"{path}/"}}
    array = tensorstore.open(spec).result()
    np.testing.assert_array_equal(array[..., 0].read().result().transpose(), values)
    assert array.domain.origin[:3] == (2, -2, 2)  # x, y, z
    info = json.loads((path / "info").read_text())
    assert (info["type"], info["scales"][0]["resolution"]) == (
        "image" if values is GREYS else "segmentation",
        [5, 4, 8],
    )
    ours = read_again(path)
    assert (ours.voxel_size_nm, ours.origin_nm) == (NM, ORIGIN)
    np.testing.assert_array_equal(ours.read(), values)


@pytest.mark.parametrize("values", [GREYS, IDS], ids=["greys", "ids"])
def test_n5(tmp_path: Path, values: np.ndarray) -> None:
    """tensorstore finds the voxels, of a container or of an array within one; we find all."""
    import tensorstore

    for name in ("v.n5", "w.n5/labels/er"):
        path = written(tmp_path / name, values)
        spec = {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/"}}
        np.testing.assert_array_equal(tensorstore.open(spec).result().read().result().transpose(), values)
        ours = read_again(path)
        assert (ours.voxel_size_nm, ours.origin_nm, ours.planes[1]) == (NM, ORIGIN, "slice_0001.tif")
        np.testing.assert_array_equal(ours.read(), values)
    assert read_again(tmp_path / "w.n5").shape == SHAPE


def test_png(tmp_path: Path) -> None:
    """Pillow reads planes of 16 bits under the names of the original."""
    from PIL import Image

    ids = np.arange(2 * 3 * 4, dtype=np.uint16).reshape(2, 3, 4) * 1000
    path = written(tmp_path / "planes", ids, use="image-stack")
    assert sorted(p.name for p in path.iterdir()) == ["slice_0000.png", "slice_0001.png"]
    np.testing.assert_array_equal(np.asarray(Image.open(path / "slice_0001.png")), ids[1])


def _formats() -> list[tuple[str, str]]:
    return [
        ("hdf5", "v.h5"),
        ("mrc", "v.mrc"),
        ("precomputed", "v.precomputed"),
        ("n5", "v.n5"),
        ("ome-zarr", "v.zarr"),
        ("plain-zarr", "c.zarr/volumes/raw"),
        ("tiff-stack", "v.tif"),
        ("tiff-stack", "planes"),
        ("image-stack", "pngs"),
    ]


def test_every_format_that_is_written_is_tested() -> None:
    catalog = load_catalog()
    able = {n for n in catalog.names("source") if WritesVolumes in catalog.get("source", n).__mro__}
    assert able == {use for use, _ in _formats()}


@pytest.mark.parametrize(("use", "name"), _formats())
def test_every_type_is_read_back(tmp_path: Path, use: str, name: str) -> None:
    """Each type that a format claims, with its extremes; signed ones as the format's own reading shows them."""
    plugin: Any = load_catalog().get("source", use)
    for dtype in plugin.dtypes:
        values = np.arange(2 * 3 * 4).reshape(2, 3, 4).astype(dtype)
        if values.dtype.kind in "iu":
            values[0, 0, 0] = 0 if values.dtype.kind == "i" else np.iinfo(dtype).min
            values[1, 2, 3] = np.iinfo(dtype).max
        else:
            values /= 32
        path = written(tmp_path / dtype / name, values, use)
        source: Source = plugin(path=str(path), voxel_size_nm=NM)
        found = source.open().read()
        if values.dtype.kind == "f" and found.dtype.kind != "f":
            np.testing.assert_array_equal(found, np.rint(values.astype(np.float64) * 65535))
        else:
            np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize(("use", "name"), _formats())
def test_what_is_read_at_a_time_is_bounded_and_does_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: str, name: str
) -> None:
    """With room for a few rows only, or with two processes, the same is written; no read is larger than the room."""
    read: list[int] = []
    real = Volume.read

    def counted(self: Volume, box: Box | None = None, outside: Any = "error") -> np.ndarray:
        block = real(self, box, outside)
        read.append(block.nbytes)
        return block

    monkeypatch.setattr(Volume, "read", counted)
    monkeypatch.setattr(_writing, "SLAB_BYTES", 64 * 64 * 64 + 1)
    path = written(tmp_path / name, use=use)
    assert 0 < max(read) <= 64 * 64 * 64 + 1
    plugin: Any = load_catalog().get("source", use)
    np.testing.assert_array_equal(plugin(path=str(path), voxel_size_nm=NM).open().read(), GREYS)


def test_blocks_that_are_done_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A killed export shows nothing; the same again writes the rest only."""
    monkeypatch.setattr(_writing, "SLAB_BYTES", 1)
    real: Callable[..., Any] = n5._Into.__call__
    calls: list[Box] = []

    def counted(stop: int) -> Callable[..., Any]:
        def opened(self: Any) -> Callable[[Box, np.ndarray], None]:
            write = real(self)

            def one(box: Box, block: np.ndarray) -> None:
                if len(calls) == stop:
                    raise KeyboardInterrupt
                calls.append(box)
                write(box, block)

            return one

        return opened

    monkeypatch.setattr(n5._Into, "__call__", counted(5))
    with pytest.raises(KeyboardInterrupt):
        written(tmp_path / "v.n5")
    assert not (tmp_path / "v.n5").exists()
    monkeypatch.setattr(n5._Into, "__call__", counted(99))
    path = written(tmp_path / "v.n5")
    assert len(calls) == 2 * 2 * 3
    np.testing.assert_array_equal(read_again(path).read(), GREYS)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".v.n5.made_by.json", "v.n5"]


def test_only_what_an_export_wrote_is_replaced_whole(tmp_path: Path) -> None:
    small = Volume(GREYS[:4, :4, :4], NM)

    def export(volume: Volume, **options: Any) -> Path:
        writer: Any = choose_writer(load_catalog(), str(tmp_path / "v.n5"), None, {})
        return export_volume(writer, volume, QUIET, **options)

    export(small)
    time = (tmp_path / "v.n5" / "attributes.json").stat().st_mtime_ns
    assert export(small) == tmp_path / "v.n5"
    assert (tmp_path / "v.n5" / "attributes.json").stat().st_mtime_ns == time
    other = attrs.evolve(small, data=GREYS[4:8, :4, :4])
    with pytest.raises(OutputExists, match="not empty"):
        export(other)
    export(other, overwrite=True)
    np.testing.assert_array_equal(read_again(tmp_path / "v.n5").read(), GREYS[4:8, :4, :4])
    (tmp_path / ".v.n5.made_by.json").unlink()
    with pytest.raises(OutputExists, match="that no export wrote"):
        export(small, overwrite=True)
