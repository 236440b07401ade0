"""The session: one masked model, its samples, and everything computed from them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np

from kprune import criteria
from kprune.cost.model import CostModel
from kprune.data.inputs import fixed_batch
from kprune.data.needs import require_any_batch
from kprune.data.needs import require_data
from kprune.data.needs import require_loss
from kprune.data.source import Source
from kprune.data.source import as_source
from kprune.graph import ChannelGraph
from kprune.graph import trace
from kprune.graph import walk
from kprune.graph.values import read
from kprune.masking import DynamicGate
from kprune.masking import FilterMask
from kprune.masking import TemporaryMasks
from kprune.masking import acting_gates
from kprune.masking import masks as read_masks
from kprune.masking import require_masked
from kprune.masking import require_prunable
from kprune.masking import set_masks
from kprune.masking.removal import removed_values
from kprune.masking.removal import zero_removed
from kprune.masking.slots import base_optimizer
from kprune.masking.state import WeightSnapshot
from kprune.session.folding import LINEAR
from kprune.session.gradients import GradientProbe
from kprune.session.loss import LossProbe
from kprune.session.segments import Segments
from kprune.session.trials import trial_losses

if TYPE_CHECKING:
    from kprune.graph import Group

Vectors = dict[str, np.ndarray]


class Session:
    """Owner of a masked model and its samples.

    Criteria, allocations, recoveries and callbacks share one session. The model
    is traced once, the functions that measure it are compiled once, and all use
    the same samples. You can use a session in a custom training loop as
    `kprune.callbacks` do; see the example.

    On JAX, a custom loop holds the weights outside the model. Write them back
    before you call a method of the session, and read them again after `settle`
    or `remove`. See `docs/custom_loops.md`.

    Args:
        masked: A model made by `kprune.wrap`.
        data: Samples: arrays `x`, `(x, y)` or `(x, y, sample_weight)`, a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a generator, or a list
            of batches or samples, or a function that returns them. See
            `kprune.data.source.Source`. Defaults to None, for criteria that use
            weights only.
        optimizer: The optimizer whose slots are reset for removed filters.
            Defaults to `masked.optimizer`.

    Raises:
        ValueError: If the model is not wrapped, no filter can be removed, or the
            samples do not fit the model.

    Example:

    ```python
    masked = kprune.wrap(model)
    session = kprune.Session(masked, (x, y), optimizer)
    schedule = kprune.Polynomial(begin=2, end=20)
    for epoch in range(30):
        session.remove(
            kprune.allocation.allocate(
                session,
                session.score("taylor"),
                reduce={"macs": 0.5},
                fraction=schedule.fraction(epoch, 30),
            )
        )
        train_one_epoch(masked, optimizer)
    session.settle()
    compact = kprune.rebuild(masked)
    ```
    """

    def __init__(
        self, masked: keras.Model, data: Any = None, optimizer: Any = None
    ) -> None:
        require_masked(masked, "Session")
        self.masked = masked
        self.source: Source | None = None
        if data is not None:
            self.source = as_source(data, masked)
        self._takes_any_batch = False
        self._optimizer = optimizer
        self.graph: ChannelGraph = trace(masked)
        require_prunable(self.graph)
        self._loss_probe: LossProbe | None = None
        self._gradient_probe: GradientProbe | None = None
        self._criteria: dict[str, criteria.Criterion] = {}

    @property
    def samples(self) -> Source:
        """The samples.

        Raises:
            ValueError: If there are none, or the model takes only batches of one
                size.
        """
        require_data(self, "The session")
        source: Source = self.source  # type: ignore[assignment]
        if fixed_batch(self.masked) is not None and not self._takes_any_batch:
            require_any_batch(self.masked, source.inputs(1))
            self._takes_any_batch = True
        return source

    @property
    def groups(self) -> Sequence[Group]:
        """The prunable groups of channels."""
        return self.graph.prunable

    @functools.cached_property
    def cost_model(self) -> CostModel:
        """MACs and parameters for any numbers of kept channels."""
        return CostModel(self.graph)

    @property
    def optimizer(self) -> Any:
        """The optimizer whose slots follow the weights, or `None`."""
        if self._optimizer is not None:
            return self._optimizer
        return getattr(self.masked, "optimizer", None)

    @functools.cached_property
    def segments(self) -> Segments:
        """The model, split where trials of masks may begin.

        Raises:
            ValueError: It has gates that depend on the sample, which run with the
                whole model alone.
        """
        if self._dynamic:
            raise ValueError(
                f"Model '{self.masked.name}' has gates that depend on the sample, so "
                "parts of it cannot run by themselves, which allocations and repairs "
                "by layers do. kprune.masking.close_gates(masked) makes the static "
                "model."
            )
        changing = [self.layers(group.name) for group in self.groups]
        linear = [
            layer
            for layer in walk.layers_of(self.masked)
            if isinstance(walk.unwrap(layer), LINEAR)
        ]
        return Segments(self.masked, changing, linear)

    @property
    def divisible(self) -> bool:
        """Whether a segment of `segments` begins at each dense and convolutional layer.

        False too if there are nested models, or tensors without an axis of samples.
        """
        if self._dynamic:
            return False
        program = self.segments.program
        per_sample = all(t.shape[:1] == (None,) for t in program.tensors)
        return program.flat and per_sample and self.segments.begin_at_watched

    def alive(self) -> Vectors:
        """Return the channels that are not removed.

        Returns:
            Prunable group name -> booleans of shape `(size,)`.
        """
        return {
            name: vector > 0
            for name, vector in read_masks(self.masked, self.graph).items()
        }

    def settle(self) -> Vectors:
        """Set the weights of removed channels to 0 and return `alive()`.

        Call this before scoring, and after training. Otherwise weights behind
        manually set masks, or changed by training behind masks, are scored.
        """
        alive = self.alive()
        zero_removed(self.masked, self.graph, alive, self.optimizer)
        return alive

    def remove(self, masks: Mapping[str, np.ndarray]) -> None:
        """Set masks, and set the weights and optimizer slots behind them to 0.

        Args:
            masks: Group name -> vector of shape `(size,)`, 0 = removed.
        """
        vectors = dict(masks)
        set_masks(self.masked, vectors, self.graph)
        zero_removed(self.masked, self.graph, vectors, self.optimizer)

    def score(
        self,
        criterion: Any,
        alive: Mapping[str, np.ndarray] | None = None,
        progress: float = 0.0,
    ) -> Vectors:
        """Score all prunable groups.

        Args:
            criterion: A name, an object of `kprune.criteria` or a function
                `f(group)` that returns scores of shape `(group.size,)`.
            alive: Group name -> booleans of shape `(size,)`. Scores of other
                channels are 0. Defaults to `alive()`.
            progress: Reached share of the target, from 0 to 1, for criteria
                that change during pruning.

        Returns:
            Group name -> float64 scores of shape `(size,)`. Channels with larger
            scores are more important.

        Raises:
            ValueError: If the criterion lacks samples or a loss, or returns
                scores of a wrong shape or that are not finite.
        """
        chosen = self.criterion(criterion).at(progress)
        alive = self.alive() if alive is None else alive
        return criteria.score_groups(chosen, self.groups, self, alive)

    def rescore(
        self,
        criterion: Any,
        alive: Mapping[str, np.ndarray],
        progress: float = 0.0,
    ) -> Vectors:
        """Score the model as if only some channels were alive.

        Args:
            criterion: See `score`.
            alive: Group name -> booleans of shape `(size,)`.
            progress: See `score`.

        Returns:
            See `score`.
        """
        weights = removed_values(self.masked, self.graph, alive)
        with self.trial(alive, weights):
            return self.score(criterion, alive, progress)

    def criterion(self, identifier: Any) -> criteria.Criterion:
        """Return a criterion, always the same object for the same name.

        Some criteria have state: they draw new samples each time they score.
        """
        if not isinstance(identifier, str):
            return criteria.get(identifier)
        if identifier not in self._criteria:
            self._criteria[identifier] = criteria.get(identifier)
        return self._criteria[identifier]

    @contextlib.contextmanager
    def trial(
        self,
        masks: Mapping[str, Any] | None = None,
        weights: Sequence[tuple[Any, np.ndarray]] = (),
    ) -> Iterator[None]:
        """Return a context in which other masks and weights are set.

        They are restored in any case. Optimizer slots do not change.

        Args:
            masks: Group name -> vector of shape `(size,)`, 0 = removed. Groups
                left out keep their masks.
            weights: Pairs of a variable and its temporary value.

        Raises:
            ValueError: If a name is not a prunable group, or a vector does not
                fit.
        """
        with self._temporary(masks or {}):
            before = [np.array(read(variable)) for variable, _ in weights]
            try:
                for variable, value in weights:
                    variable.assign(value)
                yield
            finally:
                for (variable, _), value in zip(weights, before, strict=True):
                    variable.assign(value)

    def layers(self, name: str) -> list[FilterMask]:
        """Return the layers that change in a trial with other masks of a group.

        Args:
            name: Name of the group.
        """
        return self._temporary.layers(name)

    def loss(
        self,
        masks: Mapping[str, Any] | None = None,
        samples: int | None = None,
        seed: Any = 0,
    ) -> float:
        """Return the mean compiled loss with other masks.

        Args:
            masks: See `trial`.
            samples: Number of samples to draw at random. Defaults to all.
            seed: Seed of the draw. The same seed gives the same samples.

        Raises:
            ValueError: If the model is not compiled with a loss, or there are no
                samples with targets.
        """
        probe = self._probe("Session.loss()")
        batches = probe.draw(self.samples, samples, seed)
        with self.trial(masks):
            return probe(batches)

    def losses(
        self,
        trials: Sequence[Mapping[str, Any]],
        samples: int | None = None,
        seed: Any = 0,
    ) -> list[float]:
        """Return the mean compiled loss for each of several sets of masks.

        The results equal those of `loss` up to rounding, but take less time:
        layers before the first one that changes are computed only once.

        Args:
            trials: The masks of each trial. See `trial`.
            samples: See `loss`.
            seed: See `loss`.

        Returns:
            One loss per trial.

        Raises:
            ValueError: See `loss`.
        """
        if len(trials) < 2 or self._dynamic:
            return [self.loss(masks, samples, seed) for masks in trials]
        probe = self._probe("Session.losses()")
        batches = probe.draw(self.samples, samples, seed)
        return trial_losses(self, probe, trials, batches)

    @property
    def _dynamic(self) -> bool:
        found = acting_gates(self.masked).values()
        return any(isinstance(gate, DynamicGate) for gate in found)

    def _probe(self, what: str) -> LossProbe:
        probe = self._loss_probe
        if probe is None or probe.loss is not self.masked.loss:
            require_loss(self, what)
            probe = self._loss_probe = LossProbe(self.masked)
        return probe

    def gradients(
        self, x: Any, y: Any, sample_weight: Any = None
    ) -> dict[int, np.ndarray]:
        """Return the gradients of the compiled loss on one batch.

        Args:
            x: Inputs, as for `train_on_batch`.
            y: Targets.
            sample_weight: Weights of the samples.

        Returns:
            `id(variable)` -> gradient, for each weight.
        """
        probe = self._gradient_probe
        if probe is None or probe.loss is not self.masked.loss:
            probe = self._gradient_probe = GradientProbe(self.masked)
        return probe(x, y, sample_weight)

    def snapshot(self) -> WeightSnapshot:
        """Return a copy of all weights and masks."""
        return WeightSnapshot(self.masked.variables)

    @contextlib.contextmanager
    def rollback(self) -> Iterator[None]:
        """Return a context that restores the model if it ends in an error.

        Weights, masks and the optimizer's slots are restored.
        """
        optimizer = base_optimizer(self.optimizer)
        slots = getattr(optimizer, "variables", [])
        before = WeightSnapshot([*self.masked.variables, *slots])
        try:
            yield
        except BaseException:
            before.restore()
            raise

    @functools.cached_property
    def _temporary(self) -> TemporaryMasks:
        return TemporaryMasks(self.masked, self.graph)
