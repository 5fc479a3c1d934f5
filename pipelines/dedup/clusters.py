"""Clusters: connected components of the verified edges.

Large edge sets: the alternating algorithm of Kiveris et al., "Connected Components in MapReduce and Beyond" (SoCC
2014), large-star then small-star, each one exchange, until no edge changes. Small edge sets: SciPy on one worker. Both
label a document with the smallest number of its cluster.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipelines.dedup.candidates import unique
from pipelines.dedup.records import EDGE, LABEL, Records


def components(edges: Records) -> Records:
    """LABEL records of every document in `edges`, sorted by document; all edges in one process."""
    from scipy.sparse import coo_array  # noqa: PLC0415 - a quarter of a second to load
    from scipy.sparse.csgraph import connected_components  # noqa: PLC0415

    docs, ends = np.unique(np.concatenate((edges["u"], edges["v"])), return_inverse=True)
    u, v = ends[: len(edges)], ends[len(edges) :]
    matrix = coo_array((np.ones(len(edges), bool), (u, v)), shape=(len(docs), len(docs)))
    _, component = connected_components(matrix, directed=False)
    smallest = np.full(component.max(initial=-1) + 1, np.iinfo(np.uint64).max, np.uint64)
    np.minimum.at(smallest, component, docs)
    labels = np.empty(len(docs), LABEL)
    labels["doc"], labels["cluster"] = docs, smallest[component]
    return labels


def both_ways(edges: Records) -> Records:
    """Every edge from both of its ends: the neighbourhoods that a star step needs."""
    turned = np.empty(len(edges), EDGE)
    turned["u"], turned["v"] = edges["v"], edges["u"]
    return np.concatenate((edges, turned))


def large_star(neighbours: Records) -> Records:
    """New edges: each larger neighbour of a node is joined to the smallest of the node and its neighbours.

    neighbours: EDGE records (node, neighbour), whole neighbourhoods.
    """
    return _star(neighbours, neighbours["v"] > neighbours["u"], joins_node=False)


def small_star(edges: Records) -> Records:
    """New edges: a node and its smaller neighbours are joined to the smallest neighbour.

    edges: EDGE records (node, smaller neighbour), whole lower neighbourhoods.
    """
    return _star(edges, np.ones(len(edges), bool), joins_node=True)


def _star(neighbours: Records, chosen: npt.NDArray[np.bool_], joins_node: bool) -> Records:
    order = np.lexsort((neighbours["v"], neighbours["u"]))
    neighbours, chosen = neighbours[order], chosen[order]
    starts = np.flatnonzero(np.concatenate(([True], neighbours["u"][1:] != neighbours["u"][:-1])))
    if not len(neighbours):
        return neighbours
    least = np.minimum(neighbours["v"][starts], neighbours["u"][starts])
    target = np.repeat(least, np.diff(np.append(starts, len(neighbours))))
    made = [_joined(neighbours["v"][chosen], target[chosen])]
    if joins_node:
        made.append(_joined(neighbours["u"][starts], least))
    return unique(np.concatenate(made))


def _joined(node: npt.NDArray[np.uint64], target: npt.NDArray[np.uint64]) -> Records:
    edges = np.empty(len(node), EDGE)
    edges["u"], edges["v"] = np.minimum(node, target), np.maximum(node, target)
    return edges


def labels_of_stars(edges: Records) -> Records:
    """LABEL records of the leaves of converged edges, which are stars (centre u, leaf v)."""
    labels = np.empty(len(edges), LABEL)
    labels["doc"], labels["cluster"] = edges["v"], edges["u"]
    return labels
