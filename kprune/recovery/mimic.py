"""Label-free training towards the outputs of the unpruned model."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any
from typing import ClassVar

import keras
import numpy as np

from kprune.arguments import number
from kprune.arguments import share
from kprune.arguments import whole
from kprune.data.arrays import take
from kprune.graph.values import read
from kprune.masking.devices import placed_like
from kprune.masking.devices import predict_batch
from kprune.masking.devices import undivided
from kprune.masking.state import WeightSnapshot
from kprune.recovery._augment import Augment
from kprune.recovery._pupils import Pupil
from kprune.recovery._pupils import input_scale
from kprune.recovery._pupils import logits
from kprune.recovery._pupils import unpruned
from kprune.recovery.base import Recovery
from kprune.recovery.base import register
from kprune.session import Session

HELD_OUT = 8
"""One in so many samples is held out."""

CHECKS = 20
"""Number of times the error on held-out samples is measured."""

WARMUP = 20
"""The learning rate rises during one in so many of the steps."""

Context = Callable[[], contextlib.AbstractContextManager[Any]]

_log = logging.getLogger("kprune")


@register("mimic")
class Mimic(Recovery):
    """Trains the pruned model to reproduce the unpruned model's logits.

    No labels are needed: the loss is the mean squared difference of the logits,
    relative to their variance, and the same of the last features: what the last
    layer reads, before pooling, on the channels that are left. Mimicking these
    features is due to "Practical Network Acceleration with Tiny Sets" (Wang et
    al., arXiv 2202.07861). Inputs read by linear layers are scaled to a mean square
    of 1. Images are flipped and shifted, and in some steps pairs of samples are
    mixed, with the unpruned model's outputs as targets ("mixup", Zhang et al., arXiv
    1710.09412). The compact model is trained by Adam with cosine decay of the
    learning rate, with batch normalisation in training mode. Frozen layers are
    trained too.

    One in eight samples is held out. The weights with the best logits on these are
    kept, or the original ones if none are better. Unless it is part of a list, it
    runs after `"reconstruct"` if that applies.

    Args:
        samples: Largest number of samples to use.
        steps: Number of training steps.
        batch_size: Number of samples per step.
        learning_rate: Peak learning rate for the loss above. It is reached after
            a twentieth of the steps, and decays to 0 along a cosine.
        augment: Augmentation of batches for both models: a function
            `f(x, rng) -> x` of the inputs and a `numpy.random.Generator`, or a
            Keras layer or model, called with `training=True`. `"auto"` flips and
            shifts if the only input is an image, and does nothing otherwise;
            `None` does nothing.
        mixup: Share of the steps in which pairs of samples are mixed, with
            weights drawn uniformly from 0 to 1. Integer inputs, such as tokens,
            are never mixed.
        seed: Seed of the sample order, the augmentation and the mixing.
        features: Weight of the loss of the features; 0 to learn the logits alone.
            Outputs that do not come from a linear layer have no such loss, nor have
            models with attenuated filters.

    Raises:
        ValueError: If there are fewer than 16 samples.

    Example:

    ```python
    masked = kprune.prune(model, data=x_train[:1024], recover="mimic")
    masked = kprune.prune(
        model,
        data=x_train[:1024],
        recover=["reconstruct", kprune.recovery.Mimic(steps=2000)],
    )
    ```
    """

    preceded_by: ClassVar[tuple[str, ...]] = ("reconstruct",)

    def __init__(  # noqa: PLR0913  each argument is independent
        self,
        samples: int = 1024,
        steps: int = 800,
        batch_size: int = 128,
        learning_rate: float = 3e-3,
        augment: Any = "auto",
        mixup: float = 0.5,
        seed: int = 0,
        features: float = 3.0,
    ) -> None:
        super().__init__(samples)
        owner = type(self).__name__
        self.steps = whole(steps, owner, "steps", of="steps")
        self.batch_size = whole(batch_size, owner, "batch_size", of="samples")
        self.learning_rate = number(
            learning_rate, owner, "learning_rate", above=0
        )
        self.augment = augment
        self.mixup = share(mixup, owner, "mixup", zero=True, one=True)
        self.features = number(features, owner, "features", least=0)
        self.seed = whole(seed, owner, "seed", least=0)

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        fit, held_out = self._split(session.samples.inputs(self.samples))
        change = Augment(self.augment, self.mixup, fit)
        pupil = Pupil(session, before)
        original = unpruned(session.masked, before)
        scale = input_scale(session.masked, fit)
        with (
            placed_like(session.masked),
            logits(original, scale) as teacher,
            pupil.trained(scale) as trained,
        ):
            pairs = pupil.features(original) if self.features else []
            teacher = _widened(teacher, [wanted for wanted, _ in pairs])
            trained = _widened(trained, [given for _, given in pairs])

            def batches() -> Iterator[Any]:
                rng = np.random.default_rng(self.seed)
                while True:
                    yield divide(change(self._batch(fit, rng), rng), scale)

            held_out = divide(held_out, scale)
            better = self._train(
                trained,
                teacher,
                batches(),
                held_out,
                features=[self.features / len(pairs) for _ in pairs],
            )
        if better:
            pupil.write_back()

    def _train(
        self,
        pupil: keras.Model,
        teacher: keras.Model,
        batches: Iterator[Any],
        held_out: Any,
        lesson: Context = contextlib.nullcontext,
        exams: Sequence[Context] = (contextlib.nullcontext,),
        features: Sequence[float] = (),
    ) -> bool:
        """Train the pupil and keep its best weights.

        Args:
            pupil: The model to train.
            teacher: The model that provides the targets.
            batches: Samples to train on.
            held_out: Samples to measure the error on.
            lesson: Returns the context of a training step.
            exams: Functions that return the contexts of error measurements.
            features: Weights of the losses of the last outputs, which do not count in
                the measured error.

        Returns:
            Whether the weights have improved.
        """
        wanted = []
        for exam in exams:
            with exam():
                wanted.append(_predict(teacher, held_out, self.batch_size))
        scales = [1 / max(t.var(axis=0).mean(), 1e-12) for t in wanted[0]]
        count = len(scales) - len(features)
        weights = [1.0] * count + list(features)
        self._compile(
            pupil, [w * s for w, s in zip(weights, scales, strict=True)]
        )
        wanted = [answers[:count] for answers in wanted]
        scales = scales[:count]

        def error() -> float:
            total = 0.0
            for exam, answers in zip(exams, wanted, strict=True):
                with exam():
                    given = _predict(pupil, held_out, self.batch_size, count)
                total += sum(
                    s * float(np.mean(np.square(g - w)))
                    for g, w, s in zip(given, answers, scales, strict=True)
                )
            return total / len(exams)

        first = least = error()
        best = WeightSnapshot(pupil.variables)
        bar = keras.utils.Progbar(self.steps, verbose=int(sys.stdout.isatty()))
        every = -(-self.steps // CHECKS)
        for step in range(1, self.steps + 1):
            x = next(batches)
            with lesson():
                targets = predict_batch(teacher, x)
                with undivided():
                    loss = pupil.train_on_batch(x, targets)
            if step % every and step < self.steps:
                continue
            now = error()
            total = float(np.ravel(loss)[0])
            bar.update(step, [("loss", total), ("held out", now)])
            if not np.isfinite(now):
                break
            if now < least:
                least, best = now, WeightSnapshot(pupil.variables)
        best.restore()
        _log.info(
            "%s: error on held-out samples %.4g -> %.4g",
            type(self).__name__,
            first,
            least,
        )
        return least < first

    def _split(self, inputs: Any) -> tuple[Any, Any]:
        """Return the samples to train on, and the held-out samples."""
        leaves = keras.tree.flatten(inputs)
        if len(leaves) == 1:
            (inputs,) = leaves
        count = len(leaves[0])
        if count < 2 * HELD_OUT:
            raise ValueError(
                f"{type(self).__name__} needs at least {2 * HELD_OUT} samples, and "
                f"a few hundred to be useful. Received: {count}."
            )
        chosen = np.arange(count) % HELD_OUT == HELD_OUT - 1
        return take(inputs, ~chosen), take(inputs, chosen)

    def _batch(self, inputs: Any, rng: np.random.Generator) -> Any:
        count = len(keras.tree.flatten(inputs)[0])
        size = min(self.batch_size, count)
        return take(inputs, rng.choice(count, size, replace=False))

    def _optimizer(self, rate: Any) -> keras.optimizers.Optimizer:
        # Unlike SGD's, one rate suits networks of different scales.
        return keras.optimizers.Adam(rate)

    def _compile(self, pupil: keras.Model, scales: list[float]) -> None:
        def loss_of(scale: float) -> Any:
            def loss(wanted: Any, given: Any) -> Any:
                return scale * keras.ops.mean(keras.ops.square(given - wanted))

            return loss

        warmup = self.steps // WARMUP
        rate = keras.optimizers.schedules.CosineDecay(
            0.0 if warmup else self.learning_rate,
            self.steps - warmup,
            warmup_target=self.learning_rate if warmup else None,
            warmup_steps=warmup,
        )
        losses = [loss_of(scale) for scale in scales]
        # XLA makes TensorFlow slower on CPUs; JAX always uses it.
        tensorflow = keras.config.backend() == "tensorflow"
        pupil.compile(
            self._optimizer(rate),
            losses if len(losses) > 1 else losses[0],
            jit_compile=False if tensorflow else "auto",
        )


def _widened(model: keras.Model, features: Sequence[Any]) -> keras.Model:
    """Return the model with more outputs."""
    if not features:
        return model
    return keras.Model(model.input, [*model.outputs, *features])


def divide(inputs: Any, scale: float) -> Any:
    """Return the inputs divided by `scale`. See `logits`."""
    if scale == 1:
        return inputs
    return keras.tree.map_structure(
        lambda x: (x / scale).astype("float32"), inputs
    )


def _predict(
    model: keras.Model, inputs: Any, size: int, first: int | None = None
) -> list[np.ndarray]:
    """Return the first outputs, by default all, as float64 arrays."""
    count = len(keras.tree.flatten(inputs)[0])
    parts = [
        keras.tree.flatten(
            predict_batch(
                model, take(inputs, np.arange(start, min(start + size, count)))
            )
        )[:first]
        for start in range(0, count, size)
    ]
    return [
        np.concatenate([read(part) for part in output]).astype("float64")
        for output in zip(*parts, strict=True)
    ]
