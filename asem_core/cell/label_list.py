"""The list of labels that OME-Zarr wants in a group named `labels`: by it, other programs find them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from asem_core.cell.group import change_attributes
from asem_core.cell.node import layers
from asem_core.cell.place import cell_of
from asem_core.voxels.zarr_dialects import multiscale_of

GROUP = "labels"


def list_labels(layer: str | Path) -> None:
    """Write into the group `labels` that a layer lies in which labels are there now; elsewhere do nothing.

    The list is made of what lies there, so whoever writes last of several processes has it right, and labels that a user removed
    are off it.
    """
    import zarr

    layer = Path(layer)
    folder = next((p for p in layer.parents if p.name == GROUP and cell_of(layer) in p.parents), None)
    if folder is None:
        return
    group = zarr.open_group(str(folder), mode="r")
    direct = [name for name in layers(folder) if "/" not in name]  # readers look no deeper
    found = [name for name in direct if _is_labels(group[name])]
    listed = {GROUP: found} if group.metadata.zarr_format == 2 else {"ome": {"version": "0.5", GROUP: found}}
    change_attributes(folder, listed)


def _is_labels(node: Any) -> bool:
    """Tell whether a node is an image of whole numbers with OME-Zarr metadata; a plain array is not, as some programs write it."""
    multiscale = multiscale_of(dict(node.attrs))
    return multiscale is not None and node[multiscale["datasets"][0]["path"]].dtype.kind in "ui"
