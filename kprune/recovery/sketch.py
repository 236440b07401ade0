"""Replacement of the kept filters by a sketch of all filters."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from kprune.graph.registry import is_batch_norm
from kprune.graph.values import read
from kprune.masking import masks
from kprune.masking.state import WeightSnapshot
from kprune.recovery.base import Recovery
from kprune.recovery.base import register
from kprune.session import Session

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.graph import Member

_log = logging.getLogger("kprune")

Change = tuple["Member", np.ndarray, np.ndarray]


@register("sketch")
class Sketch(Recovery):
    """Replaces the kept filters by a sketch of all filters.

    Only the number of removed filters matters, not which. The kept filters become
    the rows of the matrix that Frequent Directions computes from all original
    filters. Its second moments differ from theirs by at most
    `2 * |A| ** 2 / kept filters` in the spectral norm. Layers that read the
    channels are sketched along their input axis in the same way.
    BatchNormalization in between restarts with scale 1, offset 0 and initial
    statistics. From "Filter Sketch for Network Pruning" (Lin et al., arXiv
    2001.08514).

    The result is a starting point for training. The next layer does not match the
    new filters, so the model is at chance level before training. Needs no
    samples. Groups that several layers produce, such as residual streams, and
    those that keep more filters than a filter has weights, are not changed; a log
    line names them.

    Args:
        aligned: Whether to compute the next layer's weights by least squares, so
            that it reads the sketch as it read the filters, instead of sketching
            it too. Exact for linear layers, as far as the sketch spans the
            filters.

    Example:

    ```python
    masked = kprune.prune(
        model, "l2", {"macs": 0.5}, "uniform", recover="sketch"
    )
    masked.fit(train, epochs=30)
    ```
    """

    needs_data = False

    def __init__(self, aligned: bool = False) -> None:
        super().__init__()
        self.aligned = bool(aligned)

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        masked, graph = session.masked, session.graph
        kept = masks(masked, graph)
        after = session.snapshot()
        before.restore()
        was = masks(masked, graph)
        changed: dict[int, np.ndarray] = {}
        left = []
        losing = [
            g
            for g in graph.prunable
            if ((was[g.name] > 0) & (kept[g.name] == 0)).any()
        ]
        # Channels that will be sketched count whole, those that are cut do not.
        counted = {name: mask > 0 for name, mask in kept.items()}
        for group in losing:
            if _kernel(group) is not None:
                counted[group.name] = was[group.name] > 0
        for group in losing:
            alive, stays = was[group.name] > 0, kept[group.name] > 0
            counted[group.name] = stays
            classes = graph.spread(counted, fill=True)
            found = self._sketched(group, alive, stays, classes, changed)
            if found is None:
                left.append(group.name)
        after.restore()
        for variable in masked.variables:
            if id(variable) in changed:
                variable.assign(changed[id(variable)])
        # Weights written behind masks must not come back in training.
        session.settle()
        if left:
            _log.info("Sketch: these groups are not changed: %s", left)

    def _sketched(
        self,
        group: Group,
        alive: np.ndarray,
        stays: np.ndarray,
        classes: np.ndarray,
        changed: dict[int, np.ndarray],
    ) -> bool | None:
        """Sketch a group into `changed`; return None if that is impossible."""
        kernel = _kernel(group)
        if kernel is None:
            return None
        biases = [m for m in group.producers if m.name == "bias"]
        written = [kernel, *biases]
        used = [_columns(group, member, classes) for member in written]
        parts = [
            _rows(member, changed)[:, columns]
            for member, columns in zip(written, used, strict=True)
        ]
        whole = np.hstack(parts)
        count = int(stays.sum())
        if count >= whole[alive].shape[1]:
            return None
        basis = frequent_directions(whole[alive], count)
        # Channels that a normalisation ties have several weights of a bias.
        ends = np.cumsum([part.shape[1] for part in parts])
        news = np.split(basis, ends[:-1], axis=1)
        for member, columns, new in zip(written, used, news, strict=True):
            _write(member, stays, _spread(new, columns), changed)
        turn = np.linalg.pinv(basis @ np.linalg.pinv(whole[alive])).T
        for member in group.consumers:
            columns = _columns(group, member, classes)
            rows = _rows(member, changed)[alive][:, columns]
            if self.aligned:
                new = turn @ rows
            elif count < rows.shape[1]:
                new = frequent_directions(rows, count)
            else:
                continue
            _write(member, stays, _spread(new, columns), changed)
        for member in group.members:
            if is_batch_norm(member.layer):
                ones = member.name in ("gamma", "moving_variance")
                start = np.full((count, 1), float(ones))
                _write(member, stays, start, changed)
        return True


def frequent_directions(rows: np.ndarray, count: int) -> np.ndarray:
    """Return a sketch `B` of shape `(count, d)` of rows `A` of shape `(n, d)`.

    `|A' A - B' B| <= 2 * |A| ** 2 / count`, with the spectral norm on the left
    and the Frobenius norm on the right (Liberty, arXiv 1206.0594).
    """
    sketch = np.zeros((count, rows.shape[1]))
    filled = 0
    for row in rows:
        if filled == count:
            _, values, right = np.linalg.svd(sketch, full_matrices=False)
            least = values[count // 2] ** 2
            shrunk = np.sqrt(np.maximum(values**2 - least, 0.0))
            sketch = np.zeros_like(sketch)
            sketch[: len(shrunk)] = shrunk[:, None] * right
            filled = min(count // 2, len(shrunk))
        sketch[filled] = row
        filled += 1
    return sketch


def _kernel(group: Group) -> Member | None:
    """Return the kernel of a group's only producer, or None if there are several."""
    kernels = [m for m in group.producers if m.name != "bias"]
    makers = {id(m.layer) for m in group.producers}
    return kernels[0] if len(makers) == len(kernels) == 1 else None


def _columns(group: Group, member: Member, classes: np.ndarray) -> np.ndarray:
    """Return which columns of a member's rows belong to channels that count.

    Args:
        group: The group of the rows.
        member: Where its channels are.
        classes: One boolean per class. See `ChannelGraph.spread`.
    """
    variable = member.variable
    counts = np.ones(variable.shape, bool)
    for axis, bound in group.graph.bindings[id(variable)].axes.items():
        if axis != member.axis and bound.labels:
            shape = [1] * counts.ndim
            shape[axis] = -1
            chosen = group.graph.project(bound.labels, classes)
            counts &= chosen.reshape(shape)
    first = np.moveaxis(counts, member.axis, 0)[member.index[0]]
    return first.ravel()


def _spread(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return rows with 0 in the columns that do not count."""
    whole = np.zeros((len(rows), len(columns)))
    whole[:, columns] = rows
    return whole


def _rows(member: Member, changed: dict[int, np.ndarray]) -> np.ndarray:
    value = changed.get(id(member.variable), read(member.variable))
    rows = np.moveaxis(value.astype("float64"), member.axis, 0)[member.index]
    return rows.reshape(len(member.index), -1)


def _write(
    member: Member,
    stays: np.ndarray,
    rows: np.ndarray,
    changed: dict[int, np.ndarray],
) -> None:
    key = id(member.variable)
    value = changed.setdefault(key, read(member.variable).copy())
    view = np.moveaxis(value, member.axis, 0)
    places = member.index[stays]
    shape = (*places.shape, *view.shape[1:])
    view[places] = np.broadcast_to(
        rows.reshape(len(rows), -1), (len(rows), int(np.prod(shape[1:])))
    ).reshape(shape)
