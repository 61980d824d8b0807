"""Cut an object of fragments in two where it is divided most."""

from __future__ import annotations

import numpy as np

_MOST = 1_000_000
"""Capacity of the strongest edge, as scipy's flows are whole numbers of 32 bits; seeds hold by a thousand times as much."""


def other_side(members: np.ndarray, edges: np.ndarray, one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Find the fragments of an object that the least sum of ties separates from `one`, and that reach `other`.

    Fragments are tied by the sum of 255 - boundary over the faces that they share. What is tied to neither stays with `one`.

    Parameters
    ----------
    members : int64 (n,), the object's fragments
    edges : int64 (m, 4), see `regions.Regions`
    one, other : int64, fragments of the object on either side, none on both

    Returns
    -------
    int64, sorted: the side of `other`
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import breadth_first_order, maximum_flow

    members = np.sort(members)
    inside = np.isin(edges[:, 0], members) & np.isin(edges[:, 1], members)
    low, high = (np.searchsorted(members, edges[inside, side]) for side in (0, 1))
    ties = np.maximum(255.0 * edges[inside, 3] - edges[inside, 2], 1.0)
    capacity = np.maximum(1, np.rint(ties / ties.max(initial=1.0) * _MOST)).astype(np.int32)
    source, sink = len(members), len(members) + 1
    held = np.int32(1000 * _MOST)
    from_one, from_other = (np.searchsorted(members, np.unique(seeds)) for seeds in (one, other))
    rows = np.concatenate([low, high, np.full(len(from_one), source), from_other])
    columns = np.concatenate([high, low, from_one, np.full(len(from_other), sink)])
    values = np.concatenate([capacity, capacity, np.full(len(from_one) + len(from_other), held, np.int32)])
    graph = coo_array((values, (rows, columns)), shape=(len(members) + 2,) * 2).tocsr()
    flow = maximum_flow(graph, source, sink).flow
    rest = (graph - flow).tocsr()
    # From the far side, backwards along what is left of the ties: all that still reaches the sink. Fragments with no way to
    # either side stay with `one`, and so does what lies between two equal cuts.
    rest.data = (rest.data > 0).astype(np.int8)
    rest.eliminate_zeros()
    reached = breadth_first_order(rest.T.tocsr(), sink, return_predecessors=False)
    found: np.ndarray = members[np.sort(reached[reached < len(members)])]
    return found
