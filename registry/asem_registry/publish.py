"""Publish a model into a registry: a folder or a bucket that others read by name, each file with its sum (see `index`).

The index is written last, after the model was read back from where it was put, loaded, and has predicted its sample: what an
interrupted or failed call leaves is not offered by anything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core.errors import BadInput, Option, OutputExists, quoted
from asem_core.temporary import temporary_folder, write_whole
from asem_registry.cache import obtain
from asem_registry.card import Card, Score, card_toml, parse_card
from asem_registry.index import NAME, Entry, card_path, read_index, require_unchanged, write_index
from asem_registry.places import seen_at
from asem_registry.sample import from_bytes, require_same, to_bytes, trained_of
from asem_registry.settings import Settings

_TRIES = 5


def publish(card: Card, weights: Path, sample: Any, to: str, settings: Settings) -> Card:
    """Put a model into a registry, check it there as a stranger would, and list it in the index.

    Parameters
    ----------
    card : of `weights`
    sample : see `sample.Sample`
    to : a folder, or `s3://bucket/prefix`, which is written with the user's credentials

    Returns
    -------
    The card as it is there.

    Raises
    ------
    BadInput
        Licence or training data are not stated; what was put there cannot be read back, or does not predict the sample.
    OutputExists
        This version is there with other weights.
    Tampered
        The registry's index was edited, or gives a version other weights than before.
    FetchError
        The bucket cannot be written.
    """
    _require_stated(card)
    name = f"{card.stem}.safetensors"
    data = to_bytes(sample)
    card = attrs.evolve(
        card, file=name, urls=(), sample={"file": name, "sha256": hashlib.sha256(data).hexdigest()}, origin=""
    )
    text = card_toml(card)
    place = _open(to, settings)
    with place.locked():
        before = _index_of(place)
        require_unchanged(before, seen_at(place.address, settings), f"{place.address}/{NAME}")
        _require_new(before, card, to)
        place.write(f"weights/{name}", weights.read_bytes())
        place.write(f"samples/{name}", data)
        place.write(card_path(card.key), text.encode())
        published = _checked_there(place, card, text, settings)
        for _ in range(_TRIES):  # a bucket has no locks: who lists another model meanwhile may overwrite our line
            entries = _index_of(place)
            _require_new(entries, card, to)
            if entries.get(card.key) == Entry.of(card, text):
                return published
            place.write(NAME, write_index({**entries, card.key: Entry.of(card, text)}).encode())
    if _index_of(place).get(card.key) != Entry.of(card, text):
        raise BadInput(f"{to}/{NAME} keeps being changed by others. Run the same command again.")
    return published


def scores_of_reports(folders: Sequence[Path], card: Card) -> tuple[Score, ...]:
    """Take the scores of reports that `asem evaluate -o` wrote, with the commands that make them again.

    Raises
    ------
    BadInput
        A folder is no such report, or is of a prediction by other weights.
    """
    found: list[Score] = []
    for folder in folders:
        try:
            record = json.loads((folder / "made_by.json").read_text(encoding="utf-8"))
            numbers = json.loads((folder / "numbers.json").read_text(encoding="utf-8"))["Voxels"]
            prediction, truth = record["inputs"][:2]
        except (OSError, ValueError, KeyError, TypeError):
            raise BadInput(
                f"{folder} is not the report of an evaluation: asem evaluate PREDICTION TRUTH -o {quoted(folder)}"
            ) from None
        made_with = _first(prediction, "weights_sha256")
        if made_with != card.sha256:
            whose = "does not say which weights made its prediction" if made_with is None else "is of other weights"
            raise BadInput(
                f"The report {folder} {whose}. Predict with these weights, evaluate, and give that report instead."
            )
        command = _commands(record, card)
        note = f"threshold {numbers['threshold']:g}"
        found += [
            Score(metric, round(numbers[metric], 4), _short(truth["path"]), note, command)
            for metric in ("F1", "precision", "recall", "Jaccard")
            if numbers.get(metric) is not None
        ]
    return tuple(found)


def _require_stated(card: Card) -> None:
    for option in (Option("licence", "CC BY 4.0"), Option("training_data", shown="TEXT")):
        if getattr(card, option.name) in ("", "not stated"):
            named = option.name.replace("_", " ")
            raise BadInput(f"Users of a published model must know its {named}: add ", option)


def _require_new(entries: dict[str, Entry], card: Card, to: str) -> None:
    if card.key in entries and entries[card.key].weights_sha256 != card.sha256:
        newest = max(int(key.partition("@")[2]) for key in entries if key.partition("@")[0] == card.name)
        raise OutputExists(
            f"{to} has {card.key} with other weights, and a version never changes: add ",
            Option("version", newest + 1),
        )


def _checked_there(place: Any, card: Card, text: str, settings: Settings) -> Card:
    """Read a model back as somebody would who has nothing of it, and let it predict its sample."""
    top = place.address
    origin = f"{top}/{card_path(card.key)}"
    if place.read(card_path(card.key)) != text.encode():
        raise BadInput(f"{origin} is not what was just written there. Is somebody else publishing the same model?")
    there = parse_card(text, origin, remote="://" in top, top=top if "://" in top else None)
    with temporary_folder() as empty:
        strange = attrs.evolve(settings, cache=empty, offline=False)
        weights = obtain(there, strange, progress=False)
        sample = from_bytes(place.read(f"samples/{card.sample['file']}"), f"{top}/samples/{card.sample['file']}")
        require_same(trained_of(there, weights), sample, f"{card.key} in {top}")
    return there


@attrs.frozen
class _Folder:
    path: Path

    @property
    def address(self) -> str:
        return str(self.path)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        from asem_core.locks import held

        self.path.mkdir(parents=True, exist_ok=True)
        with held(self.path / ".lock"):
            yield

    def read(self, name: str) -> bytes | None:
        file = self.path / name
        return file.read_bytes() if file.is_file() else None

    def write(self, name: str, data: bytes) -> None:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if self.read(name) != data:
            with write_whole(file) as half:
                half.write_bytes(data)


@attrs.frozen
class _Bucket:
    address: str
    fs: Any

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        yield

    def read(self, name: str) -> bytes | None:
        from asem_registry.fetch import NotThere, explained_once

        try:
            with explained_once(f"{self.address}/{name}"):
                found: bytes = self.fs.cat_file(self._path(name))
        except NotThere:
            return None
        return found

    def write(self, name: str, data: bytes) -> None:
        from asem_registry.fetch import NotThere, explained_once

        try:
            with explained_once(f"{self.address}/{name}"):
                self.fs.pipe_file(self._path(name), data)
        except NotThere:
            raise BadInput(f"{self.address} cannot be written: there is no such bucket. Make it first.") from None

    def _path(self, name: str) -> str:
        return f"{self.address.removeprefix('s3://')}/{name}"


def _open(to: str, settings: Settings) -> _Folder | _Bucket:
    if to.startswith("s3://"):
        from asem_registry.fetch import open_s3

        return _Bucket(to.rstrip("/"), open_s3(to, settings, signed=True))
    if "://" in to:
        raise BadInput(f"{to} cannot be written to: publish into a folder or an s3:// address.")
    folder = Path(to).expanduser().resolve()
    if any((place / mark).is_file() for place in (folder, *folder.parents) for mark in ("zarr.json", ".zgroup")):
        raise BadInput(f"{to} lies inside a cell, which contains only layers. Choose a folder outside of it.")
    return _Folder(folder)


def _index_of(place: _Folder | _Bucket) -> dict[str, Entry]:
    text = place.read(NAME)
    return {} if text is None else read_index(text.decode(errors="replace"), f"{place.address}/{NAME}")


def _first(record: Any, key: str) -> Any:
    """Find the first value of a key in nested tables and lists."""
    if isinstance(record, dict):
        if key in record:
            return record[key]
        record = list(record.values())
    if isinstance(record, list):
        return next((value for value in (_first(r, key) for r in record) if value is not None), None)
    return None


def _commands(record: dict[str, Any], card: Card) -> str:
    """Write what predicts and scores again, from the record of an evaluation."""
    prediction, truth = record["inputs"][:2]
    predicting = prediction.get("made_by", {})
    while predicting.get("stage") != "predict" and predicting.get("inputs"):
        predicting = predicting["inputs"][0].get("made_by", {})
    image = _short(predicting["inputs"][0]["path"]) if predicting.get("inputs") else "IMAGE"
    words = ["asem evaluate", quoted(_short(prediction["path"])), quoted(_short(truth["path"]))]
    zone = (record.get("zone") or {}).get("options", {})
    for unit in ("vx", "nm"):
        widths = [zone.get(f"{side}_{unit}") for side in ("dilate", "erode")]
        if any(widths):
            words.append(f"--zone-{unit} {widths[0] or 0:g},{widths[1] or 0:g}")
    if zone.get("shape") == "ball":
        words.append("--zone-shape ball")
    boxes = [box for box in record.get("box", []) if box]
    words += [f"--box {boxes[0]}"] if boxes and isinstance(boxes[0], str) else []
    words += [f"-t {t:g}" for t in record.get("thresholds", ())]
    return f"asem predict {quoted(image)} --model {quoted(card.key)} && {' '.join(words)}"


def _short(path: str) -> str:
    """Leave out the folders above a cell, which are nobody's business."""
    parts = Path(path).parts
    first = next((i for i, part in enumerate(parts) if part.endswith((".zarr", ".n5"))), len(parts) - 1)
    return "/".join(parts[first:])
