"""The index of a registry, which makes a folder or bucket of cards more than its files: the sum of each card and of its weights.

```
<registry>/index.json             what is offered; says its own sum, so that damage and edits by hand are noticed
<registry>/cards/NAME.toml        see `card`
<registry>/weights/NAME.safetensors
<registry>/samples/NAME.safetensors   a piece of an image and what the weights make of it
```

A card is read only if its sum is the index's, weights only if theirs is the card's. Whoever may write to a registry may also
change its index; so each user's cache remembers which weights a version had, and refuses an index that says others.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping

import attrs

from asem_core.errors import AsemError
from asem_registry.card import Card

NAME = "index.json"
_SUM = re.compile(r"[0-9a-f]{64}")
_KEY = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*@[1-9][0-9]*")


class Tampered(AsemError):
    """An index or card of a registry is not what was published: nothing of it is used."""


@attrs.frozen
class Entry:
    """What the index says of one `name@version`: sums (sha256) of its card's file and of its weights."""

    card_sha256: str
    weights_sha256: str

    @classmethod
    def of(cls, card: Card, text: str) -> Entry:
        """Make the entry of a card whose file holds `text`."""
        return cls(sum_of(text), str(card.sha256))


def card_path(key: str) -> str:
    """Say where the card of a `name@version` is, from the registry's top."""
    name, _, version = key.partition("@")
    return f"cards/{name if version == '1' else key}.toml"


def sum_of(text: str) -> str:
    """Sum a text as it is in its file."""
    return hashlib.sha256(text.encode()).hexdigest()


def write_index(entries: Mapping[str, Entry]) -> str:
    """Write an index as JSON; `read_index` reads the same back."""
    models = {key: attrs.asdict(entries[key]) for key in sorted(entries)}
    return json.dumps({"asem_registry": 1, "models": models, "sha256": _own_sum(models)}, indent=1) + "\n"


def read_index(text: str, origin: str) -> dict[str, Entry]:
    """Read and check an index.

    Raises
    ------
    Tampered
        It is not an index, or was damaged or edited since a program wrote it.
    """
    try:
        found = json.loads(text)
        models, own = found["models"], found["sha256"]
        entries = {key: Entry(**entry) for key, entry in models.items()}
        is_well_formed = found["asem_registry"] == 1 and all(
            _KEY.fullmatch(key) and _SUM.fullmatch(entry.card_sha256) and _SUM.fullmatch(entry.weights_sha256)
            for key, entry in entries.items()
        )
    except (ValueError, TypeError, KeyError, AttributeError):
        raise Tampered(f"{origin} is not the index of a registry. {_ASK}") from None
    if not is_well_formed or own != _own_sum(models):
        raise Tampered(
            f"{origin} was damaged or edited: its content does not match the checksum that it states. {_ASK}"
        )
    return entries


def require_unchanged(entries: Mapping[str, Entry], seen: Mapping[str, str], origin: str) -> None:
    """Refuse an index that gives a known `name@version` other weights than it had when it was first seen here.

    Raises
    ------
    Tampered
    """
    for key, entry in entries.items():
        if seen.get(key, entry.weights_sha256) != entry.weights_sha256:
            raise Tampered(
                f"{origin} gives {key} other weights than it had when it was first read here, and a version never changes: "
                f"expected sha256 {seen[key]}, got {entry.weights_sha256}. Ask whoever keeps this registry. If it was done on "
                "purpose: asem models registries remove it, then add it again."
            )


def require_listed(card: Card, text: str, entry: Entry) -> None:
    """Refuse a card that is not the one of the index.

    Raises
    ------
    Tampered
    """
    if sum_of(text) != entry.card_sha256:
        raise Tampered(
            f"{card.origin} is not the card that was published: its sha256 is {sum_of(text)}, but the index says "
            f"{entry.card_sha256}. It is not used. {_ASK}"
        )
    if card.sha256 != entry.weights_sha256:
        raise Tampered(f"{card.origin} and the index give different checksums of its weights. It is not used. {_ASK}")


_ASK = "Ask whoever keeps this registry, or publish the model again."


def _own_sum(models: Mapping[str, Mapping[str, str]]) -> str:
    return hashlib.sha256(json.dumps(models, sort_keys=True).encode()).hexdigest()
