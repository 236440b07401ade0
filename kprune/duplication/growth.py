"""Wider layers: new filters that begin as copies."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import keras
import numpy as np

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
    """Widen groups of channels without changing what the model computes.

    New channels are copies of those with the highest scores, in turns, and the
    weights that read a channel are shared out among it and its copies, as in
    Net2WiderNet (Chen et al., arXiv 1511.05641). Channels that masks have
    removed are cut out. Groups whose channels cannot be copied exactly keep
    their width; a log line names them.

    Args:
        masked: A model made by `kprune.wrap`. It stays as it is.
        widths: For a group's name the channels that it is to have. Groups left
            out, and those that have as many or more, keep theirs.
        scores: For each group's name `(size,)` scores; the largest are copied.
        split: How weights are shared out. Defaults to `Split("random")`, with
            which copies get different gradients and part in training.

    Returns:
        A new masked model, compiled if `masked` was. What was skipped stays
        skipped.

    Raises:
        ValueError: A name is not that of a prunable group.

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
                f"Cannot grow {name!r}, which is no prunable group. "
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
        logger.info("groups without exact copies keep their width: %s", whole)
    make_copies(wide, wide_graph, maps, Copies(consumers=split))
    return wide


def _in_order(group: Group) -> bool:
    """Return whether the channels lie side by side wherever they sit.

    Only then are a channel and its copies neighbours on every axis.
    """
    return all((np.diff(m.index, axis=0) == 1).all() for m in group.members)


def _counts(alive: np.ndarray, width: int, scores: np.ndarray) -> np.ndarray:
    """Return how often each channel of a group is to be there, `(size,)`."""
    living = np.flatnonzero(alive)
    best_first = living[np.argsort(-scores[living], kind="stable")]
    chosen = np.resize(best_first, width - living.size)
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
