"""A cell is seen in a real browser, in place; nothing else is served."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import numpy as np
import pytest

from asem_core.catalog import Catalog
from asem_core.cell.store import create_volume, finish_volume
from asem_core.cli import view as cli
from asem_core.errors import BadInput, MissingExtra, UnknownName, VoxelSizeMismatch
from asem_core.viewing.scene import Layer, colour_of, errors_layer, find, open_layers
from asem_core.viewing.server import serve, state_of
from asem_core.viewing.virtual_zarr import VirtualZarr
from asem_core.volume import Labels, Spec, Volume

pytest.importorskip("neuroglancer", reason="the extra 'view' is not installed")
NOTHING = Catalog((), ())


def write_layer(path, array, voxel_size_nm=10.0, origin_nm=(0, 0, 0), **about):
    spec = Spec(array.shape, array.dtype, voxel_size_nm, origin_nm)
    out = create_volume(path, spec, block=64, made_by={"stage": "test", **about})
    out.data[:] = array
    return finish_volume(out)


@pytest.fixture(scope="module")
def cell(tmp_path_factory):
    """An image that is bright on the right, and a mitochondrion in a box of its own with voxels of its own size."""
    path = tmp_path_factory.mktemp("cells") / "cell.zarr"
    raw = np.full((64, 64, 64), 40, np.uint8)
    raw[:, :, 32:] = 200
    write_layer(path / "raw", raw)
    labels = np.zeros((70, 80, 90), np.uint8)
    labels[10:60, 20:60, 40:70] = 1
    write_layer(path / "labels" / "mito", labels, 5.0, (50 - 2.5, 50 - 2.5, 100 - 2.5))
    p = np.zeros((64, 64, 64), np.uint8)
    p[10:35, 15:35, 30:50] = 230
    write_layer(path / "predictions" / "a" / "probability", p, model={"name": "mitochondria"})
    return path


def fetch(url):
    with urllib.request.urlopen(url, timeout=20) as answer:
        return answer.read()


# --- which layers, and how ----------------------------------------------------------------------------------------


def test_layers_are_told_apart_by_what_they_hold(cell):
    layers = {x.name: x for x in open_layers(cell, None, NOTHING)}
    kinds = {name: layer.kind for name, layer in layers.items()}
    assert kinds == {"raw": "image", "labels/mito": "labels", "predictions/a/probability": "probability"}
    assert [v.shape for v in layers["labels/mito"].levels] == [(70, 80, 90), (35, 40, 45)]
    assert [x.name for x in open_layers(cell, ["labels/*", "raw"], NOTHING)] == ["labels/mito", "raw"]
    assert [x.name for x in open_layers(cell / "labels" / "mito", None, NOTHING)] == ["mito"]
    assert find(list(layers.values()), "raw").kind == "image"


def test_an_organelle_has_one_colour_everywhere(cell):
    by_name = {x.name: x.colour for x in open_layers(cell, None, NOTHING)}
    assert by_name["labels/mito"] == colour_of("mito", NOTHING)
    assert by_name["predictions/a/probability"] == colour_of("mitochondria", NOTHING)
    assert colour_of("golgi", NOTHING) != colour_of("mito", NOTHING)


def test_the_mask_of_a_cell_is_offered_but_not_shown_at_first(cell, tmp_path):
    """It lies over everything like a veil; who names it sees it."""
    write_layer(tmp_path / "masked.zarr/raw", np.zeros((16, 16, 16), np.uint8) + np.arange(16, dtype=np.uint8))
    write_layer(tmp_path / "masked.zarr/mask", np.ones((16, 16, 16), np.uint8))
    for names, shown in ((None, False), (["raw", "mask"], True)):
        state = state_of(open_layers(tmp_path / "masked.zarr", names, NOTHING), "http://here")
        assert {x["name"]: x["visible"] for x in state["layers"]} == {"raw": True, "mask": shown}


def test_mistakes_are_explained(cell, tmp_path):
    with pytest.raises(UnknownName, match=r"no layer 'labels/golgi'. Its layers: raw, labels/mito"):
        open_layers(cell, ["labels/golgi"], NOTHING)
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "empty.zarr" / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(BadInput, match="holds no image"):
        open_layers(tmp_path / "empty.zarr", None, NOTHING)
    with pytest.raises(UnknownName, match="No layer 'x' is shown"):
        find(open_layers(cell, ["raw"], NOTHING), "x")
    raw = Layer("raw", "image", [Volume(np.zeros((4, 4, 4), np.uint8), 10.0)])
    with pytest.raises(BadInput, match="truth must hold labels; raw holds image"):
        errors_layer(raw, raw)
    true = Layer("labels/a", "labels", [Labels(np.zeros((4, 4, 4), np.uint8), 5.0)])
    with pytest.raises(VoxelSizeMismatch):
        errors_layer(true, raw)


def test_errors_are_false_and_missed_voxels():
    truth, p = np.zeros((6, 12, 12), np.uint8), np.zeros((8, 12, 12), np.uint8)
    truth[1:4, 2:6, 2:6], p[3:6, 2:6, 2:6] = 1, 128
    true = Layer("labels/a", "labels", [Labels(truth, 5.0, (5, 0, 0))])  # its first plane is the image's second
    errors = errors_layer(true, Layer("p", "probability", [Volume(p, 5.0)])).volume.read()
    expected = np.zeros_like(truth)
    expected[1:2, 2:6, 2:6], expected[4:5, 2:6, 2:6] = 2, 1
    np.testing.assert_array_equal(errors, expected)


# --- what is served -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.uint64, np.float32, np.float16, bool])
def test_a_served_volume_is_the_volume(dtype, tmp_path):
    """What an independent reader of Zarr makes of the answers equals the volume, borders included."""
    import zarr

    rng = np.random.default_rng(0)
    fine = rng.integers(0, 2 if dtype is bool else 200, (70, 65, 33)).astype(dtype)
    offer = VirtualZarr("x", [Volume(fine, (10, 5, 4), (1, 2, 3)), Volume(fine[::2, ::2, ::2], (20, 10, 8))])
    for level, shape in (("s0", (2, 2, 1)), ("s1", (1, 1, 1))):
        (tmp_path / level).mkdir()
        (tmp_path / level / "zarr.json").write_bytes(offer.get(f"{level}/zarr.json"))
        for index in np.ndindex(*shape):
            target = tmp_path / level / "c" / "/".join(map(str, index))
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(offer.get(f"{level}/c/" + "/".join(map(str, index))))
    (tmp_path / "zarr.json").write_bytes(offer.get("zarr.json"))
    group = zarr.open_group(str(tmp_path), mode="r")
    np.testing.assert_array_equal(group["s0"][:], fine)
    # The coarse voxels of row 32 reach beyond the 65 rows of the image, those of column 16 beyond its 33 columns.
    np.testing.assert_array_equal(group["s1"][:], fine[::2, ::2, ::2][:, :32, :16])
    dataset = group.attrs["ome"]["multiscales"][0]["datasets"][0]
    assert dataset["coordinateTransformations"][1] == {"type": "translation", "translation": [1, 2, 3]}


@pytest.mark.parametrize(
    "key", ["", "s2/zarr.json", "s0/c/9/0/0", "s0/c/0/0", "../raw/zarr.json", "/etc/passwd", "s0/c/0/0/-1", "s0"]
)
def test_other_keys_are_not_there(key):
    assert VirtualZarr("x", [Volume(np.zeros((4, 4, 4), np.uint8), 5.0)]).get(key) is None


def test_only_the_layers_asked_for_are_served_and_only_with_the_token(cell):
    with serve(open_layers(cell, ["raw"], NOTHING)) as served:
        root, _, token = served.url.rstrip("/").rpartition("/v/")
        assert served.url.startswith("http://127.0.0.1:")
        assert json.loads(fetch(f"{root}/layers/{token}/0/zarr.json"))["node_type"] == "group"
        for path in (
            f"layers/{token}/1/zarr.json",
            f"layers/{token}/0/../../etc/passwd",
            f"layers/{token}/0/%2e%2e/labels/zarr.json",
            f"layers/{token}//etc/passwd",
            "layers/wrong/0/zarr.json",
            "v/wrong/",
        ):
            with pytest.raises(urllib.error.HTTPError, match="404"):
                fetch(f"{root}/{path}")
    with pytest.raises(urllib.error.URLError):
        fetch(f"{root}/layers/{token}/0/zarr.json")


def test_surfaces_are_served_in_place(cell):
    with serve(open_layers(cell, ["labels/mito"], NOTHING)) as served:
        address = served.url.replace("/v/", "/layers/")
        assert json.loads(fetch(f"{address}0-surfaces/info"))["@type"] == "neuroglancer_legacy_mesh"
        assert json.loads(fetch(f"{address}0-surfaces/1:0")) == {"fragments": ["1"]}
        assert json.loads(fetch(f"{address}0-surfaces/5:0")) == {"fragments": []}
        data = fetch(f"{address}0-surfaces/1")
        num = int(np.frombuffer(data, "<u4", 1)[0])
        vertices = np.frombuffer(data, "<f4", 3 * num, 4).reshape(-1, 3)
        begin, size = np.array([100 + 40 * 5, 50 + 20 * 5, 50 + 10 * 5]), np.array([30, 40, 50]) * 5  # x, y, z
        np.testing.assert_allclose(vertices.min(0), begin - 5, atol=5)
        np.testing.assert_allclose(vertices.max(0), begin + size - 5, atol=5)


def test_a_port_in_use_and_a_foreign_address_are_explained(cell):
    layers = open_layers(cell, ["raw"], NOTHING)
    with serve(layers) as served, pytest.raises(BadInput, match=f"Port {served.port} is in use"):
        serve(layers, port=served.port)
    with pytest.raises(BadInput, match=r"Cannot listen on 203\.0\.113\.1"):
        serve(layers, bind="203.0.113.1")


def test_a_missing_extra_says_how_to_install_it(cell, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "neuroglancer.server", None)
    with pytest.raises(MissingExtra, match=r"needs neuroglancer, .* -m pip install .*neuroglancer"):
        serve(open_layers(cell, ["raw"], NOTHING))


def test_the_first_view_shows_the_image_whole(cell):
    state = state_of(open_layers(cell, None, NOTHING), "http://x", cell.name)
    assert state["title"] == f"{cell.name} - ASEM"  # what the browser's tab says
    assert state["position"] == [31.5, 31.5, 31.5]
    assert [x["type"] for x in state["layers"]] == ["image", "segmentation", "image"]
    assert "range=[40, 200]" in state["layers"][0]["shader"]


def test_the_command_prints_the_address_and_stops_cleanly(cell):
    command = [sys.executable, "-m", "asem_core", "view", str(cell), "--no-browser", "-l", "raw"]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a background shell job ignores it
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=heed) as process:
        url = process.stdout.readline().strip()
        assert b"<html" in fetch(url)
        time.sleep(0.5)  # until it waits
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
    assert rest.endswith("Stopped.\n")
    assert process.returncode == 0


def test_where_no_browser_starts_the_address_is_enough(monkeypatch, capsys):
    monkeypatch.setattr("webbrowser.open", lambda url: False)
    cli._open_page("http://127.0.0.1:1/v/x/")
    assert "open the address above yourself" in capsys.readouterr().out


def test_without_the_mesher_labels_are_shown_in_planes_only(cell, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    (layer,) = state_of(open_layers(cell, ["labels/mito"], NOTHING), "http://x")["layers"]
    assert len(layer["source"]) == 1
    assert "segments" not in layer


# --- in a browser -------------------------------------------------------------------------------------------------


def test_image_and_labels_are_drawn_where_they_are(cell, browser):
    layers = open_layers(cell, ["raw", "labels/mito"], NOTHING)
    pixels = 8  # of the screen, for one voxel of the image
    with serve(layers) as served:
        with served.viewer.txn() as state:
            state.layout = "xy"
            state.cross_section_scale = 1 / pixels
            state.position = [31.5, 31.5, 31.5]
            state.show_axis_lines = state.show_scale_bar = state.show_default_annotations = False
        browser.open(served.url)

        def at(seen, x_nm, y_nm):
            middle = np.array(seen.shape[:2]) / 2
            y, x = middle + (np.array([y_nm, x_nm]) / 10 - 31.5) * pixels
            return seen[round(y), round(x)]

        def drawn(seen):
            return at(seen, 600, 20).min() > 200 and np.ptp(at(seen, 400, 250)) > 50

        seen = browser.wait_for(drawn)
        assert at(seen, 20, 20).max() < 30  # the dark half
        assert at(seen, 312, 20).max() < 30  # up to half a voxel before the edge
        assert at(seen, 319, 20).min() > 200
        # The labels reach from 95 + 40 * 5 to 95 + 70 * 5 nm in x, and from 45 + 20 * 5 to 45 + 60 * 5 nm in y.
        for x, y, inside in [
            (298, 250, True), (291, 250, False), (442, 250, True), (449, 250, False),
            (400, 148, True), (400, 141, False), (400, 342, True), (400, 349, False),
        ]:  # fmt: skip
            assert (np.ptp(at(seen, x, y)) > 50) == inside, (x, y)


def test_surfaces_are_drawn(cell, browser):
    with serve(open_layers(cell, ["labels/mito"], NOTHING)) as served:
        with served.viewer.txn() as state:
            state.layout = "3d"
            state.show_slices = state.show_default_annotations = False
        browser.open(served.url)
        browser.wait_for(lambda seen: (np.ptp(seen, axis=2) > 50).mean() > 0.01)
