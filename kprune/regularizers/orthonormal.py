"""Orthonormality of the filters of a layer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.arguments import choice
from kprune.arguments import number
from kprune.parts import Part
from kprune.regularizers.attaching import groups_of

NORMS = ("l1", "frobenius")


@keras.saving.register_keras_serializable(package="kprune")
class Orthonormal(Part, keras.regularizers.Regularizer):
    """Penalty on the deviation of filters from orthonormality.

    The penalty is `strength * share * |P P' - I|`, where `P` has the filters of a layer
    as rows, `(filters, weights)`, or is transposed if the layer has more filters than a
    filter has weights. Importances of orthogonal filters are additive, which is assumed
    when many filters are ranked and removed at once. From "OrthoReg: Robust Network
    Pruning Using Orthonormality Regularization" (Lubana et al., arXiv 2009.05014), with
    a strength of 0.01 and no weight decay.

    All filters get norm 1, so do not rank them by norm afterwards.

    Args:
        strength: Factor on the whole penalty.
        norm: `"l1"`, the sum of absolute values, as published; or `"frobenius"`, the
            sum of squares, which is smooth.
        share: Share of this layer in the penalty. `kprune.regularizers.attach` sets it
            from the widths of all layers. See `across`.

    Raises:
        ValueError: If a norm is unknown, or a number is out of range.

    Example:

    ```python
    kprune.regularizers.attach(model, Orthonormal())
    ```
    """

    def __init__(
        self, strength: float = 0.01, norm: str = "l1", share: float = 1.0
    ) -> None:
        owner = type(self).__name__
        self.strength = number(strength, owner, "strength", least=0)
        self.norm = choice(norm, owner, "norm", NORMS)
        self.share = number(share, owner, "share", least=0)

    def across(self, kernels: Sequence[Any]) -> list[Orthonormal]:
        """Return one penalty per kernel, with shares that sum to 1.

        A layer's share is proportional to the square root of its number of filters, in
        each group, or of weights per filter, whichever is smaller.

        Args:
            kernels: Kernels of shape `(..., inputs, outputs)`. See
                `kprune.regularizers.attach`.
        """
        roots = np.sqrt([_rows(kernel) for kernel in kernels])
        return [
            Orthonormal(self.strength, self.norm, float(share))
            for share in roots / roots.sum()
        ]

    def __call__(self, x: Any) -> Any:
        """Return the scalar penalty of a kernel of shape `(..., inputs, outputs)`."""
        x = ops.convert_to_tensor(x)
        if keras.backend.standardize_dtype(x.dtype) != "float64":
            x = ops.cast(x, "float32")
        outputs, weights = _sizes(x.shape)
        rows = ops.transpose(ops.reshape(x, (weights, outputs)))
        if outputs > weights:
            rows = ops.transpose(rows)
        count = min(outputs, weights)
        apart = ops.matmul(rows, ops.transpose(rows)) - ops.eye(
            count, dtype=rows.dtype
        )
        if self.norm == "frobenius":
            total = ops.sum(ops.square(apart))
        else:
            # The gradient at 0 is 0, unlike that of `abs` on JAX.
            total = ops.sum(apart * ops.stop_gradient(ops.sign(apart)))
        return self.strength * self.share * total


def _rows(kernel: Any) -> int:
    """Return the number of rows of a group's `P`."""
    outputs, weights = _sizes(kernel.shape)
    return min(outputs // groups_of(kernel), weights)


def _sizes(shape: Any) -> tuple[int, int]:
    """Return a kernel's number of filters, and of weights per filter."""
    if len(shape) < 2:
        raise ValueError(
            "Orthonormal needs kernels with an input and an output axis, "
            f"(..., inputs, outputs). Received shape {tuple(shape)}. Use it as "
            "kernel_regularizer."
        )
    return int(shape[-1]), int(np.prod(shape[:-1]))
