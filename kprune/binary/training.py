"""Train models with binary filters."""

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
    """Binarize kernels, with one scale for each block of adjacent filters.

    A kernel `W` becomes `alpha * sign(W)`. For each block of filters, `alpha` is
    the mean of `|W|` over all weights of the block, which is the scale with the
    least squared error. Gradients pass straight through to weights with
    `|W| <= 1`. Weights of removed channels are 0: they stay 0 and are left out of
    the mean.

    Source: "Cross-filter compression" (Lyu, Zhu and Liu, arXiv 2005.09034). With
    a block of 1 filter these are the binary weights of XNOR-Net (Rastegari et al.,
    arXiv 1603.05279).

    Args:
        block: Number of adjacent filters that share a scale.
    """

    def __init__(self, block: int = 4) -> None:
        self.block = whole(block, "BinaryFilters", "block", of="filters")

    def __call__(self, kernel: Any) -> Any:
        """Return the binary kernel, exact up to rounding, with gradients.

        Args:
            kernel: Weights `(..., filters)`.
        """
        passing = ops.clip(kernel, -1.0, 1.0)
        return passing + ops.stop_gradient(self.binary(kernel) - passing)

    def binary(self, kernel: Any) -> Any:
        """Return the exact binary kernel, a tensor of the same shape.

        Args:
            kernel: Weights `(..., filters)`.
        """
        return ops.sign(kernel) * self._scales(kernel)

    def _scales(self, kernel: Any) -> Any:
        """Return the magnitude of each filter, `(filters,)`."""
        filters, dtype = kernel.shape[-1], kernel.dtype
        axes = list(range(len(kernel.shape) - 1))
        # Sums over many weights exceed float16, and bfloat16 cannot count them.
        if keras.backend.standardize_dtype(dtype) != "float64":
            kernel = ops.cast(kernel, "float32")
        sizes = ops.sum(ops.abs(kernel), axis=axes)
        alive = ops.cast(ops.not_equal(kernel, 0), kernel.dtype)
        counts = ops.sum(alive, axis=axes)
        blocks = -(-filters // self.block)
        padding = [[0, blocks * self.block - filters]]
        sizes, counts = (
            ops.sum(
                ops.reshape(ops.pad(x, padding), (blocks, self.block)), axis=1
            )
            for x in (sizes, counts)
        )
        scales = ops.cast(sizes / ops.maximum(counts, 1), dtype)
        return ops.repeat(scales, self.block)[:filters]


def attach(masked: keras.Model, form: BinaryFilters) -> list[str]:
    """Make layers compute with binary kernels. Their weights stay unchanged.

    Binary are the kernels of dense and convolutional layers if both their inputs
    and their outputs are prunable channels. So the first and last layers keep full
    precision.

    Args:
        masked: A model made by `kprune.wrap`.
        form: How to binarize kernels.

    Returns:
        The names of the layers that compute with binary kernels now.

    Raises:
        ValueError: The model is not masked, or has no such layer.
    """
    require_masked(masked, "attach()")
    found = list(_kernels(masked))
    if not found:
        raise ValueError(
            f"Model '{masked.name}' has no layer whose kernel can be binary: the "
            "first and last layers keep full precision, and none lies between them."
        )
    for wrapper, number in found:
        wrapper.forms[number] = form
    return [wrapper.name for wrapper, _ in found]


def detach(masked: keras.Model) -> list[str]:
    """Assign the binary values to the kernels and undo `attach`.

    Args:
        masked: The model that `attach` was called with.

    Returns:
        The names of the layers whose kernels hold binary values now.
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
    """Yield each wrapper whose kernel can be binary, and the kernel's index."""
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
