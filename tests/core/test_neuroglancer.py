"""A cell for neuroglancer: a state that shows it where it lies, with names, numbers and surfaces of its objects."""

from __future__ import annotations

import csv
import functools
import http.server
import json
import shutil
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.store import open_labels
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutputExists
from asem_core.stages.mobie import Mobie, export_for_mobie
from asem_core.stages.neuroglancer import Neuroglancer, export_for_neuroglancer
from asem_core.viewing.colours import PALETTE

sys.path.insert(0, str(Path(__file__).parent))
from measured_cell import measured_cell

AT = "https://lab.org/cells"


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    return measured_cell(tmp_path)


def export(cell: Path, output: str = "cell_neuroglancer", overwrite: bool = False, **options: Any) -> tuple[Path, str]:
    how = Neuroglancer(**{"at": AT, **options})
    folder = cell.with_name(output)
    link = export_for_neuroglancer(str(cell), folder, how, load_catalog(), Run(progress=False), overwrite=overwrite)
    return folder, link


def test_the_state_names_the_cell_where_it_will_lie(cell: Path) -> None:
    """Voxels from the cell, names and surfaces from the folder, both at the address; the link opens the state."""
    pytest.importorskip("zmesh")
    folder, link = export(cell)
    assert link == f"https://neuroglancer-demo.appspot.com/#!{AT}/cell_neuroglancer/state.json"
    state = json.loads((folder / "state.json").read_text())
    layers = {layer["name"]: layer for layer in state["layers"]}
    assert layers["raw"]["source"]["url"] == f"{AT}/cell.zarr/raw/|zarr3:"
    assert layers["labels/golgi"]["source"] == [
        {"url": f"{AT}/cell.zarr/labels/golgi/|zarr3:"},
        f"precomputed://{AT}/cell_neuroglancer/labels/golgi/mesh",
        f"precomputed://{AT}/cell_neuroglancer/labels/golgi/properties",
    ]
    assert layers["labels/golgi"]["segments"] == ["1", "2", "5"]
    assert set(layers["labels/golgi"]["segmentColors"].values()) <= set(PALETTE)
    assert json.loads((folder / "labels/golgi/mesh/info").read_text()) == {"@type": "neuroglancer_legacy_mesh"}
    assert {p.name for p in (folder / "labels/golgi/mesh").iterdir()} == {"info", "1", "1:0", "2", "2:0", "5", "5:0"}


def test_the_tables_are_segment_properties(cell: Path) -> None:
    """Numbers with their meaning, a missing one as NaN; texts and truths as tags; rows that are no objects stay out."""
    folder, _ = export(cell, meshes=False)
    described = json.loads((folder / "labels/golgi/properties/info").read_text())
    assert described["@type"] == "neuroglancer_segment_properties"
    assert described["inline"]["ids"] == ["1", "2", "5"]
    properties = {p["id"]: p for p in described["inline"]["properties"]}
    assert properties["label"]["values"] == ["golgi 1", "golgi 2", "golgi 5"]
    assert properties["volume_um3"] == {
        "id": "volume_um3",
        "type": "number",
        "description": "volume of its voxels",
        "data_type": "float32",
        "values": [0.5, 0.25, 0.125],
    }
    assert properties["num_vx"]["data_type"] == "int32"
    assert properties["sheet_area_um2"]["values"] == ["NaN", 1.5, "NaN"]
    assert properties["tags"]["tags"] == ["kind=blob", "kind=thin_sheet", "touches_border"]
    assert properties["tags"]["values"] == [[0, 2], [1], [0]]
    assert "other_id" not in properties
    mask = json.loads((folder / "labels/golgi_mask/properties/info").read_text())
    assert mask["inline"]["ids"] == ["1"]
    assert not (folder / "labels/golgi/mesh").exists()


def test_a_report_of_what_was_changed_since_is_left_out(cell: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The names stay; what was measured of other voxels is not shown for these."""
    from asem_core.cell.record import note

    note(cell / "labels" / "golgi", revision="another")
    folder, _ = export(cell, meshes=False)
    described = json.loads((folder / "labels/golgi/properties/info").read_text())
    assert [p["id"] for p in described["inline"]["properties"]] == ["label"]
    assert "Measure it again" in caplog.text


def test_it_is_found_again_and_never_replaces_other_things(cell: Path) -> None:
    folder, link = export(cell, meshes=False)
    before = (folder / "state.json").stat().st_mtime_ns
    assert export(cell, meshes=False) == (folder, link)
    assert (folder / "state.json").stat().st_mtime_ns == before
    with pytest.raises(OutputExists, match="made from other data"):
        export(cell, meshes=False, layers=("raw",))
    export(cell, meshes=False, layers=("raw",), overwrite=True)
    assert [p.name for p in folder.iterdir()] == ["state.json"]
    (cell.parent / "mine").mkdir()
    (cell.parent / "mine/notes.txt").write_text("mine")
    with pytest.raises(OutputExists, match="never replaced"):
        export(cell, "mine", meshes=False, overwrite=True)


def test_without_an_address_nothing_is_written(cell: Path) -> None:
    with pytest.raises(BadInput, match='at="https://my-lab.org/cells"'):
        export(cell, at=None)
    with pytest.raises(BadInput, match="is not a cell with layers"):
        export(cell / "raw")


def test_the_command(cell: Path) -> None:
    """It prints the link; options of single layers are refused."""
    app = make_app()
    words = ["export", str(cell), "--use", "neuroglancer", "-o", str(cell.with_name("out"))]
    made = CliRunner().invoke(app, [*words, "-s", f"at={AT}", "-s", "meshes=false"])
    assert made.exit_code == 0, made.output
    assert f"#!{AT}/out/state.json" in made.output.replace("\n", "")
    refused = CliRunner().invoke(app, [*words, "--as-is"])
    assert refused.exit_code == 1
    assert "takes a whole cell" in refused.output


class AllowAnyOrigin(http.server.SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        self.send_header("Access-Control-Allow-Origin", "*")
        super().end_headers()

    def log_message(self, *_args: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def demo_cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's cell, small, with its mitochondria measured."""
    folder = tmp_path_factory.mktemp("demo")
    cell = folder / "cell.zarr"
    for words in (
        ["demo", "-o", str(folder), "--size-nm", "800", "-j", "1"],
        ["analyze", "morphometry", str(cell / "predictions" / "mitochondria" / "segmentation")],
    ):
        done = CliRunner().invoke(make_app(), [*words, "-q"], prog_name="asem")
        assert done.exit_code == 0, done.output
    return cell


@pytest.mark.slow
def test_the_schemas_of_mobie_accept_the_demos_cell(demo_cell: Path) -> None:
    """With a table of what was found, and colours."""
    mobiedantic = pytest.importorskip("mobiedantic")
    project = export_for_mobie(
        str(demo_cell), demo_cell.with_name("cell_mobie"), Mobie(), load_catalog(), Run(progress=False)
    )
    opened, data_set = mobiedantic.Project(project), mobiedantic.Dataset(project / "cell")
    opened.load()
    data_set.load()
    name = "predictions-mitochondria-segmentation"
    assert name in data_set.model.sources
    shown = data_set.model.model_dump(mode="json")["views"][name]["sourceDisplays"][0]["segmentationDisplay"]
    assert (shown["lut"], shown["colorByColumn"]) == ("rgbaColumn", "colour")
    with (project / "cell" / "tables" / name / "default.tsv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert rows
    assert {"label_id", "anchor_x", "volume_um3", "colour"} <= set(rows[0])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("which", "layer", "words"),
    [
        ("cell", "labels/golgi", ["golgi 5", "#kind=thin_sheet", "3 num"]),
        ("demo_cell", "predictions/mitochondria/segmentation", ["mitochondria 1"]),
    ],
)
def test_neuroglancer_shows_objects_with_names_and_numbers(
    which: str, layer: str, words: list[str], request: pytest.FixtureRequest, browser: Any
) -> None:
    """Served as plain files: the objects have their colours, and the list of segments their names and volumes."""
    pytest.importorskip("neuroglancer", reason="the extra 'view' is not installed")
    pytest.importorskip("zmesh")
    from asem_core.viewing.scene import open_layers
    from asem_core.viewing.server import serve

    cell: Path = request.getfixturevalue(which)
    ids = open_labels(cell / layer).read()
    found = int(np.bincount(ids[ids > 0]).argmax())
    handler = functools.partial(AllowAnyOrigin, directory=cell.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as files:
        threading.Thread(target=files.serve_forever, daemon=True).start()
        folder, _ = export(cell, at=f"http://127.0.0.1:{files.server_port}", layers=("raw", layer))
        state = json.loads((folder / "state.json").read_text())
        state["layout"] = "xy"
        place = open_labels(cell / layer)
        plane = int(np.argmax((ids == found).sum(axis=(1, 2))))
        state["position"][2] = place.origin_nm[0] / place.voxel_size_nm[0] + plane
        state["selectedLayer"] = {"layer": layer, "visible": True}
        state["layers"][1]["tab"] = "segments"
        with serve(open_layers(cell, ["raw"], load_catalog())) as served:
            served.viewer.set_state(state)
            browser.open(served.url)
            colours = state["layers"][1]["segmentColors"]
            wanted = np.array([int(colours[str(found)][i : i + 2], 16) for i in (1, 3, 5)])

            def drawn(seen: np.ndarray) -> bool:
                direction = seen - seen.mean(axis=2, keepdims=True)
                target = wanted - wanted.mean()
                along = (direction @ target) / (np.linalg.norm(direction, axis=2) * np.linalg.norm(target) + 1e-9)
                return bool(((along > 0.95) & (np.linalg.norm(direction, axis=2) > 20)).sum() > 200)

            browser.wait_for(drawn)
            page = browser.driver.execute_script("return document.body.innerText")
            for word in words:
                assert word in page
        files.shutdown()
    shutil.rmtree(folder)
