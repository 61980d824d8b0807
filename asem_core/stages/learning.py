"""A session that keeps learning while somebody paints in another process: the map is refreshed where they look."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable
from pathlib import Path

import attrs
import numpy as np

from asem_core.abilities import LearnsVoxels
from asem_core.blocks import Run
from asem_core.catalog import Catalog
from asem_core.cell.edits import read_edits
from asem_core.cell.place import name_in_cell
from asem_core.cell.prepared import read_prepared
from asem_core.cell.store import open_volume
from asem_core.errors import BadInput, MissingExtra, quoted
from asem_core.prediction.trained import load_trained
from asem_core.stages.inputs import Images, open_images_of
from asem_core.stages.loop import Session, folder_of
from asem_core.stages.predict import PredictOptions, predict_image
from asem_core.training.rounds import PredictBox, Round, box_of, last_weights, read_json, write_json
from asem_core.volume import Box, Labels, Volume
from asem_core.voxels.known import by_meaning
from asem_core.voxels.strokes import MEANING, parts_of

LOOK_EVERY_S = 0.5


def look_at(cell: Path, name: str, box: Box) -> None:
    """Say where somebody looks, in voxels of the session's image: there the map is refreshed first, after each round."""
    write_json(folder_of(cell, name) / "looking.json", attrs.asdict(box))


def looked_at(session: Session) -> Box | None:
    """Say where somebody looks, as far as that is in the image; None where nobody said."""
    path = session.folder / "looking.json"
    if not path.exists():
        return None
    box = box_of(read_json(path)) & session.image.box
    return None if box.is_empty else box


def warm_up(catalog: Catalog) -> None:
    """Load what the first answer of a session needs, which takes seconds: by teaching the classifier a few voxels of noise."""
    noise = np.random.default_rng(0).integers(0, 256, (6, 6, 6), np.uint8)
    image, labels = Volume(noise, 1.0), Labels((noise > 127).astype(np.uint8), 1.0)
    with contextlib.suppress(MissingExtra):
        learner = catalog.able("annotator", LearnsVoxels)().learner(image)
        learner.learn(labels, [image.box])(image.box)


def keep_learning(
    session: Session,
    seconds: float,
    *,
    told: Callable[[Round], None] = lambda made: None,
    looked: Callable[[Box, np.ndarray], None] = lambda box, found: None,
    waiting: Callable[[str], None] = lambda why: None,
    progress: bool = False,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Learn round after round, each from what is painted when it begins; returns their number.

    While strokes of a class are missing, it waits for them. A round that has begun is finished.

    Parameters
    ----------
    told : is given each round
    looked : is given each box where the map was refreshed because somebody looks there (see `look_at`), and the map in it
    waiting : is told, once, what is waited for

    Raises
    ------
    BadInput
        Strokes are still missing at the end.
    """
    if not seconds >= 0:
        raise BadInput(f"A time to learn is 0 or more, not {seconds / 60:g} minutes.")
    end, count, missing = clock() + seconds, 0, ""

    def show(predict: PredictBox) -> None:
        if (box := looked_at(session)) is not None:
            looked(box, session.look(box, predict))

    while count == 0 or clock() < end:
        try:
            made = session.round(progress=progress, ready=show)
        except BadInput as error:
            if session.rounds() or clock() + LOOK_EVERY_S > end or not _lacks_strokes(session):
                raise
            if str(error) != missing:
                missing = str(error)
                waiting(missing)
            sleep(LOOK_EVERY_S)
            continue
        count += 1
        told(made)
    return count


def finish_cell(session: Session, run: Run) -> tuple[Volume, Path]:
    """Predict the whole image with the network of the last good round, as `asem predict` does.

    Returns
    -------
    the map, `predictions/<name>/probability` of the cell, and the folder of the network's run, of which the registry makes a card

    Raises
    ------
    BadInput
        There is no network yet; or objects of the map that it would replace were proofread.
    """
    weights = last_weights(session.rounds())
    if weights is None:
        raise BadInput(
            f"The session '{session.name}' has no network yet: asem loop {quoted(session.cell)} --labels {quoted(session.name)}"
        )
    output = session.cell / "predictions" / session.name / "probability"
    objects = output.with_name("segmentation")
    if objects.exists() and (edits := read_edits(open_volume(objects).attributes)):
        raise BadInput(
            f"{objects} has {len(edits)} proofreading edits, which belong to the map that would be replaced. To keep them, rename "
            f"{output.parent}; to drop them: asem proofread undo {quoted(objects)} --all"
        )
    folder = (session.folder / weights).parents[1]
    trained = load_trained(session.catalog, None, session.folder / weights)
    is_usual = name_in_cell(session.image.path) == read_prepared(session.cell).image
    images = open_images_of(session.catalog, str(session.cell)) if is_usual else Images([session.image])
    options = PredictOptions(device=session.options.device, resample=True)
    made = predict_image(trained, images, output, run, options, session.catalog, overwrite=True)
    return made.probability, folder


def to_keep(session: Session, run: Path) -> str:
    """Say the command that keeps the network of a session's run by name: by that of the organelle and of the cell."""
    name = re.sub("[^a-z0-9]+", "-", f"{session.name} {session.cell.stem}".lower()).strip("-")
    return f"asem models add {quoted(run)} --name {quoted(name)}"


def _lacks_strokes(session: Session) -> bool:
    """Tell whether there is nothing to learn from until more is painted."""
    if not session.seeds.exists():
        return True
    painted = session.strokes()
    found = {int(v) for box in parts_of(by_meaning(painted, MEANING)) for v in np.unique(painted.read(box))}
    return session.dense() is None and not {1, 2} <= found
