"""Training runs that would be wasted are refused before they start, and mistakes in recipes are explained."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import attrs
import pytest
import torch
from typer.testing import CliRunner

from asem_core.catalog import Catalog
from asem_core.cli import make_app
from asem_core.errors import AsemError, BadInput, OutputExists, RecipeError, TrainingStopped
from asem_core.run_folder import RunFolder
from asem_core.stages.train import read_training_recipe, set_up
from asem_core.training.devices import join_processes
from asem_core.training.preflight import preflight, seconds_per_iteration, time_in_words
from asem_core.voxels.greys import grey_percentiles

sys.path.insert(0, str(Path(__file__).parent))
from training_cell import Recipe, catalog, cell, recipe, run  # noqa: F401 - fixtures


def test_a_loss_that_is_not_a_number_stops_the_run(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """The message names the block and its region; no checkpoint of broken weights is left."""
    path = recipe(iterations="200", checkpoint_every="200")
    path.write_text(path.read_text().replace("cell.zarr/raw", "cell.zarr/raw_broken"))
    with pytest.raises(
        TrainingStopped, match=r"The loss became nan at iteration \d+, in the block \[.*of region 'region 1'"
    ):
        run(path, catalog, tmp_path / "run")
    assert RunFolder(tmp_path / "run").saved_iterations() == []


@pytest.mark.parametrize(
    ("changes", "replaced", "said"),
    [
        ({"held_out": "overlapping"}, {}, r"overlaps the training region 'region 1' at \[20:22"),
        ({"held_out": "overlapping"}, {'validation]]\nraw = "': 'validation]]\nraw = "coarse.zarr/../'}, "overlaps the training region"),
        ({"held_out": "ball"}, {'validation]]\nraw = "cell.zarr/raw': 'validation]]\nraw = "cell.zarr/raw_broken'}, "overlaps the training region"),
        ({"held_out": "at_border"}, {}, r"missing voxels: \d after z.*missing_context = \"reflect\""),
        ({"held_out": "empty"}, {}, r"no foreground at all in the regions to validate on \('validation 1'\)"),
        ({"train": "", "block": "[6, 13, 12]"}, {}, r"not \[6, 13, 12\]: set block = \["),
        ({}, {"cell.zarr/raw": "cell.zarr/raw_empty"}, "is 0 everywhere: was it read from the right place"),
        ({}, {"cell.zarr/raw": "cell.zarr/raw_float"}, r"holds float32 from \d+ to 2\d\d; a network needs .* floats from 0 to 1. Use the step 'normalize'"),
        ({}, {"cell.zarr/raw": "cell.zarr/raw_signed"}, "'region 1' holds int16 from -"),
        ({}, {"[[train.validation]]": '[[train.regions]]\nraw = "coarse.zarr/raw"\nlabels = "coarse.zarr/labels/ball"\n\n[[train.validation]]'}, r"'region 2' has \[10.0, 10.0, 10.0\] nm"),
    ],
)  # fmt: skip
def test_a_run_that_would_be_wasted_is_refused(
    changes: dict[str, str], replaced: dict[str, str], said: str, recipe: Recipe, catalog: Catalog, tmp_path: Path
) -> None:
    """Leakage, missing context, no foreground, a shape that does not fit, an empty image, greys of no known white, two voxel
    sizes."""
    path = recipe(**changes)
    text = path.read_text()
    for old, new in replaced.items():
        text = text.replace(old, new)
    path.write_text(text)
    with pytest.raises(BadInput, match=said):
        run(path, catalog, tmp_path / "run")
    assert not (tmp_path / "run" / "provenance.json").exists()


def test_missing_context_can_be_reflected(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """The same labels at the border are accepted when the recipe says so."""
    run(recipe(held_out="at_border", train='missing_context = "reflect"'), catalog, tmp_path / "run")


def test_an_existing_run_is_not_touched(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """The same run again finds it finished; another into its folder is refused; --overwrite replaces it."""
    run(recipe(), catalog, tmp_path / "run")
    before = (tmp_path / "run" / "state.pt").stat()
    run(recipe(), catalog, tmp_path / "run")
    assert (tmp_path / "run" / "state.pt").stat() == before
    for resume in (True, False):
        with pytest.raises(OutputExists, match=r"made from another recipe.*overwrite=True"):
            run(recipe(train="seed = 3"), catalog, tmp_path / "run", resume=resume)
    again = run(recipe(iterations="2"), catalog, tmp_path / "run", overwrite=True)
    assert again.saved_iterations() == [2]


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU here")
@pytest.mark.parametrize(
    ("device", "said"),
    [("tpu", "Unknown device 'tpu'"), ("mps", "this is not a Mac"), ("cuda:0", "but no GPU is visible to PyTorch")],
)
def test_a_device_that_is_not_there(device: str, said: str) -> None:
    """It is refused as prediction refuses it."""
    with pytest.raises(BadInput, match=said), join_processes(device):
        pass


@pytest.mark.parametrize(
    ("replaced", "said"),
    [
        ({'use = "membrane"': 'use = "membranes"'}, "Did you mean 'membrane'"),
        ({"iterations = 6": "iteration = 6"}, "unknown option 'iteration' @ train. Did you mean 'iterations'"),
        ({"noise = 0.02": "noize = 0.02"}, "Did you mean 'noise'"),
        ({"cell.zarr/raw": "${NO_SUCH_FOLDER}/raw"}, "the environment variable NO_SUCH_FOLDER in .* is not set"),
        ({"[model]": "[modell]"}, r"the table \[model\] is missing"),
        ({'raw = "cell.zarr/raw"': 'raw = { path = "a.tif" }'}, "must say which source opens it"),
        ({"labels/ball": "labels/nothing"}, "labels/nothing"),
    ],
)
def test_mistakes_in_a_recipe_are_explained(
    replaced: dict[str, str], said: str, recipe: Recipe, catalog: Catalog, tmp_path: Path
) -> None:
    """Each mistake names the place and what to do."""
    path = recipe()
    text = path.read_text()
    for old, new in replaced.items():
        text = text.replace(old, new)
    path.write_text(text)
    with pytest.raises(AsemError, match=said):
        run(path, catalog, tmp_path / "run")


def test_recipe_errors_are_recipe_errors(recipe: Recipe, catalog: Catalog) -> None:
    """A recipe without a sampler takes the default one; one that does not name its plugin is refused."""
    path = recipe()
    text = path.read_text()
    path.write_text(text.replace('[sampler]\nuse = "uniform"', ""))
    assert read_training_recipe(path, catalog).sampler.name == "balanced"
    path.write_text(text.replace('use = "uniform"', "least_foreground = 0.1"))
    with pytest.raises(RecipeError, match="sampler does not name a plugin"):
        read_training_recipe(path, catalog)


# --- preflight and the command line -----------------------------------------------------------------------------


def test_preflight_tells_facts_and_time(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """Foreground fractions are exact, nothing is refused, and the time is that of real iterations."""
    plan = set_up(read_training_recipe(recipe(), catalog), catalog, RunFolder(tmp_path / "run"))
    result = preflight(plan, tmp_path / "run")
    assert [f for f in result.findings if f.refused] == []
    labels = plan.regions[0].labels.read()
    assert result.facts[0].foreground_fraction == pytest.approx((labels > 0).mean())
    assert seconds_per_iteration(plan) > 0
    other = attrs.evolve(plan, greys_before=[g / 16 for g in grey_percentiles([r.raw for r in plan.regions])])
    asked = [f.text for f in preflight(other, tmp_path / "run").findings if "weights that it starts from" in f.text]
    assert len(asked) == len(plan.regions)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(4.2, "4 seconds"), (130, "2.2 minutes"), (2500, "41.7 minutes"), (12_000, "3.3 hours")],
)
def test_times_are_told_in_a_unit_that_fits(seconds: float, told: str) -> None:
    """A run of minutes does not take 0.0 hours."""
    assert time_in_words(seconds) == told


def test_commands(recipe: Recipe, tmp_path: Path) -> None:
    """preflight answers in JSON, train and finetune write runs, and --resume of a finished run does nothing."""
    app, runner = make_app(), CliRunner()

    def asem(*words: str) -> str:
        result = runner.invoke(app, list(words))
        assert result.exit_code == 0, result.output
        return result.stdout

    path, out = str(recipe()), str(tmp_path / "run")
    answer = json.loads(asem("preflight", path, "--no-time", "--json"))
    assert (answer["ok"], answer["hours"]) == (True, None)
    assert not Path(out).exists()
    assert "Predict with" in asem("train", path, "-o", out, "--device", "cpu", "-q")
    before = {p: p.stat().st_mtime_ns for p in Path(out).rglob("*") if p.is_file()}
    asem("train", "--resume", out, "--device", "cpu", "-q")
    assert {p: p.stat().st_mtime_ns for p in Path(out).rglob("*") if p.is_file()} == before
    asem("finetune", "--from", out, path, "-o", str(tmp_path / "tuned"), "--device", "cpu", "-q")
    assert RunFolder(tmp_path / "tuned").chosen().exists()
    refused = runner.invoke(app, ["preflight", str(recipe(held_out="overlapping")), "--no-time"])
    assert refused.exit_code == 1
    assert "Refused: The validation region" in refused.output
