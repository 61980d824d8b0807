"""The log of a proofread segmentation: small edits, kept with its layer, whose voxels stay as they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

KEY = "asem_edits"
"""The attribute of a layer's group that holds its edits, first to last."""


def read_edits(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Read the edits in the attributes of a layer's group, as `write_edits` wrote them."""
    return [dict(edit) for edit in attributes.get(KEY, [])]


def write_edits(layer: str | Path, edits: Sequence[Mapping[str, Any]]) -> None:
    """Write the whole log of a layer on the disk."""
    import zarr

    zarr.open_group(str(layer), mode="r+").attrs[KEY] = [dict(edit) for edit in edits]
