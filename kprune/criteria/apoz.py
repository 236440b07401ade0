"""Shares of activations that are not zero."""

from __future__ import annotations

from typing import Any

from keras import ops

from kprune.criteria._activations import ActivationCriterion
from kprune.criteria.base import register


@register("apoz")
class APoZ(ActivationCriterion):
    """Share of a channel's activations that are not zero.

    It is one minus the "average percentage of zeros" of "Network Trimming" (Hu et
    al., arXiv 1607.03250). Useful after activations with exact zeros, such as
    ReLU. Needs `data`, without labels.

    Args:
        steps: Number of batches to use; `None` for all.

    Example:

    ```python
    masked = kprune.prune(model, criterion="apoz", data=x_train[:512])
    ```
    """

    def statistic(self, activations: Any) -> Any:
        return ops.cast(ops.not_equal(activations, 0), "float32")
