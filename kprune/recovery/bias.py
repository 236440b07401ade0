"""Correction of biases for the means of removed channels."""

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
    """Restores the mean of every output channel.

    The mean contribution of removed channels to a layer's outputs is added to
    the layer's bias, or subtracted from the moving mean of the
    BatchNormalization after it. Layers are corrected in order of execution, so
    each also compensates for changes in earlier ones.

    Args:
        samples: Largest number of samples to use.

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
