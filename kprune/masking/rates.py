"""Learning rates that are left over from the end of training."""

from __future__ import annotations

import inspect
from typing import Any

from kprune.masking.slots import base_optimizer

_SPENT = 0.01
_FINE_TUNING = 0.1
"""Shares of the default of the optimizer's class."""


def rate_for_fine_tuning(optimizer: Any) -> float | None:
    """Return a learning rate to fine-tune with, if that of the optimizer has decayed.

    A model is saved with the learning rate that its training ended with. After a decay,
    that is often too small to change anything.

    Args:
        optimizer: A `keras.Optimizer`, or None.

    Returns:
        A tenth of the default of its class, if its learning rate is below a hundredth
        of that default. None otherwise, and for a class without a default.
    """
    if optimizer is None:
        return None
    optimizer = base_optimizer(optimizer)
    parameters = inspect.signature(type(optimizer)).parameters
    default = getattr(parameters.get("learning_rate"), "default", None)
    if not isinstance(default, float):
        return None
    if float(optimizer.learning_rate) >= _SPENT * default:
        return None
    return _FINE_TUNING * default
