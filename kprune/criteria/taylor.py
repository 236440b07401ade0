"""How much the loss changes when a channel goes, to first order."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from keras import ops

from kprune.arguments import count_or_all
from kprune.criteria.base import Criterion
from kprune.criteria.base import Scores
from kprune.criteria.base import describe
from kprune.criteria.base import register
from kprune.criteria.base import required
from kprune.data.needs import require_loss

if TYPE_CHECKING:
    from kprune.graph import Group
    from kprune.session import Session


@register("taylor")
class Taylor(Criterion):
    """Squared first-order change of the loss when a channel is removed.

    `mean over batches of (sum of weight * gradient) ** 2`, the sum taken over all
    weights that go with the channel: filters, biases, scales and offsets, and
    what reads it. The gradient is that of the compiled loss without penalties,
    in inference mode. Needs a compiled model and `data` with targets. From
    "Importance Estimation for Neural Network Pruning" (Molchanov et al.,
    arXiv 1906.10771).

    Args:
        steps: Batches to use; `None` for all.

    Example:

    ```python
    model.compile(loss="sparse_categorical_crossentropy")
    masked = kprune.prune(
        model, criterion="taylor", data=(x_train[:512], y_train[:512])
    )
    ```
    """

    def __init__(self, steps: int | None = None) -> None:
        self.steps = count_or_all(
            steps, type(self).__name__, "steps", "batches"
        )

    def check(self, session: Session | None) -> None:
        require_loss(session, f"Criterion {describe(self)}")

    def scores(
        self, groups: Sequence[Group], session: Session | None
    ) -> Scores:
        session = required(session, self)
        sums = {group.name: np.zeros(group.size) for group in groups}
        count = 0
        owner = f"Criterion {describe(self)}"
        for x, y, weight in session.samples.labelled(owner, self.steps):
            changes = _first_order(groups, session.gradients(x, y, weight))
            for name, change in changes.items():
                sums[name] += change**2
            count += 1
        return {name: total / count for name, total in sums.items()}


def _first_order(
    groups: Sequence[Group], gradients: Mapping[int, np.ndarray]
) -> Scores:
    """Return, per channel, the sum of weight * gradient over its weights."""
    products: dict[int, np.ndarray] = {}
    changes = {}
    for group in groups:
        total = np.zeros(group.size)
        for member in group.members:
            key = id(member.variable)
            if member.role == "statistic" or key not in gradients:
                continue
            if key not in products:
                value = ops.convert_to_numpy(member.variable)
                products[key] = value.astype("float64") * gradients[key]
            others = tuple(
                a for a in range(products[key].ndim) if a != member.axis
            )
            along = products[key].sum(axis=others)
            total += along[member.index].sum(axis=1)
        changes[group.name] = total
    return changes
