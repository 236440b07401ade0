"""Least-squares repair of the layers that read pruned channels."""

from __future__ import annotations

import dataclasses
import logging
from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.registry import is_batch_norm
from kprune.graph.values import read
from kprune.masking import FilterMask
from kprune.masking.state import WeightSnapshot
from kprune.recovery._constants import add_constant
from kprune.recovery._constants import home_of
from kprune.recovery._gram import LeastSquaresSums
from kprune.recovery._linear import COLUMNS
from kprune.recovery._linear import LinearView
from kprune.recovery._linear import acting
from kprune.recovery._linear import linear
from kprune.recovery._linear import living
from kprune.recovery._linear import seen
from kprune.recovery._linear import single
from kprune.recovery._paired import Pair
from kprune.recovery._paired import Parts
from kprune.recovery._paired import Step
from kprune.recovery.base import Recovery
from kprune.recovery.base import register
from kprune.session import Session

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FOLDS = 5
"""One sample of so many is held out."""

_log = logging.getLogger("kprune")


@register("reconstruct")
class Reconstruct(Recovery):
    """Refits each linear layer to what it gave before pruning.

    In the order of computation, each dense and convolutional layer whose input
    has changed gets the kernel and constant that bring its outputs, without
    the activation, closest to those of the unpruned model, in the sense of
    least squares, on what the pruned model feeds it. A layer that is added to
    others makes up for their errors too. Ridge penalties draw the kernel
    towards the present one; their strength is chosen on a fifth of the
    samples that is held out, and a kernel that does not gain there stays as
    it is. Layers of other kinds, and those that the model calls twice, are
    left alone; a log line names those that are too wide. A generalisation of
    the reconstruction of "ThiNet" (Luo et al., arXiv 1707.06342) to every
    layer.

    Args:
        samples: How many samples of the data to use at most.
        rows: How many rows (samples times places of the output) a fit uses at
            most.

    Raises:
        ValueError: There are fewer than 5 samples, so that none is held out.

    Example:

    ```python
    masked = kprune.prune(model, data=x_train[:1024], recover="reconstruct")
    ```
    """

    def __init__(self, samples: int = 1024, rows: int = 200_000) -> None:
        super().__init__(samples)
        self.rows = rows

    def applies(self, session: Session) -> bool:
        """Return whether a layer that can be refitted reads a prunable group."""
        readers = (m.layer for g in session.groups for m in g.consumers)
        return any(linear(layer) is not None for layer in readers)

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        run = self.paired_run(session, before)
        count = len(run.inputs[0])
        if count < FOLDS:
            raise ValueError(
                f"Reconstruct needs {FOLDS} samples at least, and some hundred to "
                f"be of use. Received: {count}."
            )
        run.visit(self._refit)

    def _refit(self, step: Step) -> None:
        view = linear(step.layer)
        if view is None or step.calls > 1:
            return
        live, filters = living(step.operation, view)
        correction = _owed(step)
        whole = not step.input.differs and live.all()
        if whole and correction is None:
            return
        columns = view.columns_of(live)
        if columns.sum() > COLUMNS:
            _log.info(
                "Layer '%s' stays as it is: its %d columns are too many to refit.",
                step.layer.name,
                columns.sum(),
            )
            return
        fit, held_out = self._sums(step, view, live, filters, correction)
        constant = home_of(step) is not None
        weights, offset = _change(fit, held_out, constant)
        matrix = view.to_matrix(read(view.kernel).astype("float64"))
        scale = _factors(step.operation, view)[filters]
        matrix[np.ix_(columns, filters)] += weights / scale
        view.kernel.assign(view.to_kernel(matrix))
        if constant:
            everywhere = np.zeros(len(filters))
            everywhere[filters] = offset / scale
            add_constant(step, everywhere)

    def _sums(
        self,
        step: Step,
        view: LinearView,
        live: np.ndarray,
        filters: np.ndarray,
        owed: _Owed | None,
    ) -> tuple[LeastSquaresSums, LeastSquaresSums]:
        """Return the sums over most of the samples, and over those held out.

        The targets are what the filters miss: what they gave before, and what
        they owe, less what they give now.
        """
        kernel = view.to_matrix(acting(step.operation, view.kernel))
        bias = getattr(step.layer, "bias", None)
        offset: Any = 0.0
        if bias is not None:
            offset = acting(step.operation, bias)[filters]
        kernel = kernel[np.ix_(view.columns_of(live), filters)]
        parts = [LeastSquaresSums(*kernel.shape) for _ in range(2)]
        wanted: list[Any] = step.sums_before()
        if owed is not None:
            wanted = owed.added_to(wanted)
        for rows, part, which, samples in view.chunks(
            step.input.parts_after, self.rows, live, FOLDS
        ):
            before = view.results(seen(wanted[part]))[which]
            missing = single(before[:, filters]) - rows @ kernel - offset
            held_out = int(samples[0]) % FOLDS == FOLDS - 1
            parts[held_out].add(rows, missing)
        return parts[0], parts[1]


def _change(
    fit: LeastSquaresSums, held_out: LeastSquaresSums, constant: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return by what weights and constants should change."""
    zero = np.zeros_like(fit.products)
    choices = [(held_out.error(zero, constant), -1.0, zero)]
    for ridge in RIDGES:
        weights = fit.solve(ridge, constant)
        choices.append((held_out.error(weights, constant), ridge, weights))
    _, ridge, weights = min(choices, key=lambda choice: choice[0])
    total = fit.plus(held_out)
    if ridge >= 0:
        weights = total.solve(ridge, constant)
    return weights, total.constant(weights)


def _factors(operation: Any, view: LinearView) -> np.ndarray:
    """Return the attenuation factors of a layer's filters."""
    axis = len(view.kernel.shape) - 1
    factor = None
    if isinstance(operation, FilterMask):
        factor = operation.axis_factor(view.kernel, axis)
    return np.ones(view.kernel.shape[axis]) if factor is None else factor


@dataclasses.dataclass(frozen=True)
class _Owed:
    """What a layer should give more, for others have changed too.

    Args:
        pairs: The tensors that its output is added to.
        scale: What its output is multiplied with before.
    """

    pairs: list[Pair]
    scale: Any

    def added_to(self, parts: Parts) -> Parts:
        """Return the layer's outputs with it."""
        usable = np.abs(self.scale) > 1e-3
        inverse = np.where(usable, 1.0 / np.where(usable, self.scale, 1.0), 0.0)
        inverse = inverse.astype("float32")
        found = []
        for number, part in enumerate(parts):
            gap = sum(
                read(pair.parts_before[number]) - read(pair.parts_after[number])
                for pair in self.pairs
            )
            found.append(read(part) + gap * inverse)
        return found


def _owed(step: Step) -> _Owed | None:
    """Return what the layer should give more, or None.

    Where its output, normalised at most, is added to tensors that are computed
    already, it can make up for what pruning has changed in them.
    """
    scale: Any = 1.0
    (tensor,) = step.node.outputs
    if getattr(step.layer, "activation", None) not in (
        None,
        keras.activations.linear,
    ):
        return None
    while (reader := step.only_reader(tensor)) is not None:
        layer = walk.unwrap(reader.operation)
        if is_batch_norm(layer):
            scale = scale * _slope(layer, len(tensor.shape))
        elif isinstance(layer, keras.layers.Add | keras.src.ops.numpy.Add):
            pairs = _changed(step, reader, tensor)
            return _Owed(pairs, scale) if pairs else None
        elif not isinstance(layer, keras.layers.Dropout):
            return None
        (tensor,) = reader.outputs
    return None


def _slope(layer: Any, rank: int) -> np.ndarray:
    """Return the factors of a BatchNormalization, shaped for its tensor."""
    gamma = np.ones(layer.moving_variance.shape)
    if layer.gamma is not None:
        gamma = read(layer.gamma)
    slope = gamma / np.sqrt(read(layer.moving_variance) + layer.epsilon)
    shape = [1] * rank
    shape[layer.axis % rank] = -1
    return slope.reshape(shape)


def _changed(step: Step, reader: Any, tensor: Any) -> list[Pair]:
    """Return the other operands of an addition that pruning has changed."""
    found = []
    arguments = reader.arguments
    for other in walk.tensors_of(arguments.args, arguments.kwargs):
        if other is tensor:
            continue
        pair = step.run.tensors.get(id(other))
        if pair is None or not pair.differs:
            continue
        if len(pair.parts_before) != len(step.before[0]):
            return []
        if tuple(other.shape[1:]) != tuple(tensor.shape[1:]):
            return []
        found.append(pair)
    return found
