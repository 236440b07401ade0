"""The last features of a model: what its last layers with weights read."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
from keras import layers

from kprune.graph import walk
from kprune.graph.registry import find_rule
from kprune.graph.rules.convolution import channel_axis
from kprune.graph.rules.elementwise import PassRule
from kprune.graph.rules.pooling import GlobalPoolingRule
from kprune.graph.rules.pooling import SpatialRule
from kprune.recovery._linear import linear
from kprune.session.program import Program

_PASSED = (GlobalPoolingRule, PassRule, SpatialRule)
"""Rules of layers without weights that treat each channel by itself."""


@dataclasses.dataclass(frozen=True)
class Features:
    """The features that an output is computed from.

    Args:
        kernel: Kernel of the last linear layer before the output. Its axis -2 has the
            channels of the features.
        tensors: Symbolic tensors with these channels: the input of that layer, the
            input of the pooling before it, and so on.
        axes: Channel axis of each tensor.
    """

    kernel: keras.Variable
    tensors: tuple[Any, ...]
    axes: tuple[int, ...]


def last_features(model: keras.Model) -> list[Features | None]:
    """Return the features that each output of a functional model is computed from.

    It is None where layers join several tensors after the last linear layer, and
    where that layer is inside a nested model or reads an input of the model.
    """
    program = Program(model)
    makers = {slot: call for call in program.calls for slot in call.outputs}
    outer = {id(node) for node in walk.nodes(program.functional)}

    def find(slot: int) -> Features | None:
        call = makers.get(slot)
        while call is not None and linear(call.layer) is None:
            if len(call.given) != 1 or getattr(call.layer, "variables", None):
                return None
            call = makers.get(call.given[0])
        view = None if call is None else linear(call.layer)
        if call is None or view is None or id(call.node) not in outer:
            return None
        tensors: list[Any] = []
        axes: list[int] = []
        while id(call.node) in outer:
            tensor = call.tensors[0]
            axis = _axis(call.layer, tensor)
            if tensor.shape[axis] != view.channels:
                break
            tensors.append(tensor)
            axes.append(axis)
            before = makers.get(call.given[0])
            if before is None:
                return None
            if not _passes(before.layer):
                break
            call = before
        return Features(view.kernel, tuple(tensors), tuple(axes))

    return [find(slot) for slot in program.outputs]


def _axis(layer: Any, tensor: Any) -> int:
    if hasattr(layer, "data_format"):
        return channel_axis(layer, len(tensor.shape))
    return len(tensor.shape) - 1


def _passes(layer: Any) -> bool:
    return isinstance(layer, layers.Flatten) or isinstance(
        find_rule(layer), _PASSED
    )
