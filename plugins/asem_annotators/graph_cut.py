"""Graph cut: a few strokes become a 3D label, by the cheapest surface between object and background seeds.

Gallusser et al. 2022, "Graph-cut annotator": supervoxels are labelled together by max-flow. Their energy is here under
its own name; the default one sees membranes (docs/annotating.md, docs/accuracy/annotating.md).
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import numpy as np

from asem_annotators._boxes import honour, read_image, spacing_of
from asem_core.errors import BadInput
from asem_core.hookspecs import hookimpl
from asem_core.interfaces import Annotator
from asem_core.volume import Box, Volume

if TYPE_CHECKING:
    from pathlib import Path

    from asem_annotators._energy import Energy
    from asem_annotators._graph import Graph
    from asem_core.blocks import Run

BYTES_PER_VOXEL = 30  # 18 at 512^3, and SLIC needs somewhat more; see docs/performance/annotating.md
MIXTURE_STEPS = 50
KEPT = 4  # graphs a cell, of the boxes used last: one takes about 8 bytes a voxel
FORMAT = 3  # of the stored graph: a file of another one is not found, and made anew


@attrs.frozen
class GraphCut(Annotator):
    """Cut supervoxels between object and background seeds by max-flow.

    Options that are None take the default of the energy.

    Parameters
    ----------
    energy
        "membrane" follows dark sheets; "published" is the energy of Gallusser et al. 2022.
    supervoxels
        "watershed": basins between membranes, finer where there is detail (for "membrane"). "slic": compact pieces of
        similar grey values (for "published").
    lam
        Weight of the boundary: a larger weight makes it shorter. 1 for "membrane", 10 for "published".
    beta
        Weight of the distance to the seeds; across membranes it counts more in "membrane". 0, or 1 for "published".
    gamma
        Weight of the similarity to the seeds' grey values. 0, or 1 for "published".
    sigma_nm
        Half the thickness of a membrane as it appears in the image; at least one voxel is used.
    contrast
        Cutting through a full membrane costs exp(-contrast) of cutting through none ("membrane").
    inertia
        Cost of a voxel that changes from the last result, in seeds: strokes that refine a result then act only near
        them. Strokes within `middle_vx` of its surface move the surface and change no supervoxel.
        0.005, or 0 for "published".
    face
        How the darkness of a face between two supervoxels is measured: by its "weakest" voxel, the "mean" or the "darkest".
    smoothing
        Smoothing of the membranes before the watershed, in sigmas; more makes fewer, larger supervoxels.
    num_supervoxels, compactness, iterations
        Options of SLIC.
    refine_vx
        Voxels on either side of the cut that are reassigned one by one, along the membrane. 4, or 0 for "published".
    middle_vx, middle_contrast
        Voxels on either side of that surface that are then assigned to the side that reaches them at the least cost. Passing the
        darkest voxel costs exp(middle_contrast) of passing the brightest, so that the sides meet in the middle of the
        dark membrane and not at its darkest voxel. 2, or 0 for "published"; 8.
    keep
        Clean-up by a mixture of two Gaussians fitted to the grey values of the object: keep "all", or its "dark" or "bright" part.
    """

    name: ClassVar[str] = "graph-cut"
    is_default: ClassVar[bool] = True

    energy: Literal["membrane", "published"] = "membrane"
    supervoxels: Literal["watershed", "slic"] | None = None
    lam: float | None = None
    beta: float | None = None
    gamma: float | None = None
    sigma_nm: float = 10.0
    contrast: float = 22.0
    inertia: float | None = None
    face: Literal["weakest", "mean", "darkest"] = "weakest"
    smoothing: float = 0.6
    num_supervoxels: int = 4000
    compactness: float = 25.0
    iterations: int = 10
    refine_vx: int | None = None
    middle_vx: int | None = None
    middle_contrast: float = 8.0
    keep: Literal["all", "dark", "bright"] = "all"

    def __attrs_post_init__(self) -> None:
        for option in (
            "lam",
            "beta",
            "gamma",
            "contrast",
            "inertia",
            "smoothing",
            "refine_vx",
            "middle_vx",
            "middle_contrast",
        ):
            value = getattr(self, option)
            if value is not None and value < 0:
                raise BadInput(f"graph-cut: {option} must be at least 0, got {value}.")
        for option in ("sigma_nm", "num_supervoxels", "compactness", "iterations"):
            value = getattr(self, option)
            if value is not None and value <= 0:
                raise BadInput(f"graph-cut: {option} must be more than 0, got {value}.")

    def prepare(self, volume: Volume, box: Box, run: Run) -> PreparedGraphCut:
        """Make the supervoxels and their graph, or load them from `run.scratch` if the image and options are the same.

        Raises
        ------
        BadInput
            The box needs more memory than there is, or the image is constant there.
        """
        from asem_annotators._graph import Graph

        image = read_image(volume, box, BYTES_PER_VOXEL)
        spacing = spacing_of(volume)
        sigma = max(1.0, self.sigma_nm / min(volume.voxel_size_nm))
        file = None if run.scratch is None else run.scratch / self._file_name(image, spacing, sigma)
        if file is not None and file.exists():
            file.touch()
            return PreparedGraphCut(self, Graph.load(file), image, spacing)
        graph = self._build_graph(image, spacing, sigma)
        if file is not None:
            graph.save(file)
            _drop_oldest(file.parent)
        return PreparedGraphCut(self, graph, image, spacing)

    def setting(self, option: str) -> Any:
        """Return an option, or what belongs to the energy where it is None."""
        chosen = getattr(self, option)
        return _BY_ENERGY[self.energy][option] if chosen is None else chosen

    def _build_graph(self, image: np.ndarray, spacing: Sequence[float], sigma: float) -> Graph:
        from scipy import ndimage

        from asem_annotators._graph import build_graph
        from asem_annotators._supervoxels import basins, membranes, slic, walls

        sheet = membranes(image, spacing, sigma)
        wall = walls(image, sheet, spacing, sigma)
        if self.smoothing:
            ndimage.gaussian_filter(sheet, [self.smoothing * sigma / s for s in spacing], output=sheet, mode="nearest")
        dark = sheet.astype(np.uint8)
        if self.setting("supervoxels") == "slic":
            labels, count = slic(image, spacing, self.num_supervoxels, self.compactness, self.iterations)
        else:
            labels, count = basins(sheet)
        del sheet
        return build_graph(image, labels, count, dark, wall, spacing)

    def _file_name(self, image: np.ndarray, spacing: Sequence[float], sigma: float) -> str:
        """Name the stored graph after all it depends on."""
        options = (
            FORMAT,
            self.setting("supervoxels"),
            sigma,
            self.smoothing,
            self.num_supervoxels,
            self.compactness,
            self.iterations,
        )
        of_options = zlib.crc32(repr((options, image.shape, tuple(spacing))).encode())
        return f"graph-cut-{zlib.crc32(image.data):08x}-{of_options:08x}.npz"


def _drop_oldest(folder: Path) -> None:
    for file in sorted(folder.glob("graph-cut-*.npz"), key=lambda f: f.stat().st_mtime_ns)[:-KEPT]:
        file.unlink(missing_ok=True)


_BY_ENERGY: Mapping[str, Mapping[str, Any]] = {
    "membrane": {
        "supervoxels": "watershed",
        "lam": 1.0,
        "beta": 0.0,
        "gamma": 0.0,
        "inertia": 0.005,
        "refine_vx": 4,
        "middle_vx": 2,
    },
    "published": {
        "supervoxels": "slic",
        "lam": 10.0,
        "beta": 1.0,
        "gamma": 1.0,
        "inertia": 0.0,
        "refine_vx": 0,
        "middle_vx": 0,
    },
}


@attrs.frozen(eq=False)
class PreparedGraphCut:
    """A graph cut whose supervoxels are there; a call sets up the energy of its seeds and minimises it."""

    options: GraphCut
    graph: Graph
    image: np.ndarray
    spacing: tuple[float, float, float]

    def __call__(self, seeds: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Label the box (see `PreparedAnnotator`); `previous` holds as far as `inertia` says."""
        from asem_annotators import _energy, _kernels

        near = {name: self.options.setting(name) for name in ("refine_vx", "middle_vx")}
        inertia = self.options.setting("inertia")
        if previous is None or not inertia:
            energy = self.energy(seeds)
        else:
            turning = _energy.turning(self.graph, seeds, previous, near["middle_vx"]) if near["middle_vx"] else seeds
            energy = _energy.holding(self.energy(turning), self.graph, previous, inertia)
        cut = _kernels.paint(energy.minimise(), self.graph.labels)
        if any(near.values()):
            cut = refine(cut, seeds, self.graph, self.spacing, middle_contrast=self.options.middle_contrast, **near)
        if self.options.keep != "all":
            cut = keep_component(cut, self.image, self.options.keep)
        return honour(seeds, cut)

    def energy(self, seeds: np.ndarray) -> Energy:
        """Set up what is minimised for these seeds."""
        from asem_annotators import _energy

        weights = {name: self.options.setting(name) for name in ("lam", "beta", "gamma")}
        if self.options.energy == "published":
            return _energy.published(self.graph, seeds, self.spacing, **weights)
        return _energy.membrane(self.graph, seeds, contrast=self.options.contrast, face=self.options.face, **weights)


def refine(
    cut: np.ndarray,
    seeds: np.ndarray,
    graph: Graph,
    spacing: Sequence[float],
    *,
    refine_vx: int,
    middle_vx: int,
    middle_contrast: float,
) -> np.ndarray:
    """Assign the voxels near the surface of `cut` (bool) anew, and those near a seed that disagrees with it.

    First, within `refine_vx`, by a watershed from both sides: it finds the membrane. Then, within `middle_vx` of where
    that ends, to the side that reaches them at the least cost. A watershed ends at the darkest voxel, which noise moves
    about; costs from both sides are equal in the middle of what is dark.
    """
    from asem_annotators import _front_kernels

    seeds = np.ascontiguousarray(seeds)
    marks = np.empty(cut.shape, np.uint8)
    front = _front_kernels.surface(cut.view(np.uint8), seeds, marks)
    if refine_vx:
        band = _front_kernels.widen(front, refine_vx, seeds, marks, True)
        _front_kernels.flood(graph.dark, marks, band)
    if middle_vx:
        if refine_vx:
            front = _front_kernels.surface_among(marks, band)
        band = _front_kernels.widen(front, middle_vx, seeds, marks, False)
        cost = np.exp(np.linspace(0, middle_contrast, 256)).astype(np.float32)
        _front_kernels.meet(cost, graph.wall, marks, band, np.asarray(spacing, float))
    return np.equal(marks, 1)


def keep_component(cut: np.ndarray, image: np.ndarray, keep: Literal["dark", "bright"]) -> np.ndarray:
    """Keep those voxels of `cut` (bool) that the darker or the brighter of two Gaussians explains better.

    The mixture is fitted to the greys of the object by expectation maximisation.
    """
    greys, where = np.unique(np.clip(image[cut], 0, 255).astype(np.uint8), return_inverse=True)
    if len(greys) < 2:
        return cut
    count = np.bincount(where).astype(float)
    levels = greys.astype(float)
    middle = np.average(levels, weights=count)
    part = np.stack([levels <= middle, levels > middle]).astype(float)  # how much each component owns each level
    for _ in range(MIXTURE_STEPS):
        weight = (part * count).sum(1) + 1e-9
        mean = (part * count * levels).sum(1) / weight
        variance = (part * count * (levels - mean[:, None]) ** 2).sum(1) / weight + 1.0  # greys are rounded
        log = np.log(weight / variance**0.5)[:, None] - (levels - mean[:, None]) ** 2 / (2 * variance[:, None])
        part = np.exp(log - log.max(0))
        part /= part.sum(0)
    chosen = int(np.argmin(mean) if keep == "dark" else np.argmax(mean))
    result = np.zeros_like(cut)
    result[cut] = (part[chosen] > 0.5)[where]
    return result


@hookimpl
def register_annotators() -> list[type[Annotator]]:
    return [GraphCut]
