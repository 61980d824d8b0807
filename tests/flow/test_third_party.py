"""A package of somebody else, with one plugin of each kind and uncommon choices, works the same through every door."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from typer.testing import CliRunner

import asem_core
from asem_core import LoopOptions
from asem_core.blocks import Run
from asem_core.built import build_flow
from asem_core.catalog import Catalog, load_catalog
from asem_core.cell.provenance import describe_plugin, identity, steps_done
from asem_core.cell.store import open_labels
from asem_core.cli import make_app
from asem_core.errors import PluginError, RecipeError
from asem_core.flow import run_flow
from asem_core.interfaces import Region
from asem_core.recipe import read_recipe
from asem_core.run_folder import RunFolder
from asem_core.stages.recipe_checks import require_inputs
from asem_core.stages.train import read_training_recipe
from asem_core.stages.view import ViewOptions, view
from asem_core.training.augment import Augment
from asem_core.training.stream import BlockStream
from asem_core.volume import Box, Labels, Volume
from asem_core.weights import save_weights
from asem_napari._cutter import Cutter
from asem_napari.session import Session

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from _window import annotation_window, virtual_screen, work_until

LAB = Path(__file__).with_name("their_lab.py")
QUIET = Run(progress=False)
RECIPE = """
[source]
use = "lab-files"
where = "scan.lab"

[labels.er]
use = "lab-files"
where = "scan.lab"
layer = "truth"

[[preprocess]]
use = "lab-trim"
margin_vx = 4

[model]
use = "lab-organelle"
weights = "lab.safetensors"

[predict]
precision = "float32"

[[analyze]]
use = "lab-count"
within = "labels/er"
"""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the package on the path, unless pip installed it (see tests/packaging), and write a scan and weights of its network."""
    if not [d for d in distributions() if d.name == "their-lab"]:
        site = tmp_path / "site"
        (site / "their_lab-1.2.dist-info").mkdir(parents=True)
        (site / "their_lab.py").write_text(LAB.read_text())
        info = site / "their_lab-1.2.dist-info"
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-lab\nVersion: 1.2\n")
        (info / "entry_points.txt").write_text("[asem]\ntheir-lab = their_lab\n")
        monkeypatch.syspath_prepend(site)
    monkeypatch.chdir(tmp_path)
    image = np.full((40, 40, 40), 60, np.uint8)
    image[8:20, 8:20, 8:20], image[24:28, 24:28, 24:28], image[30:34, 8:20, 8:20] = 250, 250, 180
    scan = tmp_path / "scan.lab"
    scan.mkdir()
    np.save(scan / "image.npy", image)
    np.save(scan / "truth.npy", (image == 250).astype(np.uint8))
    model = load_catalog().get("model", "lab-organelle")()
    about = {"model": {"use": "lab-organelle"}, "voxel_size_nm": [8, 8, 8], "preprocessing": []}
    save_weights(tmp_path / "lab.safetensors", model.network(), about)
    return tmp_path


@pytest.fixture
def window(lab: Path) -> Iterator[Any]:
    """Open the annotation window on a virtual screen, where the package is installed."""
    if importlib.util.find_spec("napari") is None or shutil.which("Xvfb") is None:
        pytest.skip(
            "napari is not installed (extra napari), or there is no Xvfb for a virtual screen (system package xvfb)"
        )
    with virtual_screen(), annotation_window() as panel:
        panel.loop.options = LoopOptions(iterations=2, device="cpu")
        yield panel


def asem(*words: object) -> str:
    result = CliRunner().invoke(make_app(), [str(w) for w in words])
    assert result.exit_code == 0, result.output
    return result.output


def catalog() -> Catalog:
    return load_catalog()


def run_recipe(folder: Path, text: str = RECIPE) -> Path:
    (folder / "recipe.toml").write_text(text)
    run_flow(build_flow(read_recipe(folder / "recipe.toml"), catalog()), catalog(), folder / "out", QUIET, print)
    return folder / "out/cell.zarr"


def test_every_door_gives_the_same(lab: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Recipe, commands, Python and live view: the model's own threshold, global step and network; a foreign geometry step."""
    by_recipe = run_recipe(lab)
    found: Volume = asem_core.open_volume(by_recipe / "predictions/lab-organelle/segmentation")
    assert found.dtype == np.uint8
    assert found.shape == (32, 32, 32)
    expected = np.zeros((32, 32, 32), np.uint8)
    expected[4:16, 4:16, 4:16] = 1  # the largest object from 0.8 on; neither the other nor the dim one
    np.testing.assert_array_equal(found.read(), expected)
    assert asem_core.open_volume(by_recipe / "labels/er").read().max() == 1  # the layer that was chosen, not the image
    assert not [r for r in caplog.records if "lab-trim" in r.getMessage()]  # a network does not ask where voxels lie

    asem("import", "scan.lab", "-o", "cell.zarr", "-q")
    asem("preprocess", "cell.zarr", "--use", "lab-trim", "-s", "margin_vx=4", "-q", "-j", 1)
    asem("predict", "cell.zarr", "--weights", "lab.safetensors", "-q", "--precision", "float32")
    asem("segment", "cell.zarr/predictions/lab-organelle/probability", "-q", "-j", 1)
    probability: Volume = asem_core.open_volume("cell.zarr/predictions/lab-organelle/probability")
    assert [s["name"] for s in steps_done(probability)] == ["lab-trim"]
    by_command = asem_core.open_volume("cell.zarr/predictions/lab-organelle/segmentation")
    np.testing.assert_array_equal(by_command.read(), expected)

    opened = asem_core.open("scan.lab", "python.zarr", run=QUIET)
    trim = catalog().get("preprocessor", "lab-trim")(margin_vx=4)
    trimmed = asem_core.apply(trim, opened["raw"], "python.zarr/raw_lab-trim", QUIET)
    called = asem_core.predict(trimmed, weights="lab.safetensors", precision="float32", run=QUIET)
    np.testing.assert_array_equal(called.read(), probability.read())
    by_python = asem_core.segment(called, run=QUIET)
    np.testing.assert_array_equal(by_python.read(), expected)

    asem("import", "scan.lab", "-o", "cell.zarr", "--source-layer", "truth", "--layer", "labels/er", "-q")
    analyze = (
        "analyze",
        "lab-count",
        by_command.path,
        "-s",
        "within=cell.zarr/labels/er",
        "-o",
        "report",
        "-q",
        "-j",
        1,
    )
    asem(*analyze)
    measured = asem_core.measure(by_python, "lab-count", within="cell.zarr/labels/er", output="by_python", run=QUIET)
    recipes = (by_recipe.parent / "reports/lab-count/numbers.json").read_text()
    assert recipes == Path("report/numbers.json").read_text() == Path("by_python/numbers.json").read_text()
    assert measured.numbers == {"inside": 12**3}

    live = view("cell.zarr", ViewOptions(layers=["raw"], weights=Path("lab.safetensors"), device="cpu"), catalog())[-1]
    np.testing.assert_array_equal(live.volume.read(), probability.read())

    asem(
        "segment",
        probability.path,
        "--threshold",
        0.3,
        "--model",
        "lab-organelle",
        "-o",
        "cell.zarr/dim",
        "-q",
        "-j",
        1,
    )
    assert asem_core.open_volume("cell.zarr/dim").read().sum() == 12**3  # an option of its own, of the same name
    result = CliRunner().invoke(make_app(), ["segment", probability.path, "--objects", "-o", "cell.zarr/x"])
    assert "unknown option 'objects' @ model (lab-organelle)" in " ".join(result.output.split())


def test_layer_options_are_resolved_and_checked_first(lab: Path) -> None:
    """An option that names a layer is relative to the recipe, may name one that the run makes, and must be there."""
    run_recipe(lab)
    numbers = (lab / "out/reports/lab-count/numbers.json").read_text()
    assert '"inside": 1728' in numbers
    (lab / "elsewhere").mkdir()
    text = RECIPE.replace('"scan.lab"', '"../scan.lab"').replace('"lab.safetensors"', '"../lab.safetensors"')
    text = text.replace('within = "labels/er"', 'within = "../out/cell.zarr/labels/er"')
    (lab / "elsewhere/recipe.toml").write_text(text)
    require_inputs(build_flow(read_recipe(lab / "elsewhere/recipe.toml"), catalog()), catalog())
    (lab / "elsewhere/recipe.toml").write_text(text.replace("labels/er", "labels/none"))
    with pytest.raises(RecipeError, match=r"@ analyze\[0\]: lab-count, option 'within': .*has no layer 'labels/none'"):
        require_inputs(build_flow(read_recipe(lab / "elsewhere/recipe.toml"), catalog()), catalog())


def test_what_options_name_is_part_of_the_record(lab: Path) -> None:
    """By what it holds: a file under another name is known again, whatever its option is called; a layer drawn anew is not."""
    source, analyzer = catalog().get("source", "lab-files"), catalog().get("analyzer", "lab-count")
    first = describe_plugin(source("scan.lab"))
    Path("scan.lab").rename("moved.lab")
    assert identity(describe_plugin(source(str(lab / "moved.lab")))) == identity(first)
    np.save("moved.lab/image.npy", np.ones((40, 40, 40), np.uint8))
    assert identity(describe_plugin(source("moved.lab"))) != identity(first)
    asem("import", "moved.lab", "-o", "cell.zarr", "-q")
    image, _ = asem_core.image_of(Path("cell.zarr"))
    box = Box((0, 0, 0), (16, 16, 16))
    middle = catalog().get("annotator", "lab-middle")()
    asem_core.annotate(middle, image, box, np.zeros(box.shape, np.uint8), "cell.zarr/labels/er", QUIET)
    first = describe_plugin(analyzer(within="cell.zarr/labels/er"))
    assert identity(describe_plugin(analyzer(within=str(lab / "cell.zarr/labels/er")))) == identity(first)
    moved = box.shift([16] * 3)
    asem_core.annotate(middle, image, moved, np.zeros(box.shape, np.uint8), "cell.zarr/labels/er", QUIET)
    assert identity(describe_plugin(analyzer(within="cell.zarr/labels/er"))) != identity(first)


def test_a_layer_of_a_source_must_be_chosen_for_labels(lab: Path) -> None:
    """Of a source with several layers, the image is never taken for labels."""
    (lab / "recipe.toml").write_text(RECIPE.replace('layer = "truth"\n', ""))
    with pytest.raises(
        RecipeError, match=r"@ labels.er: the source holds the layers image, truth. Choose one: layer ="
    ):
        require_inputs(build_flow(read_recipe(lab / "recipe.toml"), catalog()), catalog())


def test_a_format_of_theirs_is_written_by_export(lab: Path) -> None:
    """By `--use`, and by the ending alone; read back, it is the same."""
    asem("import", "scan.lab", "-o", "cell.zarr", "-q")
    asem("export", "cell.zarr/raw", "-o", "back.lab", "-q")
    np.testing.assert_array_equal(np.load("back.lab/image.npy"), np.load("scan.lab/image.npy"))
    asem("export", "cell.zarr/raw", "-o", "other.lab", "--use", "lab-files", "-q")
    assert Path("other.lab/image.npy").exists()
    result = CliRunner().invoke(make_app(), ["export", "cell.zarr/raw", "-o", "back.lab", "-q"])
    assert result.exit_code == 0  # finished
    Path("back.lab/image.npy").write_bytes(b"other")
    result = CliRunner().invoke(make_app(), ["export", "cell.zarr/raw", "-o", "back.lab", "-q"])
    assert "exists and is not empty" in " ".join(result.output.split())
    result = CliRunner().invoke(make_app(), ["export", "cell.zarr/raw", "-o", "x", "--use", "phantom"])
    assert "does not write it" in " ".join(result.output.split())


def test_a_format_of_theirs_carries_annotations_and_results(lab: Path) -> None:
    """Labels go there and back through `annotate export` and `import`; a recipe exports to it by its ending."""
    asem("import", "scan.lab", "-o", "cell.zarr", "-q")
    asem("import", "scan.lab", "-o", "cell.zarr", "--source-layer", "truth", "--layer", "labels/er", "-q")
    asem("annotate", "export", "cell.zarr/labels/er", "-o", "edit.lab", "-q")
    asem("annotate", "export", "cell.zarr/labels/er", "-o", "other", "--use", "lab-files", "-q")
    for name, use in (("edit.lab", ()), ("other", ("--use", "lab-files"))):
        asem("annotate", "import", "cell.zarr", name, *use, "-o", f"labels/{Path(name).stem}", "-q")
        found = open_labels(f"cell.zarr/labels/{Path(name).stem}").read()
        np.testing.assert_array_equal(found, open_labels("cell.zarr/labels/er").read() != 0)
    out = run_recipe(lab, f'{RECIPE}\n[export]\nlayers = ["probability"]\nending = ".lab"\n')
    made = np.load(out.parent / "export" / "probability.lab" / "image.npy")
    assert made.shape == np.load("scan.lab/image.npy").shape
    (lab / "recipe.toml").write_text(f'{RECIPE}\n[export]\nending = ".xyz"\n')
    with pytest.raises(RecipeError, match="@ export: No source plugin writes a file named result.xyz"):
        require_inputs(build_flow(read_recipe(lab / "recipe.toml"), catalog()), catalog())


def test_an_annotator_without_strokes(lab: Path) -> None:
    """One that declares that it needs no seeds labels a box that nobody painted in."""
    asem("import", "scan.lab", "-o", "cell.zarr", "-q")
    box = Box.parse("0:16,0:16,0:16")
    asem("annotate", "cut", "cell.zarr", "--use", "lab-middle", "--box", "0:16,0:16,0:16", "-o", "labels/middle", "-q")
    by_command = asem_core.open_volume("cell.zarr/labels/middle").read()
    assert by_command[box.slices].sum() == by_command.sum() == 8**3

    image, _ = asem_core.image_of(Path("cell.zarr"))
    annotator = catalog().get("annotator", "lab-middle")()
    asem_core.annotate(annotator, image, box, np.zeros(box.shape, np.uint8), "cell.zarr/labels/python", QUIET)
    np.testing.assert_array_equal(asem_core.open_volume("cell.zarr/labels/python").read(), by_command)

    session, cutter = Session.open(Path("cell.zarr"), "beside", box), Cutter()  # what the window does, without a screen
    session.check(annotator)
    session.accept(cutter.cut(annotator, session.image, box, QUIET.within("w"), session.seeds, None), annotator)
    session.close()
    cutter.stop()
    np.testing.assert_array_equal(asem_core.open_volume("cell.zarr/labels/beside").read(), by_command)


@pytest.mark.slow  # a minute: it starts processes that load torch
def test_in_the_window(window: Any, lab: Path) -> None:
    """Keys and buttons: their annotator cuts a box without strokes; their model learns from strokes and finishes the cell, as by commands."""
    from qtpy.QtCore import Qt
    from qtpy.QtTest import QTest

    def press(key: str) -> None:
        QTest.keyClicks(window.viewer.window._qt_viewer.canvas.native, key)

    asem("import", "scan.lab", "-o", "cell.zarr", "-q")
    cut = "annotate cut cell.zarr --use lab-middle --box 0:16,0:16,0:16 -o labels/middle -q"
    asem(*cut.split())
    window.open(Path("cell.zarr"), "window", Box.parse("0:16,0:16,0:16"))
    window.cutting.annotators.setCurrentText("lab-middle")
    press("c")
    work_until(lambda: not window.cutting.is_busy)
    by_command = asem_core.open_volume("cell.zarr/labels/middle").read()
    np.testing.assert_array_equal(asem_core.open_volume("cell.zarr/labels/window").read(), by_command)

    window.open(Path("cell.zarr"), "mine")
    window.session.seeds[10:16:2, 9:19:3, 9:19] = asem_core.OBJECT
    window.session.seeds[2:38:6, 2:38:6, 30:38] = asem_core.BACKGROUND
    window.save()
    shutil.copytree("cell.zarr", "other.zarr")
    loop = "loop other.zarr --labels mine --device cpu -q"
    asem(*f"{loop} --model lab-organelle --from lab.safetensors --iterations 2".split())
    asem(*f"{loop} --finish".split())
    asem("segment", "other.zarr/predictions/mine/probability", "-q", "-j", 1)
    window.loop.model.setCurrentText("lab-organelle")
    window.loop.weights.setText("lab.safetensors")
    press("l")
    work_until(lambda: len(window.loop.loop.rounds) > 0)
    press("l")
    assert not window.loop.learn.isChecked()
    QTest.mouseClick(window.loop.finish, Qt.MouseButton.LeftButton)
    work_until(lambda: "To keep the model: asem models add" in window.status.text())
    assert "mine: segmentation" in window.viewer.layers
    expected = np.zeros((40, 40, 40), np.uint8)
    expected[8:20, 8:20, 8:20] = 1  # the largest object alone: their threshold and their global step
    for cell in ("cell.zarr", "other.zarr"):
        np.testing.assert_array_equal(asem_core.open_volume(f"{cell}/predictions/mine/segmentation").read(), expected)


def test_training_by_every_door(lab: Path) -> None:
    """By recipe, command and Python: with their network and their sampler, to the same weights."""
    train = """
[sampler]
use = "lab-corner"

[train]
iterations = 2
checkpoint_every = 2
block = [8, 8, 8]
batch = 1
missing_context = "reflect"
"""
    by_path = """
[[train.regions]]
raw = "cell.zarr/raw"
labels = "cell.zarr/labels/er"
"""
    by_name = by_path.replace('raw = "cell.zarr/raw"\n', "").replace("cell.zarr/labels/er", "er")
    whole = RECIPE.replace('weights = "lab.safetensors"\n', "").replace("[predict]", f"{train}{by_name}\n[predict]")
    whole = whole.replace('[[preprocess]]\nuse = "lab-trim"\nmargin_vx = 4\n', "")
    cell = run_recipe(lab, whole)
    shutil.copytree(cell, "cell.zarr")
    Path("train.toml").write_text(f'[model]\nuse = "lab-organelle"\n{train}{by_path}')
    asem("train", "train.toml", "-o", "by_command", "--device", "cpu", "-q")
    recipe = read_training_recipe("train.toml", catalog())
    asem_core.train(recipe, catalog(), "by_python", device="cpu", progress=False)
    runs = [RunFolder(lab / folder) for folder in ("out/training", "by_command", "by_python")]
    learnt = [next(iter(load_file(run.chosen()).values())) for run in runs]
    assert learnt[0] != 1.0
    assert learnt[0] == learnt[1] == learnt[2]


def test_what_a_sampler_gives_is_checked(lab: Path) -> None:
    """A right sampler is followed; what is no box of the regions names the plugin."""
    region = Region("a", Volume(np.zeros((40, 40, 40), np.uint8), 8.0), Labels(np.zeros((40, 40, 40), np.uint8), 8.0))

    def stream(**options: Any) -> BlockStream:
        sampler = catalog().get("sampler", "lab-corner")(**options)
        return BlockStream(sampler, [region], (8, 8, 8), (2, 2, 2), Augment(), 0)

    assert next(stream().cuts(0)).box == Box((0, 0, 0), (8, 8, 8))
    with pytest.raises(PluginError, match="sampler 'lab-corner' gave"):
        next(stream(off=100).cuts(0))
