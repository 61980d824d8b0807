"""Whether membranes are dark or bright in an image."""

from __future__ import annotations

import numpy as np

from asem_analyzers._objects import Objects, read_mask
from asem_analyzers._rings import Membrane
from asem_core.volume import Volume

NUM_OBJECTS = 40
NEAR_VX = 5


def membrane_of(objects: Objects, raw: Volume) -> Membrane:
    """Compare the image inside the masks, which trace membranes, with what surrounds them; dark where there is doubt.

    High-pressure frozen cells are often stored inverted, with bright membranes.
    """
    from scipy.ndimage import binary_dilation

    shift = raw.box_of(objects.labels).begin
    contrasts = []
    for index in np.unique(
        np.linspace(0, len(objects) - 1, min(len(objects), NUM_OBJECTS)).round().astype(int)
    ).tolist():
        box = objects.box(index).grow(NEAR_VX)
        box &= raw.box.shift([-s for s in shift])
        mask = read_mask(objects.labels, box, int(objects.ids[index]))
        around = binary_dilation(mask, iterations=NEAR_VX) & ~binary_dilation(mask, iterations=2)
        if mask.any() and around.any():
            image = raw.read(box.shift(shift)).astype(np.float32)
            contrasts.append(float(image[mask].mean() - image[around].mean()))
    return "bright" if contrasts and np.median(contrasts) > 0 else "dark"
