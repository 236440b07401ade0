"""Strengths of penalties that shrink kernels by a chosen share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops
from keras.ops import convert_to_numpy

from kprune.masking.slots import base_optimizers
from kprune.regularizers.attaching import groups_of
from kprune.regularizers.attaching import summed


class Shrinkage(keras.regularizers.Regularizer):
    """Scales a penalty so that it shrinks each kernel by the same share.

    What a penalty does to a kernel `W` of length `|W|` depends on the sum `R` of
    the rates of all steps, and on the form of the penalty `P`. Alone, steps of
    `-rate * strength * dP/dW` shorten `u * W` with the speed
    `du/dR = -strength * (dP/du) / |W|^2`, so that from `u = 1` to `u = 1 - share`

        R = share * |W|^2 / (strength * mean of dP/du), or
        strength = share^2 * |W|^2 / (R * (P(W) - P((1 - share) * W))).

    The penalty of a run with small rates is strong and that of a long run weak,
    and neither moves a kernel by more than the share, which is what keeps the
    function of the model in sight. Each kernel has its own strength: behind a
    batch normalisation only relative lengths matter.

    Args:
        regularizer: A `keras.regularizers.Regularizer` with a `strength` that it
            multiplies by.
        share: Part of its length that a kernel loses if only the penalty acts.
        rates: Sum of the learning rates of all steps.
    """

    def __init__(self, regularizer: Any, share: float, rates: float) -> None:
        self._regularizer = regularizer
        self._share = share
        self._rates = rates

    def across(self, kernels: Sequence[Any]) -> list[Any]:
        """Return one regularizer for each kernel.

        Args:
            kernels: See `kprune.regularizers.attach`.

        Raises:
            ValueError: The penalty does not fall when a kernel shrinks.
        """
        return [self._scaled(kernel) for kernel in kernels]

    def _scaled(self, kernel: Any) -> Any:
        config = self._regularizer.get_config()
        unit = type(self._regularizer).from_config({**config, "strength": 1.0})
        weights = ops.convert_to_tensor(kernel)
        groups = groups_of(kernel)
        whole, shrunk, squared = (
            float(convert_to_numpy(value))
            for value in (
                summed(unit, weights, groups),
                summed(unit, (1.0 - self._share) * weights, groups),
                ops.sum(ops.square(ops.cast(weights, "float32"))),
            )
        )
        if squared == 0:
            return unit
        if whole <= shrunk:
            raise ValueError(
                f"{self._regularizer!r} does not fall when the kernel "
                f"'{kernel.path}' shrinks, so no strength shrinks it by a share. "
                "Pass shrinkage=None, which leaves its strength."
            )
        config["strength"] = (
            self._share**2 * squared / (self._rates * (whole - shrunk))
        )
        return type(self._regularizer).from_config(config)


def summed_rates(
    optimizer: keras.optimizers.Optimizer, rates: Sequence[float]
) -> float | None:
    """Return how far steps move a weight whose gradient stays 1.

    Momentum repeats a gradient in later steps, up to `1 / (1 - momentum)` times.

    Args:
        optimizer: An optimizer, or one that scales the loss for it.
        rates: The learning rate of each step.

    Returns:
        The distance, or `None` if steps are not proportional to gradients, as
        those of Adam and its kin, or if there are several optimizers.
    """
    bases = base_optimizers(optimizer)
    if len(bases) != 1 or not isinstance(bases[0], keras.optimizers.SGD):
        return None
    (optimizer,) = bases
    velocity = distance = 0.0
    for rate in rates:
        velocity = optimizer.momentum * velocity + rate
        ahead = rate + optimizer.momentum * velocity
        distance += ahead if optimizer.nesterov else velocity
    return distance
