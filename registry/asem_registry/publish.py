"""Make a card of a training run, so that its weights have a name; and take one back."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from asem_core.errors import BadInput, OutputExists
from asem_registry.bundle import keep
from asem_registry.cache import folder_of, sha256
from asem_registry.cache import remove as remove_from_cache
from asem_registry.card import Card, card_toml, parse_card
from asem_registry.settings import Settings


def publish(
    run: Path, name: str, version: int, home: Path, words: Mapping[str, Any], voxel_size: str | None = None
) -> Card:
    """Copy the chosen weights of a run to `home/weights` and write their card to `home/cards`.

    Parameters
    ----------
    run : folder of a training run, or one safetensors file
    words : the card's texts; empty ones are filled from the run where it knows them
    voxel_size : nm, as `5` or `5,5,5`; needed if the run does not record it

    Raises
    ------
    BadInput
        The run has no weights, or neither it nor the caller says the model or the voxel size.
    OutputExists
        There is a card of this name and version with other weights.
    BadCard
        A text or the name is not valid.
    """
    from asem_core.weights import load_weights, read_metadata

    facts = _facts_of_run(run) if run.is_dir() else {"weights": run}
    weights = Path(facts["weights"])
    load_weights(weights)  # complete, finite, and of the network that its metadata name
    model = dict(read_metadata(weights)["model"])
    size = _voxel_size(voxel_size) or facts.get("voxel_size_nm")
    if size is None:
        raise BadInput(f"{run} does not say the voxel size of its training images: add --voxel-size 5,5,5 (nm; z, y, x).")
    card = Card(
        name=name,
        version=version,
        model=model.pop("use"),
        options=model,
        voxel_size_nm=size,
        preprocessing=tuple(facts.get("preprocessing", ())),
        scores=tuple(facts.get("scores", ())),
        recipe=facts.get("recipe", {}),
        file=f"{name}.safetensors" if version == 1 else f"{name}@{version}.safetensors",
        sha256=sha256(weights),
        size_bytes=weights.stat().st_size,
        **{**words, "training_data": words["training_data"] or facts.get("training_data") or "not stated"},
    )
    card = parse_card(card_toml(card), f"the card of {name}")
    existing = home / "cards" / f"{card.key}.toml"
    if existing.exists() and parse_card(existing.read_text(encoding="utf-8"), str(existing)).sha256 != card.sha256:
        raise OutputExists(f"{existing} is of other weights, and a version never changes: add --version {version + 1}.")
    return keep(card, weights, home)


def withdraw(card: Card, settings: Settings, *, forget: bool = False) -> str:
    """Delete a model: from the cache, or, if `publish` made it, its card and weights. Says what was done.

    Raises
    ------
    BadInput
        It came with asem-core, a plugin or a lab's folder, so it is not ours to delete.
    """
    if not card.file:
        found = remove_from_cache(card, settings, forget=forget)
        kept = "" if forget or not card.trust_on_first_use else " Its sum is still remembered; --forget forgets it."
        return f"{card.key} was deleted from {folder_of(card, settings)}.{kept}" if found else f"{card.key} is not cached."
    path = Path(card.origin)
    if path.parent != settings.home / "cards":
        raise BadInput(f"{card.key} belongs to {card.origin}, not to you: remove it there.")
    path.unlink()
    if card.bundled is not None:
        card.bundled.unlink(missing_ok=True)
    return f"{card.key} was deleted: {path} and its weights."


def _voxel_size(text: str | None) -> tuple[float, float, float] | None:
    from asem_core.cli._options import read_voxel_size

    return read_voxel_size(text)


def _facts_of_run(run: Path) -> dict[str, Any]:
    """Gather what a training run's folder says of its weights."""
    from asem_core.training.folder import RunFolder

    folder = RunFolder(run)
    recipe = run / "recipe.toml"
    facts: dict[str, Any] = {"weights": folder.chosen()}
    facts["recipe"] = tomllib.loads(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
    return facts
