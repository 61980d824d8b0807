"""A plan is a recipe that trains: of whole labels, boxes and strokes; of what cannot be planned."""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

import attrs
import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cli import make_app
from asem_core.prediction.trained import load_trained
from asem_core.run_folder import RunFolder
from asem_core.stages.annotated import Annotated, model_for, places_of
from asem_core.stages.inputs import open_images_of
from asem_core.stages.plan import PlanOptions, plan
from asem_core.stages.predict import PredictOptions, predict_image
from asem_core.stages.train import read_training_recipe, train
from asem_core.training.given import Given, with_guesses
from asem_core.volume import Box, ZyxNm
from asem_core.weights import copy_weights, read_metadata

sys.path.insert(0, str(Path(__file__).parent))
from planned_cell import SHAPE, balls, cell, grey_of, small, write  # noqa: F401 - fixtures


@pytest.mark.usefixtures("small")
def test_a_plan_is_a_recipe_and_trains(cell: Path, tmp_path: Path) -> None:
    """One command from labels to weights; the recipe beside the run says why, and trains by itself to the same weights."""
    runner = CliRunner()
    words = ["train", str(cell), "--labels", "mito", "--iterations", "3", "-o", str(tmp_path / "run"), "-q"]
    done = runner.invoke(make_app(), words)
    assert done.exit_code == 0, done.output
    text = (tmp_path / "run.toml").read_text()
    assert 'use = "mitochondria"' in text
    assert "the thinnest tenth" in text
    catalog = load_catalog()
    recipe = read_training_recipe(tmp_path / "run.toml", catalog)
    assert recipe.options.iterations == 3
    assert recipe.model.smallest_segment_um3 > 0  # type: ignore[attr-defined]
    again = train(recipe, catalog, tmp_path / "again", progress=False)
    one, other = (RunFolder(f).checkpoint(3).read_bytes() for f in (tmp_path / "run", again.path))
    assert one == other
    other = runner.invoke(make_app(), [*words, "--seed", "1"])
    assert (other.exit_code, "was made for other data or options" in other.output) == (1, True)
    (tmp_path / "run.toml").write_text(text.replace("weight_decay = 0.001", "weight_decay = 0.002"))
    assert runner.invoke(make_app(), [*words, "--overwrite"]).exit_code == 0
    assert "weight_decay = 0.002" in (tmp_path / "run.1.toml").read_text()
    assert (tmp_path / "run.toml").read_text() == text


@pytest.mark.usefixtures("small")
def test_a_plan_takes_the_network_of_the_weights_it_starts_from(cell: Path, tmp_path: Path) -> None:
    """Otherwise they would not fit; weights that are not there are told before anything is written."""
    runner, words = CliRunner(), ["train", str(cell), "--labels", "mito", "--iterations", "2", "-q", "-o"]
    done = runner.invoke(make_app(), [*words, str(tmp_path / "new"), "--from", "gone"])
    assert (done.exit_code, list(tmp_path.iterdir())) == (1, [])
    options = PlanOptions(iterations=2)
    catalog = load_catalog()
    made = plan(places_of([cell], "mito"), catalog.get("model", "mitochondria"), catalog, options)
    features = made.settings.table()["model"]["features"] + 1
    recipe = tmp_path / "wider.toml"
    recipe.write_text(made.text.replace(f"features = {features - 1}", f"features = {features}"))
    train(read_training_recipe(recipe, catalog), catalog, tmp_path / "wider", progress=False)
    done = runner.invoke(make_app(), [*words, str(tmp_path / "new"), "--from", str(tmp_path / "wider")])
    assert done.exit_code == 0, done.output
    assert f"features = {features}  # as its weights say" in (tmp_path / "new.toml").read_text()
    options = PlanOptions(iterations=2, start_from=str(tmp_path / "wider"))
    for name in ("mitochondria", "membrane"):  # its own weights, and another organelle's
        table = plan(places_of([cell], "mito"), catalog.get("model", name), catalog, options).settings.table()
        assert (table["model"]["features"], table["train"]["downsample"]) == (features, [2, 2, 2])
        sizes = [key for key in table["model"] if "object" in key or "segment" in key]
        own = ["smallest_segment_um3"] if name == "mitochondria" else []
        assert sizes == own, "those of the weights are in voxels of another image"


@pytest.mark.usefixtures("small")
def test_weights_that_find_enough_are_started_from(cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--from auto` tries what is here and fits; the recipe names what it chose, and trains from it alone."""
    catalog, runner = load_catalog(), CliRunner()
    made = plan(places_of([cell], "mito"), catalog.get("model", "mitochondria"), catalog, PlanOptions(iterations=2))
    for name in ("before", "fine"):
        (tmp_path / f"{name}.toml").write_text(made.text)
        train(read_training_recipe(tmp_path / f"{name}.toml", catalog), catalog, tmp_path / name, progress=False)
    for file in (tmp_path / "fine/checkpoints").iterdir():
        copy_weights(file, file, {**read_metadata(file), "voxel_size_nm": [3, 3, 3]})

    class Registry:
        def of_model(self, model: str) -> tuple[list[str], list[str]]:
            assert model == "mitochondria"
            return [str(tmp_path / "before"), str(tmp_path / "fine")], ["far-away"]

    monkeypatch.setattr("asem_core.stages.start.registry", Registry)
    words = ["train", str(cell), "--labels", "mito", "--iterations", "2", "--from", "auto", "-o"]
    for enough, number in ((1.0, 0), (0.0, 1)):
        monkeypatch.setattr("asem_core.stages.start.ENOUGH_FOUND", enough)
        done = runner.invoke(make_app(), [*words, str(tmp_path / f"run{number}")])
        assert done.exit_code == 0, done.output
        assert "before: F1 0." in done.output
        assert "fine: F1" not in done.output
        assert "Not tried, as not on this machine: far-away" in done.output
        start = RunFolder(tmp_path / f"run{number}").read_json("provenance.json")["start_from"]
        assert (start is not None) == number
        assert ("start_from" in (tmp_path / f"run{number}.toml").read_text()) == number
    refused = runner.invoke(make_app(), ["train", str(tmp_path / "run1.toml"), "--from", "auto"])
    assert "name them." in refused.output
    again = runner.invoke(make_app(), ["train", str(tmp_path / "run1.toml"), "-q", "-o", str(tmp_path / "again")])
    assert again.exit_code == 0, again.output
    both = [next((tmp_path / name / "checkpoints").iterdir()).read_bytes() for name in ("run1", "again")]
    assert both[0] == both[1]
    for file in (tmp_path / "before/checkpoints").iterdir():
        file.unlink()
    words = ["train", str(tmp_path / "run1.toml"), "-q", "-o", str(tmp_path / "again")]
    assert runner.invoke(make_app(), words).exit_code == 0, "a finished run needs them no more"


@pytest.mark.usefixtures("small")
def test_a_plan_on_a_full_disk_is_made_again(cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left of a recipe that could not be written, which the same command would take for another's."""
    real = Path.write_text

    def full(path: Path, text: str, **options: str) -> None:
        real(path, text[:100], **options)
        raise OSError(errno.ENOSPC, "No space left on device")

    words = ["plan", str(cell), "--labels", "mito", "--iterations", "3", "-o", str(tmp_path / "planned.toml"), "-q"]
    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full)
        assert CliRunner().invoke(make_app(), words).exit_code == 1
    assert not list(tmp_path.glob("*planned*"))
    assert CliRunner().invoke(make_app(), words).exit_code == 0
    assert "[train]" in (tmp_path / "planned.toml").read_text()


@pytest.mark.usefixtures("small")
def test_time_that_labels_leave_goes_into_finer_pixels(cell: Path) -> None:
    """As long as there are at least as many iterations as with coarser ones."""
    catalog = load_catalog()
    places = places_of([cell], "mito")
    for each, wanted in (
        (lambda downsample: 1e-4, [1, 1, 1]),
        (lambda downsample: 1e-4 if downsample[0] > 1 else 1.0, [2, 2, 2]),
    ):
        made = plan(
            places, catalog.get("model", "mitochondria"), catalog, PlanOptions(10), clock=lambda: 0.0,
            measure=lambda setup, each=each: each(setup.options.downsample),
        )  # fmt: skip
        assert made.settings.table()["train"]["downsample"] == wanted


@pytest.mark.usefixtures("small")
def test_plan_prints_a_recipe(cell: Path) -> None:
    done = CliRunner().invoke(make_app(), ["plan", str(cell), "--labels", "mito", "--minutes", "1"])
    assert done.exit_code == 0, done.output
    assert "Measuring how long an iteration takes" in done.stderr
    assert "(1 box)" in done.stderr or "boxes)" in done.stderr.replace("(1 boxes)", "")
    assert "Measuring" not in done.stdout
    assert "[train]" in done.stdout
    assert "minutes are there to train" in done.stdout or "would memorise the labels" in done.stdout


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--labels", "nothing", "--model", "membrane"], "is object: there is nothing to learn"),
        (["--labels", "all", "--model", "membrane"], "Every annotated voxel"),
        (["--labels", "nosuch", "--model", "membrane"], "has no labels 'nosuch'"),
        (["--labels", "all"], "Which model are the labels 'all' for"),
        ([], "Name the labels to train on"),
        (["--labels", "mito", "--minutes", "0"], "must be above 0"),
        (["--labels", "mito", "--minutes", "0.001"], "too short"),
        (["--labels", "mito", "--iterations", "0"], "at least 1"),
    ],
)
def test_what_cannot_be_planned_is_refused(cell: Path, words: list[str], said: str) -> None:
    done = CliRunner().invoke(make_app(), ["plan", str(cell), *words])
    assert done.exit_code == 1
    assert said in done.output


def test_annotated_boxes_are_learnt_from(tmp_path: Path) -> None:
    """Only they; one inside another counts once."""
    boxes = (Box((0, 0, 0), (40, 32, 64)), Box((0, 0, 0), (20, 20, 20)), Box((0, 40, 0), (40, 64, 64)))
    objects = balls(7)
    write(tmp_path / "c.zarr/raw", grey_of(objects))
    write(tmp_path / "c.zarr/labels/mitochondria", objects.astype(np.uint8), boxes=boxes)
    places = places_of([tmp_path / "c.zarr"], "mitochondria")
    assert list(places[0].boxes) == [boxes[0], boxes[2]]
    catalog = load_catalog()
    made = plan(places, catalog.get("model", "mitochondria"), catalog, PlanOptions(iterations=2))
    assert made.found.num_annotated_vx == boxes[0].size + boxes[2].size


def test_unknown_voxels_are_not_planned_with(tmp_path: Path) -> None:
    """Of labels imported with 255 = not annotated, the plan takes the box around what is annotated."""
    objects = balls(7)
    labels = np.full(SHAPE, 255, np.uint8)
    labels[:, 4:36, :] = objects[:, 4:36, :]
    write(tmp_path / "c.zarr/raw", grey_of(objects))
    import tifffile

    tifffile.imwrite(tmp_path / "l.tif", labels)
    words = [
        "import",
        str(tmp_path / "l.tif"),
        "--voxel-size",
        "8",
        "--layer",
        "labels/mito",
        "-o",
        str(tmp_path / "c.zarr"),
        "-q",
    ]
    done = CliRunner().invoke(make_app(), words)
    assert done.exit_code == 0, done.output
    places = places_of([tmp_path / "c.zarr"], "mito")
    assert places[0].boxes == (Box((0, 4, 0), (40, 36, 64)),)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("box", "template", "watched"),
    [
        (Box((9, 20, 14), (10, 26, 17)), "planes", 0),  # nothing to watch
        (Box((9, 0, 0), (10, 64, 64)), "planes", 1),  # one plane
        (Box((0, 0, 0), (20, 32, 32)), "isotropic", 0),  # one object cannot be shared
    ],
)
def test_little_is_learnt_all_the_same(box: Box, template: str, watched: int, cell: Path, tmp_path: Path) -> None:
    """Where nothing can be set aside, the plan says so and how it chooses then; the network may look beyond the image."""
    catalog = load_catalog()
    place = Annotated(cell / "raw", cell / "labels/mito", (box,))
    made = plan([place], catalog.get("model", "mitochondria"), catalog, PlanOptions(iterations=2))
    assert made.settings.template == template
    assert len(made.settings.split.watched) == watched
    assert ("# no validation" in made.text) == (not watched)
    (tmp_path / "r.toml").write_text(made.text)
    run = train(read_training_recipe(tmp_path / "r.toml", catalog), catalog, tmp_path / "run", progress=False)
    assert run.chosen().is_file()


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("worth", [-1.0, 1.0])
def test_mirrors_are_noted_where_the_watched_part_gains(
    worth: float, cell: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And prediction averages over them then, unless told otherwise."""
    monkeypatch.setattr("asem_core.training.loop.WORTH_EIGHT_TIMES", worth)
    catalog = load_catalog()
    made = plan(places_of([cell], "mito"), catalog.get("model", "mitochondria"), catalog, PlanOptions(iterations=1))
    (tmp_path / "r.toml").write_text(made.text)
    run = train(read_training_recipe(tmp_path / "r.toml", catalog), catalog, tmp_path / "run", progress=False)
    trained = load_trained(catalog, None, run.path)
    assert trained.mirrors == (worth < 0)
    images = open_images_of(catalog, str(cell / "raw"))
    maps = [
        predict_image(
            trained,
            images,
            tmp_path / f"p{n}.zarr/p",
            Run(progress=False),
            PredictOptions(mirrors=m, resample=True),
            catalog,
        )
        .maps[""]
        .read()
        for n, m in enumerate((None, worth < 0))
    ]
    assert np.array_equal(*maps)


def test_mirror_images_are_averaged() -> None:
    """A network that looks at one side only sees all of them."""
    import torch

    from asem_core.training.validate import mirrored

    def forward(image: torch.Tensor) -> torch.Tensor:
        odds = torch.zeros_like(image)
        odds[..., 0] = 5.0
        return torch.cat([-odds, odds], 1)

    found = mirrored(forward)(torch.zeros(1, 1, 2, 3, 4)).softmax(1)[0, 1]
    assert torch.allclose(found[..., 0], found[..., 3])
    assert torch.allclose(found[..., 1], torch.tensor(0.5))


@pytest.mark.usefixtures("small")
def test_strokes_are_learnt_from(tmp_path: Path) -> None:
    """Stored voxels are kept, whatever lies between strokes; blocks with next to none are not drawn."""
    objects, known = balls(7), np.zeros(SHAPE, np.uint8)
    known[10, 16:18, ::2] = 1
    known[20:22, 40:44, 10:50] = 1
    write(tmp_path / "c.zarr/raw", grey_of(objects))
    write(tmp_path / "c.zarr/labels/mito", (objects & (known > 0)).astype(np.uint8), known=known)
    catalog = load_catalog()
    place = places_of([tmp_path / "c.zarr"], "mito")
    made = plan(place, catalog.get("model", "mitochondria"), catalog, PlanOptions(iterations=2))
    assert made.found.share_annotated == pytest.approx(known.sum() / place[0].boxes[0].size)
    tables = made.settings.table()
    assert tables["train"]["downsample"] == [1, 1, 1]
    assert tables["sampler"]["use"] == "annotated"
    (tmp_path / "r.toml").write_text(made.text)
    run = train(read_training_recipe(tmp_path / "r.toml", catalog), catalog, tmp_path / "run", progress=False)
    assert any(line["loss"] > 0 for line in run.read_metrics("train"))


def test_a_model_is_known_by_its_labels() -> None:
    catalog = load_catalog()
    assert model_for("mito", catalog) == "mitochondria"
    assert model_for("labels/nuclear_pores", catalog) == "nuclear-pores"


@pytest.mark.usefixtures("small")
def test_interrupt_keeps_what_was_learnt(cell: Path, tmp_path: Path) -> None:
    """Ctrl-C between checkpoints saves state and weights there; the resumed run equals an unbroken one."""
    catalog = load_catalog()
    place = places_of([cell], "mito")
    model = catalog.get("model", "mitochondria")
    (tmp_path / "r.toml").write_text(plan(place, model, catalog, PlanOptions(iterations=4)).text)
    recipe = read_training_recipe(tmp_path / "r.toml", catalog)
    options = recipe.options
    recipe = attrs.evolve(recipe, options=attrs.evolve(options, checkpoint_every=4, precision="float32"))
    whole = train(recipe, catalog, tmp_path / "whole", progress=False)
    from asem_core.training import loop

    step, steps = loop.step, []

    def pressed(*given: object) -> loop.StepLoss:
        steps.append(1)
        if len(steps) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return step(*given)  # type: ignore[arg-type]

    loop.step = pressed  # type: ignore[assignment]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # where tests run in the background it is ignored
    try:
        with pytest.raises(KeyboardInterrupt, match="iteration 2 is kept"):
            train(recipe, catalog, tmp_path / "broken", progress=False)
    finally:
        signal.signal(signal.SIGINT, before)
        loop.step = step
    broken = RunFolder(tmp_path / "broken")
    assert broken.saved_iterations() == [2]
    assert read_metadata(broken.chosen())["iteration"] == 2
    train(recipe, catalog, broken.path, resume=True, progress=False)
    assert broken.checkpoint(4).read_bytes() == whole.checkpoint(4).read_bytes()


@pytest.mark.parametrize(
    ("size", "shape", "factors"),
    [
        ((30.0, 6.0, 6.0), (1, 332, 332), [1, 4, 4]),
        ((5.0, 5.0, 5.0), (48, 48, 48), [2, 2, 2]),  # no further: 24 working voxels across
        ((5.0, 5.0, 5.0), (1, 48, 48), [1, 2, 2]),  # one plane, which cannot be averaged with another
        ((50.0, 20.0, 20.0), (1, 332, 332), [1, 1, 1]),
    ],
)
def test_labels_of_a_classifier_do_not_say_how_thick_objects_are(
    size: ZyxNm, shape: tuple[int, int, int], factors: list[int]
) -> None:
    """What is usual for the organelle does; what a user or weights say goes before it."""
    mitochondria = load_catalog().get("model", "mitochondria")
    made = with_guesses(Given(), mitochondria, size, [Box.of_shape(shape)])
    assert made.values == {("train", "downsample"): factors, ("train.loss", "balance"): False}
    own = with_guesses(Given({("train", "downsample"): [1, 8, 8]}), mitochondria, size, [Box.of_shape(shape)])
    assert own.values["train", "downsample"] == [1, 8, 8]
    golgi = with_guesses(Given(), load_catalog().get("model", "golgi"), size, [Box.of_shape(shape)])
    assert golgi.values["train", "downsample"] == [1, 1, 1]
