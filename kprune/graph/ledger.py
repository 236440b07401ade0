"""What a walk over a model collects, as plain data."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np

from kprune.graph.labels import Labels
from kprune.graph.slots import SlotTable

# How a group's channels use an axis of a variable.
FILTER = "filter"  # output axis of a producer
SCALE = "scale"  # per-channel parameter passed through
STATISTIC = "statistic"  # per-channel running statistic
INPUT = "input"  # input axis of a consumer


@dataclasses.dataclass(slots=True)
class Axis:
    """The labels of one axis of one variable.

    Args:
        labels: 1-D label arrays of the axis length; an index survives if it
            survives in all of them.
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
class Need:
    """A layer that computes with the mask of a tensor axis.

    Args:
        layer: The layer, of a rule that overrides `masked_call`.
        name: What the rule calls the mask.
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
        variable: The variable whose size counts, or None.
        axes: Further axes that count, each a list of 1-D label arrays.
    """

    layer: Any
    count: float
    variable: keras.Variable | None
    axes: list[list[np.ndarray]] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(slots=True)
class Visit:
    """Record of one call, for rebuilding it with fewer channels."""

    operation: Any
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[Labels]
    rule: Any = None
    constants: dict[int | str, Labels] = dataclasses.field(default_factory=dict)
    inner: Visit | None = None

    @property
    def inputs(self) -> list[Labels]:
        flat = keras.tree.flatten((self.args, self.kwargs))
        return [x for x in flat if isinstance(x, Labels)]


class Ledger:
    """Everything collected while a model is walked."""

    def __init__(self):
        self.slots = SlotTable()
        self.bindings: dict[int, Binding] = {}
        self.needs: dict[tuple[int, str], Need] = {}
        self.work: list[Work] = []
