"""Plain data that a walk over a model collects."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from kprune.graph.labels import Labels
from kprune.graph.slots import SlotTable

# Roles of a variable's axis for the channels on it.
FILTER = "filter"  # output axis of a producer
SCALE = "scale"  # per-channel parameter passed through
STATISTIC = "statistic"  # per-channel running statistic
INPUT = "input"  # input axis of a consumer


@dataclasses.dataclass(slots=True)
class Axis:
    """The labels of one axis of one variable.

    Args:
        labels: 1-D label arrays, each as long as the axis. A position is kept
            if its labels in all of them are.
        role: One of "filter", "scale", "statistic", "input".
        feature_axis: For consumers, the axis of the layer's input tensor
            that is contracted with this axis.
    """

    labels: list[np.ndarray]
    role: str
    feature_axis: int | None = None


@dataclasses.dataclass(slots=True)
class Binding:
    """All labelled axes of one variable."""

    layer: keras.layers.Layer
    variable: keras.Variable
    axes: dict[int, Axis]


@dataclasses.dataclass(slots=True)
class MaskInput:
    """A mask of a tensor axis that a layer computes with.

    Args:
        layer: The layer, whose rule overrides `masked_call`.
        name: Key of the mask in the `masks` argument of `masked_call`.
        labels: 1-D label arrays of the axis, as in `Axis`.
    """

    layer: keras.layers.Layer
    name: str
    labels: list[np.ndarray]


@dataclasses.dataclass(slots=True)
class Work:
    """Multiply-accumulates of one call: `count` x the kept axis lengths.

    Args:
        layer: The layer or operation that does the work.
        count: Multiplications per element of the variable (output positions).
        variable: The variable whose kept size is a factor, or None.
        axes: Further axes whose kept length is a factor, each a list of 1-D
            label arrays.
    """

    layer: Any
    count: float
    variable: keras.Variable | None
    axes: list[list[np.ndarray]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Visit:
    """Record of one call, used to rebuild it with fewer channels."""

    operation: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: list[Labels]
    rule: Any = None
    constants: dict[int | str, Labels] = dataclasses.field(default_factory=dict)
    inner: Visit | None = None

    @property
    def inputs(self) -> list[Labels]:
        flat = keras.tree.flatten((self.args, self.kwargs))
        return [x for x in flat if isinstance(x, Labels)]


class TraceRecord:
    """Everything a walk over a model collects."""

    def __init__(self) -> None:
        self.slots = SlotTable()
        # By `id(variable)`.
        self.bindings: dict[int, Binding] = {}
        # By `(id(layer), name)`.
        self.mask_inputs: dict[tuple[int, str], MaskInput] = {}
        self.work: list[Work] = []
