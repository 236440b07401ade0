"""Mean absolute activations."""

from __future__ import annotations

from typing import Any

from keras import ops

from kprune.criteria._activations import ActivationCriterion
from kprune.criteria.base import register


@register("activation")
class Activation(ActivationCriterion):
    """Mean absolute activation of a channel.

    It is averaged over samples, positions and the layers that read the channel.
    Groups without a tensor that shows their channels (attention heads) are scored
    by the rescaled norms of their filters; a log line names them. Needs `data`,
    without labels.

    Args:
        steps: Number of batches to use; `None` for all.

    Example:

    ```python
    masked = kprune.prune(model, criterion="activation", data=x_train[:512])
    ```
    """

    def statistic(self, activations: Any) -> Any:
        return ops.abs(activations)
