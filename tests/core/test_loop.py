"""The loop: rounds from strokes, what is kept of them, and what goes wrong."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from typer.testing import CliRunner

from asem_core.catalog import Catalog, load_catalog
from asem_core.cell.node import layers
from asem_core.cell.store import open_volume
from asem_core.cli import make_app
from asem_core.errors import BadInput, NoSpace, OutputBusy, TrainingStopped, VoxelSizeMismatch
from asem_core.prediction.trained import load_trained
from asem_core.stages.annotate import Layer
from asem_core.stages.learning import keep_learning, look_at
from asem_core.stages.loop import Session, folder_of
from asem_core.stages.rounds import LoopOptions
from asem_core.training.rounds import MapScore, agreement, better, collapsed
from asem_core.training.settings import BLOCKS
from asem_core.training.snapshot import set_aside, take_snapshot
from asem_core.volume import Box, Labels, Volume
from asem_core.weights import copy_weights, read_metadata, read_tensors

from .test_plan import SHAPE, balls, grey_of, write
from .test_strokes import paint

NAME = "mito"


@classmethod  # type: ignore[misc]
def _narrow(_cls: type, _template: str, width: int = 1) -> dict[str, object]:
    return {"features": 2 * width, "factors": [[2, 2, 2]], "kernels": [[[3, 3, 3]], [[3, 3, 3]]]}


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network: what is tested is not how well it learns."""
    monkeypatch.setitem(BLOCKS, "isotropic", (12, 12, 12))
    monkeypatch.setattr("asem_core.training.loop.NUM_MEASURED", 2)
    monkeypatch.setattr("asem_models._organelle.Organelle.network_options", _narrow)


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return load_catalog()


def strokes() -> np.ndarray:
    """Five strokes through balls, and six beside them, on two planes."""
    painted, objects = np.zeros(SHAPE, np.uint8), balls(7)
    for z, y in ((10, 14), (10, 18), (12, 46), (12, 50), (12, 52)):
        painted[z, y] = np.where(objects[z, y], 1, 0)
    for y in (2, 26, 30, 34, 38, 60):
        painted[10, y, 4:40] = 2
    return painted


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    folder = tmp_path / "cell.zarr"
    write(folder / "raw", grey_of(balls(7)))
    paint(folder, f"seeds/{NAME}", strokes())
    return folder


def opened(cell: Path, catalog: Catalog, **options: Any) -> Session:
    return Session.open(cell, NAME, catalog, LoopOptions(**{"iterations": 3, "device": "cpu", **options}))


def weights_of(session: Session) -> list[dict[str, np.ndarray]]:
    return [
        {k: v.numpy() for k, v in read_tensors(session.folder / r.weights).items()}
        for r in session.rounds()
        if r.weights
    ]


def test_a_network_is_held_against_its_last_weights_on_the_same_strokes(
    cell: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Strokes set aside since may be harder for both, which is no reason to drop a round."""
    compared: list[tuple[MapScore | None, MapScore | None]] = []
    monkeypatch.setattr("asem_core.stages.loop.collapsed", lambda good, now, _: compared.append((good, now)))
    held: list[Any] = []
    judge = agreement
    monkeypatch.setattr(
        "asem_core.stages.loop.agreement",
        lambda predict, aside, parts: held.append(aside) or judge(predict, aside, parts),
    )
    with opened(cell, catalog) as session:
        session.round()
        assert compared == [(None, session.rounds()[0].network)]
        held.clear()
        session.round()
    assert len(held) == 3, "classifier, network, and the last weights"
    assert held[0] is held[1] is held[2]
    assert compared[1][0] is not None
    good, bad = MapScore(0.9, 0.1), MapScore(0.5, 0.2)
    assert "became worse" in str(collapsed(good, bad, 50))
    assert collapsed(good, bad, 20) is None, "of four strokes set aside, two may be painted wrong"
    assert collapsed(good, MapScore(0.8, 0.1), 500) is collapsed(None, bad, 500) is None


def test_rounds_follow_each_other(cell: Path, catalog: Catalog) -> None:
    """Each learns from what is painted when it begins, and goes on from the weights before; the cell's layers stay as they were."""
    before = layers(cell)
    shown: list[np.ndarray] = []
    with opened(cell, catalog) as session:
        first = session.round(ready=lambda predict: shown.append(predict(Box((10, 0, 0), (11, 64, 64)))))
        assert first.strokes == (5, 6)
        assert first.network is not None
        assert first.classifier is not None
        assert first.classifier.right > 0.9, "bright balls are easy"
        assert len(shown) == 2, "the classifier's map at once, the better one of both after the round"
        assert shown[0].shape == (1, 64, 64)
        painted = np.zeros(SHAPE, np.uint8)
        painted[30, 20, 42:50] = 1
        with Layer.open(cell / "seeds" / NAME, open_volume(cell / "raw")) as layer:
            layer.write(Box((30, 20, 42), (31, 21, 50)), painted[30:31, 20:21, 42:50])
        second = session.round()
        assert second.strokes == (6, 6)
        assert second.learnt_vx[0] == first.learnt_vx[0] + 8
        assert (session.predictor()(Box((0, 0, 0), (4, 5, 6)))).shape == (4, 5, 6)
        assert session.map_of("classifier")(Box((30, 20, 44), (31, 21, 48))).min() > 128
    assert layers(cell) == before
    assert [r.number for r in Session.open(cell, NAME, catalog, to_learn=False).rounds()] == [1, 2]


def test_what_is_set_aside_is_never_learnt_from(tmp_path: Path) -> None:
    """One stroke in five of each class; it stays aside until it is painted over, and gives the scores."""
    painted = strokes()
    first = take_snapshot(Labels(painted, 8.0), tmp_path / "a.zarr/seeds/m", None)
    assert (first.num_strokes, min(first.set_aside_vx) > 0) == ((5, 6), True)
    assert sum(first.learnt_vx) + sum(first.set_aside_vx) == np.count_nonzero(painted)
    assert len(first.new) == 9
    held = set_aside(tmp_path / "a.zarr/seeds/m")
    aside = held.known_in(held.box)
    assert np.array_equal(held.read()[aside] != 0, painted[aside] == 1)
    again = painted.copy()
    where = np.argwhere(aside & (painted == 1))
    again[tuple(where[0])] = 2  # painted over
    again[35, 60, 3:9] = 2
    stored: Labels = open_volume(tmp_path / "a.zarr/seeds/m", kind=Labels)
    second = take_snapshot(Labels(again, 8.0), tmp_path / "b.zarr/seeds/m", stored, first.num_strokes)
    assert second.set_aside_vx == (first.set_aside_vx[0] - 1, first.set_aside_vx[1])
    assert second.num_strokes == (5, 7)
    assert list(second.new) == [Box((35, 60, 3), (36, 61, 9))]


def test_the_better_map_is_shown() -> None:
    """Classes count alike, however many voxels of each are there; of equal ones the network's is shown."""
    truth = np.zeros((2, 10, 10), np.uint8)
    truth[0, 0, :2] = 1
    known = np.zeros_like(truth)
    known[0, 0, :2] = known[1] = 1
    held = Labels(truth, 5.0, known=Volume(known, 5.0))
    found = agreement(lambda box: np.full(box.shape, 255, np.uint8), held, [held.box])
    assert found == MapScore(0.5, 0.5)
    right = agreement(lambda box: np.where(truth[box.slices], 204, 51).astype(np.uint8), held, [held.box])
    assert right == MapScore(1.0, pytest.approx(0.04))
    names = ["network", "classifier"]
    assert better({"network": found, "classifier": right}, names) == "classifier"
    assert better({"network": MapScore(1.0, 0.01), "classifier": right}, names) == "network"
    assert better({}, names) == "network"
    assert (
        agreement(lambda box: np.zeros(box.shape, np.uint8), attrs.evolve(held, data=np.zeros_like(truth)), [held.box])
        is None
    )


@pytest.mark.slow
def test_a_stopped_round_goes_on_to_equal_weights(
    cell: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever is painted meanwhile, and wherever it was stopped: the round learns from the same strokes to the same weights."""
    import shutil

    other = shutil.copytree(cell, tmp_path / "other.zarr")
    monkeypatch.setattr("asem_core.stages.rounds.LONG", 2)
    with opened(cell, catalog, iterations=5) as session:
        session.round()
        session.round()
        whole = weights_of(session)
    from asem_core.training import loop as training

    step, count = training.step_within_memory, [0]

    def stopped(*args: Any) -> Any:
        count[0] += 1
        if count[0] in (4, 6, 9):  # in the first round twice, once in the second
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(training, "step_within_memory", stopped)
    for _ in range(3):
        with opened(other, catalog, iterations=7) as session, pytest.raises(KeyboardInterrupt):
            session.options = attrs.evolve(session.options, iterations=5)
            session.round()
            session.round()
        shutil.rmtree(folder_of(other, NAME) / "rounds/003", ignore_errors=True)
    with opened(other, catalog, iterations=5) as session:
        while len(session.rounds()) < 2:
            session.round()
        again = weights_of(session)
    assert len(whole) == len(again) == 2
    for one, two in zip(whole, again, strict=True):
        assert one.keys() == two.keys()
        assert all(np.array_equal(one[k], two[k]) for k in one)


def test_corrections_are_drawn_more_often(cell: Path, catalog: Catalog) -> None:
    """A stroke that contradicts the map that was shown; not one that agrees with it, or that nobody saw a map for."""
    with opened(cell, catalog) as session:
        session.round()
        plane = Box((30, 0, 0), (31, 64, 64))
        wrong = lambda box: np.full(box.shape, 255, np.uint8)  # noqa: E731
        session.look(plane, wrong)
        with Layer.open(cell / "seeds" / NAME, session.image) as layer:
            layer.write(Box((30, 60, 10), (31, 61, 20)), np.full((1, 1, 10), 2, np.uint8))
            layer.write(Box((30, 20, 44), (31, 21, 48)), np.full((1, 1, 4), 1, np.uint8))
            layer.write(Box((35, 60, 10), (36, 61, 20)), np.full((1, 1, 10), 2, np.uint8))
        assert session.round().corrections == 1
        recipe = (session.folder / "rounds/002/network/recipe.toml").read_text()
    assert recipe.count('name = "correction') == 2
    assert str(cell.parent) not in recipe.split("[model]")[1], "a cell that is moved goes on"


def test_learning_that_diverges_keeps_the_last_good_weights(
    cell: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with opened(cell, catalog) as session:
        good = session.round()

        def diverges(*_: Any, **__: Any) -> None:
            raise TrainingStopped("The loss became nan at iteration 2.")

        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            patch.setattr("asem_core.training.loop.learn", diverges)
            gone = session.round()
        assert gone.weights == good.weights
        assert "learning diverged, the last good weights are kept: The loss became nan" in str(gone.stopped)
        assert "learning diverged" in caplog.text
        slower = session.round()
        assert slower.weights != good.weights
        recipes = [(session.folder / f"rounds/{n:03}/network/recipe.toml").read_text() for n in (1, 3)]
        rates = [float(t.split("learning_rate = ")[1].split()[0]) for t in recipes]
        assert rates[1] == pytest.approx(rates[0] / 2)


def test_one_process_learns_in_a_session(cell: Path, catalog: Catalog) -> None:
    with opened(cell, catalog), pytest.raises(OutputBusy, match="another process"):
        opened(cell, catalog)
    opened(cell, catalog).close()


@pytest.mark.parametrize(
    ("painted", "said"),
    [
        (0, "There are no strokes 'mito'"),
        (1, "All strokes 'mito' are object: paint some background, too"),
        (2, "All strokes 'mito' are background: paint some object, too"),
    ],
)
def test_strokes_of_one_class_are_refused(cell: Path, catalog: Catalog, painted: int, said: str) -> None:
    paint(cell, f"seeds/{NAME}", np.where(strokes() == painted, strokes(), 0).astype(np.uint8))
    with opened(cell, catalog) as session, pytest.raises(BadInput, match=said):
        session.round()


def test_it_waits_for_strokes(cell: Path, catalog: Catalog) -> None:
    """Says once what is missing, and begins as soon as both classes have a stroke."""
    both = strokes()
    paint(cell, f"seeds/{NAME}", np.where(both == 1, both, 0).astype(np.uint8))
    told: list[str] = []
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 2:
            paint(cell, f"seeds/{NAME}", both)

    ends = iter([0.0, 1.0, 2.0])
    with opened(cell, catalog, iterations=1) as session:
        assert keep_learning(session, 60, waiting=told.append, clock=lambda: next(ends, 100.0), sleep=sleep) == 1
    assert told == ["All strokes 'mito' are object: paint some background, too."]
    assert len(slept) == 2


def test_images_that_show_nothing(tmp_path: Path, catalog: Catalog) -> None:
    """A constant image is refused in a sentence; a plane of zeros is an image like any other."""
    write(tmp_path / "flat.zarr/raw", np.full(SHAPE, 7, np.uint8))
    paint(tmp_path / "flat.zarr", f"seeds/{NAME}", strokes())
    with opened(tmp_path / "flat.zarr", catalog) as session, pytest.raises(BadInput, match="the one value 7 wherever"):
        session.round()
    grey = grey_of(balls(7))
    grey[10] = 0
    write(tmp_path / "gap.zarr/raw", grey)
    paint(tmp_path / "gap.zarr", f"seeds/{NAME}", strokes())
    with opened(tmp_path / "gap.zarr", catalog) as session:
        assert session.round().weights is not None


def test_what_cannot_be_learnt_is_said(cell: Path, catalog: Catalog, tmp_path: Path) -> None:
    """Weights of other voxels, another model than before, strokes of another grid, no session yet."""
    with pytest.raises(BadInput, match="has no session 'mito' yet"):
        Session.open(cell, NAME, catalog, to_learn=False)
    with opened(cell, catalog) as session:
        made = session.round()
        weights = session.folder / str(made.weights)
    with pytest.raises(BadInput, match="begun with model mitochondria, not golgi"):
        opened(cell, catalog, model="golgi")
    write(tmp_path / "coarse.zarr/raw", grey_of(balls(7)), size=40.0)
    with pytest.raises(VoxelSizeMismatch, match="was trained on"):
        opened(tmp_path / "coarse.zarr", catalog, start_from=str(weights))
    write(tmp_path / "large.zarr/raw", np.pad(grey_of(balls(7)), 4))
    paint(tmp_path / "large.zarr", "seeds/mito", np.pad(strokes(), 4))
    write(tmp_path / "large.zarr/raw_part", grey_of(balls(7)))
    with opened(tmp_path / "large.zarr", catalog, raw="raw_part") as session, pytest.raises(Exception, match="shape"):
        session.round()


def test_weights_from_elsewhere_are_begun_with(cell: Path, catalog: Catalog, tmp_path: Path) -> None:
    with opened(cell, catalog) as session:
        weights = session.folder / str(session.round().weights)
    write(tmp_path / "new.zarr/raw", grey_of(balls(7)))
    paint(tmp_path / "new.zarr", f"seeds/{NAME}", strokes())
    with opened(tmp_path / "new.zarr", catalog, start_from=str(weights)) as session:
        assert session.round().network is not None


def test_a_full_disk_is_told_and_gone_on_from(cell: Path, catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(cell, catalog) as session:

        def full(*_: Any, **__: Any) -> None:
            raise NoSpace("The disk is full: state.pt could not be written.")

        with monkeypatch.context() as patch:
            patch.setattr("asem_core.run_folder.RunFolder.save_state", full)
            with pytest.raises(NoSpace):
                session.round()
        assert session.rounds() == []
        assert session.round().number == 1


def test_the_command_learns_where_somebody_looks(cell: Path) -> None:
    """A round, its line, its status as JSON; the plane that is looked at is in the map."""
    look_at(cell, NAME, Box((10, 0, 0), (11, 64, 64)))
    words = ["loop", str(cell), "--labels", NAME, "--iterations", "2", "--device", "cpu", "--quiet"]
    done = CliRunner().invoke(make_app(), words)
    assert done.exit_code == 0, done.output
    assert (
        "Round 1, 5 strokes of object and 6 of background, 2 iterations: right about the strokes set aside"
        in done.output
    )
    kept = open_volume(folder_of(cell, NAME) / "map.zarr/probability")
    assert kept.read(Box((10, 0, 0), (11, 64, 64))).all()
    assert not kept.read(Box((12, 0, 0), (13, 64, 64))).any()
    status = CliRunner().invoke(make_app(), ["loop", str(cell), "--labels", NAME, "--status", "--json"])
    assert json.loads(status.output)[0]["strokes"] == [5, 6]


def test_the_whole_cell_and_a_model_with_a_card(
    cell: Path, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The map of the whole image is the one that was shown; the registry makes a card of the network by the advice given."""
    monkeypatch.setenv("ASEM_HOME", str(tmp_path / "home"))
    words = ["loop", str(cell), "--labels", NAME, "--finish", "--device", "cpu", "--quiet"]
    assert "has no session 'mito' yet" in CliRunner().invoke(make_app(), words).output
    with opened(cell, catalog) as session:
        session.round()
        plane = Box((20, 0, 0), (21, 64, 64))
        looked = session.map_of("network")(plane)
    done = CliRunner().invoke(make_app(), words)
    assert done.exit_code == 0, done.output
    whole = open_volume(cell / "predictions" / NAME / "probability")
    assert whole.shape == SHAPE
    assert np.abs(whole.read(plane).astype(int) - looked).max() <= 3  # of 255: another arithmetic may be chosen
    advice = done.output.split("To keep the model: asem ")[1].split()
    kept = CliRunner().invoke(make_app(), advice)
    assert kept.exit_code == 0, kept.output
    used = ["predict", str(cell), "--model", f"{NAME}-cell", "-o", str(cell / "predictions/again/probability"), "-q"]
    again = CliRunner().invoke(make_app(), used)
    assert again.exit_code == 0, again.output
    repeated = open_volume(cell / "predictions/again/probability").read(plane)
    assert np.abs(repeated.astype(int) - whole.read(plane)).max() <= 3


def test_a_model_of_the_registry_keeps_what_its_file_says(
    cell: Path, catalog: Catalog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mirrors, and that voxels were averaged, with the recipe in the card and without."""
    monkeypatch.setenv("ASEM_HOME", str(tmp_path / "home"))
    with opened(cell, catalog) as session:
        weights = session.folder / str(session.round().weights)
    mirrored = copy_weights(weights, tmp_path / "mirrored.safetensors", {**read_metadata(weights), "mirrors": True})
    for name, source in (("by-file", mirrored), ("by-run", weights.parents[1])):
        kept = CliRunner().invoke(make_app(), ["models", "add", str(source), "--name", name])
        assert kept.exit_code == 0, kept.output
        trained = load_trained(catalog, name, None)
        assert trained.averaged_vx == (2, 2, 2)
        assert trained.mirrors is (name == "by-file")
