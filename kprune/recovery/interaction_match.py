"""Label-free training towards the channel interactions of the unpruned model."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras.src.losses.loss import scale_loss_for_distribution

from kprune.arguments import share
from kprune.masking import wrap
from kprune.masking.devices import placed_like
from kprune.masking.state import WeightSnapshot
from kprune.recovery._augment import AUTO
from kprune.recovery._augment import Augment
from kprune.recovery._pupils import input_scale
from kprune.recovery._pupils import logits
from kprune.recovery._pupils import unpruned
from kprune.recovery.base import register
from kprune.recovery.mimic import Mimic
from kprune.recovery.mimic import divide
from kprune.session import Session
from kprune.session.gradients import InferenceModel
from kprune.session.gradients import structures
from kprune.session.gradients import unchanged

SHARES = (0.3, 0.5, 0.7, 0.9)
"""Shares of a group's channels that a coalition keeps."""

EXAMS = 3
"""Number of coalitions to measure the error on, besides that of all channels."""


@register("interaction_match")
class InteractionMatch(Mimic):
    """Trains the pruned model to reproduce the logits for subsets of its channels.

    In some of the steps, both models run with a subset of one group's channels.
    The pruned model keeps a random subset `S` of its alive channels; the
    unpruned model keeps `S` and all channels that were removed. The pruned model
    is trained to give the same logits. Then differences of logits, such as the
    interaction `v(S + i + j) - v(S + i) - v(S + j) + v(S)` of two channels, match
    those of the unpruned model too. The loss is the mean squared difference of
    the logits, relative to their variance. Batch normalisation is in inference
    mode, so that subsets do not change its statistics. After "SNPFI" (Tang, Wei
    and Li, arXiv 2307.00758), where the value of a set is one number for all
    samples.

    Otherwise it works like `Mimic`: it needs no labels, augments the samples,
    holds out one in eight, and keeps the best weights. Unless it is part of a
    list, it runs after `"reconstruct"` if that applies.

    Args:
        samples: Largest number of samples to use.
        steps: Number of training steps.
        batch_size: Number of samples per step.
        learning_rate: Peak learning rate for the loss above. It is reached after
            a twentieth of the steps, and decays to 0 along a cosine.
        partial: Share of the steps with subsets of channels. With 0, it equals
            `Mimic` with batch normalisation in inference mode and without mixup.
        seed: Seed of the sample order, the augmentation and the subsets.

    Raises:
        ValueError: If there are fewer than 16 samples.

    Example:

    ```python
    masked = kprune.prune(
        model, data=x_train[:1024], recover="interaction_match"
    )
    ```
    """

    def __init__(
        self,
        samples: int = 1024,
        steps: int = 400,
        batch_size: int = 128,
        learning_rate: float = 0.02,
        partial: float = 0.5,
        seed: int = 0,
    ) -> None:
        super().__init__(
            samples,
            steps,
            batch_size,
            learning_rate,
            AUTO,
            mixup=0.0,
            features=0.0,
            seed=seed,
        )
        self.partial = share(
            partial, type(self).__name__, "partial", zero=True, one=True
        )

    def _optimizer(self, rate: Any) -> keras.optimizers.Optimizer:
        # With batch normalisation in inference mode, Adam's steps are too long.
        # Each replica clips its share of the gradient.
        longest = float(scale_loss_for_distribution(keras.ops.ones(())))
        return keras.optimizers.SGD(
            rate, momentum=0.9, nesterov=True, global_clipnorm=longest
        )

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        fit, held_out = self._split(session.samples.inputs(self.samples))
        change = Augment(self.augment, self.mixup, fit)
        scale = input_scale(session.masked, fit)
        original = Session(wrap(unpruned(session.masked, before)))
        sets = _Sets(session, original, before)
        rng = np.random.default_rng(self.seed)
        kept = [
            {},
            *(sets.draw(rng) for _ in range(EXAMS if self.partial else 0)),
        ]

        def batches() -> Iterator[Any]:
            while True:
                yield divide(change(self._batch(fit, rng), rng), scale)

        def lesson() -> contextlib.AbstractContextManager[None]:
            partial = rng.random() < self.partial
            return sets.without(sets.draw(rng) if partial else {})

        with (
            placed_like(session.masked),
            unchanged(session.masked),
            logits(original.masked, scale) as teacher,
            logits(session.masked, scale) as bare,
        ):
            inputs, outputs = structures(bare)
            self._train(
                InferenceModel(inputs=inputs, outputs=outputs),
                teacher,
                batches(),
                divide(held_out, scale),
                lesson,
                [functools.partial(sets.without, gone) for gone in kept],
            )


class _Sets:
    """Sets of channels to leave out of a pruned and of the unpruned model.

    Args:
        pruned: The pruned model.
        original: The unpruned model, rebuilt and masked.
        before: Weights and masks of `pruned` before pruning.
    """

    def __init__(
        self, pruned: Session, original: Session, before: WeightSnapshot
    ) -> None:
        self._pruned, self._original = pruned, original
        now = pruned.alive()
        after = pruned.snapshot()
        before.restore()
        was = pruned.alive()
        after.restore()
        sizes = {group.name: group.size for group in original.groups}
        self._places = {
            name: (np.flatnonzero(now[name]), np.flatnonzero(was[name]))
            for name in now
            if sizes.get(name) == was[name].sum() and now[name].sum() > 1
        }

    def draw(self, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Draw a group and the indices of its channels to leave out, by its name."""
        if not self._places:
            return {}
        name = list(self._places)[rng.integers(len(self._places))]
        now, _ = self._places[name]
        stay = max(1, round(rng.choice(SHARES) * len(now)))
        return {name: rng.permutation(now)[stay:]}

    @contextlib.contextmanager
    def without(self, gone: dict[str, np.ndarray]) -> Iterator[None]:
        """Return a context in which both models lack some channels.

        Args:
            gone: Group name -> indices of channels. See `draw`.
        """
        ours, theirs = {}, {}
        for name, channels in gone.items():
            now, was = self._places[name]
            size = self._pruned.graph[name].size
            ours[name] = np.isin(np.arange(size), np.setdiff1d(now, channels))
            theirs[name] = ~np.isin(was, channels)
        with self._pruned.trial(ours), self._original.trial(theirs):
            yield
