"""What is noted of the rounds of a loop: scores on the strokes that were set aside, and what was learnt from."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import cattrs
import numpy as np

from asem_core.run_folder import saved_whole
from asem_core.training.snapshot import EVERY, Snapshot
from asem_core.volume import Box, Labels, as_zyx

PredictBox = Callable[[Box], np.ndarray]
"""A map: box in voxels of the image -> uint8, 255 = object."""


@attrs.frozen
class MapScore:
    """How well a map agrees with the strokes that were set aside: the share of voxels it is right about, classes counting alike."""

    right: float
    error: float  # mean squared distance of the probabilities from the truth, classes counting alike


@attrs.frozen
class Round:
    """A finished round.

    Attributes
    ----------
    shown : "network" or "classifier", whichever was better; of equal ones the network
    weights : of the network, in the session's folder: those of this round, or of an earlier one if it went wrong
    stopped : why the network's learning was given up, if it was
    """

    number: int
    iterations: int
    strokes: tuple[int, int]
    learnt_vx: tuple[int, int]
    set_aside_vx: tuple[int, int]
    corrections: int
    network: MapScore | None
    classifier: MapScore | None
    shown: str
    weights: str | None
    seconds: float
    stopped: str | None = None

    @property
    def score(self) -> float | None:
        """How good the map that is shown is; None while too little is set aside to tell."""
        found = self.network if self.shown == "network" else self.classifier
        return None if found is None else found.right

    def __str__(self) -> str:
        """Say what came of it, in a line."""
        found = {name: score for name in ("network", "classifier") if (score := getattr(self, name)) is not None}
        scores = ", ".join(f"{name} {score.right:.3f}" for name, score in found.items())
        about = f"right about the strokes set aside: {scores}" if scores else "too few strokes are set aside to compare"
        learnt = "{} strokes of object and {} of background".format(*self.strokes)
        gone = f" {self.stopped}." if self.stopped else ""
        return f"Round {self.number}, {learnt}, {self.iterations} iterations: {about}; the {self.shown} is shown.{gone}"


def agreement(predict: PredictBox, held: Labels, boxes: Sequence[Box]) -> MapScore | None:
    """Compare a map with strokes that were set aside; None where those of a class are missing."""
    right, error, count = np.zeros(2), np.zeros(2), np.zeros(2)
    for box in boxes:
        known = held.known_in(box)
        truth = held.read(box)[known] != 0
        p = predict(box)[known].astype(float) / 255
        for c in (0, 1):
            mine = truth == bool(c)
            count[c] += mine.sum()
            right[c] += ((p >= 0.5) == bool(c))[mine].sum()
            error[c] += ((p - c) ** 2)[mine].sum()
    if not count.all():
        return None
    return MapScore(round(float((right / count).mean()), 4), round(float((error / count).mean()), 4))


def better(scores: Mapping[str, MapScore | None], maps: Sequence[str]) -> str:
    """Choose the map to show: the one that agrees better with what was set aside; the first of `maps` while nothing tells."""

    def worth(name: str) -> tuple[float, float]:
        found = scores.get(name)
        return (-1.0, 0.0) if found is None else (found.right, -found.error)

    return max(maps, key=worth)


WORSE = 0.15
"""A network that is right about so much less of what is set aside than its last weights has gone wrong."""


def collapsed(good: MapScore | None, now: MapScore | None, num_strokes: int) -> str | None:
    """Tell whether the network forgot what it knew: much worse than its last `good` weights on the same strokes set aside.

    Parameters
    ----------
    num_strokes : of the rarer class, learnt from or not. Of few, few are set aside: two standard errors of a share of these, at most
        1 / sqrt(number), say nothing.
    """
    worse = max(WORSE, max(1, num_strokes // EVERY) ** -0.5)
    if now is None or good is None or now.right > good.right - worse:
        return None
    return f"the network became worse on what is set aside ({good.right:.2f} before, {now.right:.2f} now): its last good weights are kept"


def last_weights(rounds: Sequence[Round]) -> str | None:
    """Name the newest weights of a session, relative to its folder."""
    return next((r.weights for r in reversed(rounds) if r.weights is not None), None)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain JSON, whole or not at all."""
    text = json.dumps(content, indent=2) + "\n"
    path.parent.mkdir(parents=True, exist_ok=True)
    with saved_whole(path) as half:
        half.write_text(text, encoding="utf-8")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote."""
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return found


def box_of(table: Mapping[str, Any]) -> Box:
    """Read a box from JSON."""
    return Box(as_zyx(table["begin"]), as_zyx(table["end"]))


def read_snapshot(path: Path) -> Snapshot:
    """Read what is noted of a snapshot when a round begins."""
    about = read_json(path)
    num, learnt, aside = (tuple(about[k]) for k in ("num_strokes", "learnt_vx", "set_aside_vx"))
    boxes, new = ([box_of(b) for b in about[k]] for k in ("boxes", "new"))
    return Snapshot(boxes, num, learnt, aside, new)


def read_round(path: Path) -> Round:
    """Read what is noted of a round when it is finished."""
    made: Round = cattrs.structure(read_json(path), Round)
    return made
