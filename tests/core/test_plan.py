"""Settings chosen from the labels: what is measured, what follows from it, and that the plan trains."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import attrs
import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.blocks import Run
from asem_core.catalog import load_catalog
from asem_core.cell.record import AnnotatedBox, Record
from asem_core.cell.store import create_volume, finish_volume, write_known
from asem_core.cli import make_app
from asem_core.interfaces import Region
from asem_core.prediction.trained import load_trained
from asem_core.run_folder import RunFolder
from asem_core.stages.annotated import Annotated, model_for, places_of
from asem_core.stages.inputs import open_images_of
from asem_core.stages.plan import PlanOptions, _in_time, plan
from asem_core.stages.predict import PredictOptions, predict_image
from asem_core.stages.train import read_training_recipe, train
from asem_core.training.fingerprint import Fingerprint, fingerprint
from asem_core.training.settings import (
    BLOCKS,
    CHECKPOINT_COST,
    MIRRORS_COST,
    Setting,
    Settings,
    Split,
    choose_settings,
    downsampling,
    iterations,
    layout,
    num_checkpoints,
    threshold,
    watched_part,
)
from asem_core.volume import Box, Labels, Spec, Volume
from asem_core.weights import read_metadata

SHAPE = (40, 64, 64)


def balls(radius_vx: float, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    z, y, x = np.indices(shape)
    found = np.zeros(shape, bool)
    for centre in ((10, 16, 16), (20, 44, 20), (30, 20, 46), (12, 48, 50)):
        found |= sum((a - c) ** 2 for a, c in zip((z, y, x), centre, strict=True)) < radius_vx**2
    return found


def grey_of(objects: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 15, objects.shape)
    return np.clip(90 + 70 * objects + noise, 0, 255).astype(np.uint8)


def region(objects: np.ndarray, size: tuple[float, float, float], mask: np.ndarray | None = None) -> Region:
    known = None if mask is None else Labels(mask.astype(np.uint8), size)
    return Region("r", Volume(grey_of(objects), size), Labels(objects.astype(np.uint8), size), known)


def found(**changes: object) -> Fingerprint:
    known = {"voxel_size_nm": (8, 8, 8), "num_annotated_vx": 10**7, "num_planes": 100, "foreground": 0.1}
    known |= {
        "planes_together": 100,
        "share_annotated": 1.0,
        "thickness_nm": 100.0,
        "num_objects": 9,
        "plane_correlation": 0.9,
        "contrast": 1.0,
    }
    return Fingerprint(**{**known, **changes})  # type: ignore[arg-type]


def write(
    path: Path, array: np.ndarray, size: float = 8.0, boxes: tuple[Box, ...] = (), known: np.ndarray | None = None
) -> None:
    about = Record(kind="labels" if "labels" in path.parts else "image", boxes=[AnnotatedBox(b, {}) for b in boxes])
    out = create_volume(path, Spec(array.shape, array.dtype, size), block=32, made_by={"stage": "test"}, about=about)
    write_known(out, None if known is None else Volume(known, size), 32, Run(progress=False))
    out.data[...] = array  # type: ignore[index]
    finish_volume(out, Run(progress=False))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plan") / "cell.zarr"
    objects = balls(7)
    write(folder / "raw", grey_of(objects))
    write(folder / "labels/mito", objects.astype(np.uint8))
    write(folder / "labels/nothing", np.zeros(SHAPE, np.uint8))
    write(folder / "labels/all", np.ones(SHAPE, np.uint8))
    return folder


def test_fingerprint_measures_balls() -> None:
    """Balls of 14 voxels are about as thick, in nm (their jagged surface takes off some); pieces and share are counted."""
    objects = balls(7)
    about = fingerprint([region(objects, (8, 8, 8))])
    assert about.thickness_nm == pytest.approx(100, abs=20)
    assert (about.num_objects, about.num_planes, about.num_annotated_vx) == (4, 40, objects.size)
    assert about.foreground == pytest.approx(objects.mean())
    assert about.contrast > 2


def test_fingerprint_looks_only_at_what_is_annotated() -> None:
    """A border of the annotation makes no object thin, and what lies beyond is no background."""
    objects, mask = balls(7), np.zeros(SHAPE, bool)
    mask[:, :, :20] = True  # through the middle of balls
    about = fingerprint([region(objects, (8, 8, 8), mask)])
    assert about.num_annotated_vx == mask.sum()
    assert about.foreground == pytest.approx((objects & mask).sum() / mask.sum())
    assert about.thickness_nm > 80


def test_planes_that_lie_far_apart_are_measured_in_the_plane() -> None:
    """A cylinder across planes 50 nm apart is as thick as its outline."""
    y, x = np.indices(SHAPE[1:])
    disk = (y - 32) ** 2 + (x - 32) ** 2 < 15**2
    objects = np.zeros(SHAPE, bool)
    objects[18:20] = disk
    assert fingerprint([region(objects, (50, 5, 5))]).thickness_nm == pytest.approx(150, abs=15)


def test_pixels_are_averaged_only_where_objects_stay_thick_enough() -> None:
    boxes = [Box((0, 0, 0), (100, 100, 100)), Box((7, 7, 7), (27, 37, 37))]
    for factors, changes in [
        ([1, 1, 1], {"thickness_nm": 24.0}),
        ([4, 4, 4], {"thickness_nm": 160.0}),
        ([1, 4, 4], {"voxel_size_nm": (30, 6, 6), "thickness_nm": 110.0}),
        ([4, 4, 4], {"voxel_size_nm": (5, 5, 5), "thickness_nm": 1e4}),
    ]:
        assert downsampling(found(**changes), boxes).value == factors
    assert downsampling(found(thickness_nm=160.0), [Box((9, 0, 0), (10, 64, 3))]).value == [1, 2, 2], "one is whole"


def test_templates_follow_the_planes() -> None:
    assert layout(found(), (1, 1, 1))[0] == "isotropic"
    assert layout(found(voxel_size_nm=(30, 6, 6)), (1, 4, 4))[0] == "anisotropic"
    assert layout(found(voxel_size_nm=(100, 10, 10), plane_correlation=0.2), (1, 2, 2))[0] == "planes"
    assert layout(found(planes_together=1), (1, 1, 1))[0] == "planes"


@pytest.mark.parametrize("number", [1, 3, 7])
def test_what_is_watched_never_touches_what_is_learnt(number: int) -> None:
    """And it holds object: of many boxes whole ones, of few an end of the largest."""
    boxes = [Box((40 * i, 0, 0), (40 * i + 30, 60, 60)) for i in range(number)]
    profiles = [[np.full(30, 50), np.full(60, 25), np.full(60, 25)] for _ in boxes]
    split = watched_part(boxes, profiles, (1, 2, 2), (4, 4, 4))
    assert split.watched
    for _, watched in split.watched:
        for _, learnt in split.learnt:
            assert (watched.grow(1) & learnt).is_empty
    share = sum(b.size for _, b in split.watched) / sum(b.size for b in boxes)
    assert 0.05 < share < 0.25


def test_the_watched_end_holds_object() -> None:
    """An end without any is not taken."""
    planes = np.zeros(50)
    planes[20:] = 100
    across = np.full(60, planes.sum() / 60)
    split = watched_part([Box((0, 0, 0), (50, 60, 60))], [[planes, across, across]], (1, 1, 1), (2, 2, 2))
    assert split.watched[0][1] != Box((0, 0, 0), (4, 60, 60))


def test_time_is_used_unless_labels_are_few() -> None:
    number = iterations(600, 0.5, 10**8, 10**5)[0]
    assert number + num_checkpoints(1200) * CHECKPOINT_COST + MIRRORS_COST == 1200, (
        "validation takes its part of the time"
    )
    number, why = iterations(1e6, 0.5, 10**6, 10**5)
    assert number == 2500
    assert "by heart" in why


def test_few_objects_say_nothing_of_the_threshold() -> None:
    for size, told in ((40, False), (200, True)):
        split = Split([], [(0, Box((0, 0, 0), (size, size, size)))], "")
        assert threshold(found(), split).value is told


def test_few_labels_are_varied_more() -> None:
    boxes, profiles = [Box((0, 0, 0), (48, 48, 48))], [[np.full(48, 100)] * 3]
    few = choose_settings(found(num_annotated_vx=48**3), boxes, profiles, {}, lambda _: "balanced").table()["train"]
    many = choose_settings(found(num_annotated_vx=10**8), boxes, profiles, {}, lambda _: "balanced").table()["train"]
    assert few["optimizer"]["weight_decay"] > many["optimizer"]["weight_decay"]
    assert few["augment"]["gamma"] != [1.0, 1.0] == many["augment"]["gamma"]


@pytest.mark.parametrize(
    ("seconds", "most_features", "features", "batch"),
    [(0.5, 99, 16, 1), (0.01, 99, 32, 1), (1e-4, 99, 64, 8), (1e-4, 32, 32, 1)],
)
def test_much_time_makes_the_network_wider(seconds: float, most_features: int, features: int, batch: int) -> None:
    """As long as the iterations stay many, and the memory holds it."""
    model = load_catalog().get("model", "mitochondria")
    boxes = [Box((0, 0, 0), (500, 500, 500))]
    settings = choose_settings(
        found(num_annotated_vx=500**3),
        boxes,
        [[np.full(500, 10**5)] * 3],
        {"isotropic": model.network_options("isotropic")},
        lambda _: "balanced",
    )
    settings = attrs.evolve(settings, lines=[*settings.lines, Setting("train", "block", [46, 46, 46])])

    def each(tried: Settings) -> float:
        tables = tried.table()
        if tables["model"]["features"] > most_features:
            raise MemoryError
        return seconds * tables["model"]["features"] ** 2 / 16**2 * tables["train"].get("batch", 1)

    larger, number, _ = _in_time(settings, model, each, 600.0, lambda: 0.0)
    tables = larger.table()
    assert (tables["model"]["features"], tables["train"].get("batch", 1)) == (features, batch)
    assert number * each(larger) <= 600


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small blocks, few of them measured: what is tested is not how well it learns."""
    monkeypatch.setitem(BLOCKS, "isotropic", (12, 12, 12))
    monkeypatch.setattr("asem_core.training.loop.NUM_MEASURED", 2)
    monkeypatch.setattr("asem_models._organelle.Organelle.network_options", _narrow)


@classmethod  # type: ignore[misc]
def _narrow(_cls: type, _template: str, width: int = 1) -> dict[str, object]:
    return {"features": 4 * width, "factors": [[2, 2, 2]], "kernels": [[[3, 3, 3]], [[3, 3, 3]]]}


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
def test_plan_prints_a_recipe(cell: Path) -> None:
    done = CliRunner().invoke(make_app(), ["plan", str(cell), "--labels", "mito", "--minutes", "1", "-q"])
    assert done.exit_code == 0, done.output
    assert "[train]" in done.stdout
    assert "minutes are there to train" in done.stdout or "by heart" in done.stdout


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
    assert ("# nothing is watched" in made.text) == (not watched)
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
        ).probability.read()
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
