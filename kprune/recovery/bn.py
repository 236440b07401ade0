"""Re-estimation of batch normalisation statistics."""

from __future__ import annotations

import numpy as np

from kprune.graph.registry import is_batch_norm
from kprune.masking.state import WeightSnapshot
from kprune.recovery._paired import Step
from kprune.recovery.base import Recovery
from kprune.recovery.base import register
from kprune.session import Session


@register("bn")
class BatchStatistics(Recovery):
    """Re-estimates moving means and variances, layer by layer.

    Each BatchNormalization gets the exact mean and variance of its input on the
    samples. Layers are repaired in order of execution.

    Args:
        samples: Largest number of samples to use.

    Example:

    ```python
    masked = kprune.prune(model, data=x_train[:1024], recover="bn")
    ```
    """

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        self.paired_run(session, before).visit(_measure)


def _measure(step: Step) -> None:
    layer = step.layer
    if not is_batch_norm(layer):
        return
    if not step.input.differs or step.calls > 1:
        return
    values = step.input.after
    axis = layer.axis % values.ndim
    others = tuple(a for a in range(values.ndim) if a != axis)
    layer.moving_mean.assign(values.mean(axis=others, dtype=np.float64))
    layer.moving_variance.assign(values.var(axis=others, dtype=np.float64))
