"""napari's reader: `napari cell.zarr` opens every layer of a cell in its place, scaled in nm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

LayerData = tuple[Any, dict[str, Any], str]

COLOURS = {"probability": "magma"}
LABELS = {"labels", "seeds", "exclusion", "instances", "mask", "segmentation"}
SHOWN = ("raw",)  # further images begin hidden, so that the cell opens at once


def get_reader(path: str | list[str]) -> Callable[[str | list[str]], list[LayerData]] | None:
    """Return the reader if `path` is a container with layers that have a voxel size, or one layer of it."""
    from asem_core.cell.store import layers, open_volume
    from asem_core.errors import AsemError

    address = path if isinstance(path, str) else path[0]
    try:
        if not layers(address):
            open_volume(address)
    except (AsemError, OSError):
        return None
    return read


def read(path: str | list[str]) -> list[LayerData]:
    """Open the layers of a cell, lazily and with their pyramids: images first, then labels over them."""
    from asem_core.cell.store import layers, open_volume

    found: list[LayerData] = []
    for address in [path] if isinstance(path, str) else path:
        names = layers(address)
        for name in names or [""]:
            volume = open_volume(f"{address}/{name}".rstrip("/"), follow=True)
            levels = levels_of(volume.path) or [volume.data]
            found.append(_layer(name or Path(address).name, volume, levels))
    return sorted(found, key=lambda layer: layer[2] == "labels")


def levels_of(address: str) -> list[Any]:
    """Open all levels of a pyramid, finest first; none if the layer has no pyramid."""
    import zarr

    node = zarr.open(address, mode="r")
    attributes: Any = dict(node.attrs)
    multiscales = attributes.get("ome", attributes).get("multiscales")
    if not multiscales or len(multiscales[0]["axes"]) != 3:
        return []
    return [node[d["path"]] for d in multiscales[0]["datasets"]]  # type: ignore[index]


def place(volume: Any) -> dict[str, Any]:
    """Say where a volume lies, in napari's words."""
    return {"scale": volume.voxel_size_nm, "translate": volume.origin_nm, "units": ("nm", "nm", "nm")}


def contrast(volume: Any, coarsest: Any) -> tuple[float, float]:
    """Choose the greys that become black and white: a byte's whole range, otherwise what the coarsest level holds."""
    if volume.dtype == np.uint8:
        return 0.0, 255.0
    part = np.asarray(coarsest[tuple(slice(None, None, max(1, n // 128)) for n in coarsest.shape)])
    low, high = (float(v) for v in np.percentile(part, [0.5, 99.5]))
    return low, high if high > low else low + 1


def _layer(name: str, volume: Any, levels: list[Any]) -> LayerData:
    about = {"name": name, **place(volume), "metadata": {"path": volume.path}}
    many = len(levels) > 1
    data = levels if many else levels[0]
    if volume.dtype.kind in "ui" and (LABELS & set(name.split("/"))):
        return data, {**about, "multiscale": many, "opacity": 0.4, "colormap": _object_colours(volume, name)}, "labels"
    first = name.split("/")[-1] in SHOWN or "/" not in name
    options = {
        "multiscale": many,
        "contrast_limits": contrast(volume, levels[-1]),
        "colormap": COLOURS.get(name.split("/")[-1], "gray"),
        "visible": first,
    }
    if not name.startswith("raw"):
        options["blending"] = "additive"
    return data, {**about, **options}, "image"


def _object_colours(volume: Any, name: str) -> dict[int | None, Any]:
    """Colour objects by their ids, so that neighbours differ; seeds keep napari's own colours, a binary map has one."""
    from asem_core.catalog import load_catalog
    from asem_core.viewing.colours import as_rgba
    from asem_core.viewing.scene import open_layers

    (layer,) = open_layers(volume.path, None, load_catalog())
    clear = {None: as_rgba(layer.colour), 0: (0, 0, 0, 0)}
    objects = layer.object_colours
    return clear | ({i: as_rgba(objects.of(i)) for i in objects.known} if objects.several else {})
