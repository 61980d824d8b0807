"""Training runs from recipe to report: what is learnt, refused, resumed and written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from typer.testing import CliRunner

from asem_core.catalog import Catalog
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, OutputBusy, OutputExists, UnknownName
from asem_core.run_folder import RunFolder
from asem_core.stages.train import read_training_recipe, resumed_recipe, set_up, train
from asem_core.training.normalise import NUM_MEASURED, measure_normalisation
from asem_core.training.progress import Progress
from asem_core.voxels.greys import PERCENTILES
from asem_core.weights import load_weights, read_metadata

sys.path.insert(0, str(Path(__file__).parent))
from training_cell import Recipe, catalog, cell, lines, recipe, run, write, write_recipe  # noqa: F401 - fixtures


class Killed(Exception):
    """Stands for a power cut."""


@pytest.fixture(scope="module")
def plain(cell: Path, catalog: Catalog, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """Train the recipe as it is, once; nobody may change the run."""
    return run(write_recipe(cell / "plain.toml"), catalog, tmp_path_factory.mktemp("plain") / "run")


# --- what a run leaves ------------------------------------------------------------------------------------------


def test_after_the_last_iteration_each_phase_is_said_once(
    recipe: Recipe, catalog: Catalog, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without a terminal, too: nobody waits for "left 0:00:00"."""
    few = read_training_recipe(
        recipe("choose_mirrors = true\nvalidation_blocks = 1", iterations="2", checkpoint_every="1"), catalog
    )
    train(few, catalog, tmp_path / "run", device="cpu", progress=True)
    said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("train: ")]
    phases = ["Validating", "Validating with mirror images", "Choosing the checkpoint", "Writing the report"]
    assert said == [f"train: {phase}" for phase in phases]


def test_a_run_is_one_folder(recipe: Recipe, plain: RunFolder) -> None:
    """Recipe, provenance, metrics, checkpoints, pictures, choice and report are there; weights know their model."""
    folder = plain
    assert folder.saved_iterations() == [2, 4, 6]
    assert [v["iteration"] for v in folder.read_metrics("validate")] == [2, 4, 6]
    assert len(folder.read_metrics("train")) == 6
    assert (folder.path / "recipe.toml").read_text() == recipe().read_text()
    provenance = folder.read_json("provenance.json")
    assert provenance["options"]["iterations"] == 6
    assert provenance["model"]["options"]["features"] == 4
    assert "fit regime" in (folder.path / "report.html").read_text()
    assert (folder.path / "figures" / "curves.svg").exists()
    assert folder.picture(4).read_bytes().startswith(b"\x89PNG")
    choice = folder.read_json("choice.json")
    assert choice["rule"] == "fit"
    assert folder.chosen("finetune_from").exists()
    weights = folder.chosen()
    about = read_metadata(weights)
    assert (about["model"]["use"], about["voxel_size_nm"]) == ("membrane", [5.0, 5.0, 5.0])
    assert len(about["greys"]) == len(PERCENTILES)
    assert 0 < about["greys"][0] < about["greys"][-1] < 1
    assert load_weights(weights).spec()["features"] == 4  # type: ignore[operator]


def test_it_learns(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """After some iterations bright balls are found in planes that were never trained on."""
    path = recipe(iterations="60", checkpoint_every="30", learning_rate="1e-2")
    folder = run(path, catalog, tmp_path / "run")
    first, last = folder.read_metrics("validate")
    assert last["loss"] < first["loss"]
    assert last["best_f1"] > 0.85


@pytest.fixture
def several_threads() -> Iterator[None]:
    """Let torch compute with two threads, also where tests have one core only."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("several_threads")
def test_equal_seeds_give_equal_weights(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """Two runs of one recipe are equal to the bit, with threads that read ahead or without; another seed differs."""
    few = {"iterations": "3", "checkpoint_every": "3"}
    runs = [run(recipe(**few), catalog, tmp_path / "a"), run(recipe(readers="0", **few), catalog, tmp_path / "b")]
    runs.append(run(recipe(train="seed = 1", **few), catalog, tmp_path / "c"))
    a, b, c = (load_file(r.checkpoint(3)) for r in runs)
    assert all(torch.equal(a[k], b[k]) for k in a)
    assert not all(torch.equal(a[k], c[k]) for k in a)


def test_a_killed_run_goes_on_as_if_nothing_had_happened(
    recipe: Recipe, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any iteration and resumed, the run ends with the same weights and metrics, to the bit."""
    path = recipe(train="keep_last = 1\nnormalise = true", iterations="4")
    whole = run(path, catalog, tmp_path / "whole")
    expected = load_file(whole.checkpoint(4))
    step = Progress.step
    for at in (1, 2):  # before any state is saved, and right at one

        def dies(self: Progress, iteration: int, *args: Any, at: int = at, **kwargs: Any) -> None:
            if iteration == at:
                raise Killed
            step(self, iteration, *args, **kwargs)

        killed = RunFolder(tmp_path / f"killed at {at}")
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Progress, "step", dies)
            run(path, catalog, killed.path)
        training = resumed_recipe(killed.path, catalog)
        train(training, catalog, killed.path, resume=True, device="cpu", progress=False)
        weights = load_file(killed.checkpoint(4))
        assert all(torch.equal(expected[k], weights[k]) for k in expected), at
        assert lines(whole) == lines(killed)
        assert whole.saved_iterations() == killed.saved_iterations()
        assert whole.read_json("choice.json") == killed.read_json("choice.json")


def test_killed_between_the_last_state_and_the_choice(
    recipe: Recipe, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is left to train when the run goes on, but the choice is."""
    path = recipe(iterations="2")
    write_json = RunFolder.write_json

    def dies(self: RunFolder, name: str, content: dict[str, Any]) -> None:
        if name == "choice.json":
            raise Killed
        write_json(self, name, content)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunFolder, "write_json", dies)
        run(path, catalog, tmp_path / "run")
    folder = run(path, catalog, tmp_path / "run", resume=True)
    assert folder.chosen() == folder.checkpoint(2)
    assert (folder.path / "report.html").exists()


@pytest.mark.parametrize(
    ("at", "said"), [(1, "before the first checkpoint: nothing"), (5, "up to the checkpoint of iteration 4 is kept")]
)
def test_ctrl_c_says_what_is_kept(
    at: int, said: str, recipe: Recipe, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C does not promise what was not saved, and names the command that goes on."""

    def stops(self: Progress, iteration: int, *args: Any, **kwargs: Any) -> None:
        if iteration == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(Progress, "step", stops)
    with pytest.raises(KeyboardInterrupt, match=rf"{said}.* To resume: asem train --resume .*run$"):
        run(recipe(), catalog, tmp_path / "run")


def test_training_goes_on_where_memory_is_short(
    recipe: Recipe, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On a device with room for one block at a time, a step of two adds their gradients up."""
    from asem_core.training import loop

    step, batches = loop.step, []

    def tight(learner: Any, optimizer: Any, cuts: Any, options: Any, *rest: Any) -> Any:
        batches.append((options.batch, options.accumulate))
        if options.batch > 1:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return step(learner, optimizer, cuts, options, *rest)

    monkeypatch.setattr(loop, "step", tight)
    folder = run(recipe(), catalog, tmp_path / "run")
    assert batches == [(2, 1)] + 6 * [(1, 2)]
    assert len(folder.read_metrics("train")) == 6
    assert "Out of memory on cpu" in caplog.text


def test_one_process_trains_into_a_folder(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """A second training into a folder, resumed or not, is refused while the first runs, and touches nothing."""
    from asem_core.cell.outputs import one_writer

    with one_writer(tmp_path / "run"), pytest.raises(OutputBusy, match="run is being written by another process"):
        train(read_training_recipe(recipe(), catalog), catalog, tmp_path / "run", device="cpu", progress=False)
    assert not (tmp_path / "run").exists()


def test_accumulating_equals_a_larger_batch(recipe: Recipe, plain: RunFolder, catalog: Catalog, tmp_path: Path) -> None:
    """Two steps of one block add up to one step of two blocks."""
    b = run(recipe(batch="1", train="accumulate = 2", iterations="2"), catalog, tmp_path / "b")
    first, second = load_file(plain.checkpoint(2)), load_file(b.checkpoint(2))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=1e-4, rtol=1e-3)


def test_only_the_last_checkpoints_are_kept(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """With `keep_last` the last, the best and the chosen ones stay, and nothing that choice.json names is missing."""
    folder = run(recipe(iterations="12", train="keep_last = 1"), catalog, tmp_path / "run")
    choice = folder.read_json("choice.json")
    assert folder.chosen().exists()
    assert folder.chosen("finetune_from").exists()
    kept = folder.saved_iterations()
    assert {12, choice["best_iteration"]} <= set(kept)
    assert len(kept) < 6


def test_larger_voxels(recipe: Recipe, catalog: Catalog, cell: Path, tmp_path: Path) -> None:
    """`downsample` averages image and labels alike; the weights say which voxels they expect; boxes are in stored ones."""
    path = recipe(train="downsample = [1, 2, 2]", region='box = "0:12,1:49,2:50"', block="[6, 4, 4]")
    training = read_training_recipe(path, catalog)
    region, *_ = set_up(training, catalog, RunFolder(tmp_path / "plan")).regions
    assert region.labels.shape == (12, 23, 24)  # whole larger voxels only
    assert region.raw.voxel_size_nm == region.labels.voxel_size_nm == (5.0, 10.0, 10.0)
    image, place = region.raw.read(), region.raw.box_of(region.labels)
    inside = image[place.slices][region.labels.read() > 0]
    assert inside.mean() > image.mean() + 40  # bright balls: labels lie on them
    folder = run(path, catalog, tmp_path / "run")
    assert read_metadata(folder.chosen())["voxel_size_nm"] == [5.0, 10.0, 10.0]


def test_normalisation_leaves_no_trace_in_weights(
    recipe: Recipe, plain: RunFolder, catalog: Catalog, tmp_path: Path
) -> None:
    """Weights learnt with normalisation are those of the same network, and load into it."""
    with_it = run(recipe(train="normalise = true", iterations="2"), catalog, tmp_path / "with")
    a, b = (load_file(folder.checkpoint(2)) for folder in (with_it, plain))
    assert {k: v.shape for k, v in a.items()} == {k: v.shape for k, v in b.items()}
    load_weights(with_it.chosen())


def test_normalisation_is_measured_on_the_image_itself(
    recipe: Recipe, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What evaluation normalises by is not what augmentation made of the greys: noise would leave no whole ones."""
    from asem_core.training import loop

    seen: list[torch.Tensor] = []

    def measure(network: Any, forward: Any, images: Iterator[torch.Tensor], team: Any) -> None:
        seen.extend(kept := list(images))
        measure_normalisation(network, forward, kept, team)

    monkeypatch.setattr(loop, "measure_normalisation", measure)
    run(recipe(train="normalise = true"), catalog, tmp_path / "run")
    greys = (torch.cat(seen) + 1) / 2 * 255
    assert len(greys) == 3 * NUM_MEASURED
    torch.testing.assert_close(greys, greys.round(), atol=1e-3, rtol=0)


def test_labels_outside_the_mask_do_not_matter(recipe: Recipe, catalog: Catalog, cell: Path, tmp_path: Path) -> None:
    """Regions smaller than a block, and wrong labels where the mask is 0, change nothing."""
    shutil.copytree(cell, tmp_path / "copy")
    labels = open_volume(cell / "cell.zarr/labels/ball").read()
    mask = np.zeros_like(labels)
    mask[4:8, :30, :30] = 1
    wrong = np.where(mask, labels, 1 - labels)
    found = []
    for name, array in (("right", labels), ("wrong", wrong)):
        write(tmp_path / f"copy/cell.zarr/labels/{name}", array.astype(np.uint8), origin=(30, 50, 50))
        write(tmp_path / f"copy/cell.zarr/labels/mask_{name}", mask, origin=(30, 50, 50))
        text = recipe(region=f'mask = "cell.zarr/labels/mask_{name}"', iterations="2").read_text()
        path = tmp_path / "copy" / f"{name}.toml"
        path.write_text(text.replace("labels/ball", f"labels/{name}"))
        found.append(load_file(run(path, catalog, tmp_path / name).checkpoint(2)))
    assert all(torch.equal(found[0][k], found[1][k]) for k in found[0])


def test_labels_drawn_anew_are_trained_on(recipe: Recipe, catalog: Catalog, cell: Path, tmp_path: Path) -> None:
    """A run takes the labels as they are now, whatever an earlier one prepared in its folder of those at the same place."""
    place = cell / "cell.zarr/labels/late"
    ball = open_volume(cell / "cell.zarr/labels/ball").read()

    def train_on(labels: np.ndarray, region: str = "", **options: Any) -> np.ndarray:
        shutil.rmtree(place, ignore_errors=True)
        write(place, labels, origin=(30, 50, 50))
        path = recipe(iterations="1", region=region)
        path.write_text(path.read_text().replace("membrane", "mitochondria").replace("labels/ball", "labels/late"))
        folder = run(path, catalog, tmp_path / "run", **options)
        return set_up(read_training_recipe(path, catalog), catalog, folder).regions[0].labels.read()

    with pytest.raises(BadInput, match="no foreground at all in the regions to train on"):
        train_on(np.zeros_like(ball))
    assert train_on(ball).any()
    assert train_on(ball, 'box = "0:12,:,:"', overwrite=True).shape[0] == 12


def test_regions_of_one_name(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """Two parts of a cell may be named after it: the labels of each are prepared."""
    path = recipe(region='name = "cell"')
    other = '[[train.regions]]\nname = "cell"\nraw = "cell.zarr/raw"\nlabels = "cell.zarr/labels/overlapping"\n'
    path.write_text(path.read_text().replace("membrane", "mitochondria") + other)
    regions = set_up(read_training_recipe(path, catalog), catalog, RunFolder(tmp_path)).regions
    assert [(r.name, r.labels.shape[0]) for r in regions] == [("cell", 16), ("cell", 14)]


def test_a_folder_called_prepared_that_is_no_runs_is_kept(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """Where other files lie beside it, it may be somebody's data: the run is refused."""
    for name in ("notes.txt", "prepared/data.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    with pytest.raises(
        OutputExists,
        match=r"contains files that do not belong to a training run \(notes.txt, prepared\).*never replaced",
    ):
        run(recipe(), catalog, tmp_path)
    assert (tmp_path / "prepared/data.txt").exists()


@pytest.mark.parametrize("name", ["report.html", "recipe.toml", "state.pt", "provenance.json", "plane_0001.tif"])
def test_no_foreign_file_is_replaced(name: str, recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """A folder that holds files of somebody else is no place for a run, whatever their names and whatever the flags."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / name).write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputExists, match=f"contains files that do not belong to a training run \\({name}\\)"):
            run(recipe(), catalog, tmp_path / "mine", overwrite=overwrite)
    assert [p.name for p in (tmp_path / "mine").iterdir()] == [name]
    assert (tmp_path / "mine" / name).read_text() == "mine"


def test_training_into_the_folder_of_its_own_recipe(recipe: Recipe, catalog: Catalog, tmp_path: Path) -> None:
    """`train recipe.toml -o .`: where nothing else lies there, the recipe is its own copy."""
    (tmp_path / "run").mkdir()
    path = recipe(iterations="2").rename(tmp_path / "run" / "recipe.toml")
    path.write_text(path.read_text().replace('"cell.zarr', f'"{recipe().parent}/cell.zarr'))
    text = path.read_text()
    folder = run(path, catalog, tmp_path / "run")
    assert folder.saved_iterations() == [2]
    assert path.read_text() == text


def test_fine_tuning_starts_from_given_weights(
    recipe: Recipe, plain: RunFolder, catalog: Catalog, tmp_path: Path
) -> None:
    """At a step size of almost nothing the weights stay those that were given; the best checkpoint is chosen."""
    path = recipe(learning_rate="1e-12", train="prepare_labels = false", iterations="4")
    second = run(path, catalog, tmp_path / "second", start_from=plain.chosen("finetune_from"))
    a, b = load_file(plain.chosen("finetune_from")), load_file(second.checkpoint(4))
    for name in a:
        torch.testing.assert_close(a[name], b[name], atol=1e-8, rtol=0)
    assert second.read_json("choice.json")["rule"] == "best"
    assert second.read_json("provenance.json")["start_from"]["sha256"]


def test_fine_tuning_goes_on_without_the_weights_it_started_from(
    recipe: Recipe, plain: RunFolder, catalog: Catalog, tmp_path: Path
) -> None:
    """A stopped run holds its weights itself: those of the first run may have been replaced or pruned."""
    start = Path(shutil.copy(plain.chosen(), tmp_path))
    second = run(recipe(iterations="2"), catalog, tmp_path / "second", start_from=start)
    start.unlink()
    (second.path / "report.html").unlink()  # as if it had been stopped before the end
    app, runner = make_app(), CliRunner()
    resumed = runner.invoke(app, ["finetune", "--resume", str(second.path), "--device", "cpu", "-q"])
    assert resumed.exit_code == 0, resumed.output
    assert (second.path / "report.html").exists()
    second.state.unlink()  # as if it had been stopped before the first checkpoint
    with pytest.raises(UnknownName, match="weights file .* does not exist"):
        run(recipe(iterations="2"), catalog, second.path, start_from=start, resume=True)


@pytest.mark.slow
def test_two_processes_train_one_network(recipe: Recipe, tmp_path: Path) -> None:
    """Started by torchrun, two processes share the work and one writes the run, the prepared labels included; both end well."""
    path = recipe(iterations="2")
    path.write_text(path.read_text().replace("membrane", "mitochondria"))
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29611"]
    command += ["-m", "asem_core", "train", str(path), "-o", str(tmp_path / "run"), "--device", "cpu", "-q"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    folder = RunFolder(tmp_path / "run")
    assert folder.saved_iterations() == [2]
    assert folder.read_json("provenance.json")["processes"] == 2
    assert len(folder.read_metrics("validate")) == 1


@pytest.mark.slow
@pytest.mark.parametrize("on", ["lab", "lab:2"])
def test_training_on_a_cluster(
    on: str, recipe: Recipe, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a job on one machine, whose weights are those trained here, and on two that find each other."""
    monkeypatch.setenv("ASEM_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text(
        f'[clusters.lab]\nkind = "command"\noptions = "env"\naddress = "127.0.0.1"\nfolder = "{tmp_path}/notes"\n'
    )
    words = ["train", str(recipe()), "-o", str(tmp_path / "there"), "--on", on, "-q", "--device", "cpu"]
    done = CliRunner().invoke(make_app(), words)
    assert done.exit_code == 0, done.output
    assert "Predict with" in done.output
    there, here = RunFolder(tmp_path / "there"), run(recipe(), catalog, tmp_path / "here")
    assert there.saved_iterations() == here.saved_iterations()
    if on == "lab":
        expected, found = load_file(here.checkpoint(6)), load_file(there.checkpoint(6))
        assert all(torch.equal(expected[k], found[k]) for k in expected)
