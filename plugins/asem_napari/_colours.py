"""What strokes, results and maps look like in the window."""

from __future__ import annotations

from typing import Any

from asem_core import BACKGROUND, OBJECT

CLEAR = (0, 0, 0, 0)
STROKES = {0: CLEAR, OBJECT: (0.1, 0.75, 0.3, 1), BACKGROUND: (0.85, 0.2, 0.2, 1), None: CLEAR}
RESULT = {0: CLEAR, 1: (0.15, 0.55, 1.0, 1), None: CLEAR}
MAP = [(1.0, 0.7, 0.1, 0.0), (1.0, 0.7, 0.1, 1.0)]


def stroke_colours() -> Any:
    """Object green, background red, all else clear."""
    from napari.utils.colormaps import DirectLabelColormap

    return DirectLabelColormap(color_dict=STROKES)


def result_colours() -> Any:
    """The result of a cut: blue."""
    from napari.utils.colormaps import DirectLabelColormap

    return DirectLabelColormap(color_dict=RESULT)


def map_colours() -> Any:
    """Probabilities: from clear to orange."""
    from napari.utils.colormaps import Colormap

    return Colormap(MAP, name="map")
