"""Pretrained models by name.

```python
import asem_registry

card = asem_registry.find("mitochondria-cf-5nm")   # what it expects of an image, how good it is, whose it is
path = asem_registry.pull("mitochondria-cf-5nm")   # a checked safetensors file, fetched if it is not in the cache
```
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from asem_registry.card import Card
    from asem_registry.settings import Settings

__all__ = ["find", "names", "of_model", "pull", "require"]


def find(name: str, settings: Settings | None = None) -> Card:
    """Find a model's card by name, `name@version` or alias.

    Raises
    ------
    UnknownName
        No card has this name; the message has the nearest ones.
    PluginError
        Two different cards claim it.
    """
    from asem_registry.library import load_library
    from asem_registry.settings import Settings

    return load_library(settings or Settings.load()).find(name)


def names(settings: Settings | None = None) -> list[str]:
    """List the names of all models: shipped, of plugins, of the user and of configured folders and addresses."""
    from asem_registry.library import load_library
    from asem_registry.settings import Settings

    return load_library(settings or Settings.load()).names()


def of_model(model: str, settings: Settings | None = None) -> tuple[list[str], list[str]]:
    """List the names of all weights of a model plugin: those on this machine, and those that would be fetched."""
    from asem_registry.cache import state_of
    from asem_registry.library import load_library
    from asem_registry.settings import Settings

    settings = settings or Settings.load()
    library = load_library(settings)
    cards = [card for name in library.names() if (card := library.find(name)).model == model]
    is_here = [state_of(card, settings) != "not cached" for card in cards]
    return [c.name for c, here in zip(cards, is_here, strict=True) if here], [
        c.name for c, here in zip(cards, is_here, strict=True) if not here
    ]


def require(name: str, settings: Settings | None = None) -> Card:
    """Check that `pull` has what it needs, without fetching anything, and return the model's card.

    Raises
    ------
    UnknownName, PluginError
        As `find`.
    NotCached
        The weights are not here, and ASEM_OFFLINE is set.
    MissingExtra
        They are not here, and what reads their address is not installed.
    """
    from asem_registry.cache import require_obtainable
    from asem_registry.settings import Settings

    settings = settings or Settings.load()
    card = find(name, settings)
    require_obtainable(card, settings)
    return card


def pull(name: str, settings: Settings | None = None, *, progress: bool = True) -> Path:
    """Return a model's weights as a safetensors file whose checksum was just verified, fetching it if need be.

    Raises
    ------
    UnknownName, PluginError
        As `find`.
    NotCached, WrongSum, NoSpace, BadInput
        As `asem_registry.cache.obtain`: each message says what was deleted and what to do.
    """
    from asem_registry.cache import obtain
    from asem_registry.settings import Settings

    settings = settings or Settings.load()
    return obtain(find(name, settings), settings, progress=progress)
