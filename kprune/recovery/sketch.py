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
        for group in graph.prunable:
            alive, stays = was[group.name] > 0, kept[group.name] > 0
            if not (alive & ~stays).any():
                continue
            found = self._sketched(group, alive, stays, changed)
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
        changed: dict[int, np.ndarray],
    ) -> bool | None:
        """Sketch a group into `changed`; return None if that is impossible."""
        makers = {id(m.layer) for m in group.producers}
        kernels = [m for m in group.producers if m.name != "bias"]
        biases = [m for m in group.producers if m.name == "bias"]
        if len(makers) != 1 or len(kernels) != 1:
            return None
        written = [*kernels, *biases]
        parts = [_rows(member, changed) for member in written]
        whole = np.hstack(parts)
        count = int(stays.sum())
        if count >= whole[alive].shape[1]:
            return None
        basis = frequent_directions(whole[alive], count)
        # Channels that a normalisation ties have several weights of a bias.
        ends = np.cumsum([part.shape[1] for part in parts])
        for member, columns in zip(
            written, np.split(basis, ends[:-1], axis=1), strict=True
        ):
            _write(member, stays, columns, changed)
        turn = np.linalg.pinv(basis @ np.linalg.pinv(whole[alive])).T
        for member in group.consumers:
            rows = _rows(member, changed)[alive]
            if self.aligned:
                new = turn @ rows
            elif count < rows.shape[1]:
                new = frequent_directions(rows, count)
            else:
                continue
            _write(member, stays, new, changed)
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
