"""The loop of the window, without the window: what its processes tell, what is shown of it, and what goes wrong."""

from __future__ import annotations

import multiprocessing
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from asem_core import LoopOptions, Place, Round
from asem_core.training.rounds import MapScore
from asem_core.training.settings import BLOCKS
from asem_core.volume import Box
from asem_napari import _beside
from asem_napari._children import STOP, Child, Line, Work
from asem_napari.loop import Changed, GoTo, Judged, Loop, News, Said, tiles_about
from asem_napari.session import Session

from .in_thread import InThread, scripted

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))
from planned_cell import SHAPE, balls, grey_of, write

WHOLE = Box.of_shape(SHAPE)
PLANE = Box((10, 0, 0), (11, *SHAPE[1:]))


def news_until(loop: Loop, wanted: Callable[[News], bool], seconds: float = 300) -> list[News]:
    """Poll as the window does until something happens; everything up to it."""
    end, found = time.monotonic() + seconds, []
    while True:
        found += loop.poll()
        if any(wanted(n) for n in found):
            return found
        assert time.monotonic() < end, found
        time.sleep(0.02)


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    """Balls, painted as in the window: five strokes of object and six of background."""
    write(tmp_path / "cell.zarr/raw", grey_of(balls(7)))
    session = Session.open(tmp_path / "cell.zarr", "mito")
    for z, y in ((10, 14), (10, 18), (12, 46), (12, 50), (12, 52)):
        session.seeds[z, y] = balls(7)[z, y] != 0
    for y in (2, 26, 30, 34, 38, 60):
        session.seeds[10, y, 4:40] = 2
    session.close()
    return tmp_path / "cell.zarr"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A tiny network: what is tested is not how well it learns."""
    narrow = {"features": 2, "factors": [[2, 2, 2]], "kernels": [[[3, 3, 3]], [[3, 3, 3]]]}
    monkeypatch.setitem(BLOCKS, "isotropic", (12, 12, 12))
    monkeypatch.setattr("asem_core.training.loop.NUM_MEASURED", 2)
    monkeypatch.setattr("asem_core.stages.suggest.LOOKED_AT", 4)
    monkeypatch.setattr("asem_models._organelle.Organelle.network_options", classmethod(lambda *_: narrow))


@pytest.mark.usefixtures("small")
def test_learn_look_go_on_correct(cell: Path) -> None:
    """A round in the session of `asem loop`: its map where one looks, a place to go to, an object to accept."""
    loop = Loop(cell, "mito", WHOLE, InThread)
    loop.look(PLANE, along=0)
    assert "Paint some object" in loop.state
    assert loop.jump() == [Said("Suggestions come from what was learnt: they need a finished round.")]
    loop.learn(LoopOptions(iterations=2, device="cpu"))
    assert loop.learns

    def looked(wanted: Callable[[News], bool]) -> list[News]:
        loop.look(PLANE, along=0)
        return news_until(loop, wanted)

    looked(lambda _: len(loop.rounds) == 1 and bool(loop.map[10].all()))
    assert loop.state.startswith("Round 1: right about ")
    ball = balls(7)[10] != 0
    assert (loop.map[10][ball] >= 128).mean() > 0.8, "bright balls are easy for whichever map is shown"
    assert not loop.jump()[0].text.startswith("Suggestions")
    (found,) = [n for n in looked(lambda n: isinstance(n, GoTo)) if isinstance(n, GoTo)]
    assert WHOLE.contains(Box(found.place.centre, [c + 1 for c in found.place.centre]))
    z, y, x = 10, *(int(c[len(c) // 2]) for c in np.nonzero(ball))
    assert loop.judge((z, y, x), accept=True) == []
    (judged,) = [n for n in looked(lambda n: isinstance(n, Judged)) if isinstance(n, Judged)]
    assert judged.found[z - judged.box.begin[0], y - judged.box.begin[1], x - judged.box.begin[2]]
    loop.judge((10, 30, 20), accept=False)
    assert any("no object at [10, 30, 20]" in str(n) for n in looked(lambda n: isinstance(n, Said)))
    loop.close()


def a_round(number: int, right: float | None = 0.8, stopped: str | None = None) -> Round:
    score = None if right is None else MapScore(right, 0.1)
    return Round(number, 9, (5, 6), (9, 9), (2, 2), 0, score, None, "network", "w", 60.0, stopped)


def after(*messages: tuple[Any, ...], wanted: Callable[[News], bool]) -> tuple[Loop, list[News]]:
    loop = Loop(Path("c.zarr"), "mito", WHOLE, scripted(*messages))
    loop.learn(LoopOptions())
    loop.look(PLANE, along=0)
    news = news_until(loop, wanted, 10)
    loop.close()
    return loop, news


def is_state(news: News) -> bool:
    return isinstance(news, Changed) and news.state


def test_the_state_is_told() -> None:
    """Round, score, map, minutes; learning that diverged, a score that stopped growing, too few strokes."""
    grows = [a_round(n, 0.7 + n / 100) for n in range(1, 6)]
    loop, _ = after(("rounds", grows), wanted=is_state)
    assert (
        loop.state == "Round 5: right about 75.0% of the strokes set aside. Shown: the network's map. Learnt for 5 min."
    )
    loop, _ = after(("rounds", [*grows, *(a_round(n, 0.75) for n in (6, 7, 8))]), wanted=is_state)
    assert loop.state.endswith("The score has stopped growing: go to suggested places, or finish the cell.")
    loop, _ = after(("rounds", [a_round(1, None)]), wanted=is_state)
    assert "too few strokes are set aside" in loop.state
    gone = a_round(2, 0.8, "learning diverged, the last good weights are kept: The loss became nan")
    loop, news = after(
        ("rounds", [a_round(1)]), ("rounds", [a_round(1), gone]), wanted=lambda news: isinstance(news, Said)
    )
    assert Said(f"Round 2: {gone.stopped}.") in news
    assert "Learning diverged, the last good weights are kept" in loop.state


def test_what_fails_is_told() -> None:
    """A sentence from the process that learns, and learning is off; a process that died; strokes that are missing."""
    loop, news = after(("failed", "cell.zarr/loop/mito is being written."), wanted=is_state)
    assert Said("cell.zarr/loop/mito is being written.") in news
    assert not loop.learns
    _, news = after(("said", "All strokes 'mito' are object."), wanted=lambda n: isinstance(n, Said))
    assert Said("All strokes 'mito' are object.") in news
    dies = lambda _work, *about: InThread(lambda *_: None, *about)  # noqa: E731
    loop = Loop(Path("c.zarr"), "mito", WHOLE, dies)
    loop.learn(LoopOptions())
    assert "ended unexpectedly" in str(news_until(loop, lambda n: isinstance(n, Said), 10))
    loop.finish()
    assert "Finishing ended unexpectedly" in str(news_until(loop, lambda n: isinstance(n, Said), 10))
    assert not loop.learns


def test_learning_that_is_turned_on_again_waits_for_the_process_that_stops() -> None:
    """It is got ready once, before it is needed; a second one begins, with the options of then, when the first is gone."""
    begun: list[int] = []

    def learner(line: Line, *_: Any) -> None:
        while (message := line.asked(None)) != STOP:
            begun.append(message[1].seed)

    def start(work: Work, *about: Any) -> Child:
        return InThread(learner, *about) if work is _beside.learn else scripted(("said", "x"))(work, *about)

    loop = Loop(Path("c.zarr"), "mito", WHOLE, start)
    loop.prepare()
    ready = loop._learner
    loop.rest()
    loop.learn(LoopOptions())
    assert loop._learner is ready
    loop.rest()
    loop.learn(LoopOptions(seed=1))
    end = time.monotonic() + 10
    while begun != [0, 1] and time.monotonic() < end:
        loop.poll()
        time.sleep(0.02)
    assert begun == [0, 1]
    assert loop.learns
    loop.close()


def test_places_are_gone_to_one_by_one() -> None:
    """The next of the list at once, while newer ones are looked for."""
    places = [Place((n, 5, 5), 0.5, 0.1, 1.0, 1.0 - n / 10) for n in range(2)]
    loop, news = after(("rounds", [a_round(1)]), ("places", places, 1), wanted=is_state)
    loop = Loop(Path("c.zarr"), "mito", WHOLE, scripted(("rounds", [a_round(1)]), ("places", places, 1)))
    loop.learn(LoopOptions())
    loop.look(PLANE, along=0)
    news_until(loop, is_state, 10)
    time.sleep(0.1)
    loop.poll()
    assert [loop.jump(), loop.jump()] == [[GoTo(p)] for p in places]
    assert "Looking for" in str(loop.jump())
    loop.close()
    assert not [n for n in news if isinstance(n, GoTo)]


def test_blocks_are_looked_at_from_the_middle_of_the_plane() -> None:
    """Those of the visible plane first, nearest to its middle first; then the ones before and behind; the same for each plane in them."""
    within = Box((3, 0, 0), (100, 300, 300))
    tiles = tiles_about(Box((40, 0, 100), (41, 200, 300)), 0, within)
    assert tiles[0] in (Box((32, 0, 128), (48, 128, 256)), Box((32, 128, 128), (48, 256, 256)))
    first = [t for t in tiles if t.begin[0] == 32]
    assert first == tiles[: len(first)]
    assert {t.begin[0] for t in tiles} == {16, 32, 48}
    assert set(tiles_about(Box((47, 0, 100), (48, 200, 300)), 0, within)) == set(tiles)
    assert all(within.contains(t) for t in tiles)
    along_x = tiles_about(Box((3, 0, 299), (100, 300, 300)), 2, within)
    assert along_x[0].shape[2] <= 16
    assert all(within.contains(t) for t in along_x)


def test_a_process_tells_what_is_wrong_and_ends_with_the_window(tmp_path: Path) -> None:
    """A real process: its error is a sentence; one that listens ends when the window's side of the line is closed."""
    child = Child(_beside.finish, tmp_path / "no.zarr", "mito")
    waits = Child(_beside.look, tmp_path / "no.zarr", "mito")
    end, told = time.monotonic() + 120, []
    while not child.is_over and time.monotonic() < end:
        told += child.told()
        time.sleep(0.05)
    assert [what for what, _ in told] == ["failed"]
    assert "no.zarr does not exist" in told[0][1]
    waits.stop()
    waits._process.join(120)
    assert waits._process.exitcode == 0
    assert multiprocessing.active_children() == [] or waits._process not in multiprocessing.active_children()
