"""Losses that a callback adds to the compiled one."""

from __future__ import annotations

import threading
from collections import UserDict
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import MutableMapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops
from keras.src.losses.loss import scale_loss_for_distribution

from kprune.cost.model import CostModel
from kprune.data.targets import meanings
from kprune.data.targets import takes_probabilities
from kprune.graph import walk
from kprune.masking import DynamicGate
from kprune.masking import FilterMask
from kprune.masking import GatedInput
from kprune.masking import filter_masks
from kprune.masking import trained_part
from kprune.recovery._endings import endings
from kprune.session import Session

Loss = Callable[[Any, Any, Any, Any], Any]
"""`f(x, y, y_pred, sample_weight)` -> a scalar."""


class PerReplica(threading.local, UserDict[str, Any]):
    """A dictionary of a training step's tensors, with separate content per replica.

    `MirroredStrategy` runs each replica in a thread, and switches between them in the
    middle of a step.

    Args:
        start: Initial content for all replicas.
    """


class AddedLoss:
    """A loss added to a model's training loss while it is attached.

    It is computed in the same step as the model's outputs, so it may use what
    observers of layers have recorded in that step. Evaluation does not include it.
    Several callbacks can add losses to the same model. Each says how to undo that, if
    `fit` is interrupted. See `undo_if_interrupted`.

    Args:
        callback: The callback that adds the loss, while it is part of a `fit`.
        function: The loss.
    """

    def __init__(
        self, callback: keras.callbacks.Callback, function: Loss
    ) -> None:
        self._model: Any = callback.model
        self._function = function
        self._used = False

    def attach(self) -> None:
        """Add the loss; the training function is traced again."""
        self._used = False
        others = [loss for loss in _added(self._model) if loss is not self]
        _set_added(self._model, [*others, self])

    def detach(self) -> None:
        """Remove the loss."""
        attached = _added(self._model)
        if self in attached:
            _set_added(
                self._model, [loss for loss in attached if loss is not self]
            )

    def of(self, x: Any, y: Any, y_pred: Any, sample_weight: Any) -> Any:
        """Return the loss of a batch."""
        value = self._function(x, y, y_pred, sample_weight)
        self._used = True
        return value

    def require_used(self, what: str) -> None:
        """Raise if training does not include the loss. Call it after an epoch.

        Args:
            what: What is trained with the loss, for the message.
        """
        if not self._used:
            raise ValueError(
                f"{what} cannot be trained: the train_step of "
                f"{type(self._model).__name__} '{self._model.name}' does not call "
                "compute_loss. Take the loss from self.compute_loss(x=x, y=y, "
                "y_pred=y_pred)."
            )


def release(
    masked: keras.Model, added: AddedLoss, gates: Mapping[str, Any]
) -> None:
    """Remove an added loss, and the observers of layers and gates that it needs.

    Args:
        masked: The masked model.
        added: The loss.
        gates: The gates of the model.
    """
    added.detach()
    for watched in (*filter_masks(masked), *gates.values()):
        watched.observer = None
        if isinstance(watched, DynamicGate):
            watched.witness = None


def _added(model: Any) -> list[AddedLoss]:
    """Return the losses that are added to a model's loss."""
    present = vars(model).get("compute_loss")
    return list(present.added) if isinstance(present, _Sum) else []


def _set_added(model: Any, losses: Sequence[AddedLoss]) -> None:
    """Let a model's training include the given losses, and no other added ones."""
    present = vars(model).get("compute_loss")
    if isinstance(present, _Sum):
        present.remove()
    if losses:
        _Sum(model, losses).install()
    if model.compiled:
        model.make_train_function(force=True)


class _Sum:
    """A model's `compute_loss` plus added losses in training.

    Args:
        model: The model.
        added: The losses.
    """

    copied = False
    """Read by `kprune.wrap` and `kprune.rebuild`."""

    def __init__(self, model: Any, added: Sequence[AddedLoss]) -> None:
        self._model = model
        self.added = added
        # An attribute of the instance hides the method of the class.
        self._own = vars(model).get("compute_loss")
        self._original = model.compute_loss
        self._told = model._compute_loss_has_training_arg

    def install(self) -> None:
        vars(self._model)["compute_loss"] = self
        # Otherwise Keras does not say that it evaluates.
        self._model._compute_loss_has_training_arg = True

    def remove(self) -> None:
        vars(self._model).pop("compute_loss")
        if self._own is not None:
            vars(self._model)["compute_loss"] = self._own
        self._model._compute_loss_has_training_arg = self._told

    def __call__(
        self,
        x: Any = None,
        y: Any = None,
        y_pred: Any = None,
        sample_weight: Any = None,
        training: bool = True,
    ) -> Any:
        more = {"training": training} if self._told else {}
        total = self._original(
            x=x, y=y, y_pred=y_pred, sample_weight=sample_weight, **more
        )
        if training:
            for loss in self.added:
                value = loss.of(x, y, y_pred, sample_weight)
                # Gradients are summed over replicas.
                total = total + scale_loss_for_distribution(
                    ops.cast(value, total.dtype)
                )
        return total


def cost_share(costs: CostModel, name: str, kept: Sequence[Any]) -> Any:
    """Return the remaining share of a cost, with gradients to the kept counts.

    Args:
        costs: The cost model.
        name: `"macs"` or `"params"`.
        kept: Kept count of each group, as scalar tensors.
    """
    constants, slopes = costs.axis_functions()
    counts = ops.stack([ops.cast(n, "float32") for n in kept])
    # By `ops`, because PyTorch's tensors with gradients do not mix with NumPy's.
    lengths = ops.matmul(counts, slopes.astype("float32"))
    lengths = ops.add(lengths, constants.astype("float32"))
    coefficients, table = getattr(costs, name).products
    factors = (coefficients / costs.full[name]).astype("float32")
    products = ops.prod(ops.take(lengths, table.astype("int32")), axis=-1)
    return ops.sum(ops.multiply(factors, products))


def budget_penalty(
    costs: CostModel, reduce: Mapping[str, float], kept: Sequence[Any]
) -> Any:
    """Return the sum of squared distances of the costs' shares from their targets.

    Args:
        costs: The cost model.
        reduce: Share of each cost to remove.
        kept: See `cost_share`.
    """
    return sum(
        ops.square(cost_share(costs, name, kept) - (1.0 - share))
        for name, share in reduce.items()
    )


def divergence(wanted: Any, given: Any, temperature: float, kind: str) -> Any:
    """Return the distance of outputs from those of a teacher.

    For classes, it is the Kullback-Leibler divergence of softened probabilities, times
    the squared temperature (Hinton et al., arXiv 1503.02531). For labels, it is the
    mean of this over the labels, each with two outcomes; for values, the mean squared
    difference.

    Args:
        wanted: The teacher's outputs, of shape `(samples, ..., units)`.
        given: The outputs, of the same shape.
        temperature: Number to divide the logits by.
        kind: `"softmax"` or `"sigmoid"` for probabilities of classes or labels,
            `"classes"` or `"labels"` for their logits, `"values"` for anything else.
    """
    one, other = (ops.cast(y, "float32") for y in (wanted, given))
    if kind == "values":
        return ops.mean(ops.square(one - other))
    target, value = (_logits(y, kind) / temperature for y in (one, other))
    if kind in ("softmax", "classes"):
        each = ops.sum(_gain(target, value, ops.log_softmax), axis=-1)
    else:
        each = _gain(target, value, ops.log_sigmoid)
        each = each + _gain(-target, -value, ops.log_sigmoid)
    return temperature**2 * ops.mean(each)


def _gain(target: Any, value: Any, log: Callable[[Any], Any]) -> Any:
    """Return the contributions of outcomes to a divergence, from their logits."""
    expected = log(target)
    return ops.exp(expected) * (expected - log(value))


def _logits(outputs: Any, kind: str) -> Any:
    if kind == "softmax":
        return ops.log(ops.maximum(outputs, 1e-7))
    if kind == "sigmoid":
        outputs = ops.clip(outputs, 1e-7, 1 - 1e-7)
        return ops.log(outputs) - ops.log(1 - outputs)
    return outputs


def compared_as(model: keras.Model, teacher: keras.Model) -> list[str]:
    """Return the kind of each output for `divergence`.

    Outputs without an activation are what the compiled loss takes them for. If it does
    not say so, several units are classes, and a single one is a value.

    Args:
        model: The model in training, or the Distiller of it.
        teacher: The model with the outputs to compare.
    """
    trained = trained_part(model)
    loss = getattr(trained, "loss", None)
    if loss is None:
        loss = getattr(model, "_student_loss", None)
    return [
        _compared_as(output.shape, end, meaning, probabilities)
        for output, end, meaning, probabilities in zip(
            teacher.outputs,
            endings(teacher),
            meanings(trained, loss),
            takes_probabilities(trained, loss),
            strict=True,
        )
    ]


def _compared_as(
    shape: Sequence[int | None], end: str, meaning: str, probabilities: bool
) -> str:
    if end == "log_softmax":
        return "classes"  # logits too, which sum to 1 as probabilities
    if end not in ("linear", "unknown"):
        return end or "values"
    several = len(shape) > 1 and shape[-1] != 1
    meaning = meaning or ("classes" if several else "values")
    if not several and meaning != "labels":
        return "values"
    if end == "unknown" and probabilities:
        return {"classes": "softmax", "labels": "sigmoid"}[meaning]
    return meaning


def attention(features: Any) -> Any:
    """Return attention maps: the energy of features over positions, with norm 1.

    Args:
        features: Tensor of shape `(samples, ..., channels)`.

    Returns:
        Tensor of shape `(samples, positions)`.
    """
    features = ops.cast(features, "float32")
    energy = ops.mean(ops.square(features), axis=-1)
    flat = ops.reshape(energy, (-1, int(np.prod(energy.shape[1:]))))
    return flat / ops.sqrt(
        ops.sum(ops.square(flat), axis=-1, keepdims=True) + 1e-12
    )


def frozen(model: keras.Model, x: Any) -> list[Any]:
    """Return a model's outputs in inference mode, without gradients."""
    outputs = keras.tree.flatten(model(x, training=False))
    return [ops.stop_gradient(y) for y in outputs]


def showing(
    session: Session, positions: bool = False
) -> dict[str, tuple[FilterMask, GatedInput]]:
    """Return, for each group, the last wrapper whose input is its gated features.

    Args:
        session: A masked model with gates.
        positions: Whether only features with positions count, not their means that
            a layer behind a pooling reads.

    Returns:
        Group name -> the wrapper and its gate layer.
    """
    wrappers = {id(w.layer): w for w in filter_masks(session.masked)}
    found: dict[str, tuple[FilterMask, GatedInput]] = {}
    for visit in session.graph.visits.values():
        wrapper = wrappers.get(id(walk.unwrap(visit.operation)))
        if wrapper is None:
            continue
        for reader in wrapper.gates:
            if not isinstance(reader, GatedInput) or not reader.shows:
                continue
            if reader.rank > 2 or not positions:
                found[reader.tied.gate.group] = wrapper, reader
    return found


def keeper(
    kept: MutableMapping[str, Any], name: str, axis: int = -1
) -> Callable[[Any], None]:
    """Return an observer that stores values in `kept[name]`, channels last.

    Args:
        kept: The mapping to store in.
        name: The key.
        axis: The axis of the channels.
    """

    def observe(values: Any) -> None:
        last = axis in (-1, len(values.shape) - 1)
        kept[name] = values if last else ops.moveaxis(values, axis, -1)

    return observe
