"""A recipe from planes to planes: every stage runs, a swap is one line, provenance names it, a second run finds it all."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from typer.testing import CliRunner

from asem_analyzers.clathrin_coats import ClathrinCoats
from asem_analyzers.contacts import Contacts
from asem_analyzers.morphometry import Morphometry
from asem_core.cell.node import layers
from asem_core.cell.provenance import steps_done
from asem_core.cell.record import Record
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.paths import named_paths
from asem_core.testing import example_image, example_labels
from asem_core.training.progress import Progress

SHAPE = (40, 48, 56)

RECIPE = """
[source]
use = "tiff-stack"
path = "planes"
voxel_size_nm = [5, 5, 5]

[labels.balls]
use = "tiff-stack"
path = "labels.tif"
voxel_size_nm = [5, 5, 5]

[[preprocess]]
use = "crop"
box = "4:40,8:48,0:56"

[[preprocess]]
use = "normalize"

[model]
use = "mitochondria"
features = 4
factors = [[2, 2, 2]]
kernels = [[[3, 3, 3]], [[3, 3, 3]]]
smallest_object_vx = 0
dilate_vx = 0

[sampler]
use = "balanced"

[train]
block = [16, 16, 16]
iterations = 4
checkpoint_every = 2
choose = "last"
missing_context = "reflect"
readers = 0

[[train.regions]]
labels = "balls"
box = "0:24,:,:"

[[train.validation]]
labels = "balls"
box = "24:40,:,:"

[evaluate]
truth = "balls"
box = "24:40,:,:"

[[analyze]]
use = "morphometry"

[export]
layers = ["segmentation", "probability"]
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a folder of planes, labels and the recipe, and work there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "planes").mkdir()
    for i, plane in enumerate(example_image(SHAPE).read()):
        tifffile.imwrite(tmp_path / "planes" / f"cell_{i + 100}.tif", plane)
    tifffile.imwrite(tmp_path / "labels.tif", (example_labels(SHAPE).read() > 0).astype(np.uint8))
    (tmp_path / "recipe.toml").write_text(RECIPE)
    return tmp_path


def asem(*words: str) -> subprocess.CompletedProcess[str]:
    """Run the program as a user does; each time it loads torch anew."""
    command = [sys.executable, "-m", "asem_core", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def invoke(*words: str) -> Any:
    """Run the program in this process."""
    return CliRunner().invoke(make_app(), list(words))


def run(*words: str) -> str:
    done = invoke("run", "recipe.toml", "-o", "out", "-q", "-j", "1", *words)
    assert done.exit_code == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_whole_recipe(project: Path) -> None:
    """Planes in, planes out, in place; reports written; the second run repeats nothing; a swap is one line."""
    done = asem("run", "recipe.toml", "-o", "out", "-q", "-j", "2")
    assert done.returncode == 0, done.stderr
    assert "balls at 0.5: F1" in done.stdout
    cell = project / "out" / "cell.zarr"
    assert {"raw", "raw_crop", "raw_normalize", "labels/balls", "predictions/mitochondria/probability"} <= set(
        layers(cell)
    )
    for page in ("morphometry", "evaluation"):
        assert (project / "out" / "reports" / page / "report.html").exists()

    planes = sorted((project / "out" / "export" / "probability").glob("*.tif"))
    assert [p.name for p in planes] == [f"cell_{i + 100}.tif" for i in range(SHAPE[0])]
    exported = np.stack([tifffile.imread(p) for p in planes])
    assert exported.shape == SHAPE
    probability = open_volume(cell / "predictions" / "mitochondria" / "probability").read()
    np.testing.assert_array_equal(exported[4:40, 8:48], probability)
    assert not exported[:4].any()
    assert not exported[:, :8].any()

    record = Record.of(open_volume(cell / "predictions" / "mitochondria" / "segmentation")).made.noted
    made = json.dumps(record)
    assert '"normalize"' in made
    assert "weights_sha256" in made
    assert [s["name"] for s in steps_done(open_volume(cell / "raw_normalize"))] == ["crop", "normalize"]

    def stamps() -> dict[Path, int]:
        made = (*cell.rglob("c/*"), *(cell.parent / "reports").rglob("*.*"), *(cell.parent / "export").rglob("*.tif"))
        return {p: p.stat().st_mtime_ns for p in made if p.is_file()}

    before = stamps()
    scores = [line for line in done.stdout.splitlines() if line.startswith("balls at ")]
    assert [line for line in run().splitlines() if line.startswith("balls at ")] == scores
    assert stamps() == before

    recipe = (project / "recipe.toml").read_text()
    (project / "recipe.toml").write_text(recipe.replace('use = "normalize"', 'use = "invert"'))
    refused = invoke("run", "recipe.toml", "-o", "out", "-q")
    assert refused.exit_code == 1
    assert "--overwrite" in refused.stderr
    run("--overwrite")
    assert not {p: t for p, t in stamps().items() if before.get(p) == t and ".zarr" not in str(p)}
    assert '"invert"' in json.dumps(Record.of(open_volume(cell / "predictions/mitochondria/probability")).made.noted)

    (project / "recipe.toml").write_text(recipe.replace('use = "balanced"', 'use = "uniform"'))
    run("-o", "out-uniform")
    assert '"uniform"' in (project / "out-uniform" / "training" / "provenance.json").read_text()


def test_coarse_network_and_other_images(project: Path) -> None:
    """A network of larger voxels predicts the image and others, is scored and exported, all on the image's own grid."""
    text = RECIPE.replace("iterations = 4", "iterations = 4\ndownsample = [1, 2, 2]").replace(
        "block = [16", "block = [8"
    )
    text = text.replace("[evaluate]", "[predict]\nresample = true\n\n[evaluate]\nzone_nm = [5, 5]")
    others = '\n[others.again]\nuse = "tiff-stack"\npath = "planes"\nvoxel_size_nm = [5, 5, 5]\n'
    (project / "recipe.toml").write_text(text + others)
    assert "balls at 0.5: F1" in run()
    first = open_volume(project / "out/cell.zarr/predictions/mitochondria/probability")
    other = open_volume(project / "out/again.zarr/predictions/mitochondria/probability")
    assert open_volume(project / "out/cell.zarr/raw_downsample").voxel_size_nm == (5.0, 10.0, 10.0)
    assert first.voxel_size_nm == (5.0, 5.0, 5.0)
    np.testing.assert_array_equal(first.read(), other.read())
    assert open_volume(project / "out/again.zarr/predictions/mitochondria/segmentation").shape == first.shape
    assert tifffile.imread(project / "out/export/probability/cell_120.tif").shape == SHAPE[1:]


def test_ctrl_c_in_training_says_to_run_again(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The run's own recipe.toml is none of `asem train`: what goes on is the same command."""

    def stops(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", stops)
        stopped = invoke("run", "recipe.toml", "-o", "out", "-q", "-j", "1")
    assert "To resume: the same asem run again" in stopped.stderr
    assert (project / "out/training/provenance.json").exists()


BAD = {
    "unknown key": (
        'use = "balanced"',
        'use = "balanced"\nforground = 1',
        "unknown option 'forground' @ sampler (balanced)",
    ),
    "wrong type": ("iterations = 4", "iterations = 4.5", "expected a whole number, got 4.5"),
    "wrong name": ('use = "normalize"', 'use = "normalise"', "Did you mean 'normalize'?"),
    "unknown labels": (
        'labels = "balls"',
        'labels = "bals"',
        "'bals' is neither a name of [labels] (balls) nor a path",
    ),
    "no weights": ("[train]", "[predict]", "[model] has no weights"),
    "unknown truth": ('truth = "balls"', 'truth = "golgi"', "evaluate.truth is 'golgi', but [labels] has: balls"),
    "the cell's own name": (
        "[evaluate]",
        '[others.cell]\nuse = "tiff-stack"\npath = "planes"\nvoxel_size_nm = [5, 5, 5]\n\n[evaluate]',
        "others.cell is not a possible name",
    ),
    "labels outside of the cell": (
        "[evaluate]",
        '[labels."../more"]\nuse = "tiff-stack"\npath = "planes"\nvoxel_size_nm = [5, 5, 5]\n\n[evaluate]',
        "labels.../more is not a possible name",
    ),
    "no such other image": (
        "[evaluate]",
        '[others.late]\nuse = "tiff-stack"\npath = "plains"\nvoxel_size_nm = [5, 5, 5]\n\n[evaluate]',
        "recipe.toml @ others.late: ",
    ),
    "scores of what is trained on": (
        'truth = "balls"\nbox = "24:40',
        'truth = "balls"\nbox = "20:40',
        "the box 20:40,:,: of balls overlaps that of the training region '1' (0:24,:,:)",
    ),
    "no probability": (
        'truth = "balls"',
        'truth = "balls"\nthresholds = [4]',
        "a threshold is a probability above 0 and at most 1, got 4",
    ),
    "no box to score": ('box = "24:40,:,:"\n\n[[analyze', 'box = "24:40"\n\n[[analyze', "'24:40' is not a box"),
    "no box to train on": ('box = "0:24,:,:"', 'box = "0:24"', "option 'regions' @ train: '0:24' is not a box"),
    "validated on what is trained on": (
        'box = "0:24,:,:"',
        'box = "0:25,:,:"',
        "the validation region '1' (24:40,:,:) overlaps the training region '1' (0:25,:,:)",
    ),
    "a block that no network gives": ("[16, 16, 16]", "[15, 16, 16]", "set block = [16, 16, 16]"),
    "two zones": (
        'truth = "balls"',
        'truth = "balls"\nzone_vx = [1, 0]\nzone_nm = [5, 0]',
        "give the zone in voxels (zone_vx) or in nm (zone_nm), not both",
    ),
    "a zone as a mask": (
        'truth = "balls"',
        'truth = "balls"\nmask = "exclusion/balls"',
        "is an exclusion zone, in which everything except 0 is ignored",
    ),
    "no mask to score in": ('truth = "balls"', 'truth = "balls"\nmask = "mask"', "@ evaluate: option 'mask': "),
    "no mask to predict in": (
        "[evaluate]",
        '[predict]\nmask = "nothing.zarr/mask"\n\n[evaluate]',
        "@ predict: option 'mask': ",
    ),
    "no path": ('path = "planes"', 'path = "plains"', "recipe.toml @ source: "),
    "no model": ("", "", "[train] needs a [model]: add use = "),
    "unknown table": ("[evaluate]", "[segment]", "recipe.toml: unknown table [segment]"),
    "no labels": ('path = "labels.tif"', 'path = "label.tif"', "recipe.toml @ labels.balls: "),
    "no such model": ("smallest_object_vx = 0", 'weights = "mitochondria-cf-5m"', "@ model: No model is called"),
    "no such file": ("smallest_object_vx = 0", 'weights = "mito.safetensors"', "mito.safetensors does not exist"),
    "unknown layer": (
        '["segmentation", ',
        '["segmentatoin", ',
        "export.layers names 'segmentatoin', but the run makes",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_recipe_writes_nothing(project: Path, case: str) -> None:
    """Each mistake is told by its place, without a traceback, before anything is written."""
    before, after, sentence = BAD[case]
    text = RECIPE.replace(before, after)
    if case == "no model":
        text = RECIPE[: RECIPE.index("[model]")] + RECIPE[RECIPE.index("[sampler]") :]
    if case == "no weights":
        text = RECIPE[: RECIPE.index("[train]")] + RECIPE[RECIPE.index("[evaluate]") :]
    (project / "recipe.toml").write_text(text)
    done = invoke("run", "recipe.toml", "-o", "out", "-q")
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "out").exists()


def test_a_box_to_score_that_sticks_out_is_refused_before_training(project: Path) -> None:
    """An open side ends where truth and image do; a number beyond them is a mistake, told once both are there."""
    text = RECIPE.replace('truth = "balls"\nbox = "24:40,:,:"', 'truth = "balls"\nbox = "24:40,0:48,:"')
    (project / "recipe.toml").write_text(text)
    done = invoke("run", "recipe.toml", "-o", "out", "-q", "-j", "1")
    assert done.exit_code == 1
    assert "24:40,0:48,: extends beyond the overlap of truth and image, [4:40, 8:48, 0:56]" in done.stderr
    assert not (project / "out" / "training").exists()


def test_bad_recipe_as_a_program(project: Path) -> None:
    """A mistake ends the program with its sentence and without a traceback."""
    before, after, sentence = BAD["wrong name"]
    (project / "recipe.toml").write_text(RECIPE.replace(before, after))
    done = asem("run", "recipe.toml", "-o", "out", "-q")
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr
    assert not (project / "out").exists()


@pytest.mark.usefixtures("project")
def test_misspelt_command_and_option() -> None:
    """The program suggests what was meant."""
    assert "import" in asem("imprt").stderr
    assert "--overwrite" in asem("run", "recipe.toml", "--overwrit").stderr


def test_an_analysis_that_may_read_further_files_is_made_again() -> None:
    """A table of corrections has no mark that tells whether it was edited; options that are numbers read nothing."""
    assert not any(named_paths(Morphometry(smallest_um3=0.5)))
    assert any(named_paths(Contacts(others=("labels/er",))))
    assert any(named_paths(ClathrinCoats(corrections="corrections.csv")))
