"""Attachment of penalties to the kernels of built models."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import keras

from kprune.arguments import did_you_mean
from kprune.graph import walk
from kprune.graph.registry import find_rule
from kprune.graph.registry import grouped_kernel
from kprune.graph.registry import is_linear
from kprune.graph.shortcuts import projections
from kprune.masking import FilterMask


class GroupedKernel(keras.Variable):
    """A copy of a kernel in the shape in which penalties get it.

    Args:
        kernel: The variable. The copy has its name and path.
        value: Its value, of shape `(..., inputs per group, outputs)`.
        groups: Number of groups. The outputs of a group are adjacent.
    """

    def __init__(self, kernel: Any, value: Any, groups: int) -> None:
        super().__init__(
            keras.ops.copy(value),  # PyTorch would share a parameter.
            dtype=kernel.dtype,
            trainable=False,
            name=kernel.name,
        )
        self._path = kernel.path
        self.groups = groups


def groups_of(kernel: Any) -> int:
    """Return the number of groups of a kernel that `across` gets."""
    return getattr(kernel, "groups", 1)


def summed(regularizer: Any, kernel: Any, groups: int) -> Any:
    """Return the sum of a penalty on each group of a kernel.

    Args:
        regularizer: The penalty.
        kernel: Tensor of shape `(..., inputs per group, outputs)`.
        groups: Number of groups. Their filters read different channels.
    """
    if groups == 1:
        return regularizer(kernel)
    apart = (*kernel.shape[:-1], groups, -1)
    parts = keras.ops.moveaxis(keras.ops.reshape(kernel, apart), -2, 0)
    return keras.ops.sum(keras.ops.vectorized_map(regularizer, parts))


class Attached(keras.regularizers.Regularizer):
    """A penalty that replaces a variable's own regularizer, and includes it.

    Args:
        regularizer: The attached penalty.
        former: The variable's own regularizer, or `None`. It stays in effect.
        layer: The variable's layer.
        wrapper: The mask wrapper of the variable's layer, or `None`.
        index: Index of the variable among the layer's weights.
    """

    def __init__(
        self,
        regularizer: Any,
        former: Any,
        layer: Any,
        wrapper: FilterMask | None,
        index: int,
    ) -> None:
        self.regularizer = regularizer
        self.former = former
        self._layer = layer
        self._wrapper = wrapper
        self._index = index
        self.used = False

    def alone(self, value: Any) -> Any:
        """Return the attached penalty without the variable's own."""
        self.used = True
        acting = value
        if self._wrapper is not None:
            # The masked weights, so that removed ones are not penalised.
            acting = self._wrapper.effective(self._index)
        kernel, groups = grouped_kernel(self._layer, acting)
        return summed(self.regularizer, kernel, groups)

    def __call__(self, value: Any) -> Any:
        penalty = self.alone(value)
        if self.former is None:
            return penalty
        return penalty + keras.ops.cast(self.former(value), penalty.dtype)


def attach(
    model: keras.Model,
    regularizer: Any,
    layers: Iterable[Any] | None = None,
) -> list[str]:
    """Penalise the kernels of a built model, plain or masked, compiled or not.

    The penalty is added to the loss of `fit`, besides existing penalties. In masked
    models, it applies to the masked kernels. It is not part of the model's
    configuration: loaded, wrapped or rebuilt copies do not have it.

    Args:
        model: A functional or Sequential model. Layers of nested models are included.
        regularizer: A `keras.regularizers.Regularizer`, or its name. It is called with
            kernels of shape `(..., inputs, outputs)`, also of transposed convolutions,
            and for each group of a convolution with groups or a depthwise one; these
            are added up. Groups are passed under `keras.ops.vectorized_map`, so it has
            to use `keras.ops` throughout. If it has a method `across(kernels)`, that
            returns one regularizer per kernel. It gets the layers' variables; in place
            of those of other shapes or with groups, copies with the same `name` and
            `path`, of shape `(..., inputs per group, outputs)`, and their number of
            groups as attribute `groups`.
        layers: Layers with a kernel, or their names. Defaults to all convolutions and
            transposed convolutions except depthwise and separable ones and 1x1
            projections in shortcuts; without any, to all Dense layers.

    Returns:
        The names of the penalised layers.

    Raises:
        ValueError: If a layer does not exist, has no kernel, or has an attached penalty
            already, or if there is neither a convolution nor a Dense layer.

    Example:

    ```python
    kprune.regularizers.attach(masked, HierarchicalGroupSparsity())
    masked.fit(train, epochs=100)
    kprune.regularizers.detach(masked)
    ```
    """
    regularizer = keras.regularizers.get(regularizer)
    if regularizer is None:
        raise ValueError(
            "`attach` needs a regularizer, for example "
            "kprune.regularizers.HierarchicalGroupSparsity(). Received: None."
        )
    chosen = _defaults(model) if layers is None else _named(model, layers)
    for outer in chosen:
        kernel = _kernel(outer)
        if isinstance(kernel.regularizer, Attached):
            raise ValueError(
                f"Layer '{outer.name}' has a penalty attached already. Call "
                "kprune.regularizers.detach(model) first, or attach the sum of "
                "both penalties."
            )
    kernels = [_kernel(outer) for outer in chosen]
    penalties = [regularizer] * len(kernels)
    if hasattr(regularizer, "across"):
        penalties = regularizer.across(
            [
                _arranged(walk.unwrap(outer), kernel)
                for outer, kernel in zip(chosen, kernels, strict=True)
            ]
        )
    for outer, kernel, penalty in zip(chosen, kernels, penalties, strict=True):
        wrapper = outer if isinstance(outer, FilterMask) else None
        layer = walk.unwrap(outer)
        index = [id(w) for w in layer.weights].index(id(kernel))
        kernel.regularizer = Attached(
            penalty, kernel.regularizer, layer, wrapper, index
        )
    compile_again(model)
    return [layer.name for layer in chosen]


def detach(model: keras.Model) -> list[str]:
    """Remove attached penalties. The model's own regularizers stay.

    Args:
        model: The model that `attach` was called with.

    Returns:
        The names of the layers whose penalty was removed.
    """
    found = attached(model)
    release(model, found)
    return [outer.name for outer, _ in found]


def release(model: keras.Model, found: Iterable[tuple[Any, Any]]) -> None:
    """Remove the penalties attached to some variables.

    Args:
        model: The model.
        found: Pairs from `attached(model)`.
    """
    found = list(found)
    for _, variable in found:
        variable.regularizer = variable.regularizer.former
    if found:
        compile_again(model)


def attached(model: keras.Model) -> list[tuple[Any, Any]]:
    """Return pairs of a layer and its variable with an attached penalty."""
    return [
        (outer, variable)
        for outer in walk.layers_of(model)
        for variable in walk.unwrap(outer).weights
        if isinstance(getattr(variable, "regularizer", None), Attached)
    ]


def compile_again(
    model: keras.Model, steps: Iterable[str] = ("train", "test")
) -> None:
    """Compile functions of a model again, so that they use the changed layers.

    This is done immediately, because `fit` may be running.

    Args:
        model: A model that was compiled.
        steps: Any of `"train"`, `"test"` and `"predict"`.
    """
    for step in steps:
        if getattr(model, f"{step}_function", None) is not None:
            getattr(model, f"make_{step}_function")(force=True)


def _kernel(outer: Any) -> Any:
    """Return the kernel of a layer, or raise an error if it has none."""
    layer = walk.unwrap(outer)
    kernel = _found_kernel(layer)
    if kernel is None:
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has no kernel with two "
            "or more axes to penalise."
        )
    return kernel


def _arranged(layer: Any, kernel: Any) -> Any:
    """Return a kernel as `across` gets it: the variable itself, if possible."""
    value, groups = grouped_kernel(layer, kernel)
    if value is kernel and groups == 1:
        return kernel
    return GroupedKernel(kernel, value, groups)


def _found_kernel(layer: Any) -> Any:
    for name in ("kernel", "_kernel"):
        kernel: Any = getattr(layer, name, None)
        known = any(kernel is weight for weight in layer.weights)
        if known and len(kernel.shape) >= 2:
            return kernel
    return None


def _named(model: keras.Model, wanted: Iterable[Any]) -> list[Any]:
    if isinstance(wanted, str | keras.layers.Layer):
        wanted = [wanted]
    known = list(walk.layers_of(model))
    chosen = []
    for choice in wanted:
        found = [
            layer
            for layer in known
            if choice is layer
            or choice is walk.unwrap(layer)
            or choice == layer.name
        ]
        if not found:
            name = getattr(choice, "name", choice)
            raise ValueError(
                f"Model '{model.name}' has no layer {name!r}. "
                f"{did_you_mean(name, [layer.name for layer in known])}"
            )
        chosen += [layer for layer in found if layer not in chosen]
    return chosen


def _is_depthwise(layer: Any, kernel: Any) -> bool:
    kernel, groups = grouped_kernel(layer, kernel)
    return groups > 1 and kernel.shape[-2] == 1


def _defaults(model: keras.Model) -> list[Any]:
    """Return the convolutions that are not projections in shortcuts, or all Dense."""
    beside = projections(model)
    convolutions, others = [], []
    for layer in walk.layers_of(model):
        inner = walk.unwrap(layer)
        kernel = _found_kernel(inner)
        if kernel is None or find_rule(inner) is None:
            continue
        if not hasattr(inner, "kernel_size"):
            if is_linear(inner):
                others.append(layer)
        elif inner not in beside and not _is_depthwise(inner, kernel):
            convolutions.append(layer)
    chosen = convolutions or others
    if not chosen:
        raise ValueError(
            f"Model '{model.name}' has no convolution outside of shortcuts and no "
            "Dense layer to penalise. Pass the layers: layers=[...]."
        )
    return chosen
