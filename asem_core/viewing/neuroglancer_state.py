"""What neuroglancer shows of a cell, in its own terms: layers, their colours, and a place from which all is seen."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
import numpy as np

from asem_core.viewing.scene import Layer

MOST_SURFACES = 500
"""More objects than this are not drawn in 3D at first: double-click those of interest."""
MOST_COLOURS = 20_000
"""Of more objects than this the viewer chooses the colours: a list of them would slow the page down."""
DOWNLOADS = 2000
"""Requests that the viewer has under way, those included that it repeats later: surfaces must not keep planes waiting."""


@attrs.frozen
class Places:
    """Where neuroglancer finds a layer, as it writes addresses: voxels, and of labels surfaces and what is known of each object."""

    voxels: str
    surfaces: str | None = None
    properties: str | None = None


def describe_view(layers: Sequence[Layer], places: Sequence[Places], title: str = "") -> dict[str, Any]:
    """Describe the view in neuroglancer's own terms: layers, colours, and a place from which all is seen."""
    first = next((x for x in layers if x.kind == "image"), layers[0]).volume
    size, origin = np.array(first.voxel_size_nm[::-1]), np.array(first.origin_nm[::-1])
    extent = np.array(first.shape[::-1]) * size
    images = [x for x in layers if x.kind == "image"]
    return {
        "title": f"{title} - ASEM" if title else "ASEM",
        "dimensions": {axis: [float(s) * 1e-9, "m"] for axis, s in zip("xyz", size, strict=True)},
        "position": ((origin + (extent - size) / 2) / size).tolist(),
        "crossSectionScale": float(extent.max() / size.min() / 600),
        "projectionScale": float(extent.max() / size.min() * 1.4),
        "layout": "4panel",
        "crossSectionBackgroundColor": "#000000",
        "concurrentDownloads": DOWNLOADS,
        "layers": [
            {
                **_layer_state(layer, place),
                "visible": not layer.is_aside and (layer.kind != "image" or layer is images[0]),
            }
            for layer, place in zip(layers, places, strict=True)
        ],
    }


def _layer_state(layer: Layer, place: Places) -> dict[str, Any]:
    source = {"url": place.voxels}
    if layer.kind == "image":
        low, high = layer.grey_range
        shader = f"#uicontrol invlerp grey(range=[{low:g}, {high:g}])\nvoid main() {{ emitGrayscale(grey()); }}\n"
        return {
            "type": "image",
            "name": layer.name,
            "source": source,
            "shader": shader,
            "opacity": 1.0,
            "blend": "default",
        }
    if layer.kind == "probability":
        return {"type": "image", "name": layer.name, "source": source, "shader": _probability(layer), "opacity": 0.5}
    state = {
        "type": "segmentation",
        "name": layer.name,
        "source": [source, *(p for p in (place.surfaces, place.properties) if p is not None)],
        "selectedAlpha": 0.4,
        "notSelectedAlpha": 0.15,
    }
    if layer.kind == "errors":
        colours = {"1": "#ff3030", "2": "#3060ff"}
        return {
            **state,
            "segments": ["1", "2"],
            "segmentColors": colours,
            "name": f"{layer.name} (red: false, blue: missed)",
        }
    objects = layer.object_colours
    if not objects.several:
        state["segmentDefaultColor"] = layer.colour
    elif len(objects.known) <= MOST_COLOURS:
        state["segmentColors"] = {str(i): objects.of(i) for i in objects.known}
    if place.surfaces is not None and len(objects.known) <= MOST_SURFACES:
        state["segments"] = [str(i) for i in objects.known]
    return state


def _probability(layer: Layer) -> str:
    """Colour what is at least as probable as a slider says, the more the more probable."""
    value = "getDataValue()" if layer.volume.dtype.kind == "f" else "toNormalized(getDataValue())"
    return (
        f'#uicontrol vec3 colour color(default="{layer.colour}")\n'
        "#uicontrol float threshold slider(min=0, max=1, default=0.5)\n"
        "void main() {\n"
        f"  float p = {value};\n"
        "  emitRGBA(vec4(colour, p < threshold ? 0.0 : p));\n"
        "}\n"
    )
