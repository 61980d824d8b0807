"""The loop: paint, learn, look, correct. A session is one folder of a cell; the command, the window and Python share it.

    cell.zarr/seeds/<name>, labels/<name>      what was painted, and what was cut: layers like any other
    cell.zarr/loop/<name>/session.json         what is learnt, and how
                          rounds/003/          strokes as they were (strokes.zarr), settings, the network's run, scores
                          map.zarr/probability the map that is shown, as far as somebody looked; 0: not yet

A round copies the strokes, learns from the copy with a pixel classifier and with a network that begins with the weights of the
round before, and shows whichever map is better on the strokes that were set aside. A round that was killed goes on where it was.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import attrs
import filelock
import numpy as np

from asem_core.abilities import LearnsVoxels, VoxelLearner
from asem_core.catalog import Catalog
from asem_core.cell.node import layers
from asem_core.cell.place import lock as take_lock
from asem_core.cell.place import unlock
from asem_core.cell.record import record_at
from asem_core.cell.store import open_volume
from asem_core.errors import BadInput, MissingExtra, Option, TrainingStopped, VoxelSizeMismatch, quoted
from asem_core.prediction.anywhere import predictor_anywhere, predictor_mirrored
from asem_core.prediction.expected import require_voxel_size
from asem_core.prediction.trained import Trained, expected_by, load_trained
from asem_core.pretrained import find_weights
from asem_core.run_folder import RunFolder
from asem_core.stages.annotate import require_name
from asem_core.stages.annotated import Annotated, model_for, painted_on
from asem_core.stages.as_trained import nearest_voxels
from asem_core.stages.kept_map import KeptMap
from asem_core.stages.rounds import Learnt, Lesson, LoopOptions, learn_round
from asem_core.training.pseudo_labels import place_around, places_around, write_pseudo_labels
from asem_core.training.rounds import (
    MapScore,
    PredictBox,
    Round,
    agreement,
    better,
    box_of,
    collapsed,
    last_weights,
    read_json,
    read_round,
    read_snapshot,
    write_json,
)
from asem_core.training.snapshot import Snapshot, learnt_from, require_contrast, set_aside, take_snapshot
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.known import extent_of_known
from asem_core.voxels.strokes import apart, parts_of

log = logging.getLogger("asem_core")

MOST_CORRECTIONS = 12
"""Places of corrections that are drawn more often; the newest."""


class Session:
    """One organelle in one cell. Only one process at a time learns in it; painting goes on beside it."""

    def __init__(
        self, cell: Path, name: str, catalog: Catalog, options: LoopOptions, lock: filelock.BaseFileLock | None
    ) -> None:
        self.cell, self.name, self.catalog, self.options, self._lock = cell, name, catalog, options, lock
        self.image: Volume = open_volume(cell / (options.raw or painted_on(cell, name)))
        self._learner: VoxelLearner | None = None
        self._shown: tuple[int, str, PredictBox] | None = None

    @classmethod
    def open(
        cls, cell: Path, name: str, catalog: Catalog, options: LoopOptions | None = None, *, to_learn: bool = True
    ) -> Self:
        """Begin a session, or go on with one; what it was begun with (model, image, first weights, seed) stays.

        Parameters
        ----------
        name : of the strokes, `seeds/<name>`
        to_learn : False only looks: any number of processes may

        Raises
        ------
        BadInput
            There is no such cell, no model is known, or the session was begun with another.
        OutputBusy
            Another process learns in this session.
        VoxelSizeMismatch
            The first weights were trained at another voxel size.
        """
        require_name(name)
        layers(cell)  # or there is no such cell
        options = options or LoopOptions()
        folder = folder_of(cell, name)
        noted = folder / "session.json"
        if noted.exists():
            options = _as_begun(options, read_json(noted), folder)
        elif not to_learn:
            raise BadInput(
                f"{cell} has no session '{name}' yet: paint strokes of both classes, then asem loop {quoted(cell)} --labels {quoted(name)}"
            )
        else:
            options = attrs.evolve(options, model=options.model or model_for(name, catalog))
            catalog.get("model", str(options.model))
        lock = take_lock(folder) if to_learn else None
        try:
            session = cls(Path(cell), name, catalog, options, lock)
            if options.start_from is not None and not noted.exists():
                _require_trainable(session.image, expected_by(catalog, options.start_from))
            return session
        except BaseException:
            if lock is not None:
                unlock(folder, lock)
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let another process learn in this session; everything is on disk."""
        if self._lock is not None:
            unlock(self.folder, self._lock)
            self._lock = None

    # --- what there is

    @property
    def folder(self) -> Path:
        return folder_of(self.cell, self.name)

    @property
    def seeds(self) -> Path:
        return self.cell / "seeds" / self.name

    def _place(self, number: int) -> Path:
        return self.folder / "rounds" / f"{number:03}"

    def _copy(self, place: Path) -> Path:
        return place / "strokes.zarr/seeds" / self.name

    def rounds(self) -> list[Round]:
        """List the finished rounds, oldest first."""
        return [read_round(p) for p in sorted((self.folder / "rounds").glob("*/round.json"))]

    def strokes(self) -> Labels:
        """Open what was painted, as stored: 1 object, 2 background.

        Raises
        ------
        BadInput
            Nothing was painted yet.
        ShapeMismatch, VoxelSizeMismatch
            The strokes lie on another grid than the image.
        """
        if not self.seeds.exists():
            raise BadInput(
                f"{self.cell} has no strokes '{self.name}': paint some object and some background first: asem annotate open "
                f"{quoted(self.cell)} --name {quoted(self.name)}"
            )
        found: Labels = open_volume(self.seeds, kind=Labels, follow=True)
        self.image.require_same_grid(found)
        return found

    # --- learning

    def round(self, *, progress: bool = False, ready: Callable[[PredictBox], None] | None = None) -> Round:
        """Learn from what is painted now, or finish the round that was begun; says what came of it.

        Parameters
        ----------
        ready : is given the map to show as soon as there is a better one: the classifier's, until a network is better

        Raises
        ------
        BadInput
            Nothing is painted, or one class only; or the image shows nothing there.
        TrainingStopped
            Learning diverged in the first round, and there is no classifier.
        NoSpace
            The disk is full; the round goes on when there is room.
        """
        begun = time.perf_counter()
        before = self.rounds()
        place = self._place(len(before) + 1)
        snapshot = self._begin(place, before)
        held = set_aside(self._copy(place))
        aside = [] if min(snapshot.set_aside_vx) == 0 else parts_of(held)
        maps: dict[str, PredictBox] = {}
        scores: dict[str, MapScore | None] = {}
        if (classifier := self._classify(place, snapshot)) is not None:
            maps["classifier"] = classifier
            if ready is not None and (not before or before[-1].shown == "classifier"):
                ready(classifier)
            scores["classifier"] = agreement(classifier, held, aside)
        learnt = self._learn(place, before, classifier, progress)
        last, weights = last_weights(before), learnt.weights
        stopped = learnt.stopped and f"learning diverged, {_what_is_kept(last)}: {learnt.stopped}"

        def take(found: Path) -> None:
            maps["network"] = self._predictor(found)
            scores["network"] = agreement(maps["network"], held, aside)

        if weights is not None:
            take(weights)
            good = None if last is None else agreement(self._predictor(self.folder / last), held, aside)
            stopped = collapsed(good, scores["network"], min(snapshot.num_strokes))
        if stopped is not None:
            weights = None if last is None else self.folder / last
            if weights is not None:
                take(weights)
        if not maps:
            raise TrainingStopped(f"The session '{self.name}': {stopped}")
        shown = better(scores, [k for k in ("network", "classifier") if k in maps])
        made = Round(
            len(before) + 1, learnt.iterations, snapshot.num_strokes, snapshot.learnt_vx, snapshot.set_aside_vx,
            len(self._corrections(place)), scores.get("network"), scores.get("classifier"), shown,
            None if weights is None else weights.relative_to(self.folder).as_posix(),
            round(time.perf_counter() - begun, 2), stopped,
        )  # fmt: skip
        write_json(place / "round.json", attrs.asdict(made))
        # The next round goes on from this one.
        if last is not None and weights is not None and weights == learnt.weights:
            (self.folder / last).parents[1].joinpath("state.pt").unlink(missing_ok=True)
        self._shown = (made.number, shown, maps[shown])
        if ready is not None:
            ready(maps[shown])
        if stopped:
            log.warning("Round %d: %s", made.number, stopped)
        return made

    def _begin(self, place: Path, before: Sequence[Round]) -> Snapshot:
        """Take the snapshot of a round, or find the one that was taken."""
        noted = place / "begun.json"
        if noted.exists() and read_json(noted)["labels"] == self._revision_of_labels():
            return read_snapshot(noted)
        shutil.rmtree(place, ignore_errors=True)
        last = self._copy(self._place(len(before)))
        then: Labels | None = open_volume(last, kind=Labels) if before else None
        snapshot = take_snapshot(self.strokes(), self._copy(place), then, before[-1].strokes if before else (0, 0))
        if min(snapshot.learnt_vx) == 0 and self.dense() is None:
            shutil.rmtree(place)
            have, lack = ("object", "background") if snapshot.learnt_vx[0] else ("background", "object")
            raise BadInput(
                f"All strokes '{self.name}' are {have}: paint some {lack}, too."
                if max(snapshot.learnt_vx)
                else f"There are no strokes '{self.name}' in {self.cell}: paint some object and some background first."
            )
        require_contrast(self.image, snapshot.boxes)
        if not before:
            write_json(self.folder / "session.json", {k: getattr(self.options, k) for k in _KEPT})
        about = {**attrs.asdict(snapshot), "labels": self._revision_of_labels()}
        about["corrections"] = [attrs.asdict(b) for b in self._contradicted(snapshot, place)]
        write_json(noted, about)
        return snapshot

    def _contradicted(self, snapshot: Snapshot, place: Path) -> list[Box]:
        """List the new strokes that contradict the map where it was shown."""
        found: list[Box] = []
        strokes: Labels = open_volume(self._copy(place), kind=Labels)
        for box in snapshot.new:
            values, p = strokes.read(box), self._map.read(box)
            if p is None:
                return []
            wrong = ((values == 1) & (p > 0) & (p < 128)) | ((values == 2) & (p >= 128))
            if wrong.any():
                found.append(box)
        return apart(found)[-MOST_CORRECTIONS:]

    def _corrections(self, place: Path) -> list[Box]:
        return [box_of(b) for b in read_json(place / "begun.json")["corrections"]]

    def _classify(self, place: Path, snapshot: Snapshot) -> PredictBox | None:
        """Teach the pixel classifier; None where none is installed, or strokes of one class are missing."""
        if min(snapshot.learnt_vx) == 0:
            return None
        if self._learner is None:
            try:
                kind: Any = self.catalog.able("annotator", LearnsVoxels)
                self._learner = kind().learner(self.image)
            except MissingExtra as error:
                log.warning("%s Only the network learns.", error)
                return None
        assert self._learner is not None
        return self._learner.learn(learnt_from(self._copy(place)), snapshot.boxes)

    def _learn(self, place: Path, before: Sequence[Round], classifier: PredictBox | None, progress: bool) -> Learnt:
        """Train the network of a round on strokes, and on what was cut or imported, or else on what the classifier makes of their surroundings."""
        image, copy, dense = Path(self.image.path), self._copy(place), self.dense()
        learnt, corrections = parts_of(learnt_from(copy)), self._corrections(place)
        what, pseudo = Annotated(image, copy, tuple(learnt)), dense is None and classifier is not None
        if dense is not None:
            both = apart([*learnt, extent_of_known(open_volume(dense, kind=Labels, follow=True))])
            what = Annotated(image, dense, tuple(both), copy)
        elif classifier is not None:
            what = self._pseudo_labelled(place, len(before) + 1, classifier)
            corrections = [place_around(box, self.image) for box in corrections]
        last, start = last_weights(before), None
        if last is not None:
            start = self.folder / last
        elif self.options.start_from is not None:
            start = find_weights(self.options.start_from, choice="finetune_from")
        model = self.catalog.get("model", str(self.options.model))
        lesson = Lesson(self.cell, what, model, corrections, start, last is not None, before, pseudo)
        return learn_round(lesson, RunFolder(place / "network"), self.catalog, self.options, progress=progress)

    def _pseudo_labelled(self, place: Path, number: int, classifier: PredictBox) -> Annotated:
        """Let the classifier label the surroundings of strokes, unless that was done before the round was interrupted."""
        strokes = [box for n in range(1, number + 1) for box in read_snapshot(self._place(n) / "begun.json").new]
        labels, places = place / "pseudo.zarr/labels" / self.name, places_around(strokes, self.image)
        if not labels.exists():
            write_pseudo_labels(places, classifier, learnt_from(self._copy(place)), self.image, labels)
        return Annotated(Path(self.image.path), labels, tuple(places))

    def dense(self) -> Path | None:
        """Find labels that were cut or imported under this name."""
        path = self.cell / "labels" / self.name
        if not path.exists():
            return None
        labels: Labels = open_volume(path, kind=Labels, follow=True)
        return None if extent_of_known(labels).is_empty else path

    def _revision_of_labels(self) -> str | None:
        dense = self.dense()
        return None if dense is None else record_at(dense).revision

    # --- looking

    def predictor(self) -> PredictBox:
        """Return the map that is shown: box in voxels of the image -> uint8, 255 = object.

        While the first round learns, it is the classifier's, of the strokes that the round began with.

        Raises
        ------
        BadInput
            No round was begun yet.
        """
        rounds = self.rounds()
        if not rounds and not (self._place(1) / "begun.json").exists():
            raise BadInput(
                f"The session '{self.name}' has finished no round yet: asem loop {quoted(self.cell)} --labels {quoted(self.name)}"
            )
        now = (rounds[-1].number, rounds[-1].shown) if rounds else (0, "classifier")
        if self._shown is None or self._shown[:2] != now:
            self._shown = (*now, self.map_of(now[1]))
        return self._shown[2]

    def map_of(self, what: str) -> PredictBox:
        """Return the map of the last round's "network" or "classifier"."""
        rounds = self.rounds()
        if what == "network" and rounds and rounds[-1].weights is not None:
            return self._predictor(self.folder / rounds[-1].weights)
        place = self._place(max(1, len(rounds)))
        found = self._classify(place, read_snapshot(place / "begun.json"))
        if found is None:
            raise BadInput(f"The session '{self.name}' has no {what} to show.")
        return found

    def look(self, box: Box, predict: PredictBox | None = None) -> np.ndarray:
        """Predict a box with the map that is shown, and keep it in the layer `probability` of the session.

        The least is 1: there, 0 says that nobody looked. A stroke that contradicts what is kept there is a correction. Several processes may look.

        Raises
        ------
        OutputBusy
            Another process has been writing there for a minute.
        """
        found = np.maximum((predict or self.predictor())(box), 1)
        self._map.write(box, found)
        return found

    def kept(self, box: Box) -> np.ndarray | None:
        """Read what is kept of the map in a box: uint8, 0 where nobody looked yet; None where nobody looked anywhere."""
        return self._map.read(box)

    @property
    def _map(self) -> KeptMap:
        return KeptMap(self.folder / "map.zarr/probability", self.image)

    def opinions(self) -> list[PredictBox]:
        """Return maps to compare: the network's and that of the mirror image; of a session without a network, the classifier's.

        Raises
        ------
        BadInput
            No round was finished yet.
        """
        shown, weights = self.predictor(), last_weights(self.rounds())
        if weights is None:
            return [shown]
        trained = load_trained(self.catalog, None, self.folder / weights)
        return [
            predictor_anywhere(trained, self.image, self.catalog, self.options.device),
            predictor_mirrored(trained, self.image, self.catalog, self.options.device),
        ]

    def _predictor(self, weights: Path) -> PredictBox:
        trained = load_trained(self.catalog, None, weights)
        return predictor_anywhere(trained, self.image, self.catalog, self.options.device)


def _what_is_kept(weights: str | None) -> str:
    return "the last good weights are kept" if weights else "there are no weights yet"


_KEPT = ("model", "raw", "start_from", "seed")


def folder_of(cell: Path, name: str) -> Path:
    """Say where a session lies."""
    return Path(cell) / "loop" / name


def _as_begun(options: LoopOptions, begun: Mapping[str, Any], folder: Path) -> LoopOptions:
    """Take what a session was begun with; refuse to be told otherwise."""
    for key in ("model", "raw", "start_from"):
        asked = getattr(options, key)
        if asked is not None and asked != begun[key]:
            first, was = ("with ", f" {begun[key]}, not {asked}") if begun[key] else ("without ", "")
            raise BadInput(
                f"This session was begun {first}",
                Option(key),
                f"{was}. Go on without that option, or use another name; to begin again, delete {folder}.",
            )
    return attrs.evolve(options, **{key: begun[key] for key in _KEPT})


def _require_trainable(image: Volume, weights: Trained) -> None:
    """Refuse weights whose voxels are not the image's, nor near to an average of these."""
    if weights.voxel_size_nm is not None and nearest_voxels(weights.voxel_size_nm, image.voxel_size_nm)[2]:
        return
    try:
        require_voxel_size(image, weights)
    except VoxelSizeMismatch as error:
        raise VoxelSizeMismatch(error.told(lambda _: "train at these voxels without other weights")) from None
