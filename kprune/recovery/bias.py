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
    if len(step.node.outputs) != 1 or (home := home_of(step)) is None:
        return
    variable, _ = home
    sums = step.sums()
    rank = sums.before.ndim
    sizes = [1] * (rank - len(variable.shape)) + list(variable.shape)
    if step.channels_first:
        sizes = [1, *variable.shape] + [1] * (rank - 2)
    # The bias of an EinsumDense may have several axes.
    others = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    gap = sums.before.mean(axis=others, dtype=np.float64)
    gap -= sums.after.mean(axis=others, dtype=np.float64)
    add_constant(step, gap.reshape(variable.shape))
