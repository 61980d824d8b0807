"""Public data sets by name: list their volumes, and copy a box of one without fetching the rest."""

from __future__ import annotations

import tomllib
from pathlib import Path

import attrs

from asem_core.blocks import Run
from asem_core.errors import AsemError, UnknownName
from asem_core.interfaces import Source
from asem_core.volume import Volume
from asem_registry.card import near_names
from asem_registry.fetch import FetchError, listing
from asem_registry.settings import Settings

_SHIPPED = Path(__file__).parent / "data_sets.toml"
BLOCK = 256  # voxels along an edge that one worker fetches at once; a published chunk is rarely larger


class NotReachable(AsemError):
    """A data set cannot be read now."""


@attrs.frozen
class DataSet:
    """One public container of volumes."""

    name: str
    about: str
    url: str
    licence: str
    citation: str


def load_data_sets() -> dict[str, DataSet]:
    """Read the shipped list."""
    table = tomllib.loads(_SHIPPED.read_text(encoding="utf-8"))
    return {name: DataSet(name, **values) for name, values in table.items()}


def find_data_set(name: str) -> DataSet:
    """Find a data set by name; an address (`s3://`, `https://`) is a data set of its own.

    Raises
    ------
    UnknownName
        The message has the nearest names.
    """
    if "://" in name:
        return DataSet(name, "", name, "licence: see its publisher", "")
    known = load_data_sets()
    if name not in known:
        raise UnknownName(f"No data set is called '{name}'. {near_names(name, known)}")
    return known[name]


def layers(data_set: DataSet, settings: Settings) -> list[str]:
    """List the volumes of a data set.

    Raises
    ------
    NotReachable
        ASEM_OFFLINE is set, the server does not answer, or the container is not where it was.
    """
    return _source(data_set, settings).layers()


def pull(data_set: DataSet, layer: str, box: str | None, output: Path, run: Run, settings: Settings) -> Volume:
    """Copy a volume, or a box of it, to a layer of a cell; a copy that was cut goes on where it stopped.

    Parameters
    ----------
    box : `z0:z1,y0:y1,x0:x1` in voxels of the volume; the copy keeps its place by its origin

    Raises
    ------
    NotReachable
    UnknownName, BadInput
        The data set has no such volume, or the box is not one.
    OutsideVolume
        The box extends beyond the volume.
    """
    from asem_core import import_volume

    if run.block is None:
        run = attrs.evolve(run, block=(BLOCK, BLOCK, BLOCK))
    return import_volume(_source(data_set, settings), output, run, layer=layer, box=box)


def _source(data_set: DataSet, settings: Settings) -> Source:
    from asem_core import choose_source
    from asem_core.catalog import load_catalog

    if settings.offline:
        raise NotReachable(f"{data_set.name} lies at {data_set.url}, and ASEM_OFFLINE is set. Unset it to read there.")
    if data_set.url.startswith("s3://") and not _is_there(data_set, settings):
        folder = data_set.url.rpartition("/")[0]
        found = listing(f"{folder}/*", settings)
        raise NotReachable(
            f"{data_set.name} is no longer at {data_set.url}. "
            + (f"There: {', '.join(found)}; give one in place of the name." if found else f"{folder} is empty.")
        )
    return choose_source(load_catalog(), data_set.url, None, {})


def _is_there(data_set: DataSet, settings: Settings) -> bool:
    try:
        return bool(listing(data_set.url, settings))
    except FetchError as error:
        raise NotReachable(
            f"{data_set.name} cannot be read at {data_set.url}: {error}. Is there a network connection?"
        ) from None
