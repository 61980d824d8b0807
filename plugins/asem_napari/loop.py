"""The loop in the window, without the window: what is learnt beside it, the map of what is visible, where to go next.

Everything that takes time is done by child processes (`_beside`), in the session of the cell that `asem loop` uses, too. `poll`
takes what they told and never waits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import attrs
import numpy as np

from asem_core import LoopOptions, Place, Round
from asem_core.volume import Box, Zyx, as_zyx
from asem_napari import _beside
from asem_napari._children import Child

TILE, THICK = 128, 16
"""Voxels of a block that is predicted at once: along the edges of the visible plane, and across it."""

NO_MORE, ROUNDS_WITHOUT = 0.005, 3
"""The score has stopped growing if so many rounds have not raised it by so much."""


@attrs.frozen
class Said:
    """Something to tell the user."""

    text: str


@attrs.frozen
class GoTo:
    """A place to paint next, and why."""

    place: Place


@attrs.frozen(eq=False)
class Judged:
    """An object of the map that was accepted or rejected: where it is (bool, of the box)."""

    box: Box
    found: np.ndarray
    accept: bool


@attrs.frozen
class Finished:
    """The cell is done: layers to open, and the command that keeps the network in the registry."""

    layers: Sequence[str]
    to_keep: str


@attrs.frozen
class Changed:
    """The map, or the state: show it anew."""

    map: bool
    state: bool


News = Said | GoTo | Judged | Finished | Changed


class Loop:
    """The session of one organelle, as far as a window shows it.

    Attributes
    ----------
    box : of the image, that the window shows
    map : uint8 of the box's shape, 255 = object, 0 = nobody looked yet
    rounds : that are finished, oldest first
    """

    def __init__(self, cell: Path, name: str, box: Box, start: Callable[..., Child] = Child) -> None:
        self.cell, self.name, self._start = cell, name, start
        self.rounds: Sequence[Round] = []
        self._learner: Child | None = None
        self._looker: Child | None = None
        self._finisher: Child | None = None
        self._is_asked = False  # the learner; until then it only gets ready
        self._options: LoopOptions | None = None  # to learn with; None: rest
        self._visible: Box | None = None
        self._begins_again = False
        self._places: list[Place] = []
        self._places_round, self._draws, self._searches, self._jumps = -1, 0, False, False
        self.finishing = ""
        self.move(box)

    def move(self, box: Box) -> None:
        """Show another box of the image; learning goes on."""
        self.box, self.map = box, np.zeros(box.shape, np.uint8)
        self._looks_at: Box | None = None
        self._can_ask, self._blind = True, False
        if self._looker is not None:
            self._looker.ask("forget")

    def close(self) -> None:
        """Stop everything; what was learnt is kept in the cell."""
        self._options = None
        for child in (self._learner, self._looker, self._finisher):
            if child is not None:
                child.stop()
        self._learner = self._looker = self._finisher = None

    # --- what the user asks for

    @property
    def learns(self) -> bool:
        return self._options is not None

    def prepare(self) -> None:
        """Start the process that learns, which takes seconds, before somebody waits for it."""
        if self._learner is None:
            self._learner = self._start(_beside.learn, self.cell, self.name)

    def learn(self, options: LoopOptions) -> None:
        """Learn round after round, in another process, until told to rest."""
        self._options, self._blind = options, False
        self.prepare()
        if self._is_asked:  # and was told to stop since: it saves what it has learnt
            self._begins_again = True
        elif self._learner is not None:
            self._is_asked = True
            self._learner.ask("learn", options, self._visible)

    def rest(self) -> None:
        """Learn no more; the round under way goes on when learning does."""
        self._options, self._begins_again = None, False
        if self._learner is not None and self._is_asked:
            self._learner.stop()

    def look(self, visible: Box, along: int) -> None:
        """Say what is visible: there the map is refreshed, the nearest blocks first.

        Parameters
        ----------
        visible : in voxels of the image, one plane thick
        along : the axis that one looks along
        """
        self._visible, looker = visible, self._eyes()
        if looker is None or visible == self._looks_at or not self._can_ask:
            return
        self._looks_at, self._can_ask = visible, False
        looker.ask("look", visible, tiles_about(visible, along, self.box))

    def jump(self) -> list[News]:
        """Go to the next suggested place; if none is known, look for some first."""
        if self._eyes() is None or not self.rounds:
            return [Said("Suggestions come from what was learnt: they need a finished round.")]
        if self._places_round != len(self.rounds) or not self._places:
            self._search()
        if not self._places:
            self._jumps = True
            return [Said("Looking for the places where a stroke would teach most...")]
        return [GoTo(self._places.pop(0))]

    def judge(self, voxel: Zyx, accept: bool) -> list[News]:
        """Find the object of the map at a voxel of the image, to accept or reject it."""
        looker = self._eyes()
        if looker is None:
            return [Said("There is no map yet: paint some object and some background, and learn.")]
        looker.ask("object", voxel, accept)
        return []

    def finish(self) -> list[News]:
        """Predict the whole cell and make objects of it, in another process."""
        if self._finisher is not None:
            return [Said("The cell is being finished already.")]
        self.finishing = "Finishing the cell..."
        self._finisher = self._start(_beside.finish, self.cell, self.name)
        return [Changed(map=False, state=True)]

    # --- what came of it

    def poll(self) -> list[News]:
        """Take what the processes told since the last time; in order, and never waiting."""
        return [*self._of_learner(), *self._of_looker(), *self._of_finisher()]

    def _of_learner(self) -> Iterator[News]:
        if self._learner is None:
            return
        for message in self._learner.told():
            match message:
                case ("values", where, values):
                    self._show(where, values)
                    yield Changed(map=True, state=False)
                case ("said", text):
                    yield Said(text)
                case ("failed", text):
                    self._options, self._begins_again = None, False
                    yield Said(text)
                    yield Changed(map=False, state=True)
        if self._learner.is_over:
            self._learner, self._is_asked = None, False
            if self._options is not None and not self._begins_again:
                self._options = None
                yield Said("Learning ended unexpectedly: was there too little memory? Begin again; nothing is lost.")
                yield Changed(map=False, state=True)
            elif self._options is not None:
                self._begins_again = False
                self.learn(self._options)

    def _of_looker(self) -> Iterator[News]:
        if self._looker is None:
            return
        map_changed = state_changed = False
        for message in self._looker.told():
            match message:
                case ("ready",):
                    self._can_ask = True
                case ("values", where, values):
                    self._show(where, values)
                    map_changed = True
                case ("rounds", rounds):
                    first = not self.rounds
                    self.rounds, state_changed = rounds, True
                    if rounds[-1].stopped and not first:
                        yield Said(f"Round {rounds[-1].number}: {rounds[-1].stopped}.")
                case ("object", box, found, accept):
                    yield Judged(box, found, accept)
                case ("places", places, of_round):
                    self._searches = False
                    if places:
                        self._places, self._places_round = list(places), of_round
                    if self._jumps and self._places:
                        yield GoTo(self._places.pop(0))
                    self._jumps = False
                case ("said" | "failed", text):
                    yield Said(text)
        if map_changed or state_changed:
            yield Changed(map_changed, state_changed)
        if self._looker.is_over:  # it said why, or was killed; it is started again when somebody learns or opens a box
            self._looker, self._looks_at, self._can_ask, self._blind = None, None, True, True
            yield Said("The map is not refreshed any more: learn, or open the cell again.")

    def _show(self, where: Box, values: np.ndarray) -> None:
        """Take a part of the map, as far as it is in the box."""
        inside = where & self.box
        if not inside.is_empty:
            part = values[inside.shift([-b for b in where.begin]).slices]
            self.map[inside.shift([-b for b in self.box.begin]).slices] = part

    def _of_finisher(self) -> Iterator[News]:
        if self._finisher is None:
            return
        over = self._finisher.is_over
        for message in self._finisher.told(1000):
            match message:
                case ("done", what, done, of_all):
                    self.finishing = f"Finishing the cell: {what.partition('-')[0]}, block {done} of {of_all}"
                case ("finished", layers, to_keep):
                    self.finishing = ""
                    yield Finished(layers, to_keep)
                case ("failed", text):
                    self.finishing = ""
                    yield Said(text)
            yield Changed(map=False, state=True)
        if over:
            self._finisher = None
            if self.finishing:
                self.finishing = ""
                yield Said(
                    "Finishing ended unexpectedly: was there too little memory? Begin again; it goes on where it was."
                )
            yield Changed(map=False, state=True)

    @property
    def state(self) -> str:
        """Where the session stands, in a line or two."""
        if not self.rounds:
            return (
                "The first round is under way: the classifier answers in seconds, the network within minutes."
                if self.learns
                else "Paint some object and some background, then let it learn."
            )
        last = self.rounds[-1]
        minutes = sum(r.seconds for r in self.rounds) / 60
        score = (
            "too few strokes are set aside to tell how good the map is"
            if last.score is None
            else f"right about {last.score:.1%} of the strokes set aside"
        )
        more = " The score has stopped growing: go to suggested places, or finish the cell." if self.is_done else ""
        gone = f" {last.stopped[0].upper()}{last.stopped[1:]}." if last.stopped else ""
        return f"Round {last.number}: {score}. Shown: the {last.shown}'s map. Learnt for {minutes:.0f} min.{gone}{more}"

    @property
    def is_done(self) -> bool:
        """Whether the score has stopped growing."""
        scores = [r.score for r in self.rounds if r.score is not None]
        before, lately = scores[:-ROUNDS_WITHOUT], scores[-ROUNDS_WITHOUT:]
        return bool(before) and max(lately) <= max(before) + NO_MORE

    # --- its processes

    def _eyes(self) -> Child | None:
        """Return the process that looks; start it as soon as somebody has learnt in this session."""
        if (
            self._looker is None
            and not self._blind
            and (self.learns or (self.cell / "loop" / self.name / "session.json").exists())
        ):
            self._looker = self._start(_beside.look, self.cell, self.name)
        return self._looker

    def _search(self) -> None:
        if not self._searches and self._looker is not None:
            self._searches = True
            self._looker.ask("suggest", self._draws)
            self._draws += 1


def tiles_about(visible: Box, along: int, within: Box) -> list[Box]:
    """List blocks of a fixed lattice: those that hold what is visible, nearest to its middle first, then those before and behind.

    They are cut where `within` ends; which are the same whatever part of them is visible, so none is predicted twice.
    """
    edges = [TILE] * 3
    edges[along] = THICK
    middle = [(b + e - 1) / 2 for b, e in zip(visible.begin, visible.end, strict=True)]
    ranges = [range(b // n, -(-e // n)) for b, e, n in zip(visible.begin, visible.end, edges, strict=True)]
    here = ranges[along][0]
    ranges[along] = range(here - 1, here + 2)
    found: list[tuple[bool, float, Box]] = []
    for place in np.ndindex(*(len(r) for r in ranges)):
        begin = [r[p] * n for r, p, n in zip(ranges, place, edges, strict=True)]
        tile = Box(as_zyx(begin), as_zyx([b + n for b, n in zip(begin, edges, strict=True)])) & within
        if not tile.is_empty:
            away = math.dist(middle, [b + n / 2 for b, n in zip(begin, edges, strict=True)])
            found.append((begin[along] // THICK != here, away, tile))
    return [tile for _, _, tile in sorted(found, key=lambda f: f[:2])]
