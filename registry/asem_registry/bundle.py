"""Carry models to a machine without a network: one zip file with cards, receipts and weights, checked on both ends."""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path

import attrs

from asem_core.errors import AsemError, Option
from asem_core.files import sha256
from asem_core.temporary import temporary_folder, write_whole
from asem_registry.cache import Receipt, has_sum_of_weights, obtain, place, receipt_of, sync
from asem_registry.card import BadCard, Card, card_toml, parse_card
from asem_registry.fetch import check_room
from asem_registry.library import load_library
from asem_registry.settings import Settings

_MEMBER = re.compile(r"([a-z0-9-]+@[0-9]+)/(card\.toml|receipt\.json|weights\.safetensors)")
_LARGEST_TEXT = 1 << 20


class BadBundle(AsemError):
    """A bundle is damaged, or holds something that does not belong in one."""


def bundle(cards: Sequence[Card], output: Path, settings: Settings) -> Path:
    """Pack models, pulling those that are not in the cache; the file appears only when it is whole.

    Raises
    ------
    NotCached, WrongSum, NoSpace
        As `obtain`.
    """
    weights = {card.key: obtain(card, settings) for card in cards}
    output.parent.mkdir(parents=True, exist_ok=True)
    check_room(output.parent, sum(path.stat().st_size for path in weights.values()))
    with write_whole(output) as half, zipfile.ZipFile(half, "w", zipfile.ZIP_STORED) as archive:
        for card in cards:
            receipt = receipt_of(card, settings) or _receipt_of_bundled(card, weights[card.key])
            archive.writestr(f"{card.key}/card.toml", card_toml(card))
            archive.writestr(f"{card.key}/receipt.json", json.dumps(attrs.asdict(receipt)))
            archive.write(weights[card.key], f"{card.key}/weights.safetensors")
    return output


def unbundle(file: Path, settings: Settings, stated_sum: str | None = None) -> list[Card]:
    """Install every model of a bundle: its weights into the cache, its card too unless it is known already.

    Only plain members with the names that `bundle` writes are read; nothing is extracted by the name it has in the file. Weights
    are checked against the sum of a card that is known here. Where there is none, a bundle would only be checked against itself:
    then its own sum must be stated, as it was printed where the bundle was made.

    Parameters
    ----------
    stated_sum : sha256 of the file, or its first digits (16 at least)

    Raises
    ------
    BadBundle
        The file is not a bundle, is damaged, is not the one that was stated, or has members that climb out, link, or do not
        belong; or nothing vouches for a model in it.
    BadCard
        A card in it is not valid, or differs from the known card of the same name and version.
    WrongSum
        Weights are not what their receipt, their card or an earlier download says.
    """
    try:
        is_vouched_for = stated_sum is not None and _require_sum(file, stated_sum)
        with zipfile.ZipFile(file) as archive:
            keys = _checked_keys(archive, file)
            cards = {key: _checked_card(archive, key, file, settings, is_vouched_for) for key in keys}
            return [_install(archive, card, known, file, settings) for card, known in cards.values()]
    except FileNotFoundError:
        raise BadBundle(f"There is no file {file}.") from None
    except (zipfile.BadZipFile, EOFError) as error:
        raise BadBundle(f"{file} is not a bundle, or is damaged ({error}). Copy it again.") from None


def _checked_keys(archive: zipfile.ZipFile, file: Path) -> list[str]:
    keys: dict[str, set[str]] = {}
    for info in archive.infolist():
        match = _MEMBER.fullmatch(info.filename)
        is_link = (info.external_attr >> 16) & 0o170000 == 0o120000
        if match is None or is_link or info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
            raise BadBundle(
                f"{file} is refused: its member '{info.filename}' does not belong in a bundle. Nothing was installed."
            )
        keys.setdefault(match[1], set()).add(match[2])
    for key, parts in keys.items():
        if len(parts) != 3:
            raise BadBundle(f"{file} is refused: {key} lacks its card, receipt or weights. Bundle it again.")
    if not keys:
        raise BadBundle(f"{file} is empty.")
    return sorted(keys)


def _require_sum(file: Path, stated: str) -> bool:
    if not re.fullmatch(r"[0-9a-f]{16,64}", stated):
        raise BadBundle(
            f"'{stated}' is not a checksum: give 16 digits (0-9, a-f) or more of what `asem models bundle` printed."
        )
    found = sha256(file)
    if not found.startswith(stated):
        raise BadBundle(
            f"{file} is refused: it is not the bundle that was made. Expected sha256 {stated}, got {found}. Copy it again."
        )
    return True


def _checked_card(
    archive: zipfile.ZipFile, key: str, file: Path, settings: Settings, is_vouched_for: bool
) -> tuple[Card, Card | None]:
    """Read a card of the bundle; return it, and the one known here of the same name and version, if there is one."""
    card = parse_card(_text(archive, f"{key}/card.toml", file), f"{key} in {file}")
    if card.key != key or any(url.startswith("file:") for url in card.urls):
        raise BadBundle(f"{file} is refused: the card in {key} is of {card.key}, or names files of another machine.")
    known = load_library(settings).cards.get(key, ())
    same = next((other for other in known if _without_place(card) == _without_place(other)), None)
    if known and same is None:
        raise BadCard(
            f"{file}: its card of {key} differs from the one known here ({known[0].origin}). A version never changes: "
            "one of the two needs another version or name."
        )
    if not is_vouched_for and (same is None or not has_sum_of_weights(card)):
        why = "its card is not known here" if same is None else "its authors publish no checksum of these weights"
        raise BadBundle(
            f"{file}: only the bundle itself says what {key} is ({why}), so it could have been changed on the way. Add ",
            Option("sha256"),
            " with the checksum that `asem models bundle` printed where it was made. Nothing was installed.",
        )
    return card, same


def _without_place(card: Card) -> Card:
    return attrs.evolve(card, origin="", urls=(), file=None) if card.sha256 else attrs.evolve(card, origin="")


def _install(archive: zipfile.ZipFile, card: Card, known: Card | None, file: Path, settings: Settings) -> Card:
    try:
        receipt = Receipt(**json.loads(_text(archive, f"{card.key}/receipt.json", file)))
    except (ValueError, TypeError):
        raise BadBundle(f"{file}: the receipt of {card.key} is not readable. Bundle it again.") from None
    if known is not None and known.file:
        return known
    card = known or card
    settings.cache.mkdir(parents=True, exist_ok=True)
    with temporary_folder(settings.cache) as folder:
        weights = _extract(archive, f"{card.key}/weights.safetensors", folder)
        if card.file is None:
            place(card, weights, receipt, settings)
        elif (found := sha256(weights)) != card.sha256:
            raise BadBundle(
                f"{file} is damaged: {card.key} should have sha256 {card.sha256}, got {found}. Copy it again."
            )
        return known or keep(card, weights if card.file else None, settings.home)


def keep(card: Card, weights: Path | None, home: Path) -> Card:
    """Store a card in a folder `home` (`cards/` and `weights/`), with the weights that its `file` names, if any.

    People look after this folder, so no lock is left in it: each file appears in one step, and of two who store different
    weights under one name at once, the card's sum tells.
    """
    path = home / "cards" / f"{card.stem}.toml"
    path.parent.mkdir(parents=True, exist_ok=True)
    if weights is not None and card.file is not None:
        _replace(home / "weights" / card.file, weights.read_bytes())
    _replace(path, card_toml(card).encode())
    return attrs.evolve(card, origin=str(path))


def _replace(path: Path, data: bytes) -> None:
    check_room(path.parents[1], len(data))
    with write_whole(path) as half:
        half.write_bytes(data)
        sync(half)


def _extract(archive: zipfile.ZipFile, member: str, folder: Path) -> Path:
    path = folder / "weights.safetensors"
    check_room(folder, 2 * archive.getinfo(member).file_size)
    with archive.open(member) as source, path.open("wb") as target:
        while piece := source.read(1 << 20):
            target.write(piece)
    return path


def _text(archive: zipfile.ZipFile, member: str, file: Path) -> str:
    info = archive.getinfo(member)
    if info.file_size > _LARGEST_TEXT:
        raise BadBundle(f"{file} is refused: its member '{member}' is {info.file_size} bytes large.")
    try:
        return archive.read(info).decode("utf-8")
    except UnicodeDecodeError:
        raise BadBundle(f"{file}: its member '{member}' is not text. Bundle it again.") from None


def _receipt_of_bundled(card: Card, weights: Path) -> Receipt:
    found = sha256(weights)
    return Receipt(str(card.file), "", found, weights.stat().st_size, found, False)
