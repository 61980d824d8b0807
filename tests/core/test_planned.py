"""A recipe that does not say how long to train: what it leaves open is chosen from its labels, what it says stays."""

from __future__ import annotations

import tomllib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from typer.testing import CliRunner

from asem_core.catalog import load_catalog
from asem_core.cli import make_app
from asem_core.errors import RecipeError
from asem_core.run_folder import RunFolder
from asem_core.stages.planned import whole_recipe
from asem_core.stages.train import read_training_recipe
from asem_core.training.loop import _as_watched
from asem_core.training.settings import BLOCKS
from asem_core.weights import read_metadata, save_weights

RECIPE = """
[model]
use = "mitochondria"
threshold = 0.6

[train]
minutes = 1
batch = 2

[train.optimizer]
learning_rate = 0.001

[[train.regions]]
raw = "cell.zarr"
labels = "cell.zarr/labels/mito"
box = "0:30,:,:"
"""
HELD_OUT = """
[[train.validation]]
raw = "cell.zarr"
labels = "cell.zarr/labels/mito"
box = "32:40,:,:"
"""


@classmethod  # type: ignore[misc]
def _narrow(_cls: type, _template: str, width: int = 1) -> dict[str, object]:
    return {"features": 4 * width, "factors": [[2, 2, 2]], "kernels": [[[3, 3, 3]], [[3, 3, 3]]]}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Bright balls in noise, small blocks, and iterations that are thought to take 2.5 s each."""
    monkeypatch.setitem(BLOCKS, "isotropic", (12, 12, 12))
    monkeypatch.setattr("asem_core.training.loop.NUM_MEASURED", 2)
    monkeypatch.setattr("asem_models._organelle.Organelle.network_options", _narrow)
    monkeypatch.setattr("asem_core.stages.plan.seconds_per_iteration", lambda *_, **__: 2.5)
    monkeypatch.chdir(tmp_path)
    z, y, x = np.indices((40, 64, 64))
    balls = np.zeros(z.shape, bool)
    for centre in ((10, 16, 16), (20, 44, 20), (30, 20, 46), (12, 48, 50), (36, 40, 30)):
        balls |= sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)) < 49
    grey = np.clip(90 + 70 * balls + np.random.default_rng(0).normal(0, 15, balls.shape), 0, 255).astype(np.uint8)
    tifffile.imwrite(tmp_path / "grey.tif", grey)
    tifffile.imwrite(tmp_path / "mito.tif", balls.astype(np.uint8))
    return tmp_path


def asem(*words: str) -> tuple[int, str]:
    done = CliRunner().invoke(make_app(), [*words])
    return done.exit_code, " ".join(done.output.split())


def imported(project: Path) -> None:
    for file, layer in (("grey.tif", "raw"), ("mito.tif", "labels/mito")):
        assert asem("import", file, "-o", "cell.zarr", "--layer", layer, "--voxel-size", "8", "-q")[0] == 0


def test_what_a_recipe_leaves_open_is_chosen(project: Path) -> None:
    """Beside the run, with what the recipe says; the same again takes it, and another recipe does not."""
    imported(project)
    (project / "mito.toml").write_text(RECIPE)
    code, said = asem("train", "mito.toml", "-o", "run", "-q")
    assert code == 0, said
    text = (project / "run.plan.toml").read_text()
    tables = tomllib.loads(text)
    assert "learning_rate = 0.001  # as the recipe says" in text
    assert tables["model"].pop("smallest_segment_um3") > 0
    assert tables["model"] == {"use": "mitochondria", "threshold": 0.6, **_narrow.__func__(None, "")}  # type: ignore[attr-defined]
    assert (tables["train"]["batch"], tables["train"]["iterations"], tables["train"]["normalise"]) == (2, 20, True)
    assert {r["raw"] for r in tables["train"]["regions"] + tables["train"]["validation"]} == {
        str(project / "cell.zarr")
    }
    assert (project / "run/report.html").exists()
    code, said = asem("train", "mito.toml", "-o", "run", "-q")
    assert (code, "the settings chosen before are used" in said) == (0, True)
    (project / "mito.toml").write_text(RECIPE.replace("batch = 2", "batch = 1"))
    code, said = asem("train", "mito.toml", "-o", "run", "-q")
    assert (code, "run.plan.toml holds settings that were chosen for another recipe" in said) == (1, True)


def test_a_network_a_sampler_and_held_out_parts_of_the_recipes_own_stay(project: Path) -> None:
    imported(project)
    own = RECIPE.replace(
        "threshold = 0.6", 'features = 3\nfactors = [[1, 2, 2]]\nkernels = [[[1, 3, 3]]]\n\n[sampler]\nuse = "uniform"'
    )
    (project / "own.toml").write_text(own.replace("minutes = 1", "iterations = 5"))
    assert whole_recipe(project / "own.toml", project / "run", load_catalog()) == project / "own.toml"
    (project / "own.toml").write_text(own + HELD_OUT)
    code, said = asem("preflight", "own.toml", "--no-time")
    assert (code, "held" in said or "annotated voxels are foreground" in said) == (0, True)
    code, said = asem("train", "own.toml", "-o", "run", "-q", "--minutes", "2")
    assert code == 0, said
    tables = tomllib.loads((project / "run.plan.toml").read_text())
    assert tables["model"].pop("smallest_segment_um3") > 0
    assert tables["model"].pop("threshold") == 0.6, "even odds"
    assert tables["train"]["choose_mirrors"], "tried on the recipe's own validation part"
    assert tables["model"] == {"use": "mitochondria", "features": 3, "factors": [[1, 2, 2]], "kernels": [[[1, 3, 3]]]}
    assert tables["sampler"] == {"use": "uniform"}
    assert [r["box"] for r in tables["train"]["regions"]] == ["0:30,0:64,0:64"]
    assert [r["box"] for r in tables["train"]["validation"]] == ["32:40,:,:"]


def test_a_whole_run_chooses_too(project: Path) -> None:
    """`asem run` with [train] regions only, on labels of the recipe's own; the published numbers where they are asked for."""
    text = """
[source]
use = "tiff-stack"
path = "grey.tif"
voxel_size_nm = 8

[labels.mito]
use = "tiff-stack"
path = "mito.tif"
voxel_size_nm = 8

[model]
use = "mitochondria"

[train]
minutes = 1

[[train.regions]]
labels = "mito"
box = "0:30,:,:"
"""
    (project / "whole.toml").write_text(text)
    for _ in range(2):
        code, said = asem("run", "whole.toml", "-o", "out", "-q", "-j", "1")
        assert code == 0, said
    assert tomllib.loads((project / "out/training.plan.toml").read_text())["train"]["iterations"] == 20
    assert (project / "out/cell.zarr/predictions/mitochondria/segmentation").is_dir()
    catalog = load_catalog()
    (project / "open.toml").write_text(RECIPE)
    with pytest.raises(RecipeError, match="it does not say how long to train"):
        read_training_recipe(project / "open.toml", catalog)
    (project / "paper.toml").write_text(RECIPE.replace("minutes = 1", 'plan = "published"'))
    assert read_training_recipe(project / "paper.toml", catalog).options.iterations == 100_000


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ("minutes = 1", 'plan = "nnunet"', 'plan is "data" (settings from the labels) or "published"'),
        ("minutes = 1", "minutes = 1\niterations = 5", "iterations says how long to train; leave minutes out"),
        ("minutes = 1", 'minutes = 1\nplan = "published"', "the published plan has a fixed length"),
        ("minutes = 1", "minutes = -1", "it must be above 0"),
        ("minutes = 1", 'minutes = "ten"', "option 'minutes' @ train"),
        ("minutes = 1", "minuts = 1", "unknown option 'minuts' @ train. Did you mean 'minutes'?"),
        (
            'raw = "cell.zarr"',
            'raw = { use = "tiff-stack", path = "grey.tif", voxel_size_nm = 8 }',
            "Import image and labels first",
        ),
        ('box = "0:30,:,:"', 'bx = "0:30,:,:"', "bx"),
    ],
)
def test_bad_recipes(project: Path, before: str, after: str, said: str) -> None:
    imported(project)
    (project / "bad.toml").write_text(RECIPE.replace(before, after))
    code, printed = asem("train", "bad.toml", "-o", "run", "-q")
    assert (code, said in printed) == (1, True), printed
    assert not (project / "run").exists()
    assert not (project / "run.plan.toml").exists()


def test_several_classes_are_planned_for_together(project: Path) -> None:
    """The thinnest class decides how large pixels may be, and the plan says which; by command and from an open recipe, both can be trained."""
    imported(project)
    _, y, x = np.indices((40, 64, 64))
    tifffile.imwrite(project / "rods.tif", (np.hypot(y % 16 - 8, x % 16 - 8) < 1.5).astype(np.uint8))
    assert asem("import", "rods.tif", "-o", "cell.zarr", "--layer", "labels/rods", "--voxel-size", "8", "-q")[0] == 0
    code, said = asem("plan", "cell.zarr", "--labels", "mito,rods", "--iterations", "3", "-o", "both.toml")
    assert code == 0, said
    text = (project / "both.toml").read_text()
    assert "the thinnest tenth of rods, the thinnest class, is 2" in text
    tables = tomllib.loads(text)
    assert tables["model"]["use"] == "organelles"
    assert tables["model"]["classes"] == ["mito", "rods"]
    assert tables["train"]["downsample"] == [1, 1, 1]
    assert set(tables["train"]["regions"][0]["labels"]) == {"mito", "rods"}
    read_training_recipe(project / "both.toml", load_catalog())

    regions = 'labels = { mito = "cell.zarr/labels/mito", rods = "cell.zarr/labels/rods" }'
    recipe = RECIPE.replace('labels = "cell.zarr/labels/mito"', regions).replace(
        'use = "mitochondria"', 'use = "organelles"'
    )
    (project / "open.toml").write_text(recipe.replace("threshold = 0.6", 'classes = ["mito", "rods"]'))
    found = whole_recipe(project / "open.toml", project / "run", load_catalog())
    whole = tomllib.loads(found.read_text())
    assert "the thinnest tenth of rods" in found.read_text()
    assert whole["train"]["regions"][0]["labels"]["rods"] == str(project / "cell.zarr/labels/rods")
    assert whole["model"]["classes"] == ["mito", "rods"]


def test_thresholds_of_classes_that_are_scarce_stay(project: Path) -> None:
    """Others are chosen on the validation part; a name that is no class is refused."""
    imported(project)
    found = {
        "er": {"best_threshold": 0.3, "best_f1": 0.8, "f1": 0.5},
        "pores": {"best_threshold": 0.9, "best_f1": 0.8, "f1": 0.5},
    }
    folder = RunFolder(project / "run")
    folder.checkpoints.mkdir(parents=True)
    save_weights(folder.checkpoint(3), torch.nn.Conv3d(1, 1, 1), {"model": {"use": "organelles", "per_class": {}}})
    made = _as_watched(folder, {"iteration": 3, "best_f1": 0.8, "maps": found}, True, ["pores"])
    assert read_metadata(made)["model"]["per_class"] == {"er": {"threshold": 0.3}}

    kept = RECIPE.replace("batch = 2", 'iterations = 1\nkeep_threshold = ["po"]').replace("minutes = 1\n", "")
    (project / "kept.toml").write_text(kept)
    code, said = asem("train", "kept.toml", "-o", "other", "-q")
    assert (code, "keep_threshold is for networks of several classes" in said) == (1, True), said
    of_classes = kept.replace('use = "mitochondria"', 'use = "organelles"\nclasses = ["mito"]')
    (project / "kept.toml").write_text(of_classes)
    code, said = asem("train", "kept.toml", "-o", "other", "-q")
    assert (code, "train: keep_threshold names the class 'po'" in said) == (1, True), said
