"""Pruning by learned gates."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Mapping
from collections.abc import MutableMapping
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

import keras
import numpy as np
from keras import ops

from kprune.arguments import number
from kprune.callbacks._fitting import completed
from kprune.callbacks._fitting import undo_if_interrupted
from kprune.callbacks._losses import AddedLoss
from kprune.callbacks._losses import PerReplica
from kprune.callbacks._losses import attention
from kprune.callbacks._losses import budget_penalty
from kprune.callbacks._losses import compared_as
from kprune.callbacks._losses import divergence
from kprune.callbacks._losses import frozen
from kprune.callbacks._losses import keeper
from kprune.callbacks._losses import release
from kprune.callbacks._losses import showing
from kprune.callbacks._steps import NormalizedSteps
from kprune.callbacks.base import PruningCallback
from kprune.cost.model import TERMS
from kprune.graph import Group
from kprune.graph.values import read
from kprune.masking import FilterMask
from kprune.masking import Gate
from kprune.masking import GatedInput
from kprune.masking import filter_masks
from kprune.masking import gates
from kprune.masking import is_masked
from kprune.masking import protect_gates
from kprune.masking import wrap
from kprune.masking.slots import accumulation
from kprune.masking.state import no_gradients
from kprune.rebuild import rebuild
from kprune.schedules import OneShot
from kprune.session import Session

_log = logging.getLogger("kprune")

RATE = 0.01
"""Largest step of a gate's logit in long runs, as published."""

TRAVEL = 6.0
"""How far a logit can move in short runs: enough to close an open gate early."""

LARGEST = 0.25
"""Largest step of a logit in any run."""


class GateCallback(PruningCallback):
    """Trains a gate for each channel, and removes the channels that open least.

    The model must have gates (`kprune.masking.add_gates`). Until filters are removed,
    channels are sampled by their gates, and these terms are added to the loss:

        penalty * sum over costs of (remaining share - target share)^2
        + distillation * divergence from the teacher's softened outputs
        + modelling * mean squared difference of attention maps

    The remaining shares are those of the sampled channels, with gradients to the
    gates. An attention map is the energy of features, `mean_c X^2`, as a vector of norm
    1 per sample. It is computed from a group's gated features after the gate's
    `decoder`, and compared with the teacher's; gates without a decoder are left out.
    When the schedule requires it, gates become masks: the channels with the smallest
    logits are removed, as many as the target needs, and training continues with the
    compiled loss only.

    The divergence is that of Kullback and Leibler for classes (a softmax, or logits),
    the same for each label (a sigmoid, or logits of a binary cross-entropy), and the
    mean squared difference for all other outputs.

    The `logs` contain `open_gates`, the share of open gates, besides `pruned_macs` and
    `pruned_params`.

    Args:
        criterion: See `kprune.prune`. Defaults to `sigmoid(logit)` of the gates, and 1
            for channels without a gate.
        reduce: See `kprune.prune`. Only `"macs"` and `"params"`.
        schedule: When gates become masks. See `PruneCallback`. Defaults to after two
            thirds of the epochs.
        allocation: See `kprune.prune`.
        data: See `PruneCallback`.
        recover: See `PruneCallback`.
        run_dir: See `PruningCallback`.
        penalty: Weight of the cost penalty.
        distillation: Weight of the divergence.
        modelling: Weight of the attention maps.
        softness: Temperature of the divergence.
        temperature: Temperatures of the gates in the first epoch, and when they become
            masks; in between, it falls exponentially.
        rate: Largest change of a logit in a step of the optimizer. Defaults to what
            lets logits travel far enough until they become masks.
        teacher: A model with the same inputs, outputs and layer names. Defaults to the
            model when training begins, with all gates open. Pass the original model
            when you resume a run.

    Raises:
        ValueError: At construction, if a weight is negative. When `fit` begins, if the
            model has no gates, or `reduce` has a cost without a gradient.

    Example:

    ```python
    masked = kprune.wrap(model)
    kprune.masking.add_gates(masked)
    masked.fit(train, epochs=30, callbacks=[
        GateCallback(reduce={"macs": 0.5}, schedule=kprune.OneShot(10))
    ])
    ```
    """

    unsaved: ClassVar[tuple[str, ...]] = ("data", "run_dir", "teacher")

    def __init__(  # noqa: PLR0913  each is a choice of its own
        self,
        criterion: Any = None,
        reduce: Mapping[str, float] | None = None,
        schedule: Any = None,
        allocation: Any = "global",
        data: Any = None,
        recover: Any = None,
        run_dir: str | os.PathLike[str] | None = None,
        penalty: float = 100.0,
        distillation: float = 0.05,
        modelling: float = 1000.0,
        softness: float = 3.0,
        temperature: tuple[float, float] = (1.0, 0.1),
        rate: float | None = None,
        teacher: Any = None,
    ) -> None:
        super().__init__(
            criterion or self._openness,
            reduce,
            OneShot(None) if schedule is None else schedule,
            allocation,
            data,
            recover,
            run_dir,
        )
        owner = type(self).__name__
        self.penalty = number(penalty, owner, "penalty", least=0)
        self.distillation = number(distillation, owner, "distillation", least=0)
        self.modelling = number(modelling, owner, "modelling", least=0)
        self.softness = number(softness, owner, "softness", above=0)
        first, last = temperature
        self.temperature = (
            number(first, owner, "temperature", above=0),
            number(last, owner, "temperature", above=0),
        )
        self.rate = (
            None if rate is None else number(rate, owner, "rate", above=0)
        )
        self.teacher = teacher
        self._steps: NormalizedSteps | None = None
        self._step = RATE
        self._batches = 0
        self._gates: dict[str, Gate] = {}
        self._kept, self._features = PerReplica(), PerReplica()
        self._added: AddedLoss | None = None

    def begin(self, session: Session) -> None:
        masked = session.masked
        self._gates = _gates_of(masked)
        protect_gates(masked, session.optimizer)
        foreign = set(self.policy.reduce) - set(TERMS)
        if foreign:
            raise ValueError(
                f"Gates need gradients of the costs, but {sorted(foreign)} have none. "
                "Use 'macs' and 'params' in `reduce`."
            )
        if not any(gate.acts for gate in self._gates.values()):
            return  # The run was resumed after its gates became masks.
        self._added = AddedLoss(self, self._loss_function(session))
        # Not what `self` has by then: it may train another model meanwhile.
        undo = functools.partial(release, masked, self._added, self._gates)
        undo_if_interrupted(self, undo)
        self._count(session)
        self._added.attach()
        found = self._gates.values()
        self._steps = NormalizedSteps(
            [gate.logits for gate in found],
            [gate.largest_step for gate in found],
        )
        self._batches = 0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        if not any(gate.acts for gate in self._gates.values()):
            # A restored checkpoint may have its gates turned into masks already.
            self._release()
        rounds = self.schedule.rounds(self.params.get("epochs"))
        if self._steps is not None:
            self._steps.start()  # Another callback may have restored weights.
            self._step = self._step_size(rounds)
        first, last = self.temperature
        share = min(1.0, epoch / max(1, rounds[-1]))
        for gate in self._gates.values():
            gate.temperature.assign(first * (last / first) ** share)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._batches = batch + 1
        if self._steps is not None:
            self._steps.normalize(self.model, self._step)

    def _step_size(self, rounds: Sequence[int]) -> float:
        """Return the largest change of a logit between two calls, in this epoch."""
        accumulated = accumulation(self.model.optimizer)
        # Data of unknown length tell it by their first epoch.
        batches = rounds[-1] * (self.params.get("steps") or self._batches)
        steps = batches / accumulated
        rate = self.rate
        if rate is None:
            rate = min(max(RATE, TRAVEL / steps), LARGEST) if steps else RATE
        return rate * max(1, self.model.steps_per_execution / accumulated)

    def due(self, fraction: float) -> bool:
        # The target may be met before the last round; gates must close even so.
        return super().due(fraction) or (
            fraction >= 1 and any(gate.acts for gate in self._gates.values())
        )

    def act(self, session: Session, fraction: float) -> None:
        """Turn gates into masks."""
        masks = self.choose(fraction)
        with session.rollback():
            before = session.snapshot() if self.repairs else None
            if fraction >= 1:
                self._shut()
            self.remove(masks, before)
        if self._added is not None:
            self._count(session)
            self._added.attach()

    def after_epoch(self, session: Session) -> None:
        if self._added is not None:
            self._added.require_used("Gates")

    def status(self) -> dict[str, float]:
        alive = self.session.alive()
        opened = [
            (alive[n] & (read(g.logits) > 0)) if g.acts else alive[n]
            for n, g in self._gates.items()
        ]
        share = float(np.concatenate(opened).mean())
        return {**super().status(), "open_gates": share}

    def on_train_end(self, logs: Any = None) -> None:
        self._release()
        super().on_train_end(logs)

    def _shut(self) -> None:
        self._release()
        for gate in self._gates.values():
            gate.acts = False

    def _release(self) -> None:
        """Remove the added loss and its observers."""
        completed(self)
        self._steps = None
        if self._added is not None:
            release(self.session.masked, self._added, self._gates)
            self._added = None
        self._kept, self._features = PerReplica(), PerReplica()

    def _count(self, session: Session) -> None:
        """Let gates tell how many of the channels that are left are open."""
        alive = session.alive()
        self._kept = PerReplica(
            {name: float(v.sum()) for name, v in alive.items()}
        )
        for name, gate in self._gates.items():
            gate.observer = _counter(self._kept, name, alive[name])

    def _openness(self, group: Group) -> np.ndarray:
        gate = self._gates.get(group.name)
        if gate is None:
            return np.ones(group.size)
        return 1 / (1 + np.exp(-read(gate.logits).astype("float64")))

    def _loss_function(self, session: Session) -> Any:
        """Return the added loss. See `AddedLoss`."""
        costs, reduce = session.cost_model, dict(self.policy.reduce)
        order = [group.name for group in session.groups]
        stages = self._stages(session) if self.modelling else {}
        compared = bool(self.distillation or stages)
        teacher = self._make_teacher(session.masked) if compared else None
        taught = PerReplica()
        if teacher is not None:
            by_name = {w.name: w for w in filter_masks(teacher)}
            missing = {w.name for w, _ in stages.values()} - set(by_name)
            if missing:
                raise ValueError(
                    "The teacher of GateCallback needs layers of the same names to "
                    f"compare features. It has none named {sorted(missing)}. Compare "
                    "outputs alone: modelling=0."
                )
            for name, (wrapper, reader) in stages.items():
                axis = reader.axis
                wrapper.observer = keeper(self._features, name, axis)
                by_name[wrapper.name].observer = keeper(taught, name, axis)
            kinds = compared_as(self.model, teacher)

        def loss(x: Any, y: Any, y_pred: Any, weight: Any) -> Any:
            kept = [self._kept[name] for name in order]
            total = self.penalty * budget_penalty(costs, reduce, kept)
            if teacher is None:
                return total
            if x is None:
                raise ValueError(
                    "The teacher of GateCallback needs the inputs: in train_step, "
                    "call self.compute_loss(x=x, y=y, y_pred=y_pred). Or train "
                    "without a teacher: distillation=0, modelling=0."
                )
            with no_gradients():
                wanted = frozen(teacher, x)
            given = keras.tree.flatten(y_pred)
            for one, other, kind in zip(wanted, given, kinds, strict=True):
                total = total + self.distillation * divergence(
                    one, other, self.softness, kind
                )
            for name in stages:
                decoded = self._gates[name].decoded(self._features[name])
                shown = ops.stop_gradient(attention(taught[name]))
                difference = ops.square(attention(decoded) - shown)
                share = self.modelling / len(stages)
                total = total + share * ops.mean(difference)
            return total

        return loss

    def _stages(
        self, session: Session
    ) -> dict[str, tuple[FilterMask, GatedInput]]:
        """Return what shows features with a decoder and positions, by group."""
        wanted = {n for n, g in self._gates.items() if g.decoder is not None}
        shown = showing(session, positions=True)
        if hidden := sorted(wanted - shown.keys()):
            _log.warning(
                "The features of these groups are not compared with the teacher's, "
                "although their gates have a decoder, because no layer reads exactly "
                "their channels at all positions: %s.",
                ", ".join(hidden),
            )
        return {name: shown[name] for name in shown if name in wanted}

    def _make_teacher(self, masked: keras.Model) -> keras.Model:
        """Return the teacher as a masked model, whose layers can be observed."""
        teacher = self.teacher
        if teacher is None:
            acting = [g for g in self._gates.values() if g.acts]
            for gate in acting:
                gate.acts = False
            try:
                teacher = rebuild(masked, merge=None)
            finally:
                for gate in acting:
                    gate.acts = True
        return teacher if is_masked(teacher) else wrap(teacher)


def _gates_of(masked: keras.Model) -> dict[str, Gate]:
    found = {n: g for n, g in gates(masked).items() if isinstance(g, Gate)}
    if not found:
        raise ValueError(
            f"Model '{masked.name}' has no gates to train. Add them before `fit`: "
            "kprune.masking.add_gates(masked)."
        )
    return found


def _counter(
    counts: MutableMapping[str, Any], name: str, alive: np.ndarray
) -> Any:
    """Return an observer of a gate that stores the number of open channels."""

    def observe(values: Any) -> None:
        counts[name] = ops.sum(ops.multiply(values, alive.astype("float32")))

    return observe
