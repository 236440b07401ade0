"""The loss of a masked model on a fixed subset, measured again and again."""

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
"""How many draws of samples are held in memory at a time."""

Prepared = list[tuple[int, Any]]
"""Batches as tensors, each with its number of samples."""


class LossProbe:
    """Mean compiled loss of a masked model, under the masks it has now.

    The model runs in inference mode; penalties and added losses are left out.
    What is compiled once serves all masks, since they are weights. Nothing of
    the model changes: not its state, metrics, optimizer nor functions. See
    `Session.loss`.

    Args:
        masked: A model made by `kprune.wrap`, compiled with a loss.
    """

    def __init__(self, masked: keras.Model) -> None:
        self.loss = masked.loss
        self._model = _Stateless.of(masked)
        self._of_outputs = _OfOutputs(self._model)
        self._drawn: dict[Any, Prepared] = {}

    def draw(self, source: Source, samples: int | None, seed: Any) -> Prepared:
        """Return samples ready to be measured on; the same for equal arguments.

        Args:
            source: All samples.
            samples: How many to draw at random. Defaults to all.
            seed: Of the draw.

        Raises:
            ValueError: The samples have no targets, or the loss cannot take them.
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
        """Return the mean loss under the model's present masks."""
        total = 0.0
        for size, batch in batches:
            total += size * _loss(self._model, *batch)
        return total / sum(size for size, _ in batches)

    def of_outputs(self, outputs: Sequence[Any], y: Any, weight: Any) -> float:
        """Return the mean loss of a batch from the outputs of the model.

        Args:
            outputs: One array for each of `model.outputs`.
            y: Targets.
            weight: Weights of the samples, or `None`.
        """
        return _loss(self._of_outputs, list(outputs), y, weight)


class _Stateless(InferenceModel):
    """The same layers, with a loss tracker of its own and no other state."""

    @classmethod
    def of(cls, model: Any) -> _Stateless:
        inputs, outputs = structures(model)
        probe = cls(inputs=inputs, outputs=outputs, name="loss_probe")
        # Without a scope that casts, `call` sees variables as they are.
        probe.dtype_policy = probe.variable_dtype
        _compile_like(probe, model)
        return probe

    @property
    def metrics(self) -> list[Any]:
        # Not those of the layers inside, which are the user's.
        return self._get_own_metrics()

    def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
        # What layers write in inference mode too (counters) ends in the scope.
        # It replaces the one around it, and so has to know all values.
        values = [(v, v.value) for v in self.variables]
        with keras.StatelessScope(state_mapping=values):
            return super().call(inputs, mask=mask)


class _OfOutputs(keras.Model):
    """A model that gives what it is given, with the loss of another.

    Args:
        model: The other model, compiled.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(autocast=False, name="loss_of_outputs")
        # Not the structure itself, whose dictionaries Keras would replace.
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
    # Before Keras 3.15, the loss of a batch included those before it.
    model.reset_metrics()
    with undivided():
        logs = model.test_on_batch(x, y, weight, return_dict=True)
    return float(logs["loss"])


def _tensor(array: Any) -> Any:
    """Hold numbers where the model computes; strings stay as they are."""
    if array is None or array.dtype.kind not in "fiub":
        return array
    return ops.convert_to_tensor(array)
