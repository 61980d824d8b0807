"""All cards that are known: shipped, offered by plugins, the user's own, and those of configured folders and addresses."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import entry_points
from pathlib import Path

import attrs

from asem_core.errors import AsemError, PluginError, UnknownName
from asem_core.temporary import replacing
from asem_registry.card import BadCard, Card, near_names, parse_card, read_card, split_name
from asem_registry.settings import Settings

SHIPPED = Path(__file__).parent / "cards"
_DAY_S = 24 * 3600


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
    folders = [SHIPPED, settings.home / "cards"]
    folders += [Path(c).expanduser() for c in settings.cards if "://" not in c]
    folders += _plugin_folders()
    for folder in dict.fromkeys(folders):
        if not folder.is_dir() and folder not in (SHIPPED, settings.home / "cards"):
            broken[str(folder)] = "there is no such folder"
        for path in sorted(folder.glob("*.toml")):
            try:
                _add(cards, read_card(path))
            except BadCard as error:
                broken[str(path)] = str(error)
    for address in settings.cards:
        if "://" in address:
            try:
                texts = _remote_texts(address, settings, refresh)
            except AsemError as error:
                broken[address] = str(error)
                continue
            for url, text in texts.items():
                try:
                    _add(cards, parse_card(text, url, remote=True))
                except BadCard as error:
                    broken[url] = str(error)
    return Library(cards, broken)


def read_folder(folder: Path) -> list[Card]:
    """Read every card of a folder, in order of name.

    Raises
    ------
    BadCard
        One of them is not valid.
    """
    return [read_card(path) for path in sorted(folder.glob("*.toml"))]


def _add(cards: dict[str, list[Card]], card: Card) -> None:
    same = cards.setdefault(card.key, [])
    if not any(attrs.evolve(c, origin="") == attrs.evolve(card, origin="") for c in same):
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


def _remote_texts(address: str, settings: Settings, refresh: bool) -> dict[str, str]:
    """Read the cards behind an address, from the copy in the cache if it is younger than a day or nothing answers."""
    from asem_registry.fetch import read_texts

    copy = settings.cache / "cards" / f"{hashlib.sha256(address.encode()).hexdigest()[:16]}.json"
    fresh = copy.is_file() and time.time() - copy.stat().st_mtime < _DAY_S
    if not settings.offline and (refresh or not fresh):
        try:
            texts = read_texts(address, ".toml", settings)
        except AsemError:
            if refresh or not copy.is_file():
                raise
        else:
            with replacing(copy) as half:
                half.write_text(json.dumps(texts), encoding="utf-8")
            return texts
    if not copy.is_file():
        raise UnknownName("these cards were never downloaded, and ASEM_OFFLINE is set. Unset it once.")
    found: dict[str, str] = json.loads(copy.read_text(encoding="utf-8"))
    return found
