"""Least-squares repair of layers that read pruned channels."""

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
from kprune.recovery._linear import alive_parts
from kprune.recovery._linear import linear
from kprune.recovery._linear import seen
from kprune.recovery._linear import single
from kprune.recovery._paired import Pair
from kprune.recovery._paired import PairedRun
from kprune.recovery._paired import Step
from kprune.recovery.base import Recovery
from kprune.recovery.base import register
from kprune.session import Session

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
FOLDS = 5
"""One in so many samples is held out."""

_log = logging.getLogger("kprune")


@register("reconstruct")
class Reconstruct(Recovery):
    """Refits each linear layer to its outputs before pruning.

    In order of execution, each dense or convolutional layer whose input has
    changed gets a new kernel and constant. They minimise the squared difference
    between its outputs, without the activation, and those of the unpruned model,
    given the inputs from the pruned model. A layer whose output is added to
    others also compensates for their errors. A ridge penalty pulls the kernel
    towards the current one; its strength is chosen on a held-out fifth of the
    samples, and a kernel that does not improve there is not changed. Layers of
    other kinds, and those called more than once, are not changed; a log line
    names those that are too wide. This generalises the reconstruction of
    "ThiNet" (Luo et al., arXiv 1707.06342) to every layer.

    Args:
        samples: Largest number of samples to use.
        rows: Largest number of rows (samples times output positions) per fit.

    Raises:
        ValueError: If there are fewer than 5 samples, so that none is held out.

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
        inputs = session.samples.inputs(self.samples)
        segments = session.segments if session.divisible else None
        run = PairedRun(session.masked, before, inputs, segments)
        count = len(run.inputs[0])
        if count < FOLDS:
            raise ValueError(
                f"Reconstruct needs at least {FOLDS} samples, and a few hundred to "
                f"be useful. Received: {count}."
            )
        run.visit(self._refit)

    def _refit(self, step: Step) -> None:
        view = linear(step.layer)
        if view is None or step.calls > 1:
            return
        alive, filters = alive_parts(step.operation, view)
        correction = _correction(step)
        whole = not step.input.differs and alive.all()
        if whole and correction is None:
            return
        columns = view.columns_of(alive)
        if columns.sum() > COLUMNS:
            _log.info(
                "Layer '%s' is not refitted, because it has %d columns.",
                step.layer.name,
                columns.sum(),
            )
            return
        fit, held_out = self._sums(step, view, filters, correction)
        if not fit.count:
            return
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
        filters: np.ndarray,
        correction: _Correction | None,
    ) -> tuple[LeastSquaresSums, LeastSquaresSums]:
        """Return the sums over the samples to fit, and over those held out.

        The targets are the differences between the wanted and the current
        outputs of the filters. Wanted are the outputs before pruning, plus
        corrections for errors of other layers.
        """
        now = _Affine(step.operation, view, filters)
        with step.past():
            before = _Affine(step.operation, view, filters)
        sums = [LeastSquaresSums(*now.kernel.shape) for _ in range(2)]
        for rows, part, which, samples in view.chunks(
            step.input.parts_after, self.rows, now.alive, FOLDS
        ):
            inputs = seen(step.input.parts_before[part])
            old = single(view.rows(inputs, which, before.alive))
            missing = before(old) - now(rows)
            if correction is not None:
                missing += correction.rows(view, part, which)[:, filters]
            held_out = int(samples[0]) % FOLDS == FOLDS - 1
            sums[held_out].add(rows, missing)
        return sums[0], sums[1]


class _Affine:
    """What some filters of a layer compute with its current weights.

    Args:
        operation: The layer, or the `FilterMask` around it.
        view: The matrix view of the layer.
        filters: Booleans of shape `(filters,)`.
    """

    def __init__(
        self, operation: Any, view: LinearView, filters: np.ndarray
    ) -> None:
        self.alive, _ = alive_parts(operation, view)
        columns = view.columns_of(self.alive)
        kernel = view.to_matrix(acting(operation, view.kernel))
        self.kernel = kernel[np.ix_(columns, filters)]
        bias = getattr(view.layer, "bias", None)
        self.offset: Any = 0.0
        if bias is not None:
            self.offset = acting(operation, bias)[filters]

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """Return the outputs, without the activation, for rows of alive columns."""
        return rows @ self.kernel + self.offset


def _change(
    fit: LeastSquaresSums, held_out: LeastSquaresSums, constant: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Return the changes of weights and constants."""
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
class _Correction:
    """What a layer should add to its outputs, because of errors in other layers.

    Args:
        pairs: The tensors that its output is added to.
        scale: The factors its output is multiplied with before.
    """

    pairs: list[Pair]
    scale: Any

    def rows(
        self, view: LinearView, part: int, which: np.ndarray
    ) -> np.ndarray:
        """Return the correction of some rows of a batch.

        Args:
            view: The matrix view of the layer.
            part: Number of the batch.
            which: Numbers of the rows.
        """

        def chosen(values: Any) -> np.ndarray:
            return single(view.results(seen(values))[which])

        gap: Any = 0.0
        for pair in self.pairs:
            before, after = pair.parts_before[part], pair.parts_after[part]
            gap = gap + chosen(before) - chosen(after)
        usable = np.abs(self.scale) > 1e-3
        inverse = np.where(usable, 1.0 / np.where(usable, self.scale, 1.0), 0.0)
        # Of one sample, shape (1, ..., filters).
        inverse = np.broadcast_to(inverse, (1, *before.shape[1:]))
        inverse = view.results(inverse.astype("float32"))
        return gap * inverse[which % len(inverse)]


def _correction(step: Step) -> _Correction | None:
    """Return a correction of the layer's outputs for errors in other layers, or None.

    If its output, perhaps after a normalisation, is added to tensors that are
    computed already, it can compensate for their changes.
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
            return _Correction(pairs, scale) if pairs else None
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
        if len(pair.parts_before) != len(step.input.parts_before):
            return []
        if tuple(other.shape[1:]) != tuple(tensor.shape[1:]):
            return []
        found.append(pair)
    return found
