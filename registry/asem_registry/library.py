"""All cards that are known: shipped, offered by plugins, the user's own, and those of configured folders and addresses."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import attrs

from asem_core.errors import AsemError, PluginError, UnknownName
from asem_registry.card import Card, near_names, read_card, split_name
from asem_registry.places import Found, read_cards, read_place
from asem_registry.settings import Settings

SHIPPED = Path(__file__).parent / "cards"


@attrs.frozen
class Library:
    """Cards by name, and the ones that could not be read."""

    cards: Mapping[str, Sequence[Card]]  # key (name@version) -> the cards that claim it; more than one is a conflict
    broken: Mapping[str, str] = attrs.field(factory=dict)  # file or address -> why

    def names(self) -> list[str]:
        """List the names (without versions), in order."""
        return sorted({card.name for cards in self.cards.values() for card in cards})

    def latest(self) -> list[Card]:
        """List the newest version of every name that is offered once."""
        newest: dict[str, Card] = {}
        for cards in self.cards.values():
            card = cards[0]
            if len(cards) == 1 and (card.name not in newest or newest[card.name].version < card.version):
                newest[card.name] = card
        return [newest[name] for name in sorted(newest)]

    def conflicts(self) -> dict[str, str]:
        """Say which `name@version` several different cards claim, and where those are."""
        return {key: " and ".join(c.origin for c in cards) for key, cards in self.cards.items() if len(cards) > 1}

    def find(self, name: str) -> Card:
        """Find a card by name, `name@version` or alias; the newest version where none is given.

        Raises
        ------
        UnknownName
            No card has this name; the message has the nearest names and the cards that could not be read.
        PluginError
            Two different cards claim the name and version, or an alias; both origins are named.
        """
        base, version = split_name(name)
        same = [c for cards in self.cards.values() for c in cards if c.name == base]
        if not same:
            same = [c for cards in self.cards.values() for c in cards if base in c.aliases]
            owners = sorted({c.name for c in same})
            if len(owners) > 1:
                raise PluginError(
                    f"The alias '{base}' is claimed by {' and by '.join(owners)}. Use one of these names."
                )
        if not same:
            aliases = {alias for cards in self.cards.values() for c in cards for alias in c.aliases}
            failed = "".join(f"\nNot readable: {where}: {why}" for where, why in self.broken.items())
            raise UnknownName(f"No model is called '{base}'. {near_names(base, {*self.names(), *aliases})}{failed}")
        wanted = max(c.version for c in same) if version is None else version
        found = [c for c in same if c.version == wanted]
        if not found:
            versions = ", ".join(sorted({c.key for c in same}))
            raise UnknownName(f"'{same[0].name}' has no version {version}. Known: {versions}.")
        if len(found) > 1:
            raise PluginError(
                f"'{found[0].key}' is offered twice, by {self.conflicts()[found[0].key]}. A version never changes: give one of them another "
                "version or name, or remove it."
            )
        return found[0]


def load_library(settings: Settings, *, refresh: bool = False) -> Library:
    """Gather every card; a card that cannot be read is remembered, never fatal.

    Parameters
    ----------
    refresh : read cards behind addresses anew, even if the copy in the cache is younger than a day
    """
    cards: dict[str, list[Card]] = {}
    broken: dict[str, str] = {}
    for folder in (SHIPPED, settings.home / "cards", *_plugin_folders()):
        _add(cards, broken, read_cards(folder))
    for place in settings.cards:
        try:
            _add(cards, broken, read_place(place, settings, refresh=refresh))
        except AsemError as error:
            broken[place] = str(error)
    return Library(cards, broken)


def read_folder(folder: Path) -> list[Card]:
    """Read every card of a folder, in order of name.

    Raises
    ------
    BadCard
        One of them is not valid.
    """
    return [read_card(path) for path in sorted(folder.glob("*.toml"))]


def _add(cards: dict[str, list[Card]], broken: dict[str, str], found: Found) -> None:
    broken |= found.broken
    for card in found.cards:
        same = cards.setdefault(card.key, [])
        if not any(card.is_same_model(other) for other in same):
            same.append(card)


def _plugin_folders() -> list[Path]:
    """Ask the plugins of other distributions; asem-core's own cards are `SHIPPED`, and loading its plugins takes time."""
    others = {p.dist.name for p in entry_points(group="asem") if p.dist is not None and p.dist.name != "asem-core"}
    if "ASEM_PLUGINS" in os.environ:
        others &= {name.strip() for name in os.environ["ASEM_PLUGINS"].split(",")}
    if not others:
        return []
    from asem_core.catalog import load_catalog

    return list(load_catalog(others).card_folders)
