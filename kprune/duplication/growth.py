"""Growth of layers by new filters that start as copies."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import keras
import numpy as np

from kprune.allocation._solver import by_priority
from kprune.arguments import did_you_mean
from kprune.duplication.consumers import Split
from kprune.duplication.copies import Copies
from kprune.duplication.copies import make_copies
from kprune.graph import trace
from kprune.graph.channel_graph import ChannelGraph
from kprune.graph.channel_graph import Group
from kprune.masking import wrap
from kprune.masking.wrapping import masks
from kprune.rebuild.api import resized
from kprune.rebuild.copies import CopyMap
from kprune.rebuild.equivalence import inexact

logger = logging.getLogger("kprune")

Vectors = Mapping[str, np.ndarray]


def grow(
    masked: keras.Model,
    widths: Mapping[str, int],
    scores: Vectors,
    split: Split | None = None,
) -> keras.Model:
    """Widen groups of channels without changing the outputs of the model.

    New channels are copies of the channels with the highest scores, in turn, and the
    weights that read a channel are split among it and its copies, as in Net2WiderNet
    (Chen et al., arXiv 1511.05641). Channels removed by masks are cut out. Groups whose
    channels cannot be copied exactly keep their width; a log line names them.

    Args:
        masked: A model made by `kprune.wrap`. It is not changed.
        widths: Group name -> new number of channels. Groups left out, and those with at
            least as many channels, keep theirs.
        scores: Group name -> scores of shape `(size,)`; the channels with the highest
            scores are copied.
        split: How to split weights. Defaults to `Split("random")`, with which copies
            get different gradients and diverge in training.

    Returns:
        A new masked model, compiled if `masked` was. Skipped layers stay skipped.

    Raises:
        ValueError: If a name is not that of a prunable group.

    Example:

    ```python
    scores = kprune.Session(masked).score("l1")
    wide = kprune.duplication.grow(masked, {"conv2": 48}, scores)
    ```
    """
    split = split or Split("random")
    graph = trace(masked)
    alive = {name: vector > 0 for name, vector in masks(masked, graph).items()}
    for name in widths:
        if name not in alive:
            raise ValueError(
                f"Cannot grow {name!r}, because it is not a prunable group. "
                f"{did_you_mean(name, alive)}"
            )
    wanted = {
        name: _counts(alive[name], int(width), scores[name])
        for name, width in widths.items()
        if width > alive[name].sum() and _in_order(graph[name])
    }
    while True:
        wide = _wrapped(masked, graph, {**alive, **wanted})
        wide_graph = trace(wide)
        maps = {
            name: _copy_map(counts, split) for name, counts in wanted.items()
        }
        why = inexact(wide, wide_graph, maps)
        if not why:
            break
        wanted = {n: c for n, c in wanted.items() if n not in why}
    asked = [n for n, w in widths.items() if w > alive[n].sum()]
    whole = [n for n in asked if n not in wanted]
    if whole:
        logger.info("Groups without exact copies keep their width: %s", whole)
    make_copies(wide, wide_graph, maps, Copies(consumers=split))
    return wide


def _in_order(group: Group) -> bool:
    """Return whether the channels are consecutive on all axes.

    Only then are a channel and its copies neighbours on every axis.
    """
    return all((np.diff(m.index, axis=0) == 1).all() for m in group.members)


def _counts(alive: np.ndarray, width: int, scores: np.ndarray) -> np.ndarray:
    """Return how often each channel of a group occurs, of shape `(size,)`."""
    best_first = by_priority(-scores, alive)
    chosen = np.resize(best_first, width - best_first.size)
    return alive + np.bincount(chosen, minlength=alive.size)


def _copy_map(counts: np.ndarray, split: Split) -> CopyMap:
    """Return which channels of the wider group are copies of which."""
    first = np.cumsum(counts) - counts
    donors = np.repeat(first, counts)
    return CopyMap(donors, split.shares(donors))


def _wrapped(
    masked: keras.Model, graph: ChannelGraph, counts: Vectors
) -> keras.Model:
    """Return the wider model, masked, with the same layers skipped."""
    plain = resized(masked, graph, counts, {})
    prunable = {group.name for group in graph.prunable}
    skipped = [g.name for g in trace(plain).prunable if g.name not in prunable]
    return wrap(plain, skipped or None)
