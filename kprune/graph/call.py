"""One call of one layer or operation, as the graph's rules see it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.graph.activations import ActivationKind
from kprune.graph.activations import describe_activation
from kprune.graph.labels import Labels
from kprune.graph.labels import Shape
from kprune.graph.labels import lift
from kprune.graph.labels import on_axis
from kprune.graph.labels import varying
from kprune.graph.record import FILTER as FILTER
from kprune.graph.record import INPUT as INPUT
from kprune.graph.record import SCALE as SCALE
from kprune.graph.record import STATISTIC as STATISTIC
from kprune.graph.record import Axis as Axis
from kprune.graph.record import Binding as Binding
from kprune.graph.record import MaskInput as MaskInput
from kprune.graph.record import TraceRecord as TraceRecord
from kprune.graph.record import Visit as Visit
from kprune.graph.record import Work as Work


class Call:
    """One traced call: the questions a rule can ask and what it can record.

    Args:
        operation: The layer or `keras.Operation` that is called.
        args: Positional call arguments, with tensors replaced by `Labels`.
        kwargs: Keyword call arguments, likewise.
        output_shapes: True shapes of the outputs.
        record: The `TraceRecord` that collects labels, bindings and work.
    """

    def __init__(
        self,
        operation: Any,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        output_shapes: list[Shape],
        record: TraceRecord,
    ) -> None:
        self.operation = operation
        # The layer that variables, masks and work are attributed to. A wrapper
        # that delegates to the rule of its inner layer sets it to itself.
        self.owner = operation
        self.args = args
        self.kwargs = kwargs
        self.output_shapes = output_shapes
        self.constants: dict[int | str, Labels] = {}
        # The visit of the layer inside a wrapper, for the wrapper's `Rule.config`.
        self.inner: Visit | None = None
        # How often a wrapper calls its inner layer, and how many axes of the
        # wrapper's input the inner layer does not see.
        self.repeats = 1
        self.hidden_axes = 0
        # Why the call is not analysed, if so.
        self.unknown = ""
        self._outer: Call | None = None
        self._record = record

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
    def tensors(self) -> list[Labels]:
        """Labels of the tensors and constants in the first argument."""
        given = self.args[0] if self.args else next(iter(self.kwargs.values()))
        return [self.labels_of(x) for x in keras.tree.flatten(given)]

    def labels_of(self, given: Any, what: str = "a constant") -> Labels:
        """Return the labels of an argument; a constant has no factors.

        Args:
            given: Labels, or a constant.
            what: What the constant is, for reasons.
        """
        if isinstance(given, Labels):
            return given
        why = f"{what} of {self!r}"
        return Labels(tuple(np.shape(given)), zero=False, why=why)

    @property
    def input(self) -> Labels:
        return self.inputs[0]

    @property
    def output_shape(self) -> tuple[int | None, ...]:
        return self.output_shapes[0]

    def within(self, layer: Any) -> Call:
        """Return this call for the inner layer of a wrapper that calls it once."""
        call = self._inside(layer, self.args, self.output_shapes)
        call.repeats = self.repeats
        call.hidden_axes = self.hidden_axes
        return call

    def step(self, layer: Any, x: Labels, shape: Shape, count: int) -> Call:
        """Return the call of the inner layer of a wrapper that loops over an axis.

        Args:
            layer: The inner layer.
            x: Labels of its input, without the looped axis.
            shape: Shape of its output.
            count: Number of calls.
        """
        call = self._inside(layer, (x,), [shape])
        call.repeats = self.repeats * count
        call.hidden_axes = self.hidden_axes + 1
        return call

    def _inside(
        self, layer: Any, args: tuple[Any, ...], output_shapes: list[Shape]
    ) -> Call:
        call = Call(layer, args, {}, output_shapes, self._record)
        call.owner = self.owner
        call._outer = self
        return call

    # -- labels ----------------------------------------------------------

    def new_slots(self, size: int) -> np.ndarray:
        return self._record.slots.new(size)

    def union(self, a: np.ndarray, b: np.ndarray, why: str = "") -> None:
        why = why or f"meets channels that cannot be removed in {self!r}"
        self._record.slots.union(a, b, why)

    def pin(self, factors: Iterable[np.ndarray] | np.ndarray, why: str) -> None:
        """Forbid removing any channel of these label arrays."""
        if isinstance(factors, np.ndarray):
            factors = [factors]
        for factor in factors:
            self._record.slots.pin(factor, why)

    def pin_all(self, why: str) -> list[Labels]:
        """Pin every input and return outputs without labels.

        Such a layer is listed as not analysed, unless its work was counted.
        """
        call: Call | None = self
        while call is not None:
            call.unknown = why
            call = call._outer
        for labels in self.inputs:
            self.pin(labels.factors, why)
        return [Labels(shape, why=why) for shape in self.output_shapes]

    def settle(self, labels: Labels, axes: Iterable[int], why: str) -> Labels:
        """Make sure that no channel can be removed along `axes`.

        A factor that also varies along other axes is merged along `axes` (all
        rows of a column become one channel). A factor that varies only along
        `axes` is pinned.
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
        """Return the 1-D label arrays along `axis`, merged along all other axes."""
        axis %= labels.rank
        out = []
        for factor in labels.along(axis):
            others = [a for a in varying(factor) if a != axis]
            out.append(self._merged(factor, others).ravel())
        return out

    def rest(self, labels: Labels, axis: int) -> tuple[np.ndarray, ...]:
        """Return the factors that do not vary along `axis`."""
        return tuple(f for f in labels.factors if f.shape[axis] == 1)

    def join(
        self, tensors: Sequence[Labels], shape: Shape, why: str = ""
    ) -> Labels:
        """Unite the labels of operands that are combined element by element.

        Args:
            tensors: Labels of the operands, of any broadcastable shapes.
            shape: True shape of the result.
            why: Reason reported where a channel meets one that must stay.

        Returns:
            The labels of the result. `zero` is True if every operand is 0 at
            every removed position (as in addition).
        """
        rank = len(shape)
        tensors = [lift(t, rank) for t in tensors]
        result: list[np.ndarray] = []
        owners: list[Labels] = []
        for labels in tensors:
            result, owners = self._join_two(result, owners, labels, why)
        zero = all(t.zero and covers(t, result) for t in tensors)
        reasons = [t.why for t in tensors if t.why]
        return Labels(shape, tuple(result), zero, reasons[0] if reasons else "")

    def _join_two(
        self,
        left: list[np.ndarray],
        owners: list[Labels],
        new: Labels,
        why: str,
    ) -> tuple[list[np.ndarray], list[Labels]]:
        right = list(new.factors)
        result = []
        for factor in left:
            axes = set(varying(factor))
            met = [f for f in right if axes & set(varying(f))]
            back = [
                f
                for f in left
                if met and set(varying(met[0])) & set(varying(f))
            ]
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
    def _faces_full_axis(
        factor: np.ndarray, operands: Sequence[Labels]
    ) -> bool:
        return any(o.shape[a] != 1 for o in operands for a in varying(factor))

    def _pin_alone(self, factor: np.ndarray, other: Labels, why: str) -> None:
        self.pin(
            factor,
            why
            or other.why
            or f"meets a tensor in {self!r} whose channels cannot be removed",
        )

    def activate(self, labels: Labels, function: Any) -> Labels:
        """Pass labels through an activation function."""
        if function is None:
            return labels
        return self.pass_function(
            labels,
            describe_activation(function, labels.rank),
            f"activation '{getattr(function, '__name__', type(function).__name__)}'",
        )

    def pass_function(
        self, labels: Labels, kind: ActivationKind, name: str
    ) -> Labels:
        """Pass labels through a function of one tensor.

        Args:
            labels: Labels of its input.
            kind: How the function treats channels.
            name: The function's name, for reasons.
        """
        if not kind.elementwise:
            why = f"{name} of {self!r} mixes channels"
            last = labels.along(labels.rank - 1)
            if not kind.along_last_axis:
                last = labels.factors
            self.pin(last, why)
            return labels.replace(zero=False)
        if not kind.tolerates(labels.zero):
            why = f"{name} of {self!r} is not finite at removed channels"
            self.pin(labels.factors, why)
        return labels.replace(zero=labels.zero and kind.zero_at_zero)

    def constant(self, index: int | str, shape: Sequence[int]) -> Labels:
        """Return the labels of a constant array argument.

        The constant is cut together with the tensors it is combined with, so
        each of its axes gets slots.

        Args:
            index: Position or keyword of the argument.
            shape: Shape of the array.
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
        """Return the slots of a producer's output axis; every call gets the same."""
        axis %= len(variable.shape)
        known = self._record.bindings.get(id(variable))
        if known is not None and axis in known.axes:
            return known.axes[axis].labels[0]
        return self.new_slots(variable.shape[axis])

    def bound(self, variable: keras.Variable, axis: int) -> list[np.ndarray]:
        """Return the labels bound to an axis of a variable so far."""
        known = self._record.bindings.get(id(variable))
        if known is None or axis not in known.axes:
            return []
        return list(known.axes[axis].labels)

    def bind(
        self, variable: keras.Variable | None, axes: dict[int, Axis]
    ) -> None:
        """Bind axes of a variable to labels.

        If the variable is bound already (its layer is called again), the labels
        of all calls are merged.
        """
        if variable is None:
            return
        rank = len(variable.shape)
        axes = {a % rank: axis for a, axis in axes.items()}
        known = self._record.bindings.get(id(variable))
        if known is None:
            for axis in axes.values():
                if axis.feature_axis is not None:
                    axis.feature_axis += self.hidden_axes
            binding = Binding(self.owner, variable, axes)
            self._record.bindings[id(variable)] = binding
            return
        for a in known.axes.keys() | axes.keys():
            axis = axes.get(a) or Axis([], known.axes[a].role)
            old = known.axes.setdefault(
                a, Axis([], axis.role, axis.feature_axis)
            )
            self._same_axis(old.labels, axis.labels)

    def _same_axis(self, old: list[np.ndarray], new: list[np.ndarray]) -> None:
        if len(old) == len(new):
            for a, b in zip(old, new, strict=True):
                self.union(a, b)
            return
        why = f"shared {self!r} is called on tensors of different origin"
        self.pin([*old, *new], why)

    def bind_all(
        self,
        variables: Iterable[keras.Variable],
        labels: list[np.ndarray],
        role: str,
    ) -> None:
        """Bind axis 0 of several vectors to the same labels."""
        for variable in variables:
            self.bind(variable, {0: Axis(list(labels), role)})

    def need(self, name: str, labels: list[np.ndarray]) -> None:
        """Ask for the mask of an axis; `Rule.masked_call` gets it as `masks[name]`.

        Masking the variables is not enough where a layer's output at one
        channel depends on other channels. Does nothing without labels.
        """
        if not labels:
            return
        known = self._record.mask_inputs.get((id(self.owner), name))
        if known is None:
            entry = MaskInput(self.owner, name, list(labels))
            self._record.mask_inputs[id(self.owner), name] = entry
        else:
            self._same_axis(known.labels, labels)

    # -- cost ------------------------------------------------------------

    def work(
        self,
        variable: keras.Variable | None,
        positions: Sequence[int | None],
        axes: Iterable[Sequence[np.ndarray]] = (),
    ) -> None:
        """Count multiply-accumulates: product of `positions` x size of `variable`.

        Args:
            variable: The variable whose kept size counts, or None.
            positions: Sizes of the output axes; unknown sizes count as 1.
            axes: Further axes whose kept length counts, each a list of 1-D
                label arrays.
        """
        count = self.repeats * math.prod(n or 1 for n in positions)
        entry = Work(
            self.owner, float(count), variable, [list(a) for a in axes]
        )
        self._record.work.append(entry)


def covers(labels: Labels, factors: Iterable[np.ndarray]) -> bool:
    """Return whether, for each of `factors`, `labels` has one that varies there too."""
    own = [set(varying(f)) for f in labels.factors]
    return all(any(set(varying(f)) & axes for axes in own) for f in factors)


def channel_factor(slots: np.ndarray, axis: int, rank: int) -> np.ndarray:
    """Return the factor of a tensor whose channels run along `axis`."""
    return on_axis(slots, axis % rank, rank)
