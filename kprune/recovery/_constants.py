"""Where a constant that is added to a layer's output can be put."""

from __future__ import annotations

from typing import Any

import numpy as np

from kprune.graph import walk
from kprune.graph.registry import is_batch_norm
from kprune.graph.values import read
from kprune.recovery._lockstep import Step


def constant_home(step: Step) -> Any:
    """Return the variable that takes a constant per output channel, or None.

    Args:
        step: A call of a layer that ends in an addition of its bias.

    Returns:
        `(variable, sign)`: the layer's bias and +1, or the moving mean of the
        BatchNormalization that alone reads the output, and -1.
    """
    bias = getattr(step.layer, "bias", None)
    if bias is not None:
        return bias, 1.0
    (output,) = step.node.outputs
    reader = step.only_reader(output)
    if reader is None:
        return None
    layer = walk.unwrap(reader.operation)
    if (
        not is_batch_norm(layer)
        or step.run.lockstep.calls[id(reader.operation)] > 1
    ):
        return None
    rank = len(output.shape)
    wanted = 1 if step.channels_first else rank - 1
    return (layer.moving_mean, -1.0) if layer.axis % rank == wanted else None


def add_constant(step: Step, constant: np.ndarray) -> bool:
    """Add a constant per output channel; return whether there was room."""
    home = constant_home(step)
    if home is None:
        return False
    variable, sign = home
    variable.assign(read(variable) + sign * constant)
    return True
