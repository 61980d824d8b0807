"""What the processes beside the window do in a session of the loop: one learns, one looks, one finishes the cell."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import attrs

from asem_core import Round, Session, finish_cell, keep_learning, look_at, object_at, segment, suggest, to_keep, warm_up
from asem_core.blocks import Run
from asem_core.catalog import Catalog, load_catalog
from asem_core.errors import AsemError, BadInput
from asem_core.volume import Box, Zyx
from asem_napari._children import STOP, Line, Message

NOTICE_EVERY_S = 0.5
"""How often it is asked whether a round was finished, by whatever process learns in the session."""


def learn(line: Line, cell: Path, name: str, seconds: float = math.inf) -> None:
    """Get ready, and once it is asked ("learn", options, visible box), learn round after round, as `asem loop` does.

    Tells ("said", what it waits for), and ("values", box, map) of what is visible.
    """
    catalog = load_catalog()
    warm_up(catalog)
    if (message := line.asked(None)) is None or message == STOP:
        return
    _, options, visible = message
    line.interrupt_at_end()
    with Session.open(cell, name, catalog, options) as session:
        if visible is not None:
            look_at(cell, name, visible)
        keep_learning(
            session,
            seconds,
            looked=lambda box, values: line.tell("values", box, values),
            waiting=lambda why: line.tell("said", why),
        )


def look(line: Line, cell: Path, name: str) -> None:
    """Predict where the window asks for it, until it is gone; see `_Looker.answer` for what can be asked.

    Tells ("rounds", all of them) when one was finished, ("values", box, map), and ("said", what went wrong).
    """
    looker = _Looker(line, cell, name, load_catalog())
    while (message := line.asked(0 if looker.tiles else NOTICE_EVERY_S)) != STOP:
        try:
            looker.notice()
            if message is not None:
                looker.answer(message)
            looker.go_on()
        except AsemError as error:
            looker.tiles = []
            line.tell("said", str(error))


def finish(line: Line, cell: Path, name: str) -> None:
    """Predict the whole cell and make objects of it. Tells ("done", what, blocks, of all) and ("finished", layers, how to keep the network)."""
    line.interrupt_at_end()
    session = Session.open(cell, name, load_catalog(), to_learn=False)
    run = Run(progress=False, told=lambda work, done, of_all: line.tell("done", work, done, of_all))
    probability, network = finish_cell(session, run)
    objects = segment(probability, overwrite=True, run=run)
    line.tell("finished", [probability.path, objects.path], to_keep(session, network))


@attrs.define(eq=False)
class _Looker:
    """What is to be looked at, and what was looked at since the last round."""

    line: Line
    cell: Path
    name: str
    catalog: Catalog
    session: Session | None = None
    rounds: Sequence[Round] = ()
    wanted: list[Box] = attrs.field(factory=list)
    tiles: list[Box] = attrs.field(factory=list)  # of those wanted, the ones to look at still, in order
    fresh: set[Box] = attrs.field(factory=set)
    sent: set[Box] = attrs.field(factory=set)
    noticed_s: float = -math.inf

    def notice(self) -> None:
        """See whether there is a session, and a round that was not told of."""
        if time.monotonic() < self.noticed_s + NOTICE_EVERY_S:
            return
        self.noticed_s = time.monotonic()
        if self.session is None:
            with contextlib.suppress(BadInput):  # nobody has learnt yet
                self.session = Session.open(self.cell, self.name, self.catalog, to_learn=False)
        if self.session is not None and len(rounds := self.session.rounds()) != len(self.rounds):
            self.rounds = rounds
            self.line.tell("rounds", rounds)
            self.fresh.clear()
            self.tiles = list(self.wanted)

    def answer(self, message: Message) -> None:
        """Do what is asked: ("look", visible box, tiles in order), ("forget",) what was sent, ("object", voxel, accept),
        ("suggest", seed).
        """
        match message:
            case ("look", visible, wanted):
                self.line.tell("ready")
                look_at(self.cell, self.name, visible)
                self.wanted, self.tiles = wanted, [tile for tile in wanted if tile not in self.fresh]
                for tile in (t for t in wanted if t not in self.sent):
                    self._send(tile)
            case ("forget",):
                self.sent.clear()
            case ("object", voxel, accept):
                self._find_object(voxel, accept)
            case ("suggest", seed):
                threading.Thread(target=self._suggest, args=(seed, len(self.rounds)), daemon=True).start()

    def go_on(self) -> None:
        """Look at the next tile, if there is a map: while the first round learns, once the classifier has answered."""
        if not self.tiles or self.session is None or (not self.rounds and self.session.kept(self.tiles[0]) is None):
            return
        tile = self.tiles.pop(0)
        self.session.look(tile)
        self.fresh.add(tile)
        self._send(tile)

    def _send(self, box: Box) -> None:
        values = None if self.session is None else self.session.kept(box)
        if values is not None and values.any():
            self.line.tell("values", box, values)
            self.sent.add(box)

    def _find_object(self, voxel: Zyx, accept: bool) -> None:
        if self.session is None:
            raise BadInput("There is no map yet: paint some object and some background, and learn.")
        box, found = object_at(self.session, voxel)
        self.line.tell("object", box, found, accept)

    def _suggest(self, seed: int, num_rounds: int) -> None:
        """Rank places in a thread, with a session of its own: what is looked at meanwhile does not wait."""
        try:
            session = Session.open(self.cell, self.name, self.catalog, to_learn=False)
            self.line.tell("places", suggest(session, seed=seed), num_rounds)
        except AsemError as error:
            self.line.tell("places", [], num_rounds)
            self.line.tell("said", str(error))
