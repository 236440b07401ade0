"""One call of one layer or operation, as the rules of the graph see it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import keras
import numpy as np

from kprune.graph.activations import describe_activation
from kprune.graph.labels import Labels
from kprune.graph.labels import lift
from kprune.graph.labels import on_axis
from kprune.graph.labels import varying
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
    """What one call saw: kept for rebuilding it with fewer channels."""

    operation: Any
    args: tuple
    kwargs: dict[str, Any]
    outputs: list[Labels]
    rule: Any = None
    constants: dict[int, Labels] = dataclasses.field(default_factory=dict)

    @property
    def inputs(self) -> list[Labels]:
        flat = keras.tree.flatten((self.args, self.kwargs))
        return [x for x in flat if isinstance(x, Labels)]


class Ledger:
    """Everything collected while a model is walked."""

    def __init__(self):
        self.slots = SlotTable()
        self.bindings: dict[int, Binding] = {}
        self.work: list[Work] = []


class Call:
    """What a rule can ask and do about the call it traces.

    Args:
        operation: The layer or `keras.Operation` that is called.
        args: Positional call arguments, tensors replaced by `Labels`.
        kwargs: Keyword call arguments, likewise.
        output_shapes: True shapes of the outputs.
        ledger: Where labels, bindings and work are collected.
    """

    def __init__(self, operation, args, kwargs, output_shapes, ledger: Ledger):
        self.operation = operation
        self.args = args
        self.kwargs = kwargs
        self.output_shapes: list[tuple[int | None, ...]] = output_shapes
        self.constants: dict[int, Labels] = {}
        self._ledger = ledger

    def __repr__(self) -> str:
        return f"{type(self.operation).__name__} '{self.operation.name}'"

    @property
    def layer(self) -> Any:
        return self.operation

    @property
    def inputs(self) -> list[Labels]:
        flat = keras.tree.flatten((self.args, self.kwargs))
        return [x for x in flat if isinstance(x, Labels)]

    @property
    def input(self) -> Labels:
        return self.inputs[0]

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        return self.output_shapes[0]

    # -- labels ----------------------------------------------------------

    def new_slots(self, size: int) -> np.ndarray:
        return self._ledger.slots.new(size)

    def union(self, a: np.ndarray, b: np.ndarray, why: str = "") -> None:
        why = why or f"meets channels that cannot be removed in {self!r}"
        self._ledger.slots.union(a, b, why)

    def pin(self, factors: Iterable[np.ndarray] | np.ndarray, why: str) -> None:
        """Forbids removing any channel of these label arrays."""
        if isinstance(factors, np.ndarray):
            factors = [factors]
        for factor in factors:
            self._ledger.slots.pin(factor, why)

    def pin_all(self, why: str) -> list[Labels]:
        """Pins every input; outputs carry no labels."""
        for labels in self.inputs:
            self.pin(labels.factors, why)
        return [Labels(shape, why=why) for shape in self.output_shapes]

    def settle(self, labels: Labels, axes: Iterable[int], why: str) -> Labels:
        """Makes sure that no channel can be removed along `axes`.

        A factor that varies elsewhere too is merged along `axes` (all rows of
        one column become one channel); one that varies only there is pinned.
        """
        axes = [a % labels.rank for a in axes]
        factors = []
        for factor in labels.factors:
            here = [a for a in varying(factor) if a in axes]
            if not here:
                factors.append(factor)
            elif len(varying(factor)) == len(here):
                self.pin(factor, why)
            else:
                factors.append(self._merged(factor, here))
        return labels.replace(factors=tuple(factors))

    def _merged(self, factor: np.ndarray, axes: Iterable[int]) -> np.ndarray:
        first = factor
        for axis in axes:
            first = first.take([0], axis=axis)
        self.union(factor, first)
        return first

    def one_axis(self, labels: Labels, axis: int) -> list[np.ndarray]:
        """1-D label arrays along `axis`, merged along all other axes."""
        axis %= labels.rank
        out = []
        for factor in labels.along(axis):
            others = [a for a in varying(factor) if a != axis]
            out.append(self._merged(factor, others).ravel())
        return out

    def rest(self, labels: Labels, axis: int) -> tuple[np.ndarray, ...]:
        """The factors that do not vary along `axis`."""
        return tuple(f for f in labels.factors if f.shape[axis] == 1)

    def join(self, tensors: Sequence[Labels], shape, why: str = "") -> Labels:
        """Unions the labels of operands that meet element by element.

        Args:
            tensors: Labels of the operands, of any broadcastable shapes.
            shape: True shape of the result.
            why: Reason told where a channel meets one that must stay.

        Returns:
            The factors of the result, with `zero` true if it is for all
            operands (as in addition).
        """
        rank = len(shape)
        tensors = [lift(t, rank) for t in tensors]
        result: list[np.ndarray] = []
        owners: list[Labels] = []
        for labels in tensors:
            result, owners = self._join_two(result, owners, labels, why)
        zero = all(t.zero for t in tensors if t.factors)
        reasons = [t.why for t in tensors if t.why]
        return Labels(shape, tuple(result), zero, reasons[0] if reasons else "")

    def _join_two(self, left, owners: list[Labels], new: Labels, why: str):
        right = list(new.factors)
        result = []
        for factor in left:
            axes = set(varying(factor))
            met = [f for f in right if axes & set(varying(f))]
            back = [f for f in left if met and set(varying(met[0])) & set(varying(f))]
            if len(met) == 1 and len(back) == 1:
                self.union(factor, met[0], why)
                right = [f for f in right if f is not met[0]]
                smaller = len(varying(met[0])) < len(axes)
                result.append(met[0] if smaller else factor)
            elif met:
                reason = why or f"several channel axes meet in {self!r}"
                self.pin([factor, *met], reason)
            elif self._faces_full_axis(factor, [new]):
                self._pin_alone(factor, new, why)
            else:
                result.append(factor)
        for factor in right:
            if any(set(varying(factor)) & set(varying(f)) for f in left):
                continue
            full = [o for o in owners if self._faces_full_axis(factor, [o])]
            if full:
                self._pin_alone(factor, full[0], why)
            else:
                result.append(factor)
        return result, [*owners, new]

    @staticmethod
    def _faces_full_axis(factor: np.ndarray, operands: Sequence[Labels]) -> bool:
        return any(o.shape[a] != 1 for o in operands for a in varying(factor))

    def _pin_alone(self, factor: np.ndarray, other: Labels, why: str) -> None:
        self.pin(
            factor,
            why
            or other.why
            or f"meets a tensor in {self!r} whose channels cannot be removed",
        )

    def activate(self, labels: Labels, function: Any) -> Labels:
        """Passes labels through an activation function."""
        if function is None:
            return labels
        kind = describe_activation(function)
        if not kind.elementwise:
            name = getattr(function, "__name__", type(function).__name__)
            why = f"activation '{name}' of {self!r} mixes channels"
            last = labels.along(labels.rank - 1)
            if not kind.along_last_axis:
                last = labels.factors
            self.pin(last, why)
            return labels.replace(zero=False)
        return labels.replace(zero=labels.zero and kind.zero_at_zero)

    def constant(self, index: int, shape) -> Labels:
        """Labels of an array constant at positional argument `index`.

        It is cut with whatever it meets, so each of its axes gets slots.
        """
        factors = [
            on_axis(self.new_slots(n), a, len(shape))
            for a, n in enumerate(shape)
            if n > 1
        ]
        labels = Labels(tuple(shape), tuple(factors), zero=False)
        self.constants[index] = labels
        return labels

    # -- variables -------------------------------------------------------

    def filters(self, variable: keras.Variable, axis: int) -> np.ndarray:
        """The slots of a producer's output axis, the same at every call."""
        axis %= len(variable.shape)
        known = self._ledger.bindings.get(id(variable))
        if known is not None and axis in known.axes:
            return known.axes[axis].labels[0]
        return self.new_slots(variable.shape[axis])

    def bind(self, variable: keras.Variable | None, axes: dict[int, Axis]) -> None:
        """Ties axes of a variable to labels.

        A variable bound before (a layer that is called again) has the labels
        of all its calls merged.
        """
        if variable is None:
            return
        rank = len(variable.shape)
        axes = {a % rank: axis for a, axis in axes.items()}
        known = self._ledger.bindings.get(id(variable))
        if known is None:
            binding = Binding(self.operation, variable, axes)
            self._ledger.bindings[id(variable)] = binding
            return
        for a, axis in axes.items():
            self._same_axis(known.axes[a].labels, axis.labels)

    def _same_axis(self, old: list[np.ndarray], new: list[np.ndarray]) -> None:
        if len(old) == len(new):
            for a, b in zip(old, new, strict=True):
                self.union(a, b)
            return
        why = f"shared {self!r} is called on tensors of different origin"
        self.pin([*old, *new], why)
        old.clear()

    def bind_all(self, variables, labels: list[np.ndarray], role: str) -> None:
        """Binds axis 0 of several vectors to the same labels."""
        for variable in variables:
            self.bind(variable, {0: Axis(list(labels), role)})

    # -- cost ------------------------------------------------------------

    def work(self, variable, positions: Sequence[int | None], axes=()) -> None:
        """Counts `positions` x size of `variable` multiply-accumulates.

        Unknown positions (dynamic axes) count as 1.
        """
        count = math.prod(n or 1 for n in positions)
        entry = Work(self.operation, float(count), variable, [list(a) for a in axes])
        self._ledger.work.append(entry)


def channel_factor(slots: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Factor of a tensor whose channels run along `axis`."""
    return on_axis(slots, axis % rank, rank)
