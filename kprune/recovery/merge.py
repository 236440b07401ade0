"""Removed filters merged into the most similar ones that stay."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kprune.arguments import share
from kprune.criteria._similarities import twins
from kprune.criteria.base import filters
from kprune.graph.registry import is_batch_norm
from kprune.graph.values import read
from kprune.masking import masks
from kprune.masking.state import WeightSnapshot
from kprune.recovery.base import Recovery
from kprune.recovery.base import register
from kprune.session import Session

if TYPE_CHECKING:
    from kprune.graph import Group


@register("merge")
class Merge(Recovery):
    """Merges each removed filter into its twin instead of deleting it.

    A layer that reads the channels adds the weights of a removed one, times a
    slope, to those of the kept channel whose filter has the highest cosine
    with it. The slope is the cosine times the ratio of the filters' lengths,
    or of the scales of the BatchNormalization behind them. Exact for parallel
    filters whose activation is ReLU and whose offsets are in the same ratio.
    Needs no samples. The merging step of similarity pruning; Net2Net (Chen et
    al., arXiv 1511.05641) read backwards.

    Args:
        threshold: Smallest cosine with which filters are merged, from 0 to 1.

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

    def __init__(self, threshold: float = 0.5) -> None:
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
            if not gone.any() or not filters(group).shape[1]:
                continue
            donors, slopes = self._twins(group, kept[group.name] > 0, gone)
            lost = np.flatnonzero(gone & (slopes > 0))
            for member in group.consumers:
                rows = np.moveaxis(read(member.variable), member.axis, 0)
                shape = [-1] + [1] * (rows.ndim)
                taken = rows[member.index[lost]] * slopes[lost].reshape(shape)
                additions.append((member, member.index[donors[lost]], taken))
        after.restore()
        for member, places, taken in additions:
            value = present[id(member.variable)]
            np.add.at(np.moveaxis(value, member.axis, 0), places, taken)
            member.variable.assign(value)

    def _twins(
        self, group: Group, kept: np.ndarray, gone: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return each channel's donor and slope; 0 where there is none."""
        donors, _ = twins(group, kept)
        rows = filters(group)
        lengths = np.linalg.norm(rows, axis=1)
        products = (rows * rows[donors]).sum(axis=1)
        safe = np.maximum(lengths * lengths[donors], 1e-30)
        cosine = products / safe
        size = _scales(group)
        if size is None:
            size = lengths
        ratio = size / np.maximum(size[donors], 1e-30)
        usable = gone & (cosine >= self.threshold) & (size[donors] > 0)
        return donors, np.where(usable, cosine * ratio, 0.0)


def _scales(group: Group) -> np.ndarray | None:
    """Return the scales of a group's first batch normalisation, if any.

    What comes out of one does not depend on the lengths of filters.
    """
    for member in group.scales:
        if is_batch_norm(member.layer):
            if member.variable is member.layer.gamma:
                return np.abs(member.matrix()).mean(axis=1)
            if member.layer.gamma is None:
                return np.ones(group.size)
    return None
