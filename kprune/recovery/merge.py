"""Merging of removed filters into the most similar kept ones."""

from __future__ import annotations

import numpy as np

from kprune.arguments import share
from kprune.criteria._similarities import acting_filters
from kprune.criteria._similarities import closest
from kprune.graph.values import read
from kprune.masking import masks
from kprune.masking.state import WeightSnapshot
from kprune.recovery.base import Recovery
from kprune.recovery.base import register
from kprune.session import Session


@register("merge")
class Merge(Recovery):
    """Merges each removed filter into the most similar kept one.

    In layers that read the channels, the weights of a removed one, times a
    slope, are added to those of the kept channel whose filter has the largest
    cosine similarity. The slope is the cosine times the ratio of the filters'
    norms, or of the scales of the BatchNormalization after them, whose signs count
    as those of the filters. This is exact for parallel filters with ReLU whose
    offsets have the same ratio. Needs no samples. It is the merging step of
    similarity pruning, and the inverse of Net2Net (Chen et al., arXiv 1511.05641).

    Args:
        threshold: Smallest cosine for a merge, from 0 to 1. Defaults to 0.1: in
            narrow layers, the most similar filter is seldom nearer (see
            `docs/data_free.md`).

    Example:

    ```python
    masked = kprune.prune(
        model,
        criterion="similarity",
        allocation="similarity",
        recover="merge",
    )
    ```
    """

    needs_data = False
    merges = True

    def __init__(self, threshold: float = 0.1) -> None:
        super().__init__()
        self.threshold = share(
            threshold, "Merge", "threshold", zero=True, one=True
        )

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        masked, graph = session.masked, session.graph
        kept = masks(masked, graph)
        after = session.snapshot()
        present = {id(v): read(v).copy() for v in masked.variables}
        before.restore()
        was = masks(masked, graph)
        additions = []
        for group in graph.prunable:
            gone = (kept[group.name] == 0) & (was[group.name] > 0)
            stay = kept[group.name] > 0
            rows, sizes = acting_filters(group)
            if not gone.any() or not rows[stay].any():
                continue
            donors = closest(rows, stay)
            slopes = self._slopes(rows, sizes, donors)
            lost = np.flatnonzero(gone & (slopes > 0))
            for member in group.consumers:
                weights = np.moveaxis(read(member.variable), member.axis, 0)
                shape = [-1] + [1] * weights.ndim
                taken = weights[member.index[lost]]
                taken = taken * slopes[lost].reshape(shape)
                additions.append((member, member.index[donors[lost]], taken))
        after.restore()
        for member, places, taken in additions:
            value = present[id(member.variable)]
            np.add.at(np.moveaxis(value, member.axis, 0), places, taken)
            member.variable.assign(value)

    def _slopes(
        self, rows: np.ndarray, sizes: np.ndarray, donors: np.ndarray
    ) -> np.ndarray:
        """Return each channel's slope with respect to its donor; 0 for no merge."""
        lengths = np.linalg.norm(rows, axis=1)
        products = (rows * rows[donors]).sum(axis=1)
        cosine = products / np.maximum(lengths * lengths[donors], 1e-30)
        ratio = sizes / np.maximum(sizes[donors], 1e-30)
        usable = (cosine >= self.threshold) & (sizes[donors] > 0)
        return np.where(usable, cosine * ratio, 0.0)
