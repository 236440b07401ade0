"""Folding of BatchNormalization into the preceding linear layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from kprune.masking import FilterMask
from kprune.session.program import Program
from kprune.session.program import ProgramCall

LINEAR = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)
"""Layers with the filters on the last axis of their kernel."""


@dataclasses.dataclass(frozen=True)
class FoldedCall:
    """A linear layer and the BatchNormalization after it, computed as one.

    In inference both equal one linear layer, up to rounding. This saves two
    passes over the tensor between them.

    Args:
        linear: The call of the linear layer.
        norm: The call of the normalisation.
    """

    linear: ProgramCall
    norm: ProgramCall

    @property
    def given(self) -> tuple[int, ...]:
        """Slots that the linear layer reads."""
        return self.linear.given

    @property
    def outputs(self) -> tuple[int, ...]:
        """Slots that the normalisation writes."""
        return self.norm.outputs

    def run(self, given: Sequence[Any]) -> list[Any]:
        """Return the normalisation's outputs with the current masks.

        Args:
            given: Tensors for the slots `given`.
        """
        layer, norm = self.linear.layer, self.norm.layer
        known = {id(v): value for v, value in self.norm.values()}
        scale = keras.ops.rsqrt(known[id(norm.moving_variance)] + norm.epsilon)
        if norm.scale:
            scale = scale * known[id(norm.gamma)]
        shift = -known[id(norm.moving_mean)] * scale
        if norm.center:
            shift = shift + known[id(norm.beta)]
        values = []
        for variable, value in self.linear.values():
            if variable is layer.kernel:
                value = value * scale
            elif variable is layer.bias:
                value = value * scale + shift
            values.append((variable, value))
        outputs = self.linear.compute(given, values)
        if layer.bias is not None:
            return outputs
        return [keras.ops.add(outputs[0], shift)]


def folds(program: Program) -> dict[int, tuple[int, FoldedCall]]:
    """Find linear layers that can be folded with a normalisation.

    Args:
        program: The calls of the model.

    Returns:
        Number of the linear layer's call -> number of the normalisation's call,
        and both calls as one.
    """
    found = {}
    for index, call in enumerate(program.calls):
        if _is_linear(call):
            reader = program.only_reader(call.outputs[0])
            if reader is not None and _is_norm(program.calls[reader]):
                found[index] = reader, FoldedCall(call, program.calls[reader])
    return found


def _is_linear(call: ProgramCall) -> bool:
    layer = call.layer
    return (
        type(layer) in LINEAR
        and _is_plain(call)
        and layer.activation is keras.activations.linear
        and getattr(layer, "data_format", None) in (None, "channels_last")
        # With LoRA, the kernel is computed from other variables.
        and any(layer.kernel is v for v in layer.weights)
    )


def _is_norm(call: ProgramCall) -> bool:
    layer = call.layer
    return (
        type(layer) is keras.layers.BatchNormalization
        and _is_plain(call)
        and layer.axis in (-1, len(call.tensors[0].shape) - 1)
    )


def _is_plain(call: ProgramCall) -> bool:
    """Return whether a call has one input, one precision, and masks on weights only."""
    layer, operation = call.layer, call.operation
    masked = isinstance(operation, FilterMask)
    return (
        len(call.tensors) == len(call.outputs) == 1
        and layer.compute_dtype == layer.variable_dtype
        and getattr(layer, "quantization_mode", None) is None
        and (masked or operation is layer)
        and not (
            masked
            and any(owner == id(layer) for owner, _ in operation.masked_axes())
        )
    )
