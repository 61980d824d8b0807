"""What an image from elsewhere has had done to it already: stated by the user, noted in its attributes, or told by its name.

The authors of Gallusser et al. 2022 keep `raw_equalized_0.02` beside `raw`. Which words a step is recognised by, it says itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

import attrs

from asem_core.abilities import RecognisedByName
from asem_core.catalog import Catalog
from asem_core.cell.record import Made, Record
from asem_core.errors import Option
from asem_core.volume import Volume

log = logging.getLogger("asem_core")

ATTRIBUTE = "made_by"
"""Attribute of what ASEM exported to an array of another layout: what made it, see `provenance.made_by`."""

_STATED = "asem_done"  # what the user stated, in the attributes of an open volume
_NAMED = "asem_done_by_name"  # what its name says, there


def parse_done(text: str | None) -> tuple[str, ...] | None:
    """Read the option `done` of commands: names of preprocessing steps with commas between, or "none"."""
    if text is None:
        return None
    return () if text.strip().lower() == "none" else tuple(name.strip() for name in text.split(","))


def require_steps(done: Sequence[str] | None, catalog: Catalog) -> None:
    """Check the names of steps that are said to be done already.

    Raises
    ------
    UnknownName
    """
    for name in done or ():
        catalog.get("preprocessor", name)


def with_done(volume: Volume, done: Sequence[str] | None, catalog: Catalog) -> Volume:
    """Note what the user states of an image (None: nothing), or else what its name says, and say what is recognised of it."""
    if done is not None:
        steps = [{"name": name, "options": {}} for name in done]
        return attrs.evolve(volume, attributes={**volume.attributes, _STATED: steps})
    volume = recognised(volume, catalog)
    if steps := done_elsewhere(volume) or []:
        log.warning(
            "%s: by its %s, this image has been preprocessed already: %s. These steps are not repeated. If that is wrong, say what was done: "
            "%s, or %s.",
            volume.path,
            "attributes" if ATTRIBUTE in volume.attributes else "name",
            ", ".join(_in_words(step) for step in steps),
            Option("done", [step["name"] for step in steps]),
            Option("done", []),
        )
    return volume


def recognised(volume: Volume, catalog: Catalog) -> Volume:
    """Note in an open image from elsewhere the steps that its name says were done."""
    steps = _by_name(volume.path, catalog)
    return attrs.evolve(volume, attributes={**volume.attributes, _NAMED: steps}) if steps else volume


def _in_words(step: Mapping[str, Any]) -> str:
    options = ", ".join(f"{key} = {value}" for key, value in step["options"].items())
    return f"{step['name']} ({options})" if options else str(step["name"])


def done_elsewhere(volume: Volume) -> list[dict[str, Any]] | None:
    """List the steps that were done before an image came here; None of one that says nothing, or that was made here."""
    if (stated := volume.attributes.get(_STATED)) is not None:
        return [dict(step) for step in stated]
    if Record.of(volume).made.noted:
        return None
    noted = volume.attributes.get(ATTRIBUTE)
    if isinstance(noted, Mapping):
        return steps_of(Made(noted))
    return volume.attributes.get(_NAMED)


def steps_of(made: Made, stated: Sequence[Mapping[str, Any]] | None = None) -> list[dict[str, Any]]:
    """List the steps behind what was made, first to last; those that were done before it came here (or are stated) first."""
    here = steps_here(made)
    noted: Sequence[Mapping[str, Any]] = next((link.noted["done"] for link in made.chain() if "done" in link.noted), ())
    names = {step["name"] for step in here}
    return [*(dict(step) for step in (noted if stated is None else stated) if step["name"] not in names), *here]


def steps_here(made: Made) -> list[dict[str, Any]]:
    """List the steps that were done here, first to last."""
    return [dict(link.step) for link in made.chain() if link.step is not None][::-1]


def _by_name(path: str, catalog: Catalog) -> list[dict[str, Any]]:
    """Recognise steps in the name of a layer, a file or a folder; levels of a pyramid are passed over."""
    known: dict[str, type[Any]] = {}
    for offer in catalog.all_able("preprocessor", RecognisedByName):
        known = {**dict.fromkeys(offer.cls.name_words, offer.cls), **known}
    names = [part for part in re.split(r"[/\\]", path) if part and not re.fullmatch(r"s?\d+", part)]
    found: list[dict[str, Any]] = []
    words = re.split(r"[_\-\s]+", names[-1].lower()) if names else []
    for word, after in zip(words, [*words[1:], ""], strict=True):
        step = known.get(_without_ending(word))
        if step is not None and step.name not in [s["name"] for s in found]:
            found.append({"name": step.name, "options": dict(step.options_in_name(_without_ending(after)))})
    return found


def _without_ending(word: str) -> str:
    return re.sub(r"\.(zarr|n5|h5|tiff?)$", "", word)
