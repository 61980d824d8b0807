"""The model card: everything a person and a program must know of one weights file.

A card is one TOML file. `name@version` never changes what it means: better weights get a new version.
"""

from __future__ import annotations

import difflib
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import attrs

from asem_core.errors import AsemError
from asem_core.paths import is_reserved


class BadCard(AsemError):
    """A model card is not valid; the message names the file, the key and what was expected."""


@attrs.frozen
class Score:
    """One figure of quality: what was measured on which data."""

    metric: str  # "F1", "precision", ...
    value: float
    data: str
    note: str = ""
    command: str = ""  # that measured it, so that others can measure it again


@attrs.frozen
class Card:
    """One weights file: where it is, what it expects of an image, how good it is, and whose it is.

    Where the file is: `file` (a file name, beside the card or in the folder `weights` beside the card's folder) or
    `urls` (mirrors, tried in order). Without `sha256` the file is trusted when it is first pulled: its sum is recorded
    then and checked ever after.
    """

    name: str
    model: str  # name of the model plugin
    voxel_size_nm: tuple[float, float, float]  # zyx
    preparation: str  # how the sample was prepared
    contrast: str  # what dark and bright mean in the image the network sees
    training_data: str
    licence: str
    citation: str
    version: int = 1
    aliases: tuple[str, ...] = ()
    about: str = ""
    options: Mapping[str, Any] = attrs.field(factory=dict)  # of the model plugin
    preprocessing: tuple[Mapping[str, Any], ...] = ()  # steps as in a recipe, in order, from the raw image
    urls: tuple[str, ...] = ()
    file: str | None = None
    sha256: str | None = None  # of the file as it is served
    size_bytes: int | None = None
    scores: tuple[Score, ...] = ()
    sample: Mapping[str, str] = attrs.field(
        factory=dict
    )  # `file` (in the folder `samples`), its `sha256`; see `sample`
    recipe: Mapping[str, Any] = attrs.field(factory=dict)  # the recipe of the training run
    origin: str = "(in memory)"  # the file or address the card was read from

    @property
    def key(self) -> str:
        """`name@version`, which is also the name of its folder in the cache."""
        return f"{self.name}@{self.version}"

    @property
    def stem(self) -> str:
        """How its files are called: the name, with the version from the second on."""
        return self.name if self.version == 1 else self.key

    @property
    def trust_on_first_use(self) -> bool:
        return self.sha256 is None

    @property
    def bundled(self) -> Path | None:
        """The weights file that came with the card, if `file` names one."""
        if self.file is None:
            return None
        beside = Path(self.origin).parent / self.file
        return beside if beside.exists() else Path(self.origin).parent.parent / "weights" / self.file

    def is_same_model(self, other: Card) -> bool:
        """Tell whether another card is of the same weights, which take the same images, wherever its files are."""
        if self.sha256 is None:
            return attrs.evolve(self, origin="") == attrs.evolve(other, origin="")
        mine, theirs = ((c.key, c.sha256, c.model, c.options, c.voxel_size_nm, c.preprocessing) for c in (self, other))
        return mine == theirs


def read_card(path: Path) -> Card:
    """Read and check one card file.

    Raises
    ------
    BadCard
        The file is not TOML, or a key is unknown, missing, or has a value that cannot be.
    """
    try:
        return parse_card(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError:
        raise BadCard(f"{path} is not a model card: it is not UTF-8 text.") from None


def parse_card(text: str, origin: str, *, remote: bool = False, top: str | None = None) -> Card:
    """Read and check a card's text.

    Parameters
    ----------
    remote : it may name no local files
    top : address of the registry that it belongs to, where the weights that its `file` names are in `weights/`

    Raises
    ------
    BadCard
    """
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BadCard(f"{origin} is not a model card: {error}.") from None
    for key in table:
        if key not in _CHECKS:
            near = difflib.get_close_matches(key, _CHECKS, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(_CHECKS)}."
            raise BadCard(f"{origin}: unknown key '{key}'. {hint}")
    for key in _REQUIRED:
        if key not in table:
            raise BadCard(f"{origin}: the key '{key}' is missing.")
    values: dict[str, Any] = {}
    for key, value in table.items():
        expected, check = _CHECKS[key]
        try:
            values[key] = check(value)
        except (TypeError, ValueError, AttributeError, KeyError):
            raise BadCard(f"{origin}: '{key}' must be {expected}, not {value!r}.") from None
    card = Card(**values, origin=origin)
    _check_source(card, remote and top is None)
    if card.file and top is not None:
        card = attrs.evolve(card, file=None, urls=(f"{top}/weights/{card.file}",))
    return card


def card_toml(card: Card) -> str:
    """Write a card as TOML; `parse_card` reads the same card back."""
    import tomlkit

    table = attrs.asdict(card, filter=lambda field, value: field.name != "origin" and value not in (None, "", (), {}))
    for key, value in table.items():
        if isinstance(value, tuple):
            table[key] = list(value)
    return tomlkit.dumps(table)


def near_names(name: str, known: Iterable[str]) -> str:
    """Say which known names are nearest to a wrong one, and list them all."""
    known = sorted(known)
    typed = name.lower().replace("_", "-")
    near = [n for n in known if f"-{typed}" in f"-{n}"][:4] if typed else []  # the begin of a word: mito
    near = near or difflib.get_close_matches(typed, known, 3, 0.5)
    hint = f"Did you mean {' or '.join(repr(n) for n in near)}? " if near else ""
    return hint + (f"Known: {', '.join(known)}." if known else "None is known.")


def split_name(name: str) -> tuple[str, int | None]:
    """Split `name@version`; the version is None where it is not given.

    Raises
    ------
    BadCard
        The version is not a whole number.
    """
    base, at, version = name.partition("@")
    if at and not version.isdecimal():
        raise BadCard(f"'{name}': the version after @ must be a whole number, for example {base}@1.")
    return base, int(version) if at else None


_NAME = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]*\.safetensors")
_SUM = re.compile(r"[0-9a-f]{64}")
WEIGHTS_SUFFIXES = (".safetensors", ".pt", ".pth")


def check_url(url: str, *, suffixes: tuple[str, ...] = WEIGHTS_SUFFIXES) -> str:
    """Refuse an address that the registry must not follow, and return it otherwise.

    Raises
    ------
    ValueError
        Says what is wrong with it.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("https", "http", "s3", "hf", "file"):
        raise ValueError(f"its scheme is '{parts.scheme}'; https, http, s3, hf and file are read")
    if parts.username or parts.password:
        raise ValueError("it holds a user name or password")
    if ".." in parts.path.split("/") or "\\" in url or "%2e%2e" in url.lower():
        raise ValueError("its path climbs upwards (..)")
    if not parts.path.endswith(suffixes):
        raise ValueError(f"it does not end in {' or '.join(suffixes)}; archives are not unpacked")
    if "*" in url and (parts.scheme != "s3" or "*" in parts.netloc + parts.path.rpartition("/")[0]):
        raise ValueError("* may stand only in the last part of an s3:// address")
    return url


def _check_source(card: Card, remote: bool) -> None:
    if bool(card.urls) == bool(card.file):
        raise BadCard(f"{card.origin}: give either 'urls' or 'file', to say where the weights are.")
    if card.file and remote:
        raise BadCard(f"{card.origin}: 'file' works only in a folder of cards on this machine; use 'urls'.")
    if card.file and not card.sha256:
        raise BadCard(f"{card.origin}: a card with 'file' needs 'sha256': `sha256sum {card.file}` prints it.")
    for url in card.urls:
        try:
            check_url(url)
        except ValueError as error:
            raise BadCard(f"{card.origin}: the address {url} is refused: {error}.") from None
        if remote and url.startswith("file:"):
            raise BadCard(
                f"{card.origin}: the address {url} is refused: a card from another machine may not name local files."
            )
        if url.startswith("http:") and not card.sha256:
            raise BadCard(f"{card.origin}: {url} is not encrypted, so the card needs 'sha256', or an https address.")


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise TypeError
    return value


def _name(value: Any) -> str:
    if not _NAME.fullmatch(value) or len(value) > 80 or is_reserved(value):
        raise ValueError
    return str(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise ValueError
    return float(value)


def _voxel(value: Any) -> tuple[float, float, float]:
    z, y, x = (_number(v) for v in value)
    if min(z, y, x) <= 0:
        raise ValueError
    return (z, y, x)


def _table(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError
    return value


def _steps(value: Any) -> tuple[Mapping[str, Any], ...]:
    return tuple({**_table(step), "use": _text(step["use"])} for step in _list(value))


def _sample(value: Any) -> dict[str, str]:
    found = {**_table(value)}
    if set(found) != {"file", "sha256"}:
        raise ValueError
    return {"file": _matches(_FILE)(found["file"]), "sha256": _matches(_SUM)(found["sha256"])}


def _scores(value: Any) -> tuple[Score, ...]:
    return tuple(Score(**{**score, "value": _number(score["value"])}) for score in _list(value))


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError
    return value


def _matches(pattern: re.Pattern[str]) -> Callable[[Any], str]:
    def check(value: Any) -> str:
        if not pattern.fullmatch(value):
            raise ValueError
        return str(value)

    return check


_NAME_RULE = "small letters, digits and single hyphens (at most 80), and no name of a device of Windows (con, nul)"
_CHECKS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "name": (_NAME_RULE, _name),
    "version": ("a whole number from 1", _whole),
    "aliases": (f"a list of names: {_NAME_RULE}", lambda v: tuple(_name(a) for a in _list(v))),
    "about": ("text", _text),
    "model": ("the name of a model plugin", _name),
    "options": ("a table of the model plugin's options", _table),
    "urls": ("a list of addresses", lambda v: tuple(_text(u) for u in _list(v))),
    "file": ("the plain name of a .safetensors file, without a folder", _matches(_FILE)),
    "sha256": ("64 hexadecimal digits in small letters", _matches(_SUM)),
    "size_bytes": ("a whole number from 1", _whole),
    "voxel_size_nm": ("three positive numbers in nm (z, y, x)", _voxel),
    "preparation": ("text", _text),
    "contrast": ("text", _text),
    "preprocessing": ("a list of tables as in a recipe, each with 'use'", _steps),
    "training_data": ("text", _text),
    "scores": ("a list of tables with 'metric', 'value', 'data' and perhaps 'note' and 'command'", _scores),
    "sample": ("a table with 'file' (.safetensors) and its 'sha256'", _sample),
    "licence": ("text", _text),
    "citation": ("text", _text),
    "recipe": ("a table", _table),
}
_REQUIRED = [a.name for a in attrs.fields(Card) if a.default is attrs.NOTHING]
