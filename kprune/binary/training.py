"""Training through binary filters."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

from kprune.arguments import whole
from kprune.graph.registry import is_linear
from kprune.masking import FilterMask
from kprune.masking.wrapping import filter_masks
from kprune.masking.wrapping import require_masked
from kprune.parts import Value


class BinaryFilters(Value):
    """Weights of one magnitude in each block of adjacent filters.

    `B = sign(W)`, and for each block `g` of filters `alpha = mean |W|` over all
    of its weights: of all scales the one with the least squared error. Gradients
    pass straight through to weights of `|W| <= 1`. Weights that are 0, those of
    removed channels, stay 0 and do not count. See "Cross-filter compression"
    (Lyu, Zhu and Liu, arXiv 2005.09034); a block of 1 filter is the binary
    network of XNOR-Net (Rastegari et al., arXiv 1603.05279).

    Args:
        block: Filters that share a scale.
    """

    def __init__(self, block: int = 4) -> None:
        self.block = whole(block, "BinaryFilters", "block", of="filters")

    def __call__(self, kernel: Any) -> Any:
        """Return the binary kernel up to rounding, with gradients.

        Args:
            kernel: Weights `(..., filters)`.
        """
        passing = ops.clip(kernel, -1.0, 1.0)
        return passing + ops.stop_gradient(self.binary(kernel) - passing)

    def binary(self, kernel: Any) -> Any:
        """Return the binary kernel, a tensor of the same shape.

        Args:
            kernel: Weights `(..., filters)`.
        """
        return ops.sign(kernel) * self._scales(kernel)

    def _scales(self, kernel: Any) -> Any:
        """Return the magnitude of each filter, `(filters,)`."""
        filters = kernel.shape[-1]
        axes = list(range(len(kernel.shape) - 1))
        sizes = ops.sum(ops.abs(kernel), axis=axes)
        living = ops.cast(ops.not_equal(kernel, 0), kernel.dtype)
        counts = ops.sum(living, axis=axes)
        blocks = -(-filters // self.block)
        padding = [[0, blocks * self.block - filters]]
        sizes, counts = (
            ops.sum(
                ops.reshape(ops.pad(x, padding), (blocks, self.block)), axis=1
            )
            for x in (sizes, counts)
        )
        scales = sizes / ops.maximum(counts, 1)
        return ops.repeat(scales, self.block)[:filters]


def attach(masked: keras.Model, form: BinaryFilters) -> list[str]:
    """Let layers compute with binary kernels; the weights stay what they are.

    The first and the last layers stay whole: binary are the kernels of dense
    and convolutional layers both of whose sides are channels that kprune knows.

    Args:
        masked: A model made by `kprune.wrap`.
        form: What kernels act as.

    Returns:
        The names of these layers.

    Raises:
        ValueError: The model is not masked, or no kernel is of that kind.
    """
    require_masked(masked, "attach()")
    found = list(_kernels(masked))
    if not found:
        raise ValueError(
            f"Model '{masked.name}' has no layer between two others whose kernel "
            "could be binary: the first and the last stay whole."
        )
    for wrapper, number in found:
        wrapper.forms[number] = form
    return [wrapper.name for wrapper, _ in found]


def detach(masked: keras.Model) -> list[str]:
    """Give kernels the values that they act as, and let them be again.

    Args:
        masked: The model that `attach` was called with.

    Returns:
        The names of the layers that are binary now.
    """
    names = []
    for wrapper in filter_masks(masked):
        for number, form in list(wrapper.forms.items()):
            if not isinstance(form, BinaryFilters):
                continue
            variable = wrapper.layer.weights[number]
            del wrapper.forms[number]
            value = form.binary(wrapper.effective(number))
            variable.assign(wrapper.unscaled(number, value))
            names.append(wrapper.name)
    return names


def _kernels(masked: keras.Model) -> Iterator[tuple[FilterMask, int]]:
    """Yield the wrappers of layers with a kernel to be binary, and its number."""
    for wrapper in filter_masks(masked):
        layer = wrapper.layer
        kernel = getattr(layer, "_kernel", None)
        if not is_linear(layer) or kernel is None:
            continue
        rank = len(kernel.shape)
        sides = [wrapper.axis_mask(kernel, rank - n) for n in (1, 2)]
        if all(side is not None for side in sides):
            numbers = [id(weight) for weight in layer.weights]
            yield wrapper, numbers.index(id(kernel))
