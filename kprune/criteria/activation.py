"""Mean absolute activations."""

from __future__ import annotations

from typing import Any

from keras import ops

from kprune.criteria._activations import ActivationCriterion
from kprune.criteria.base import register


@register("activation")
class Activation(ActivationCriterion):
    """Mean absolute activation of a channel.

    Averaged over samples and positions, and over the layers that read the
    channel. Groups that no layer reads openly (attention heads) are scored by
    the rescaled lengths of their filters; a log line names them. Needs
    `data`; targets are not looked at.

    Args:
        steps: Batches to run; `None` for all.

    Example:

    ```python
    masked = kprune.prune(model, criterion="activation", data=x_train[:512])
    ```
    """

    def statistic(self, activations: Any) -> Any:
        return ops.abs(activations)
