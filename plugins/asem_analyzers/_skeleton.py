"""The centreline of a mask: length, branches, ends and loops."""

from __future__ import annotations

from functools import cache

import attrs
import numpy as np

from asem_analyzers._depth import squared_depth
from asem_analyzers._surface import half_gaussian
from asem_analyzers._thinning import thin

SMOOTHING_VX = 3.0
"""Standard deviation of the filter along a centreline: a voxel path zigzags, which makes it up to 10 % too long."""
SMALLEST_LOOP_VX = 6
PROTRUSION = 2.0
"""A branch is real if it reaches this many radii of the largest ball near its junction: one radius out of that ball."""
STEEP = 0.25
"""Loss of depth per length, along a free end, at which it runs into a corner."""
CORNER = 2.5
"""A corner is this many radii from the last ball of its tube, along the line that leads there, at most."""
LARGEST_NETWORK = 2000


@attrs.frozen
class Skeleton:
    """Centreline of one object. A blob without a clear axis has one branch."""

    length_nm: float  # of all branches, each free end reaching the surface
    longest_path_nm: float  # from tip to tip along branches
    num_branches: int
    num_junctions: int
    num_ends: int
    num_loops: int


@attrs.frozen(eq=False)
class _Branch:
    nodes: tuple[int, int]
    voxels: np.ndarray  # indices into the skeleton's voxels
    length_nm: float


@attrs.frozen(eq=False)
class _Graph:
    """A node is a clump of junction voxels, or an end, or one voxel of a ring without junctions."""

    centre_nm: np.ndarray  # float64 (nodes, 3)
    node_of: np.ndarray  # int (voxels,), -1 inside a branch
    branches: list[_Branch]

    @property
    def num_nodes(self) -> int:
        return len(self.centre_nm)

    @property
    def degree(self) -> np.ndarray:
        return np.bincount([n for b in self.branches for n in b.nodes], minlength=self.num_nodes)


def skeleton(mask: np.ndarray, edge_nm: float) -> Skeleton:
    """Thin a mask to its centreline and measure it.

    Cavities are filled first. End branches that hardly leave the largest ball around their junction are removed: they
    lead to corners of the surface. Branches are smoothed before their length is taken, and each free end is prolonged
    to the surface. All lengths are in nm; only what thinning leaves behind, zigzags and tiny loops, is judged in voxels (`_VX`).

    Parameters
    ----------
    mask : bool, zyx
        One object.
    edge_nm
        Edge of its voxels, which are cubes.
    """
    graph, at_nm, radius_nm, solid = _centreline(mask, edge_nm)
    while len(corners := _corners(graph, at_nm, radius_nm)):
        at_nm, radius_nm = np.delete(at_nm, corners, axis=0), np.delete(radius_nm, corners)
        graph = _graph(np.rint(at_nm / edge_nm).astype(np.intp), at_nm)
    return _measure(graph, _tips_nm(graph, solid, at_nm, radius_nm, edge_nm), radius_nm)


def junctions(mask: np.ndarray, edge_nm: float) -> np.ndarray:
    """Find where the tubes of a network meet.

    Two nodes whose connection is shorter than the radius there are one junction: of tubes that cross, thinning makes two.

    Parameters
    ----------
    mask, edge_nm : see `skeleton`; several objects are several networks

    Returns
    -------
    float64 (n, 5): place from the first face of the mask, zyx in nm; radius of the largest ball there, in nm; number of tubes
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not mask.any():
        return np.zeros((0, 5))
    graph, _, radius_nm, _ = _centreline(mask, edge_nm)
    num, node = graph.num_nodes, graph.node_of
    radius = np.zeros(num)
    np.maximum.at(radius, node[node >= 0], radius_nm[node >= 0])
    degree = graph.degree
    short = [
        b.nodes
        for b in graph.branches
        if b.nodes[0] != b.nodes[1] and min(degree[list(b.nodes)]) > 2 and b.length_nm < radius[list(b.nodes)].max()
    ]
    links = np.array(short, np.intp).reshape(-1, 2)
    _, group = connected_components(coo_array((np.ones(len(links)), links.T), (num, num)), directed=False)
    tubes = np.bincount(group, degree) - 2 * np.bincount(group[links[:, 0]], minlength=group.max() + 1)
    found = []
    for g in np.flatnonzero(tubes > 2).tolist():
        members = np.flatnonzero((group == g) & (degree > 2))
        if len(members):
            place = graph.centre_nm[members].mean(axis=0) - edge_nm / 2  # the mask was padded by a voxel
            found.append((*place, radius[members].max(), tubes[g]))
    return np.array(found, np.float64).reshape(-1, 5)


def _centreline(mask: np.ndarray, edge_nm: float) -> tuple[_Graph, np.ndarray, np.ndarray, np.ndarray]:
    """Thin a mask and remove short side branches.

    Returns
    -------
    the graph; place (nm, from the middle of the first voxel of the padding of one voxel) and radius (nm) of its voxels; the mask with this
    padding and without cavities
    """
    import fill_voids

    solid = np.ascontiguousarray(fill_voids.fill(np.pad(mask, 1)))
    squared = squared_depth(solid)
    lines = solid
    while True:
        lines = thin(lines, squared)
        at = np.argwhere(lines)
        at_nm = at * edge_nm
        radius_nm = np.sqrt(squared[lines] * np.float32(edge_nm**2), dtype=np.float32).astype(np.float64)
        graph = _graph(at, at_nm)
        spurs = _spurs(graph, at_nm, radius_nm)
        lines[tuple(at[spurs].T)] = False
        if not len(spurs):
            return graph, at_nm, radius_nm, solid


def _graph(at: np.ndarray, at_nm: np.ndarray) -> _Graph:
    """Turn the voxels of a skeleton into nodes and branches."""
    from asem_analyzers._skeleton_kernels import trace

    node_of, centre, nodes, voxels, first = trace(_touching(at), at_nm)
    branches = [
        _Branch(
            (a, b), voxels[i:j], _smooth_length(np.vstack([centre[a], at_nm[voxels[i + 1 : j - 1]], centre[b]]), a == b)
        )
        for (a, b), i, j in zip(nodes.tolist(), first[:-1].tolist(), first[1:].tolist(), strict=True)
        # A loop of fewer voxels is no hole but the voxels around a junction.
        if a != b or j - i > SMALLEST_LOOP_VX
    ]
    return _Graph(centre, node_of, branches)


def _touching(at: np.ndarray) -> np.ndarray:
    """List pairs of voxels that share a face, edge or corner; int64 (m, 2)."""
    from scipy.spatial import cKDTree

    return np.asarray(cKDTree(at).query_pairs(1.8, output_type="ndarray").reshape(-1, 2), np.int64)


def _smooth_length(points: np.ndarray, closed: bool) -> float:
    """Measure a path in nm after smoothing it; its two ends stay."""
    from asem_analyzers._skeleton_kernels import smooth_steps

    return float(smooth_steps(points, closed, *_bells()).sum())


@cache
def _bells() -> tuple[np.ndarray, np.ndarray]:
    return half_gaussian(SMOOTHING_VX), half_gaussian(SMOOTHING_VX * 2**0.5)


def _spurs(graph: _Graph, at_nm: np.ndarray, radius_nm: np.ndarray) -> np.ndarray:
    """Choose the voxels of end branches that are artefacts of thinning: of each junction, the shortest such branch."""
    degree, node_of = graph.degree, graph.node_of
    shortest: dict[int, tuple[float, np.ndarray]] = {}
    for branch in graph.branches:
        for inner, tip in (branch.nodes, branch.nodes[::-1]):
            if degree[tip] != 1 or degree[inner] < 3:
                continue
            reach = branch.length_nm + radius_nm[branch.voxels[node_of[branch.voxels] == tip]].max()
            apart = np.linalg.norm(at_nm - graph.centre_nm[inner], axis=1)
            room = radius_nm[apart <= reach].max()
            if reach < PROTRUSION * room and branch.length_nm < shortest.get(inner, (np.inf,))[0]:
                shortest[inner] = (branch.length_nm, branch.voxels[node_of[branch.voxels] != inner])
    return np.concatenate([np.zeros(0, np.int64), *(voxels for _, voxels in shortest.values())])


def _corners(graph: _Graph, at_nm: np.ndarray, radius_nm: np.ndarray) -> np.ndarray:
    """Choose the voxels of free ends that run into a corner of the surface, as on the flat end of a tube.

    There the depth falls steeply. What is removed is measured by extending the rest to the surface.
    """
    degree = graph.degree
    removed = [np.zeros(0, np.int64)]
    for branch in graph.branches:
        path = branch.voxels
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(at_nm[path], axis=0), axis=1))])
        first, last = 0, len(path) - 1
        radius = radius_nm[path]
        if degree[branch.nodes[1]] == 1:
            back = along[-1] - along
            last = int(np.argmax(np.where(back <= CORNER * radius, radius - STEEP * back, -np.inf)))
        if degree[branch.nodes[0]] == 1:
            first = int(np.argmax(np.where(along <= CORNER * radius, radius - STEEP * along, -np.inf)))
        if first > last:
            first = last = int(np.argmax(radius_nm[path]))
        removed += [path[:first], path[last + 1 :]]
    return np.concatenate(removed)


def _tips_nm(graph: _Graph, solid: np.ndarray, at_nm: np.ndarray, radius_nm: np.ndarray, edge_nm: float) -> np.ndarray:
    """Measure, for every node, how far a free end is from the surface, straight on; 0 for other nodes.

    The direction is that of the branch over its last two radii.
    """
    tips = np.zeros(graph.num_nodes)
    degree = graph.degree
    for branch in graph.branches:
        for tip, path in ((branch.nodes[0], branch.voxels), (branch.nodes[1], branch.voxels[::-1])):
            if degree[tip] != 1:
                continue
            ends = path[graph.node_of[path] == tip]
            radius = float(radius_nm[ends].max())
            back = np.linalg.norm(at_nm[path] - at_nm[path[0]], axis=1)
            far = int(np.argmax(back >= 2 * radius)) or len(path) - 1
            inner = at_nm[path[far : far + max(1, far // 2)]].mean(axis=0)
            outer = at_nm[path[: max(1, far // 2)]].mean(axis=0)
            direction = outer - inner
            if back[far] < radius or not direction.any():  # too short for a direction
                tips[tip] = radius
                continue
            tips[tip] = _to_surface(solid, at_nm[path[0]], direction, edge_nm)
    return tips


def _to_surface(solid: np.ndarray, start_nm: np.ndarray, direction: np.ndarray, edge_nm: float) -> float:
    """Measure how far it is from a point to the surface in a direction."""
    step = edge_nm / 4
    unit = direction / np.linalg.norm(direction)
    away = 0.0
    while solid[tuple(np.rint((start_nm + (away + step) * unit) / edge_nm).astype(np.intp))]:
        away += step
    return away + step / 2


def _measure(graph: _Graph, tip: np.ndarray, radius_nm: np.ndarray) -> Skeleton:
    branches, degree = graph.branches, graph.degree
    if not branches:  # a single point: a ball, from one side to the other
        length = 2 * float(radius_nm.max())
        return Skeleton(length, length, 1, 0, 2, 0)
    # A clump in which only two branches meet is a bend, not a junction.
    bends = np.count_nonzero(degree == 2) - sum(b.nodes[0] == b.nodes[1] and degree[b.nodes[0]] == 2 for b in branches)
    return Skeleton(
        length_nm=sum(b.length_nm for b in branches) + float(tip.sum()),
        longest_path_nm=_longest_path(branches, tip),
        num_branches=len(branches) - int(bends),
        num_junctions=int((degree > 2).sum()),
        num_ends=int((degree == 1).sum()),
        num_loops=max(0, len(branches) - int((degree > 0).sum()) + 1),
    )


def _longest_path(branches: list[_Branch], tip: np.ndarray) -> float:
    """Find the longest of the shortest ways between two nodes; NaN for a network too large to say."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import shortest_path

    n = len(tip)
    if n > LARGEST_NETWORK:
        return float("nan")
    shortest: dict[tuple[int, int], float] = {}
    for b in branches:
        ends = (min(b.nodes), max(b.nodes))
        shortest[ends] = max(1e-6, min(b.length_nm, shortest.get(ends, np.inf)))
    graph = coo_array((list(shortest.values()), np.array(list(shortest)).T), (n, n)).tocsr()
    between = shortest_path(graph, directed=False) + tip[:, None] + tip[None, :]
    between[~np.isfinite(between)] = 0
    np.fill_diagonal(between, 0)
    return max(float(between.max()), *(b.length_nm for b in branches))
