"""Training without labels: what the pruned model gives is drawn to what it gave."""

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
"""One sample of so many is held out."""

CHECKS = 20
"""How often the error on these is measured."""

WARMUP = 20
"""The rate rises in one step of so many."""

Context = Callable[[], contextlib.AbstractContextManager[Any]]

_log = logging.getLogger("kprune")


@register("mimic")
class Mimic(Recovery):
    """Trains the pruned model to give the unpruned model's logits.

    On augmented samples and without labels: the loss is the mean squared
    difference of the logits, relative to their variance. Inputs are brought to
    a mean square of 1 where linear layers read them. Images are mirrored and
    shifted, and in some steps pairs of samples are mixed, of which the
    unpruned model says what they should give ("mixup", Zhang et al., arXiv
    1710.09412). SGD with Nesterov momentum and a cosine of the learning rate;
    batch normalisation is in training mode, and layers are trained whether
    they are `trainable` or not. What is trained is the compact model.

    One sample of eight is held out. The weights that are best on these are
    kept, and the ones from before if none are better. Alone, it follows on
    `"reconstruct"` where that applies; in a list it stands where it stands.
    Kin: "Practical Network Acceleration with Tiny Sets" (Wang et al., arXiv
    2202.07861), which mimics features.

    Args:
        samples: How many samples of the data to use at most.
        steps: How many steps to train.
        batch_size: Samples in a step.
        learning_rate: Of the loss above. It rises to this in the first
            twentieth of the steps, and falls to 0 along a cosine.
        augment: Changes a batch before both models see it: a function
            `f(x, rng) -> x` of the inputs and a `numpy.random.Generator`, or a
            Keras layer or model, called with `training=True`. `"auto"` mirrors
            and shifts where the one input is an image, and does nothing
            elsewhere; `None` nothing.
        mixup: Share of the steps in which pairs of samples are mixed, by
            weights that are uniform from 0 to 1. Inputs of whole numbers,
            such as tokens, are never mixed.
        seed: Of the order, the augmentation and the mixing.

    Raises:
        ValueError: There are fewer than 16 samples.

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

    def __init__(
        self,
        samples: int = 1024,
        steps: int = 800,
        batch_size: int = 128,
        learning_rate: float = 0.1,
        augment: Any = "auto",
        mixup: float = 0.5,
        seed: int = 0,
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
        self.seed = whole(seed, owner, "seed", least=0)

    def repair(self, session: Session, before: WeightSnapshot) -> None:
        fit, held_out = self._split(session.samples.inputs(self.samples))
        change = Augment(self.augment, self.mixup, fit)
        pupil = Pupil(session)
        scale = input_scale(session.masked, fit)
        with (
            logits(unpruned(session.masked, before), scale) as teacher,
            pupil.trained(scale) as trained,
        ):

            def batches() -> Iterator[Any]:
                rng = np.random.default_rng(self.seed)
                while True:
                    yield divide(change(self._batch(fit, rng), rng), scale)

            held_out = divide(held_out, scale)
            better = self._train(trained, teacher, batches(), held_out)
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
    ) -> bool:
        """Train, keep the best weights, and return if they are not the first.

        Args:
            pupil: The model to train.
            teacher: What says what it should give.
            batches: Samples to train on.
            held_out: Samples to measure the error on.
            lesson: Returns the context of a step.
            exams: Return the contexts in which the error is measured.
        """
        wanted = []
        for exam in exams:
            with exam():
                wanted.append(_predict(teacher, held_out, self.batch_size))
        scales = [1 / max(t.var(axis=0).mean(), 1e-12) for t in wanted[0]]
        self._compile(pupil, scales)

        def error() -> float:
            total = 0.0
            for exam, answers in zip(exams, wanted, strict=True):
                with exam():
                    given = _predict(pupil, held_out, self.batch_size)
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
                loss = pupil.train_on_batch(x, teacher.predict_on_batch(x))
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
        """Return the samples to train on, and those that are held out."""
        leaves = keras.tree.flatten(inputs)
        if len(leaves) == 1:
            (inputs,) = leaves
        count = len(leaves[0])
        if count < 2 * HELD_OUT:
            raise ValueError(
                f"{type(self).__name__} needs {2 * HELD_OUT} samples at least, and "
                f"some hundred to be of use. Received: {count}."
            )
        chosen = np.arange(count) % HELD_OUT == HELD_OUT - 1
        return take(inputs, ~chosen), take(inputs, chosen)

    def _batch(self, inputs: Any, rng: np.random.Generator) -> Any:
        count = len(keras.tree.flatten(inputs)[0])
        size = min(self.batch_size, count)
        return take(inputs, rng.choice(count, size, replace=False))

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
        # XLA makes TensorFlow slower on CPU; JAX has nothing else.
        tensorflow = keras.config.backend() == "tensorflow"
        pupil.compile(
            keras.optimizers.SGD(
                rate, momentum=0.9, nesterov=True, global_clipnorm=1.0
            ),
            losses if len(losses) > 1 else losses[0],
            jit_compile=False if tensorflow else "auto",
        )


def divide(inputs: Any, scale: float) -> Any:
    """Return inputs divided by the scale of `logits`."""
    if scale == 1:
        return inputs
    return keras.tree.map_structure(
        lambda x: (x / scale).astype("float32"), inputs
    )


def _predict(model: keras.Model, inputs: Any, size: int) -> list[np.ndarray]:
    """Return all outputs as float64 arrays."""
    count = len(keras.tree.flatten(inputs)[0])
    parts = [
        keras.tree.flatten(
            model.predict_on_batch(
                take(inputs, np.arange(start, min(start + size, count)))
            )
        )
        for start in range(0, count, size)
    ]
    return [
        np.concatenate([read(part) for part in output]).astype("float64")
        for output in zip(*parts, strict=True)
    ]
