"""Means of removed channels, folded into what reads them."""

from __future__ import annotations

import numpy as np

from kprune.masking.state import WeightSnapshot
from kprune.recovery._constants import add_constant
from kprune.recovery._constants import home_of
from kprune.recovery._paired import Step
from kprune.recovery.base import Recovery
from kprune.recovery.base import register
from kprune.session import Session


@register("bias")
class BiasCorrection(Recovery):
    """Gives every output channel the mean it had before pruning.

    What removed channels contributed on average to a layer's outputs is added
    to the layer's bias, or taken from the moving mean of the
    BatchNormalization behind it; layer after layer, so that earlier changes
    are made up for too.

    Args:
        samples: How many samples of the data to use at most.

    Example:

    ```python
    masked = kprune.prune(model, data=x_train[:1024], recover="bias")
    ```
    """

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        self.paired_run(session, before).visit(_correct)


def _correct(step: Step) -> None:
    if not hasattr(step.layer, "kernel") or step.calls > 1:
        return
    if len(step.node.outputs) != 1 or home_of(step) is None:
        return
    sums = step.sums()
    axis = 1 if step.channels_first else sums.before.ndim - 1
    others = tuple(a for a in range(sums.before.ndim) if a != axis)
    gap = sums.before.mean(axis=others, dtype=np.float64)
    gap -= sums.after.mean(axis=others, dtype=np.float64)
    add_constant(step, gap)
