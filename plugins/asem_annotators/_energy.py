"""The energies a graph cut minimises, over supervoxels u, v with labels A (1 object, 0 background).

    E(A) = sum_u U_u(A_u) + sum over adjacent u, v of C_uv [A_u != A_v]

Published (Gallusser et al. 2022): U = beta D + gamma P, C = lambda B, with D the distance to the seeds, P the grey, and B
the likeness of two neighbours. Membrane: a supervoxel pays for each seed voxel that it overrules, and C is the area
of the shared face where no membrane runs through it.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import numpy as np

from asem_annotators._graph import GREY_BINS, Graph
from asem_core.errors import MissingExtra

GREY_SIGMA = 50.0
SEEDED = 100.0  # what contradicting a seed costs, in units of 1 + the largest grey cost


@attrs.frozen(eq=False)
class Energy:
    """Costs of a labelling: `unary[u, A]` of each supervoxel, `pair[k]` of separating the k-th pair of neighbours."""

    unary: np.ndarray  # float64 (supervoxels, 2)
    first: np.ndarray
    second: np.ndarray
    pair: np.ndarray  # float64 (pairs,)

    def of(self, labels: np.ndarray) -> float:
        """Evaluate a labelling (0 or 1 for each supervoxel)."""
        labels = np.asarray(labels, int)
        return float(self.unary[np.arange(len(labels)), labels].sum() + self.boundary(labels))

    def boundary(self, labels: np.ndarray) -> float:
        """Sum the costs of the separated pairs."""
        labels = np.asarray(labels, int)
        return float(self.pair[labels[self.first] != labels[self.second]].sum())

    def minimise(self) -> np.ndarray:
        """Find the labelling of least energy by max-flow (Boykov & Kolmogorov 2004): bool, True is object."""
        try:
            import maxflow
        except ImportError:  # whoever passes ASEM on may leave it out, since it is GPL: see docs/licences.md
            raise MissingExtra(
                "graph-cut needs PyMaxflow, which is not installed. Use another annotator, such as random-walker or watershed, "
                "or: pip install PyMaxflow"
            ) from None

        count = len(self.unary)
        graph = maxflow.GraphFloat(count, len(self.pair))
        nodes = graph.add_nodes(count)
        graph.add_edges(self.first, self.second, self.pair, self.pair)
        # A node on the sink's side is an object, and its edge from the source, the cost of being one, is cut.
        graph.add_grid_tedges(nodes, self.unary[:, 1], self.unary[:, 0])
        graph.maxflow()
        return np.asarray(graph.get_grid_segments(nodes), bool)


def published(
    graph: Graph, seeds: np.ndarray, spacing: Sequence[float], *, lam: float, beta: float, gamma: float
) -> Energy:
    """Set up the published energy.

    Parameters
    ----------
    seeds
        uint8, shape of the box: 0 unknown, 1 object, 2 background; both classes present.
    spacing
        Voxel size in units of its finest edge: the unit of all distances.
    """
    unary = np.zeros((graph.count, 2))
    if beta:
        unary += beta * distances(graph, seeds, spacing)
    if gamma:
        unary += gamma * greys(graph, seeds)
    return Energy(unary, graph.first, graph.second, lam * likeness(graph, spacing))


def membrane(
    graph: Graph, seeds: np.ndarray, *, lam: float, beta: float, gamma: float, contrast: float, face: str
) -> Energy:
    """Set up the energy that sees dark membranes.

    Parameters
    ----------
    contrast
        Separating two supervoxels across a face of full darkness costs `exp(-contrast)` of what it costs across none.
    face
        Which darkness stands for a whole face: its "weakest" voxel (a gap in the membrane joins), the "mean" or the
        "darkest".
    """
    dark = {"weakest": graph.least, "mean": graph.mean_dark, "darkest": graph.darkest}[face] / 255
    pair = graph.area * np.exp(-contrast * dark)
    seeded = count_seeds(graph, seeds)
    unary = seeded[:, ::-1].astype(float)
    if beta:
        unary += beta * geodesics(graph, seeded, np.exp(contrast / 2 * dark))
    if gamma:
        unary += gamma * greys(graph, seeds)
    return Energy(unary, graph.first, graph.second, lam * pair)


def holding(energy: Energy, graph: Graph, previous: np.ndarray, inertia: float) -> Energy:
    """Add what it costs each supervoxel to leave a result (uint8, 1 object): `inertia` a voxel."""
    were = _num_object(graph, previous)
    unary = energy.unary + inertia * np.stack([were, graph.size - were], axis=1)
    return attrs.evolve(energy, unary=unary)


def turning(graph: Graph, seeds: np.ndarray, previous: np.ndarray, reach: int) -> np.ndarray:
    """Leave out the seeds that tell only where the surface of a result (uint8, 1 object) lies; the rest turn supervoxels.

    Those lie within `reach` voxels (through faces) of their class in the result, in a supervoxel that is mostly of the other
    class. Counted, a stroke of three voxels beside the surface would turn a supervoxel of hundreds that were right.
    """
    mostly = 2 * _num_object(graph, previous) > graph.size
    where = np.flatnonzero(seeds != 0)
    where = where[(seeds.ravel()[where] == 1) != mostly[graph.labels.ravel()[where]]]
    around = np.pad(previous, reach, constant_values=2)
    places = np.stack(np.unravel_index(where, seeds.shape)) + reach
    at, own = np.ravel_multi_index(tuple(places), around.shape), seeds.ravel()[where] == 1
    strides = np.array([around.shape[1] * around.shape[2], around.shape[2], 1])
    beside = np.zeros(len(where), bool)
    for step in np.argwhere(np.ones((2 * reach + 1,) * 3)) - reach:
        if np.abs(step).sum() <= reach:
            beside |= around.ravel()[at + step @ strides] == own
    counted = seeds.copy()
    counted.ravel()[where[beside]] = 0
    return counted


def _num_object(graph: Graph, result: np.ndarray) -> np.ndarray:
    """Count each supervoxel's voxels that a result (uint8, 1 object) took for the object."""
    from asem_annotators import _kernels

    return _kernels.sum_over(graph.labels, result, graph.count)


def count_seeds(graph: Graph, seeds: np.ndarray) -> np.ndarray:
    """Count each supervoxel's seed voxels: int64 (supervoxels, 2), background first."""
    return np.stack([np.bincount(graph.labels[seeds == c], minlength=graph.count) for c in (2, 1)], axis=1)


def greys(graph: Graph, seeds: np.ndarray) -> np.ndarray:
    """P: each supervoxel's mean over its voxels of -log h(grey bin), with h the seeds' smoothed histogram.

    At a seed the cost is 0 for its class and K = 100 (1 + the largest cost) for the other.
    """
    found = [np.bincount(graph.bins[seeds == c], minlength=GREY_BINS) + 1 for c in (2, 1)]
    cost = np.stack([-np.log(n / n.sum()) for n in found], axis=1)
    total = graph.histogram @ cost
    at_seeds = SEEDED * (1 + cost.max())
    for seed, other in ((0, 1), (1, 0)):
        where = seeds == 2 - seed
        voxels, bins = graph.labels[where], graph.bins[where]
        total[:, seed] -= np.bincount(voxels, cost[bins, seed], graph.count)
        total[:, other] += np.bincount(voxels, at_seeds - cost[bins, other], graph.count)
    return total / graph.size[:, None]


def distances(graph: Graph, seeds: np.ndarray, spacing: Sequence[float]) -> np.ndarray:
    """D: log(1 + the mean over each supervoxel of the Euclidean distance to the nearest seed of the class)."""
    import edt

    from asem_annotators import _kernels

    found = []
    for c in (2, 1):
        away = edt.edt(np.ascontiguousarray(seeds != c), anisotropy=tuple(spacing), black_border=False, parallel=2)
        found.append(_kernels.sum_over(graph.labels, away, graph.count) / graph.size)
    return np.log1p(np.stack(found, axis=1))


def likeness(graph: Graph, spacing: Sequence[float]) -> np.ndarray:
    """B: exp(-b (g_u - g_v)^2 / (2 sigma^2)) / (distance of the centres), with b = 1 / (2 mean (g_u - g_v)^2)."""
    difference = (graph.grey[graph.first] - graph.grey[graph.second]) ** 2
    b = 1 / (2 * max(float(difference.mean()), 1e-12)) if len(difference) else 0.0
    apart = np.linalg.norm((graph.centre[graph.first] - graph.centre[graph.second]) * spacing, axis=1)
    return np.exp(-b * difference / (2 * GREY_SIGMA**2)) / apart


def geodesics(graph: Graph, seeded: np.ndarray, step: np.ndarray) -> np.ndarray:
    """Measure log(1 + the cheapest way to a seed of the class), where passing from one supervoxel to the next costs `step`."""
    from scipy import sparse
    from scipy.sparse.csgraph import dijkstra

    both = (np.r_[graph.first, graph.second], np.r_[graph.second, graph.first])
    ways = sparse.csr_matrix((np.r_[step, step], both), shape=(graph.count, graph.count))
    found = [dijkstra(ways, indices=np.flatnonzero(seeded[:, c]), min_only=True) for c in (0, 1)]
    return np.log1p(np.minimum(np.stack(found, axis=1), step.sum()))
