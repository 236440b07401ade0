"""Repeated measurement of a masked model's loss on a fixed subset."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from kprune.data.arrays import count
from kprune.data.arrays import merged
from kprune.data.source import Source
from kprune.masking.devices import undivided
from kprune.session.gradients import InferenceModel
from kprune.session.gradients import structures

DRAWS = 2
"""Number of draws of samples kept in memory."""

Prepared = list[tuple[int, Any]]
"""Pairs of a number of samples and a batch, as tensors."""


class LossProbe:
    """Mean compiled loss of a masked model with its current masks.

    The model runs in inference mode, without penalties and added losses. It is
    compiled once for all masks, because masks are weights. The model's state,
    metrics, optimizer and functions do not change. See `Session.loss`.

    Args:
        masked: A model made by `kprune.wrap`, compiled with a loss.
    """

    def __init__(self, masked: keras.Model) -> None:
        self.loss = masked.loss
        self._model = _Stateless.of(masked)
        self._of_outputs = _OfOutputs(self._model)
        self._drawn: dict[Any, Prepared] = {}

    def draw(self, source: Source, samples: int | None, seed: Any) -> Prepared:
        """Return batches to measure the loss on, the same for equal arguments.

        Args:
            source: All samples.
            samples: Number of samples to draw at random. Defaults to all.
            seed: Seed of the draw.

        Raises:
            ValueError: If the samples have no targets, or the targets do not fit
                the loss.
        """
        key = (id(source), samples, samples and seed)
        if key not in self._drawn:
            if len(self._drawn) == DRAWS:
                del self._drawn[next(iter(self._drawn))]
            drawn = source if samples is None else source.sample(samples, seed)
            batches = list(drawn.labelled("The loss"))
            self._drawn[key] = [
                (count(batch[0]), keras.tree.map_structure(_tensor, batch))
                for batch in merged(batches)
            ]
        return self._drawn[key]

    def __call__(self, batches: Prepared) -> float:
        """Return the mean loss with the model's current masks."""
        total = 0.0
        for size, batch in batches:
            total += size * _loss(self._model, *batch)
        return total / sum(size for size, _ in batches)

    def of_outputs(self, outputs: Sequence[Any], y: Any, weight: Any) -> float:
        """Return the mean loss of a batch, given the outputs of the model.

        Args:
            outputs: One array per entry of `model.outputs`.
            y: Targets.
            weight: Weights of the samples, or `None`.
        """
        return _loss(self._of_outputs, list(outputs), y, weight)


class _Stateless(InferenceModel):
    """A model over the same layers, with its own loss tracker and no other state."""

    @classmethod
    def of(cls, model: Any) -> _Stateless:
        inputs, outputs = structures(model)
        probe = cls(inputs=inputs, outputs=outputs, name="loss_probe")
        # Without an autocast scope, `call` sees the variables uncast.
        probe.dtype_policy = probe.variable_dtype
        _compile_like(probe, model)
        return probe

    @property
    def metrics(self) -> list[Any]:
        # Without the metrics of the layers inside, which belong to the user.
        return self._get_own_metrics()

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        # The scope discards updates that layers make even in inference
        # (counters). It hides the outer scope, so it needs all values.
        values = [(v, v.value) for v in self.variables]
        with keras.StatelessScope(state_mapping=values):
            return super().call(inputs, mask=mask)


class _OfOutputs(keras.Model):
    """A model that returns its inputs, compiled with the loss of another one.

    Args:
        model: The other model, compiled.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(autocast=False, name="loss_of_outputs")
        # Stored in a function, because Keras would wrap dictionaries in it.
        structure = structures(model)[1]
        self._pack = functools.partial(keras.tree.pack_sequence_as, structure)
        self.output_names = model.output_names
        self.built = True
        _compile_like(self, model)

    def call(self, inputs: Any) -> Any:
        return self._pack(inputs)


def _compile_like(model: Any, other: Any) -> None:
    model.compile(
        optimizer=None,
        loss=other.loss,
        loss_weights=other._compile_loss._user_loss_weights,
        jit_compile=other.jit_compile,
        run_eagerly=other.run_eagerly,
    )


def _loss(model: Any, x: Any, y: Any, weight: Any) -> float:
    # Before Keras 3.15, the loss of a batch included that of earlier batches.
    model.reset_metrics()
    with undivided():
        logs = model.test_on_batch(x, y, weight, return_dict=True)
    return float(logs["loss"])


def _tensor(array: Any) -> Any:
    """Return numbers as a tensor on the model's device; strings are unchanged."""
    if array is None or array.dtype.kind not in "fiub":
        return array
    return ops.convert_to_tensor(array)
