"""What people report of this kind of software, one test a case: each gives the right value, or the right sentence.

The generators of the inputs lie beside the real data (see `real_data`); without them these tests skip.
"""

from __future__ import annotations

import contextlib
import os
import runpy
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.place import lock, unlock
from asem_core.cell.store import open_labels, open_volume
from asem_core.cli import make_app
from asem_core.errors import OutputBusy
from asem_core.viewing.mesh import export_meshes

QUIET = Run(progress=False)
NM = "8,5,5"


@pytest.fixture
def make(real_data: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the generator of a case, in this process; return the folder of its files."""
    field = real_data("../field")

    def run(case: str, *arguments: str) -> Path:
        (script,) = field.glob(f"{case}_*.py")
        monkeypatch.setattr(sys, "argv", [str(script), str(tmp_path), *arguments])
        monkeypatch.syspath_prepend(str(field))
        with contextlib.redirect_stdout(None):
            runpy.run_path(str(script), run_name="__main__")
        return tmp_path

    return run


def asem(*arguments: object, status: int = 0) -> str:
    """Run a command; return all that it said, in one line."""
    result = CliRunner().invoke(make_app(), [str(a) for a in arguments])
    assert result.exit_code == status, result.output
    return " ".join(result.output.split())


def take(path: Path, *options: object, layer: str = "raw", name: str = "") -> np.ndarray:
    """Import and read what came of it with zarr alone."""
    cell = path.parent / f"{name or path.name.replace('.', '_')}_{len(os.listdir(path.parent))}.cell.zarr"
    asem("import", path, "-o", cell, "--layer", layer, "-q", "-j", 1, *options)
    return np.asarray(zarr.open_group(cell / layer, mode="r")["s0"][:])


def refuse(path: Path, *options: object) -> str:
    return asem("import", path, "-o", path.parent / "no.zarr", "-q", "-j", 1, *options, status=1)


def size_of(cell: Path, layer: str = "raw") -> tuple[float, ...]:
    return open_volume(cell / layer).voxel_size_nm


def test_01_channels_are_no_planes(make: Callable[..., Path]) -> None:
    here = make("case01")
    for name, things in (
        ("hyper_zc.tif", "2 channels"),
        ("two_channels.ome.tif", "2 channels"),
        ("time.tif", "2 time"),
    ):
        assert things in refuse(here / name)
    for name in ("hyper_zc.tif", "two_channels.ome.tif"):
        assert take(here / name, "--set", "channel=0").shape == (12, 40, 50)
    assert take(here / "one_channel.ome.tif").shape == (12, 40, 50)


def test_02_compressions_are_read(make: Callable[..., Path]) -> None:
    here = make("case02")
    lzw, packbits, deflate = (take(here / n, "--voxel-size", NM) for n in ("lzw", "packbits", "deflate"))
    np.testing.assert_array_equal(lzw, deflate)
    np.testing.assert_array_equal(packbits, deflate)
    assert abs(take(here / "jpeg", "--voxel-size", NM).astype(int) - deflate).mean() < 3


def test_03_values_as_viewers_show_them(make: Callable[..., Path]) -> None:
    here = make("case03")
    truth = np.load(here / "truth.npy")
    np.testing.assert_array_equal(take(here / "white0", "--voxel-size", NM), truth)
    np.testing.assert_array_equal(take(here / "white0_16", "--voxel-size", NM), truth.astype(np.uint16) * 257)
    assert "numbers of colours in a palette" in refuse(here / "palette", "--voxel-size", NM)
    for name in ("bits", "bits_white0"):
        np.testing.assert_array_equal(take(here / name, "--voxel-size", NM) > 0, truth > 128)


@pytest.mark.parametrize("name", ["ids_u64.tif", "ids_i64.tif"])
def test_04_wide_ids_are_kept(make: Callable[..., Path], name: str) -> None:
    here = make("case04")
    found = take(here / name, "--voxel-size", NM, "--set", "axes=zyx", layer="labels/a")
    np.testing.assert_array_equal(found.astype(np.uint64), np.load(here / "truth.npy"))


def test_06_dialects_of_zarr(make: Callable[..., Path]) -> None:
    here = make("case06")
    truth = np.load(here / "truth.npy")
    asks = ["bare.zarr", "bare3.zarr", "group_bare.zarr", "v01.zarr", "v03.zarr", "pixel.zarr", "nounit_um.zarr"]
    states = ["cellmap.zarr", "micron.zarr", *(f"gunpowder.zarr/{n}" for n in ("raw", "pred4d", "vs", "um", "xyz"))]
    for i, name in enumerate([*asks, *states]):
        options: list[object] = []
        if name in asks:
            assert "--voxel-size" in refuse(here / name)
            options = ["--voxel-size", NM]
        cell = here / f"cell{i}.zarr"
        asem("import", here / name, "-o", cell, "-q", "-j", 1, *options)
        made = open_volume(cell / "raw")
        np.testing.assert_array_equal(made.read(), truth)
        assert made.voxel_size_nm == pytest.approx((8, 5, 5))
        placed = name.startswith(("gunpowder", "cellmap"))
        assert made.origin_nm == pytest.approx((80, 0, 50) if placed else (0, 0, 0))


def test_07_units_of_n5(make: Callable[..., Path]) -> None:
    here = make("case07")
    for i, path in enumerate(sorted(here.glob("*.n5"))):
        unusable = {"pixel": "not a unit of length", "inch": "implausible"}
        if sentence := unusable.get(path.stem.rpartition("_")[2]):
            assert sentence in refuse(path)
            continue
        asem("import", path, "-o", here / f"{i}.zarr", "-q", "-j", 1)
        assert size_of(here / f"{i}.zarr") == pytest.approx((8, 5, 5))


def test_08_labels_of_hdf5(make: Callable[..., Path]) -> None:
    here = make("case08")
    truth = np.load(here / "truth.npy")
    cell = here / "cell.zarr"
    asem("import", here / "raw.tif", "--voxel-size", "40,4,4", "-o", cell, "-q", "-j", 1)
    layers = {"cremi.hdf": "volumes/labels/clefts", "cremi.h5": "volumes/labels/clefts"}
    for i, (name, layer) in enumerate(layers.items()):
        asem("annotate", "import", cell, here / name, "--source-layer", layer, "-o", f"labels/c{i}", "-q")
        np.testing.assert_array_equal(open_labels(cell / f"labels/c{i}").read(), truth)
    assert "has voxels of" in asem("annotate", "import", cell, here / "cremi_small.h5", "-o", "labels/x", status=1)
    told = asem("annotate", "import", cell, here / "cremi_whole.h5", "-o", "labels/x", status=1)
    assert "would lie at" in told
    box = ("--box", "4:14,10:50,20:70")
    asem("annotate", "import", cell, here / "cremi_whole.h5", "-o", "labels/w", *box, "-q")
    np.testing.assert_array_equal(open_labels(cell / "labels/w").read(), truth)
    for name in ("Simple_Segmentation.h5", "Simple_Segmentation.tif"):
        axes = ("--set", "axes=zyx") if name.endswith("tif") else ()
        assert "--background 1" in asem("annotate", "import", cell, here / name, "-o", "labels/i", *axes, status=1)
        asem(
            "annotate",
            "import",
            cell,
            here / name,
            "-o",
            f"labels/{name[-3:].strip('.')}",
            "--background",
            1,
            *axes,
            "-q",
        )
        np.testing.assert_array_equal(open_labels(cell / f"labels/{name[-3:].strip('.')}").read(), truth)


def test_09_one_cell_by_many_paths(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here = make("case09")
    monkeypatch.chdir(here)
    first = asem("import", "planes", "--voxel-size", 5, "-o", "cell.zarr", "-q", "-j", 1)
    written = (here / "cell.zarr/raw/zarr.json").stat().st_mtime_ns
    monkeypatch.chdir(here / "elsewhere")
    (here / "link.zarr").symlink_to(here / "cell.zarr")
    for source, cell in (("../planes", "../cell.zarr"), (here / "planes", here / "link.zarr")):
        asem("import", source, "--voxel-size", 5, "-o", cell, "-q", "-j", 1)
    assert (here / "cell.zarr/raw/zarr.json").stat().st_mtime_ns == written
    assert "40 x 80 x 80 voxels" in first
    (here / "cell.zarr").rename(here / "moved.zarr")
    asem("export", here / "moved.zarr/raw", "-o", "out", "-q", "-j", 1)
    assert sorted(p.name for p in Path("out").iterdir())[::39] == ["s_000.tif", "s_039.tif"]


def test_11_recipes_of_windows(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Read, or one sentence that names the cause."""
    here = make("case11")
    monkeypatch.chdir(here)
    for name in ("plain", "bom", "crlf"):
        asem("run", f"{name}.toml", "-o", "out", "--check")
    assert "UTF-8" in asem("run", "utf16.toml", "-o", "out", "--check", status=1)
    assert "UTF-8" in asem("run", "cp1252.toml", "-o", "out", "--check", status=1)
    assert "backslash" in asem("run", "backslash.toml", "-o", "out", "--check", status=1)


def test_12_a_foreign_layer_is_made_again(make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    here = make("case12")
    monkeypatch.chdir(here)

    def count(name: str, out: str, status: int = 0) -> Any:
        command = ("segment", f"{name}/pred.zarr", "-t", "0.5", "-o", out, "-q", "-j", 1)
        told = asem(*command, status=status)
        return told if status else int(open_labels(here / out).read().max())

    assert count("a", "out.zarr/segmentation") == 3
    make("case12", "edit")
    assert "made differently" in count("a", "out.zarr/segmentation", status=1)
    assert count("a", "again.zarr/segmentation") == 2
    assert "made differently" in count("b", "out.zarr/segmentation", status=1)


def test_13_unknown_voxels_count_nowhere(make: Callable[..., Path]) -> None:
    import json

    here = make("case13")
    for name in ("truth_i1.zarr", "truth_i8.zarr", "truth_255.zarr"):
        told = json.loads(
            CliRunner().invoke(make_app(), ["evaluate", f"{here}/pred.zarr", f"{here}/{name}", "--json"]).stdout
        )
        text = json.dumps(told)
        assert '"precision": 1.0' in text
        assert '"recall": 1.0' in text


def test_18_twelve_bits_are_said(make: Callable[..., Path], caplog: pytest.LogCaptureFixture) -> None:
    here = make("case18")
    for name in ("u12.tif", "u12_offset.tif"):
        caplog.clear()
        take(here / name, "--voxel-size", 10, "--set", "axes=zyx")
        assert "grey_range" in caplog.text
    caplog.clear()
    take(here / "u8.tif", "--voxel-size", 10, "--set", "axes=zyx")
    assert "grey_range" not in caplog.text


def test_20_names_in_latin_1_and_a_second_writer(make: Callable[..., Path]) -> None:
    here = make("case20")
    found = take(here / "planes", "--voxel-size", 5)
    np.testing.assert_array_equal(found, take(here / "planes_ok", "--voxel-size", 5))
    cell = here / "cell.zarr"
    asem("import", here / "planes_ok", "--voxel-size", 5, "-o", cell, "-q", "-j", 1)
    (here / "link.zarr").symlink_to(cell)
    held = lock(cell / "labels/er")
    try:
        with pytest.raises(OutputBusy):
            lock(here / "link.zarr/labels/er")
    finally:
        unlock(cell / "labels/er", held)


@pytest.mark.parametrize("case", ["case22", "case26"])
def test_22_26_lengths_of_flat_things(make: Callable[..., Path], case: str) -> None:
    """A length is of the order of the long axis, or there is none."""
    here = make(case)
    plugin: Any = load_catalog().get("analyzer", "morphometry")
    for path in sorted(here.glob("*.zarr")):
        table = plugin().analyze(open_labels(path), None, QUIET).tables["objects"]
        length = float(table["length_nm"].values[0])
        assert np.isnan(length) or 100 <= length <= 460, path.name
        if path.name in ("disk3.zarr", "disk1.zarr", "plate2.zarr", "bent_sheet.zarr"):
            assert np.isnan(length), path.name
        if path.name == "rod.zarr":
            assert length == pytest.approx(250, rel=0.15)


@pytest.mark.parametrize("name", ["coarse_corner.zarr", "coarse_centre.zarr"])
def test_23_labels_of_larger_voxels(make: Callable[..., Path], name: str) -> None:
    import json

    here = make("case23")
    result = CliRunner().invoke(
        make_app(), ["evaluate", f"{here}/fine.zarr", f"{here}/{name}", "--segmentation", "--json"]
    )
    assert result.exit_code == 0, result.output
    assert '"f1": 1.0' in json.dumps(json.loads(result.stdout))


def test_24_ids_beyond_2_to_63(make: Callable[..., Path]) -> None:
    """As stored in the table and in the names of meshes, and the mesh in its place; 2^64 - 1 says that there is no object."""
    here = make("case24")
    plugin: Any = load_catalog().get("analyzer", "morphometry")
    for name, own in (("huge.zarr", 2**63 + 5), ("box.zarr", 1)):
        labels = open_labels(here / name)
        table = plugin(objects="ids").analyze(labels, None, QUIET).tables["objects"]
        ids = [int(i) for i in table["object_id"].values]
        assert ids == [own]
        out = here / f"{name}-meshes"
        assert export_meshes(labels, out, QUIET, form="ply", max_error_nm=0) == 1
        (file,) = out.glob("*.ply")
        assert str(own) in file.name
        import trimesh

        mesh: Any = trimesh.load(file)
        np.testing.assert_allclose(mesh.bounds, [[84, 32.5, 116], [140, 92.5, 196]], atol=0.01)
        assert mesh.volume == pytest.approx(268_800, rel=0.015)  # corners are cut
        shutil.rmtree(out)
