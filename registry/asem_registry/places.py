"""Read the cards of a registry: a folder, or an address (https, s3), with or without an index.

What is behind an address is read once a day and works offline from a copy in the cache. Of a registry with an index the copy
also remembers which weights each version had, and that there was an index: neither is forgotten before `forget`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from asem_core.errors import AsemError, UnknownName
from asem_core.temporary import write_whole
from asem_registry.card import BadCard, Card, parse_card, read_card
from asem_registry.index import NAME, Tampered, card_path, read_index, require_listed, require_unchanged
from asem_registry.settings import Settings

_DAY_S = 24 * 3600


@attrs.frozen
class Found:
    """The cards of one place, those that cannot be used (file or address -> why), and whether an index vouches for them."""

    cards: list[Card]
    broken: dict[str, str]
    is_indexed: bool = False


def read_place(place: str, settings: Settings, *, refresh: bool = False) -> Found:
    """Read the cards of a configured folder or address; a card that cannot be used is told, never fatal.

    Raises
    ------
    Tampered
        Its index was edited, is gone, or gives a version other weights than before.
    FetchError, UnknownName
        There is no such folder; the address does not answer, and no copy is here.
    """
    memory = _Memory.of(place, settings)
    if "://" in place:
        address = place.rstrip("/")
        if settings.offline or (memory.is_fresh() and not refresh):
            if not memory.texts:
                raise UnknownName("these cards were never downloaded, and ASEM_OFFLINE is set. Unset it once.")
            return _checked(place, memory.index, memory.texts, memory, address)
        index, texts = memory.index, memory.texts
        try:
            index, texts = _fetched(place, memory, settings)
        except Tampered:
            raise
        except AsemError:
            if refresh or not memory.texts:
                raise
        found = _checked(place, index, texts, memory, address)
        memory.keep(index, texts)
        return found
    folder = Path(place).expanduser()
    if not folder.is_dir():
        raise UnknownName("there is no such folder")
    file = folder / NAME
    if not file.is_file():
        memory.require_no_index(place)
        return read_cards(folder)
    index = file.read_text(encoding="utf-8")
    paths = [folder / card_path(key) for key in read_index(index, str(file))]
    texts = {str(p): p.read_text(encoding="utf-8", errors="replace") for p in paths if p.is_file()}
    found = _checked(place, index, texts, memory, None)
    if memory.index != index:
        memory.keep(index, {})
    return found


def read_cards(folder: Path) -> Found:
    """Read every card file of a folder without an index."""
    found = Found([], {})
    for path in sorted(folder.glob("*.toml")):
        try:
            found.cards.append(read_card(path))
        except BadCard as error:
            found.broken[str(path)] = str(error)
    return found


def forget(place: str, settings: Settings) -> None:
    """Delete what is remembered of a place."""
    _Memory.of(place, settings).file.unlink(missing_ok=True)


def seen_at(place: str, settings: Settings) -> Mapping[str, str]:
    """Say which weights (sha256) each `name@version` of a place had when it was first read here."""
    return _Memory.of(place, settings).seen


@attrs.define
class _Memory:
    """What the cache keeps of one place; an unreadable file counts as none."""

    file: Path
    index: str | None = None
    texts: Mapping[str, str] = attrs.field(factory=dict)  # address -> card
    seen: dict[str, str] = attrs.field(factory=dict)  # name@version -> sum of its weights

    @classmethod
    def of(cls, place: str, settings: Settings) -> _Memory:
        file = settings.cache / "cards" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.json"
        try:
            return cls(file, **json.loads(file.read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return cls(file)

    def is_fresh(self) -> bool:
        return bool(self.texts) and time.time() - self.file.stat().st_mtime < _DAY_S

    def keep(self, index: str | None, texts: Mapping[str, str]) -> None:
        if index is not None:
            self.seen |= {key: entry.weights_sha256 for key, entry in read_index(index, "the copy").items()}
        with write_whole(self.file) as half:
            half.write_text(json.dumps({"index": index, "texts": texts, "seen": self.seen}), encoding="utf-8")

    def require_no_index(self, place: str) -> None:
        if self.index is not None:
            raise Tampered(
                f"{place} no longer has an index, so its cards cannot be checked. Ask whoever keeps this registry. "
                "If it was done on purpose: asem models registries remove it, then add it again."
            )


def _fetched(place: str, memory: _Memory, settings: Settings) -> tuple[str | None, dict[str, str]]:
    """Read the index of an address, if there is one, and the cards."""
    from asem_registry.fetch import NotThere, read_text, read_texts

    if place.endswith(".toml"):
        return None, read_texts(place, ".toml", settings)
    address = place.rstrip("/")
    try:
        index = read_text(f"{address}/{NAME}", settings)
    except NotThere:
        memory.require_no_index(place)
        return None, read_texts(place, ".toml", settings)
    texts = {}
    for key in read_index(index, f"{address}/{NAME}"):
        url = f"{address}/{card_path(key)}"
        try:
            texts[url] = read_text(url, settings)
        except NotThere:
            continue  # said where it is missed
    return index, texts


def _checked(place: str, index: str | None, texts: Mapping[str, str], memory: _Memory, address: str | None) -> Found:
    """Parse cards, and hold them against the index if there is one."""
    found = Found([], {}, index is not None)
    if index is None:
        for url, text in texts.items():
            _try(found, url, lambda text=text, url=url: parse_card(text, url, remote=True))  # type: ignore[misc]
        return found
    top = address or str(Path(place).expanduser())
    entries = read_index(index, f"{top}/{NAME}")
    require_unchanged(entries, memory.seen, f"{top}/{NAME}")
    for key, entry in entries.items():
        where = f"{top}/{card_path(key)}" if address else str(Path(top) / card_path(key))

        def read(where: str = where, entry: Any = entry) -> Card:
            if where not in texts:
                raise Tampered("the index lists this card, but it is not there. Ask whoever keeps this registry.")
            card = parse_card(texts[where], where, remote=address is not None, top=address)
            require_listed(card, texts[where], entry)
            return card

        _try(found, where, read)
    return found


def _try(found: Found, where: str, read: Callable[[], Card]) -> None:
    try:
        found.cards.append(read())
    except AsemError as error:
        found.broken[where] = str(error)
