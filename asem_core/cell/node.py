"""Zarr groups and arrays, here or at remote addresses: opening and listing them, and where an array lies."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from asem_core.cell.build import begun
from asem_core.cell.place import cell_of
from asem_core.errors import BadInput, MissingExtra, UnknownName
from asem_core.files import near_path, storage_options
from asem_core.paths import slashed
from asem_core.voxels.scale import Scale
from asem_core.voxels.zarr_dialects import multiscale_of, ome_scale, plain_scales

_HOW = " asem import makes a cell of an image."


def open_node(address: str) -> Any:
    """Open a Zarr group or array.

    Raises
    ------
    BadInput
        Nothing is there, it is no Zarr, it was not finished, or it cannot be reached.
    UnknownName
        Its cell has no such layer.
    """
    import zarr
    from zarr.errors import NodeNotFoundError

    remote = "://" in address
    if not remote and not Path(address).exists():
        container = cell_of(Path(address).parent)
        if begun(address):
            raise BadInput(f"{address} is incomplete. Run the command that was writing it again to resume.")
        if container.suffix == ".zarr" and container.exists():
            name = slashed(Path(address).relative_to(container))
            raise UnknownName(f"{container} has no layer '{name}'. {near_layers(name, layers(container))}")
        raise BadInput(f"{address} does not exist.{near_path(address) or _HOW}")
    # What somebody consolidated (`.zmetadata`) does not list what was added since.
    options = {"storage_options": storage_options(address)} if remote else {"use_consolidated": False}
    try:
        node = zarr.open(address, mode="r", **options)  # type: ignore[arg-type]
        if isinstance(node, zarr.Array) and any(edge <= 0 for edge in node.shape):
            raise ValueError(f"its shape is {list(node.shape)}")
        return node
    except (NodeNotFoundError, FileNotFoundError, KeyError):
        raise BadInput(
            f"{address} is not a Zarr array or group: there is no zarr.json, .zarray or .zgroup in it.{_HOW}"
        ) from None
    except ImportError:
        raise MissingExtra.of("s3", f"{address} needs s3fs") from None
    except Exception as error:  # each remote file system raises its own kind
        if isinstance(error, OSError) and not remote:
            raise
        if not remote:
            raise BadInput(f"{address} has damaged Zarr metadata ({error}). Copy or write it again.") from None
        raise BadInput(
            f"{address} cannot be reached: {type(error).__name__}: {error}. Check the address and the network."
        ) from error


def is_group(node: Any) -> bool:
    """Tell a group from an array."""
    import zarr

    return isinstance(node, zarr.Group)


def near_layers(name: str, known: Sequence[str]) -> str:
    """Say which layer may be meant, and which there are: sentences."""
    near = [n for n in known if n.endswith(f"/{name}")] or difflib.get_close_matches(name, known, 1, cutoff=0.85)
    meant = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"{meant}Its layers: {', '.join(known) or 'none'}."


def require_layer(address: str | Path, what: str, fits: Callable[[str], bool], otherwise: str) -> None:
    """Refuse a cell or a group of one where a layer is wanted, and name the layers that fit.

    Parameters
    ----------
    what : what is wanted, as a message calls it: "a probability map"
    fits : whether a layer of this name is such
    otherwise : what to do where there is none: "asem predict makes one"
    """
    place = slashed(address).rstrip("/")
    found = layers(place)
    if not found or found == ["s0"]:
        return
    fitting = [f"{place}/{name}" for name in found if fits(name)]
    if not fitting:
        raise BadInput(f"{place} holds many layers, none of them {what}: {otherwise}.")
    raise BadInput(f"{place} holds many layers. Name {what} of them: {', '.join(fitting)}.")


def layers(container: str | Path) -> list[str]:
    """List the layers of a container, `raw` ones first; each opens by `container/layer`."""
    node = open_node(slashed(container).rstrip("/"))
    if not is_group(node):
        return []
    if multiscale_of(dict(node.attrs)) is not None:
        return []  # it is a layer itself
    if "s0" in node:
        return ["s0"]
    found: list[str] = []

    def visit(group: Any, prefix: str) -> None:
        for name, member in group.members():
            address = f"{prefix}{name}"
            if not is_group(member):
                if len(member.shape) >= 3:
                    found.append(address)
            elif multiscale_of(dict(member.attrs)) is not None:
                found.append(address)
            elif "s0" in member:  # levels without OME metadata, as cellmap writes them
                found.append(f"{address}/s0")
            else:
                visit(member, address + "/")

    with warnings.catch_warnings():  # what is no Zarr in a container (a session of the loop) is no layer
        warnings.filterwarnings("ignore", message="Object at .* is not recognized")
        visit(node, "")
    return sorted(found, key=lambda name: (not name.split("/")[-1].startswith("raw"), name))


def container_attributes(container: str | Path) -> dict[str, Any]:
    """Read what a container says of itself, beside its layers."""
    return dict(open_node(slashed(container).rstrip("/")).attrs)


def array_scales(array: Any, address: str) -> tuple[list[Scale], list[str]]:
    """Read where an array lies from its own attributes, or from those of the OME-Zarr image whose level it is."""
    parent, _, name = address.rpartition("/")
    attributes = dict(array.attrs)
    named = getattr(array.metadata, "dimension_names", None)
    if not {"resolution", "voxel_size", "transform"} & set(attributes) and ("://" in parent or Path(parent).exists()):
        try:
            multiscale = multiscale_of(dict(open_node(parent).attrs))
        except BadInput:
            multiscale = None
        for dataset in (multiscale or {}).get("datasets", []):
            if dataset["path"] == name:
                scale, axes = ome_scale(multiscale or {}, dataset, len(array.shape))
                return [scale], axes
    return plain_scales(attributes, len(array.shape), named, address)
