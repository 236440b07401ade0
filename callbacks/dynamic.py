"""Pruning by gates that depend on the sample."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from typing import Any
from typing import ClassVar

import keras
import numpy as np
from keras import ops
from keras.src.trainers.compile_utils import get_loss

from kprune.arguments import number
from kprune.callbacks._fitting import completed
from kprune.callbacks._fitting import undo_if_interrupted
from kprune.callbacks._losses import AddedLoss
from kprune.callbacks._losses import PerReplica
from kprune.callbacks._losses import keeper
from kprune.callbacks._losses import release
from kprune.callbacks._losses import showing
from kprune.callbacks.base import PruningCallback
from kprune.graph import Group
from kprune.graph.values import read
from kprune.masking import DynamicGate
from kprune.masking import gates
from kprune.masking import protect_gates
from kprune.masking import trained_part
from kprune.masking.dynamic import MOMENTUM
from kprune.session import Session

_log = logging.getLogger("kprune")


class DynamicGateCallback(PruningCallback):
    """Trains gates that depend on the sample, and raises their thresholds.

    The model must have such gates (`kprune.masking.add_dynamic_gates`). Before each
    epoch, the allocation decides how many channels of each group an average sample may
    use. The threshold follows the saliencies of the training samples so that this many
    are above it, on average. No filter is removed: each sample computes its own
    selection. These terms are added to the loss:

        sparsity * sum over groups of mean_i w_i mean_c P_ic
        + similarity * sum over groups of mean (P P^T - Q Q^T)^2

    `P` are the saliencies and `Q` the gated features averaged over positions, both with
    rows of norm 1. `w_i = max(0, 1 - loss_i / h)`, where `h` is half of the running
    mean of the compiled loss, so that easy samples use fewer channels.

    The `logs` contain `pruned_macs` and so on: the shares that would be removed if
    every sample used as many channels as the average. `kprune.dynamic_cost` measures
    the real cost.

    Args:
        criterion: The criterion for the allocation. Defaults to the mean saliency.
        reduce: See `kprune.prune`.
        schedule: Share of the target for the thresholds of each epoch. See
            `PruneCallback`.
        allocation: See `kprune.prune`.
        data: See `PruneCallback`.
        run_dir: See `PruningCallback`.
        sparsity: Weight of the mean saliency of easy samples.
        similarity: Weight of the differences of similarities.

    Raises:
        ValueError: At construction, if a weight is negative. When `fit` begins, if the
            model has no dynamic gates, or more than one loss.

    Example:

    ```python
    masked = kprune.wrap(model)
    kprune.masking.add_dynamic_gates(masked)
    masked.fit(train, epochs=30, callbacks=[
        DynamicGateCallback(reduce={"macs": 0.5})
    ])
    print(kprune.dynamic_cost(masked, x_test))
    ```
    """

    unsaved: ClassVar[tuple[str, ...]] = ("data", "run_dir")

    def __init__(  # noqa: PLR0913  each is a choice of its own
        self,
        criterion: Any = None,
        reduce: Mapping[str, float] | None = None,
        schedule: Any = None,
        allocation: Any = "uniform",
        data: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
        sparsity: float = 5e-3,
        similarity: float = 1.0,
    ) -> None:
        super().__init__(
            criterion or self._mean,
            reduce,
            schedule,
            allocation,
            data,
            [],
            run_dir,
        )
        owner = type(self).__name__
        self.sparsity = number(sparsity, owner, "sparsity", least=0)
        self.similarity = number(similarity, owner, "similarity", least=0)
        self._gates: dict[str, DynamicGate] = {}
        self._saliencies, self._features = PerReplica(), PerReplica()
        self._added: AddedLoss | None = None

    def begin(self, session: Session) -> None:
        masked = session.masked
        self._gates = {
            name: gate
            for name, gate in gates(masked).items()
            if isinstance(gate, DynamicGate)
        }
        if not self._gates:
            raise ValueError(
                f"Model '{masked.name}' has no gates that depend on the sample. Add "
                "them before `fit`: kprune.masking.add_dynamic_gates(masked)."
            )
        whole = [g.name for g in session.groups if g.name not in self._gates]
        if whole:
            _log.warning(
                "These groups have no gate, so less is saved than requested: %s.",
                ", ".join(whole),
            )
        protect_gates(masked, session.optimizer)
        self._saliencies, self._features = PerReplica(), PerReplica()
        each = _loss_by_sample(trained_part(self.model))
        for name, gate in self._gates.items():
            gate.witness = keeper(self._saliencies, name)
        for name, (wrapper, reader) in showing(session).items():
            wrapper.observer = keeper(self._features, name, reader.axis)
        self._added = AddedLoss(self, self._loss_function(each))
        # Not what `self` has by then: it may train another model meanwhile.
        undo = functools.partial(release, masked, self._added, self._gates)
        undo_if_interrupted(self, undo)
        self._added.attach()

    def act(self, session: Session, fraction: float) -> None:
        """Set how many channels an average sample uses."""
        for name, mask in self.choose(fraction).items():
            if name in self._gates:
                self._gates[name].limit(int((mask > 0).sum()))

    def after_epoch(self, session: Session) -> None:
        if self._added is not None:
            self._added.require_used("Dynamic gates")

    def status(self) -> dict[str, float]:
        alive = self.session.alive()
        for name, gate in self._gates.items():
            alive[name] = gate.static(alive[name]) > 0
        removed = self.policy.request(alive=alive).removed()
        return {f"pruned_{key}": share for key, share in removed.items()}

    def _end(self) -> None:
        self._release()
        self.session.settle()

    def _release(self) -> None:
        """Remove the added loss and its observers."""
        completed(self)
        if self._added is not None:
            release(self.session.masked, self._added, self._gates)
            self._added = None
        self._saliencies, self._features = PerReplica(), PerReplica()

    def _mean(self, group: Group) -> np.ndarray:
        gate = self._gates.get(group.name)
        return np.ones(group.size) if gate is None else read(gate.mean)

    def _loss_function(self, each: Any) -> Any:
        """Return the added loss. See `AddedLoss`."""
        level = next(iter(self._gates.values())).loss_level

        def loss(x: Any, y: Any, y_pred: Any, weight: Any) -> Any:
            if y is None:
                raise ValueError(
                    "Dynamic gates are trained with the loss of each sample, so "
                    "`fit` needs targets: fit(x, y)."
                )
            losses = ops.cast(each(y, y_pred), level.dtype)
            losses = ops.stop_gradient(losses)
            mean = ops.mean(losses)
            before = level.value
            after = before + (1 - MOMENTUM) * (mean - before)
            level.assign(ops.where(before > 0, after, mean))
            easy = easiness(losses, before / 2)
            total = ops.zeros(())
            for name, given in self._saliencies.items():
                sparse = ops.mean(easy * ops.mean(given, axis=-1))
                total = total + self.sparsity * sparse
                if name in self._features:
                    apart = dissimilarity(given, self._features[name])
                    total = total + self.similarity * apart
            return total

        return loss


def easiness(losses: Any, height: Any) -> Any:
    """Return the easiness of samples: 1 for a loss of 0, and 0 from `height` on."""
    share = ops.divide(losses, ops.maximum(height, 1e-7))
    return ops.where(height > 0, ops.maximum(0.0, 1.0 - share), 0.0)


def dissimilarity(saliencies: Any, features: Any) -> Any:
    """Return the mean squared difference of samples' similarities.

    Compares the similarities of saliencies with those of features.

    Args:
        saliencies: Tensor of shape `(samples, channels)`.
        features: Tensor of shape `(samples, ..., channels)`; it gets no gradient.
    """
    features = ops.stop_gradient(
        ops.cast(features, keras.backend.standardize_dtype(saliencies.dtype))
    )
    places = tuple(range(1, len(features.shape) - 1))
    means = ops.mean(features, axis=places) if places else features
    one, other = (_similarities(rows) for rows in (saliencies, means))
    return ops.mean(ops.square(one - other))


def _similarities(rows: Any) -> Any:
    squares = ops.sum(ops.square(rows), axis=-1, keepdims=True)
    rows = ops.divide(rows, ops.sqrt(squares + 1e-12))
    return ops.matmul(rows, ops.transpose(rows))


def _loss_by_sample(model: Any) -> Any:
    """Return a function that computes the compiled loss of each sample."""
    given = getattr(model, "loss", None)
    if not (isinstance(given, str | keras.losses.Loss) or callable(given)):
        raise ValueError(
            "Dynamic gates are trained with the loss of each sample, so compile model "
            f"'{model.name}' with a single loss (also as a Distiller's student). "
            f"Received: loss={given!r}."
        )

    def each(y: Any, y_pred: Any) -> Any:
        # As `compile` does: with a function, targets and outputs get the same rank.
        loss = get_loss(given, y, y_pred)
        # Not a copy without reduction: a custom class may not be able to make one.
        cast = functools.partial(ops.convert_to_tensor, dtype=loss.dtype)
        values = loss.call(cast(y), cast(y_pred))
        if len(values.shape) == 0:
            raise ValueError(
                "Dynamic gates are trained with the loss of each sample, but the loss "
                f"{given!r} returns a single value. Return one per sample."
            )
        return ops.mean(ops.reshape(values, (ops.shape(y_pred)[0], -1)), axis=1)

    return each
