"""Variables that can take a constant added to a layer's output."""

from __future__ import annotations

from typing import Any

import numpy as np

from kprune.graph import walk
from kprune.graph.registry import is_batch_norm
from kprune.graph.values import read
from kprune.recovery._paired import Step


def constant_home(layer: Any, reader: Any, rank: int) -> Any:
    """Return the variable that can take a constant per output channel, or None.

    Args:
        layer: A layer whose last step adds its bias.
        reader: The only layer that reads its output, if it is called once, or
            `None`.
        rank: Rank of its output.

    Returns:
        `(variable, sign)`: the layer's bias and +1, or the moving mean of the
        BatchNormalization `reader` and -1.
    """
    bias = getattr(layer, "bias", None)
    if bias is not None:
        return bias, 1.0
    if reader is None or not is_batch_norm(reader):
        return None
    first = getattr(layer, "data_format", None) == "channels_first"
    wanted = 1 if first else rank - 1
    return (reader.moving_mean, -1.0) if reader.axis % rank == wanted else None


def home_of(step: Step) -> Any:
    """Return `constant_home` for a call's layer."""
    (output,) = step.node.outputs
    node, reader = step.only_reader(output), None
    if node is not None and step.run.paired.calls[id(node.operation)] == 1:
        reader = walk.unwrap(node.operation)
    return constant_home(step.layer, reader, len(output.shape))


def add_constant(step: Step, constant: np.ndarray) -> bool:
    """Add a constant per output channel; return False if no variable can take it."""
    home = home_of(step)
    if home is None:
        return False
    variable, sign = home
    variable.assign(read(variable) + sign * constant)
    return True
