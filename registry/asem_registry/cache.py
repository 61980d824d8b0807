"""The cache of weights: one folder a model, with a receipt; a wrong file is never visible and never used.

```
<cache>/weights/<name>@<version>/
    weights.safetensors   checked, and moved here in one step
    receipt.json          where it came from and its sums; outlives the weights, so that a sum once trusted is kept
    source.part           what came so far of a download that was cut
```
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from asem_core.errors import AsemError, MissingExtra, NoSpace, quoted
from asem_core.files import sha256
from asem_core.temporary import write_whole
from asem_registry.card import Card
from asem_registry.fetch import FetchError, check_room, fetch, put, require_s3, room
from asem_registry.settings import Settings

LOG = logging.getLogger("asem_registry")


class NotCached(AsemError):
    """A model is not in the cache and cannot be fetched now; the message holds the command that fetches it."""


class WrongSum(AsemError):
    """A file is not the one its card, or its first download, says."""


@attrs.frozen
class Receipt:
    """What is known of a cached file."""

    url: str
    fetched: str  # date, UTC
    source_sha256: str  # of the file as served
    source_bytes: int
    weights_sha256: str  # of `weights.safetensors`, which is a conversion if the source is a `.pt`
    trusted_on_first_use: bool


def folder_of(card: Card, settings: Settings) -> Path:
    """Say where a model's files are in the cache, whether or not they are there."""
    return settings.cache / "weights" / card.key


def receipt_of(card: Card, settings: Settings) -> Receipt | None:
    """Read the receipt of a model's first download, if there was one."""
    try:
        return Receipt(**json.loads((folder_of(card, settings) / "receipt.json").read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def state_of(card: Card, settings: Settings) -> str:
    """Say `yours`, `bundled` (with its card), `cached` or `not cached`, without reading the weights."""
    if card.file:
        return "yours" if Path(card.origin).parent == settings.home / "cards" else "bundled"
    return "cached" if (folder_of(card, settings) / "weights.safetensors").is_file() else "not cached"


def obtain(card: Card, settings: Settings, *, progress: bool = True) -> Path:
    """Return the model's weights as a checked safetensors file, fetching them if need be.

    The file is hashed on every call. A cached file that is not what it was is deleted and fetched again. Several
    processes may ask for one model at once: one fetches, the others wait and take the result.

    Raises
    ------
    NotCached
        It would have to be fetched, but ASEM_OFFLINE is set or no server answers.
    MissingExtra
        What reads its address is not installed.
    WrongSum
        What was served is not what the card says, or not what it was when it was first pulled.
    NoSpace
        The disk is full.
    BadInput
        The file is not weights of the card's model, or holds code.
    """
    if card.file:
        return _bundled(card)
    weights = folder_of(card, settings) / "weights.safetensors"
    if not _is_good(card, weights, settings):
        if settings.offline:
            raise NotCached(_absent(card, settings, "ASEM_OFFLINE is set"))
        with _in_cache():
            _renew(card, weights, settings, progress)
    if card.trust_on_first_use and (receipt := receipt_of(card, settings)):
        LOG.warning("%s: %s", card.key, first_use(receipt))
    return weights


def require_obtainable(card: Card, settings: Settings) -> None:
    """Check that the weights are here, or that nothing on this computer stands in the way of fetching them.

    Raises
    ------
    NotCached, MissingExtra
        As `obtain`.
    """
    if state_of(card, settings) != "not cached":
        return
    if settings.offline:
        raise NotCached(_absent(card, settings, "ASEM_OFFLINE is set"))
    if all(url.startswith("s3://") for url in card.urls):
        require_s3(card.urls[0])


def remove(card: Card, settings: Settings, *, forget: bool = False) -> bool:
    """Delete a model's cached weights; with `forget`, also the sum it was trusted by. Says whether there was one."""
    folder = folder_of(card, settings)
    if not folder.is_dir():
        return False
    with locked(folder, card.key):
        found = (folder / "weights.safetensors").exists()
        for name in _KEPT:
            if name != "lock" and (name != "receipt.json" or forget):
                (folder / name).unlink(missing_ok=True)
    return found


def place(card: Card, source: Path, receipt: Receipt, settings: Settings) -> Path:
    """Put weights that were carried here by hand (a bundle) into the cache, after checking them against the receipt.

    Raises
    ------
    WrongSum
    """
    weights = folder_of(card, settings) / "weights.safetensors"
    weights.parent.mkdir(parents=True, exist_ok=True)
    with locked(weights.parent, card.key):
        known = receipt_of(card, settings)
        expected = card.sha256 or (known.source_sha256 if known else receipt.source_sha256)
        if receipt.source_sha256 != expected:
            raise WrongSum(_wrong(card, "the bundle", expected, receipt.source_sha256, "Nothing was installed."))
        # Of what is converted here, the bundle's word is taken.
        if (found := sha256(source)) != (expected if has_sum_of_weights(card) else receipt.weights_sha256):
            raise WrongSum(_wrong(card, "the bundle", receipt.weights_sha256, found, "Nothing was installed."))
        with _in_cache():
            check_room(weights.parent, source.stat().st_size)
        with write_whole(weights, alone=True) as half:
            shutil.copyfile(source, half)
            sync(half)
        _keep(receipt, weights)
    return weights


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Hold a folder's lock; says so when another process has it."""
    from filelock import Timeout

    from asem_core.locks import acquired

    try:
        lock = acquired(folder / "lock", timeout=1)
    except Timeout:
        LOG.warning("%s: waiting for another process that is fetching it.", what)
        lock = acquired(folder / "lock", timeout=-1)
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _in_cache() -> Iterator[None]:
    """Say of a full disk that the cache may lie on another."""
    try:
        yield
    except NoSpace as error:
        raise NoSpace(f"{error} Or set ASEM_CACHE to a folder on a larger disk.") from None


def _bundled(card: Card) -> Path:
    path = card.bundled
    if path is None or not path.is_file():
        raise NotCached(
            f"{card.key} comes with its card {card.origin}, but its file {card.file} is not beside it. "
            "Copy it there, or install asem-core again."
        )
    found = sha256(path)
    if found != card.sha256:
        raise WrongSum(
            f"{path} is damaged: its sha256 is {found} but the card {card.origin} says {card.sha256}. "
            "Install asem-core again, or copy the file again from where the card came from."
        )
    return path


def _is_good(card: Card, weights: Path, settings: Settings) -> bool:
    receipt = receipt_of(card, settings)
    if receipt is None or not weights.is_file():
        return False
    if card.sha256 and receipt.source_sha256 != card.sha256:
        return False
    return sha256(weights) == (card.sha256 if has_sum_of_weights(card) else receipt.weights_sha256)


def has_sum_of_weights(card: Card) -> bool:
    """Tell whether a card's sum is of the weights as they are kept, not of a checkpoint that they were converted from."""
    return card.sha256 is not None and (bool(card.file) or card.urls[0].endswith(".safetensors"))


def _renew(card: Card, weights: Path, settings: Settings, progress: bool) -> None:
    weights.parent.mkdir(parents=True, exist_ok=True)
    with locked(weights.parent, card.key):
        if not _is_good(card, weights, settings):
            if weights.exists():
                LOG.warning("%s: the cached file %s is damaged or outdated; fetching it again.", card.key, weights)
                weights.unlink()
            _fetch(card, weights, settings, progress)


def _fetch(card: Card, weights: Path, settings: Settings, progress: bool) -> None:
    """Try the mirrors in order until one has the right file; the folder is locked by us."""
    _tidy(weights.parent)
    part = weights.with_name("source.part")
    before = receipt_of(card, settings)
    expected = card.sha256 or (before.source_sha256 if before else None)
    causes = []
    wrong: WrongSum | None = None
    missing: MissingExtra | None = None
    for url in card.urls:
        try:
            found_at = fetch(url, part, settings, size=card.size_bytes, progress=progress)
        except (FetchError, MissingExtra) as error:
            causes.append(f"  {url}: {error}")
            missing = error if isinstance(error, MissingExtra) else missing
            continue
        found = sha256(part)
        if expected is None or found == expected:
            _install(card, found_at, found, part, weights)
            return
        part.unlink()
        changed = card.sha256 is None
        wrong = WrongSum(_wrong(card, found_at, expected, found, "The download was deleted.", changed=changed))
        causes.append(f"  {url}: wrong checksum")
    if wrong:
        raise wrong
    if missing:
        raise missing
    raise NotCached(_absent(card, settings, "\n".join(["no address worked:", *causes])))


def _install(card: Card, url: str, source_sum: str, part: Path, weights: Path) -> None:
    """Turn a checked download into the cached file."""
    source_bytes = part.stat().st_size
    try:
        with room(part, source_bytes):
            checked = _as_safetensors(card, url, part)
            receipt = Receipt(
                url=url,
                fetched=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
                source_sha256=source_sum,
                source_bytes=source_bytes,
                weights_sha256=sha256(checked),
                trusted_on_first_use=card.trust_on_first_use,
            )
            sync(checked)
            put(checked, weights)
            _keep(receipt, weights)
    finally:
        _tidy(weights.parent)


_KEPT = ("lock", "receipt.json", "weights.safetensors", "sample.safetensors", "source.part", "source.part.json")


def _tidy(folder: Path) -> None:
    """Delete what a process that was killed left behind."""
    for path in folder.iterdir():
        if path.name not in _KEPT:
            path.unlink()


def first_use(receipt: Receipt) -> str:
    """Say that a sum was recorded rather than published."""
    return (
        "its authors publish no checksum, so the first download "
        f"was trusted ({receipt.fetched}) and later ones are checked against it: sha256 {receipt.source_sha256}."
    )


def _as_safetensors(card: Card, url: str, source: Path) -> Path:
    """Check that a file is weights of the card's model, and give it, or a conversion, as safetensors beside it."""
    from asem_core.catalog import load_catalog
    from asem_core.recipe import build
    from asem_core.weights import load_weights, save_weights

    native = url.endswith(".safetensors")
    named = source.with_name("source.safetensors" if native else "source.pt")
    put(source, named)
    try:
        model = build(load_catalog().get("model", card.model), dict(card.options), card.origin)
        network = load_weights(named, model.network())
    except AsemError as error:
        raise type(error)(
            f"{card.key} from {url} is refused and deleted: {str(error).replace(str(named), 'it')}"
        ) from None
    if native:
        return named
    metadata = {
        "model": {"use": card.model, **card.options},
        "voxel_size_nm": list(card.voxel_size_nm),
        "preprocessing": [
            {"name": step["use"], "options": {k: v for k, v in step.items() if k != "use"}}
            for step in card.preprocessing
        ],
        "card": card.key,
        "converted_from": url,
    }
    return save_weights(named.with_suffix(".safetensors"), network, metadata)


def _keep(receipt: Receipt, weights: Path) -> None:
    """Write the receipt of weights that are in their place: without one, they are fetched again."""
    with write_whole(weights.with_name("receipt.json"), alone=True) as half:
        half.write_text(json.dumps(attrs.asdict(receipt), indent=1), encoding="utf-8")
        sync(half)


def sync(file: Path) -> None:
    """Wait until what was written to a file is on the disk."""
    with file.open("rb+") as opened:
        os.fsync(opened.fileno())


def _absent(card: Card, settings: Settings, why: str) -> str:
    return (
        f"{card.key} is not in the cache {settings.cache} and cannot be fetched: {why}\n"
        f"On a machine with a network, `asem models pull {quoted(card.key)}` fetches it, and "
        f"`asem models bundle {quoted(card.key)} -o models.zip` packs it to be copied here: `asem models unbundle models.zip`."
    )


def _wrong(card: Card, source: str, expected: str, got: str, what: str, *, changed: bool = False) -> str:
    if changed:
        hint = (
            "The file on the server differs from the one that was first downloaded. If its authors replaced it on purpose, "
            f"`asem models remove {quoted(card.key)} --forget` and pull again; else do not trust it."
        )
    else:
        hint = (
            "Likely causes: a proxy or login page in between, a mirror with an old or damaged copy, or a card with a "
            "wrong checksum. Try again, try another network, or ask whoever made the card."
        )
    return f"{card.key}: {source} is not the expected file.\n  expected sha256 {expected}\n  got      sha256 {got}\n{what} {hint}"


def describe(card: Card, settings: Settings) -> dict[str, Any]:
    """Say what is in the cache of a model: its state, path and sums, for people and programs."""
    receipt = None if card.file else receipt_of(card, settings)
    return {
        "state": state_of(card, settings),
        "path": str(card.bundled if card.file else folder_of(card, settings) / "weights.safetensors"),
        "trust_on_first_use": card.trust_on_first_use,
        "receipt": attrs.asdict(receipt) if receipt else None,
    }


def check(card: Card, settings: Settings) -> str:
    """Hash what is here of a model and say `good`, `not cached`, or `damaged` (a damaged cached file is deleted)."""
    if card.file:
        try:
            _bundled(card)
        except AsemError as error:
            return f"damaged: {error}"
        return f"good, {state_of(card, settings)}"
    weights = folder_of(card, settings) / "weights.safetensors"
    if not weights.is_file():
        return "not cached"
    if _is_good(card, weights, settings):
        receipt = receipt_of(card, settings)
        return f"good; {first_use(receipt)}" if card.trust_on_first_use and receipt else "good"
    with locked(weights.parent, card.key):
        if not _is_good(card, weights, settings):
            weights.unlink(missing_ok=True)
    return f"damaged: it was deleted; `asem models pull {quoted(card.key)}` fetches it again"
