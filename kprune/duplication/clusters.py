"""Clusters of filters that are pulled together until they are copies.

After "Asymptotic Soft Cluster Pruning" (Niu, Teng and Zou, arXiv 2206.08186).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Group
from kprune.graph.channel_graph import Member
from kprune.graph.record import FILTER
from kprune.graph.record import INPUT
from kprune.graph.record import SCALE
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.copies import Edit
from kprune.rebuild.copies import tie
from kprune.rebuild.equivalence import inexact
from kprune.session import Session

_log = logging.getLogger("kprune")

STEPS = 20
"""Iterations of k-means; few are enough, because it starts near the solution."""


def find_clusters(
    session: Session,
    masks: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
) -> dict[str, CopyMap]:
    """Find clusters of similar filters in groups that lose channels.

    Filters are compared by everything that a merge averages: kernels, biases, scales
    and offsets of all layers of the group, each divided by the root mean square of
    its norm over the channels. Clusters are found by Ward's method and refined by
    k-means, which is deterministic here.

    Args:
        session: The masked model.
        masks: Group name -> vector of 0 and 1. The number of ones is the number of
            clusters.
        alive: Group name -> booleans of shape `(size,)`: alive channels.

    Returns:
        Group name -> map in which the first channel of each cluster is the donor.
        Groups that lose nothing are left out, and so are those whose channels cannot
        be merged exactly, for example because of layer normalisation.
    """
    graph: ChannelGraph = session.graph
    maps = {}
    for name, mask in masks.items():
        present = np.flatnonzero(alive[name])
        count = int((np.asarray(mask) > 0).sum())
        if not graph[name].producers or count >= len(present):
            continue
        labels = cluster(_features(graph[name])[present], count)
        donors = np.arange(graph[name].size)
        for label in range(count):
            channels = present[labels == label]
            donors[channels] = channels[0]
        maps[name] = CopyMap(donors)
    for name, why in inexact(session.masked, graph, maps).items():
        _log.info("Group '%s' is not clustered: %s", name, why)
        del maps[name]
    return maps


def cluster(rows: np.ndarray, count: int) -> np.ndarray:
    """Return the cluster of each row, from 0 to below `count`; none is empty.

    Args:
        rows: Rows to cluster, of shape `(n, d)`.
        count: Number of clusters, from 1 to `n`.
    """
    # Slow to import.
    from scipy.cluster import hierarchy
    from scipy.cluster import vq

    if count == len(rows):
        return np.arange(count)
    tree = hierarchy.linkage(rows, "ward")
    labels: np.ndarray = hierarchy.cut_tree(tree, n_clusters=count).ravel()
    centres = np.stack([rows[labels == n].mean(axis=0) for n in range(count)])
    try:
        _, better = vq.kmeans2(
            rows, centres, iter=STEPS, minit="matrix", missing="raise"
        )
    except vq.ClusterError:
        return labels
    return better if len(np.unique(better)) == count else labels


def draw_together(maps: dict[str, CopyMap], share: float) -> Edit:
    """Return an edit that moves filters to the mean of their cluster; readers stay.

    Args:
        maps: See `find_clusters`.
        share: Share of the distance; with 1, filters of a cluster become equal.
    """
    means = tie(maps)

    def edit(name: str, member: Member, rows: np.ndarray) -> np.ndarray:
        if member.role == INPUT:
            return rows
        mean = means(name, member, rows)
        return mean if share == 1 else rows + share * (mean - rows)

    return edit


def _features(group: Group) -> np.ndarray:
    """Return the features by which channels are compared, of shape `(size, d)`."""
    parts: list[Any] = []
    for member in group.members:
        if member.role not in (FILTER, SCALE):
            continue
        rows = member.matrix().astype("float64")
        length = np.sqrt(np.square(rows).sum(axis=1).mean())
        if length > 0:
            parts.append(rows / length)
    return np.hstack([np.zeros((group.size, 1)), *parts])
