"""Where the registry keeps things and where it looks: environment, then the user's `config.toml`, then defaults.

```toml
# config.toml in the platform's configuration folder (`asem models where` prints it), or the file ASEM_CONFIG names
[registry]
cards = ["/lab/asem", "s3://lab/asem"]  # registries: folders and addresses of model cards (`asem models registries`)
cache = "/scratch/asem"                                         # else ASEM_CACHE, else the user's cache folder
```
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import platformdirs

from asem_core.errors import AsemError
from asem_core.paths import config_path


class BadSettings(AsemError):
    """The user's configuration file has an unknown key or a value of the wrong type."""


@attrs.frozen
class Settings:
    """What one call of the registry works with."""

    cache: Path  # downloads; may be deleted at any time
    home: Path  # the user's own cards and weights; never deleted by the registry
    cards: tuple[str, ...] = ()  # further folders and addresses of cards
    offline: bool = False
    s3_endpoint: str | None = None  # ASEM_S3_ENDPOINT: another server than Amazon's for s3:// addresses
    s3_signed: bool = False  # ASEM_S3_SIGNED: read s3:// with the user's credentials; publishing always does
    empiar_entries: str = (
        "https://www.ebi.ac.uk/empiar/api/entry"  # ASEM_EMPIAR_ENTRIES: another server that describes them
    )
    empiar_files: str = "https://ftp.ebi.ac.uk/empiar/world_availability"  # ASEM_EMPIAR_FILES: a mirror of their files
    attempts: int = 5  # per mirror, for faults that may pass
    first_wait_s: float = 0.5  # before the second attempt; doubles with each further one

    @classmethod
    def load(cls, environ: Mapping[str, str] = os.environ) -> Settings:
        """Read the environment and the configuration file.

        Raises
        ------
        BadSettings
            The file is not TOML, or has an unknown key or a value of the wrong type in `[registry]`.
        """
        table = _registry_table(config_path(environ))
        cache = environ.get("ASEM_CACHE") or table.get("cache") or platformdirs.user_cache_path("asem")
        home = environ.get("ASEM_HOME") or platformdirs.user_data_path("asem")
        return cls(
            cache=Path(cache).expanduser(),
            home=Path(home).expanduser(),
            cards=tuple(table.get("cards", ())),
            offline=_is_set(environ, "ASEM_OFFLINE"),
            s3_endpoint=environ.get("ASEM_S3_ENDPOINT") or None,
            s3_signed=_is_set(environ, "ASEM_S3_SIGNED"),
            **{
                key: environ[name].rstrip("/")
                for key, name in (("empiar_entries", "ASEM_EMPIAR_ENTRIES"), ("empiar_files", "ASEM_EMPIAR_FILES"))
                if environ.get(name)
            },
        )


def write_places(places: Sequence[str]) -> Path:
    """Write the list of registries to the user's configuration, whose other lines stay as they are; return the file.

    Raises
    ------
    BadSettings
        The file is not TOML.
    """
    import tomlkit

    from asem_core.temporary import write_whole

    path = config_path()
    _registry_table(path)  # checked
    document = tomlkit.parse(path.read_text(encoding="utf-8") if path.is_file() else "")
    document.setdefault("registry", tomlkit.table())["cards"] = list(places)
    path.parent.mkdir(parents=True, exist_ok=True)
    with write_whole(path) as half:
        half.write_text(tomlkit.dumps(document), encoding="utf-8")
    return path


def _is_set(environ: Mapping[str, str], name: str) -> bool:
    return environ.get(name, "0").lower() not in ("", "0", "false", "no")


_KEYS = {"cards": list, "cache": str}


def _registry_table(path: Path) -> dict[str, Any]:
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadSettings(f"{path} is not TOML: {error}. Correct it, or move it away to use the defaults.") from None
    table = found.get("registry", {})
    for key, value in table.items():
        if key not in _KEYS:
            near = difflib.get_close_matches(key, _KEYS, 1)
            hint = f"Did you mean '{near[0]}'?" if near else f"Known keys: {', '.join(_KEYS)}."
            raise BadSettings(f"{path}: unknown key '{key}' in [registry]. {hint}")
        if not isinstance(value, _KEYS[key]) or (key == "cards" and not all(isinstance(v, str) for v in value)):
            expected = "a list of folders and addresses" if key == "cards" else "a string"
            raise BadSettings(f"{path}: '{key}' in [registry] must be {expected}, not {value!r}.")
    return dict(table)
