"""What a graph cut knows of a box before any seed is painted: supervoxels, who touches whom, greys, membranes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

import attrs
import numpy as np

from asem_core.temporary import write_whole

GREY_BINS = 5


@attrs.frozen(eq=False)
class Graph:
    """Supervoxels 0..n-1 of a box and the pairs of them that share a voxel face."""

    labels: np.ndarray  # int32, shape of the box
    bins: np.ndarray  # uint8, shape of the box: the grey bin of each voxel
    dark: np.ndarray  # uint8, shape of the box: how much a voxel lies on a membrane
    wall: np.ndarray  # uint8, shape of the box: the same, seen more finely and with its greys, for the last voxel
    size: np.ndarray  # int64 (n,) voxels
    grey: np.ndarray  # float64 (n,) mean
    centre: np.ndarray  # float64 (n, 3) in voxels
    histogram: np.ndarray  # int32 (n, bins) voxels in each grey bin
    first: np.ndarray  # int32 (pairs,)
    second: np.ndarray  # int32 (pairs,), greater than `first`
    area: np.ndarray  # float64 (pairs,) of the shared face, in squares of the finest voxel edge
    least: np.ndarray  # uint8 (pairs,) darkness of the shared face's least dark voxel
    mean_dark: np.ndarray  # float64 (pairs,)
    darkest: np.ndarray  # uint8 (pairs,)

    @property
    def count(self) -> int:
        return len(self.size)

    def save(self, path: Path) -> None:
        """Write to a file; a half-written one is never visible."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with write_whole(path, alone=True) as half, half.open("wb") as file:
            np.savez(file, **{a.name: getattr(self, a.name) for a in attrs.fields(type(self))})

    @classmethod
    def load(cls, path: Path) -> Self:
        with np.load(path, allow_pickle=False) as file:
            return cls(**{a.name: file[a.name] for a in attrs.fields(cls)})


def build_graph(
    image: np.ndarray, labels: np.ndarray, count: int, dark: np.ndarray, wall: np.ndarray, spacing: Sequence[float]
) -> Graph:
    """Gather what the energies need of supervoxels `labels` (int32, 0..count-1) of an image.

    Parameters
    ----------
    dark, wall
        uint8, shape of the image; see `Graph`.
    spacing
        Voxel size in units of its finest edge.
    """
    from asem_annotators import _kernels

    low, high = float(image.min()), float(image.max())
    size, grey, centre, histogram = _kernels.sums(labels, image, GREY_BINS, low, high, count)
    face_area = np.prod(spacing) / np.asarray(spacing, float)
    first, second, area, least, darkest, total = _kernels.faces(labels, count, dark, face_area)
    bins = np.empty(image.shape, np.uint8)
    for z in range(len(image)):  # plane by plane: a float copy of a large box would not fit
        bins[z] = np.minimum((image[z] - low) * (GREY_BINS / (high - low)), GREY_BINS - 1)
    return Graph(
        labels=labels,
        bins=bins,
        dark=dark,
        wall=wall,
        size=size,
        grey=grey / size,
        centre=centre / size[:, None],
        histogram=histogram,
        first=first,
        second=second,
        area=area,
        least=least,
        mean_dark=total / area,
        darkest=darkest,
    )
