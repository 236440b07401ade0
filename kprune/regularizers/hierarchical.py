"""Hierarchical group sparsity of kernels."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from kprune.arguments import choice
from kprune.arguments import number
from kprune.arguments import share
from kprune.parts import Part
from kprune.regularizers import penalties

GROUPINGS = ("feature", "neuron")


@keras.saving.register_keras_serializable(package="kprune")
class HierarchicalGroupSparsity(Part, keras.regularizers.Regularizer):
    """Penalty with two levels: kernels, and groups of kernels.

    The penalty is `strength * (mix * R + (1 - mix) * L1)`, where `R` is one of ten
    penalties on groups of kernels (the kh x kw weights between an input and an output
    channel). "Square-rooted" forms eliminate whole groups; with "squared" ones, the
    kernels of a group compete. From "Hierarchical Group Sparse Regularization for Deep
    Convolutional Neural Networks" (Mitsuno, Miyao and Kurita, arXiv 2004.04394); the
    defaults are those of its published script.

    Weights get small, but not 0. Select filters afterwards, for example with
    `criterion="loss_increase"`, and continue training without the penalty.

    Args:
        penalty: `"l1"`, `"group_lasso"`, `"exclusive_sparsity"`, `"group_l1_2"`,
            or the `"hierarchical_sqrt_..."` or `"hierarchical_squared_..."` form
            of the last three; or a name given to
            `kprune.regularizers.register`.
        grouping: `"feature"`: groups are the kernels that read one input channel, so
            that filters of the previous layer become unnecessary; `"neuron"`: the
            kernels of one output filter.
        strength: Factor on the whole penalty. The squared forms grow with the square of
            the width, so strengths of different forms are not comparable.
        mix: Weight of the grouped penalty relative to L1, from 0 to 1.
        per_group: Whether to divide by the number of groups, so that layers of
            different widths are comparable.

    Raises:
        ValueError: If a penalty or grouping is unknown, or a number is out of range.

    Example:

    ```python
    regularizer = kprune.regularizers.HierarchicalGroupSparsity(strength=1e-4)
    layer = keras.layers.Conv2D(64, 3, kernel_regularizer=regularizer)
    kprune.regularizers.attach(model, regularizer)  # a model that is built
    ```
    """

    def __init__(
        self,
        penalty: str = "hierarchical_squared_group_l1_2",
        grouping: str = "feature",
        strength: float = 1e-3,
        mix: float = 0.5,
        per_group: bool = False,
    ) -> None:
        if not isinstance(penalty, str):
            raise TypeError(
                "`penalty` must be the name of a penalty, so that models with it can "
                "be saved. Register functions under a name with "
                f'kprune.regularizers.register("name"). Received: {penalty!r}.'
            )
        owner = type(self).__name__
        self._penalty = penalties.get(penalty)
        self.penalty = penalty
        self.grouping = choice(grouping, owner, "grouping", GROUPINGS)
        self.strength = number(strength, owner, "strength", least=0)
        self.mix = share(mix, owner, "mix", zero=True, one=True)
        self.per_group = bool(per_group)

    def __call__(self, x: Any) -> Any:
        """Return the scalar penalty of a kernel of shape `(..., inputs, outputs)`."""
        if len(x.shape) < 2:
            raise ValueError(
                "HierarchicalGroupSparsity needs kernels with an input and an "
                f"output axis, (..., inputs, outputs). Received shape {x.shape}. "
                "Use it as kernel_regularizer."
            )
        x = ops.convert_to_tensor(x)
        if keras.backend.standardize_dtype(x.dtype) != "float64":
            x = ops.cast(x, "float32")
        x = ops.reshape(x, (-1, *x.shape[-2:]))
        # The gradient at 0 is 0, unlike that of `abs` on JAX.
        absolute = ops.sum(x * ops.stop_gradient(ops.sign(x)), axis=0)
        squared = ops.sum(ops.square(x), axis=0)
        if self.grouping == "neuron":
            absolute = ops.transpose(absolute)
            squared = ops.transpose(squared)
        total = self.mix * self._penalty(absolute, squared)
        total = total + (1.0 - self.mix) * ops.sum(absolute)
        if self.per_group:
            total = total / absolute.shape[0]
        return self.strength * total
