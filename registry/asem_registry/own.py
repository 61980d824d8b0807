"""The user's own models: make a card of a training run, so that its weights have a name; and take one back."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from asem_core.catalog import load_catalog
from asem_core.errors import BadInput, Option, OutputExists
from asem_core.files import sha256
from asem_registry.bundle import keep
from asem_registry.cache import folder_of
from asem_registry.cache import remove as remove_from_cache
from asem_registry.card import Card, Score, card_toml, parse_card, read_card
from asem_registry.settings import Settings


def card_of_run(
    run: Path,
    name: str,
    version: int,
    words: Mapping[str, Any],
    voxel_size: str | None = None,
    *,
    with_recipe: bool = True,
) -> tuple[Card, Path]:
    """Make the card of a run's chosen weights, whose file is beside it; return both.

    Parameters
    ----------
    run : folder of a training run, or one safetensors file
        Its weights say which model they are of, the voxel size and preprocessing of the training images.
    words : the card's texts; those that are not stated are filled from the run where it knows them
    voxel_size : nm, as `5` or `5,5,5`; needed only where the weights do not say it

    Raises
    ------
    BadInput
        The run has no weights, or neither it nor the caller says the model or the voxel size.
    BadCard
        A text or the name is not valid.
    """
    from asem_core.weights import load_weights, read_metadata

    weights = _weights_of(run)
    load_weights(weights)  # complete, finite, and of the network that its metadata name
    known = read_metadata(weights)
    model = _stated(known["model"])
    size = _voxel_size(voxel_size) or known.get("voxel_size_nm")
    if size is None:
        raise BadInput(
            f"{run} does not say the voxel size of its training images: add ",
            Option("voxel_size_nm", [5, 5, 5]),
            " (nm; z, y, x).",
        )
    z, y, x = (float(v) for v in size)
    card = Card(
        name=name,
        version=version,
        model=model.pop("use"),
        options=model,
        voxel_size_nm=(z, y, x),
        preprocessing=tuple(
            {"use": s["name"], **_stated(s.get("options", {}))} for s in known.get("preprocessing", ()) if "name" in s
        ),
        scores=_scores(run, weights, "asem train recipe.toml" if with_recipe else ""),
        recipe=_recipe(run) if with_recipe else {},
        file=f"{name}.safetensors" if version == 1 else f"{name}@{version}.safetensors",
        sha256=sha256(weights),
        size_bytes=weights.stat().st_size,
        **{**words, "training_data": words["training_data"] or _regions(run) or "not stated"},
    )
    return parse_card(card_toml(card), f"the card of {name}"), weights


def add_run(card: Card, weights: Path, words: Mapping[str, Any], home: Path, elsewhere: Sequence[Card] = ()) -> Card:
    """Copy weights to `home/weights` and write their card (see `card_of_run`) to `home/cards`.

    Parameters
    ----------
    words : the texts that the caller gave; those that are not stated are kept from a card of the same weights
    elsewhere : the cards of this name that are known from other folders; the new one must be newer

    Raises
    ------
    BadInput
        The name, or an alias, is that of a model plugin.
    OutputExists
        There is a card of this name and version with other weights, or one elsewhere that the name goes on to mean.
    """
    for name in {card.name, *card.aliases} & set(load_catalog().names("model")):
        raise BadInput(
            f"'{name}' is the name of a model plugin, which is what ",
            Option("model", name),
            f" means: choose another name, for example {name}-mylab.",
        )
    path = home / "cards" / f"{card.stem}.toml"
    if path.exists():
        before = read_card(path)
        if before.sha256 != card.sha256:
            raise OutputExists(
                f"{path} belongs to other weights, and a version never changes: add ",
                Option("version", card.version + 1),
            )
        kept = {key: getattr(before, key) for key, value in words.items() if value in NOT_STATED}
        card = attrs.evolve(card, **{key: value for key, value in kept.items() if value not in NOT_STATED})
    for other in elsewhere:
        if other.version > card.version or (other.version == card.version and not card.is_same_model(other)):
            newer = max(c.version for c in elsewhere) + 1
            raise OutputExists(
                f"{other.key} already exists ({other.origin}), and {card.name} means the newest version: add ",
                Option("version", newer),
                ", or choose another name.",
            )
    return keep(card, weights, home)


NOT_STATED = ("", (), "not stated")


def withdraw(card: Card, settings: Settings, *, forget: bool = False) -> str:
    """Delete a model: from the cache, or, if `add_run` made it, its card and weights. Says what was done.

    Raises
    ------
    BadInput
        It came with asem-core, a plugin or a lab's folder, so it is not ours to delete.
    """
    if not card.file:
        found = remove_from_cache(card, settings, forget=forget)
        kept = (
            ""
            if forget or not card.trust_on_first_use
            else f" Its checksum is still remembered; {Option('forget', True)} removes it."
        )
        return (
            f"{card.key} was deleted from {folder_of(card, settings)}.{kept}" if found else f"{card.key} is not cached."
        )
    path = Path(card.origin)
    if path.parent != settings.home / "cards":
        raise BadInput(f"{card.key} belongs to {card.origin}, not to your own models: remove it there.")
    path.unlink()
    if card.bundled is not None:
        card.bundled.unlink(missing_ok=True)
    return f"{card.key} was deleted: {path} and its weights."


def _voxel_size(text: str | None) -> tuple[float, float, float] | None:
    from asem_core.commands import read_voxel_size

    return read_voxel_size(text)


def _weights_of(run: Path) -> Path:
    from asem_core.run_folder import RunFolder

    return RunFolder(run).chosen() if run.is_dir() else run


def _recipe(run: Path) -> dict[str, Any]:
    path = run / "recipe.toml"
    return tomllib.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


_METRICS = {"f1": "F1", "precision": "precision", "recall": "recall", "jaccard": "Jaccard"}


def _scores(run: Path, weights: Path, command: str) -> tuple[Score, ...]:
    """Take what the run measured on its validation regions with these weights; the card has the recipe."""
    from asem_core.run_folder import RunFolder

    if not run.is_dir():
        return ()
    for line in RunFolder(run).read_metrics("validate"):
        if weights.stem == f"iteration_{line['iteration']:07d}":
            data = f"validation regions of the run, iteration {line['iteration']}, threshold 0.5"
            found = {m: line[k] for k, m in _METRICS.items() if line.get(k) is not None}
            return tuple(Score(m, round(value, 4), data, command=command) for m, value in found.items())
    return ()


def _regions(run: Path) -> str:
    """Name the volumes that the run was trained on."""
    regions = _recipe(run).get("train", {}).get("regions", [])
    return "; ".join(str(r["labels"].get("path") if isinstance(r["labels"], dict) else r["labels"]) for r in regions)


def _stated(options: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is None, which TOML cannot say."""
    return {key: value for key, value in options.items() if value is not None}
