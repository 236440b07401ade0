"""The loss of a masked model on a fixed subset, measured again and again."""

from __future__ import annotations

import math
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.data.needs import require_targets
from kprune.data.source import Batch
from kprune.data.source import Source
from kprune.session.gradients import InferenceModel
from kprune.session.gradients import structures

BATCH_NUMBERS = 2**20
"""Input numbers per batch at which larger batches stop paying off."""

BATCH_SAMPLES = 256
"""Most samples that are put together to one batch."""


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
        self._drawn: dict[Any, Prepared] = {}

    def draw(self, source: Source, samples: int | None, seed: Any) -> Prepared:
        """Return samples ready to be measured on; the same for equal arguments.

        Args:
            source: All samples.
            samples: How many to draw at random. Defaults to all.
            seed: Of the draw.

        Raises:
            ValueError: The samples have no targets.
        """
        key = (id(source), samples, samples and seed)
        if key not in self._drawn:
            if len(self._drawn) == DRAWS:
                del self._drawn[next(iter(self._drawn))]
            drawn = source if samples is None else source.sample(samples, seed)
            batches = list(drawn.batches())
            for _, y, _ in batches:
                require_targets(y, "The model")
            self._drawn[key] = [
                (_samples(batch), keras.tree.map_structure(_tensor, batch))
                for batch in _rebatch(batches)
            ]
        return self._drawn[key]

    def __call__(self, batches: Prepared) -> float:
        """Return the mean loss under the model's present masks."""
        total = 0.0
        for count, (x, y, weight) in batches:
            logs = self._model.test_on_batch(x, y, weight, return_dict=True)
            total += count * float(logs["loss"])
        return total / sum(count for count, _ in batches)


class _Stateless(InferenceModel):
    """The same layers, with a loss tracker of its own and no other state."""

    @classmethod
    def of(cls, model: Any) -> _Stateless:
        inputs, outputs = structures(model)
        probe = cls(inputs=inputs, outputs=outputs, name="loss_probe")
        # Without a scope that casts, `call` sees variables as they are.
        probe.dtype_policy = probe.variable_dtype
        probe.compile(
            optimizer=None,
            loss=model.loss,
            loss_weights=model._compile_loss._user_loss_weights,
            jit_compile=model.jit_compile,
            run_eagerly=model.run_eagerly,
        )
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


def _samples(batch: Batch) -> int:
    return next(len(a) for a in keras.tree.flatten(batch[0]) if a is not None)


def _tensor(array: Any) -> Any:
    """Hold numbers where the model computes; strings stay as they are."""
    if array is None or array.dtype.kind not in "fiub":
        return array
    return ops.convert_to_tensor(array)


def _rebatch(batches: list[Batch]) -> list[Batch]:
    """Put batches together to fewer, larger ones, of equal sizes if possible."""
    first = _samples(batches[0])
    numbers = sum(a.size for a in keras.tree.flatten(batches[0][0])) / first
    size = min(BATCH_SAMPLES, int(BATCH_NUMBERS / max(numbers, 1.0)))
    if size <= first or not _same_layout(batches):
        return batches
    whole = keras.tree.map_structure(
        lambda *parts: None if parts[0] is None else np.concatenate(parts),
        *batches,
    )
    count = _samples(whole)
    size = math.ceil(count / math.ceil(count / size))
    return [
        keras.tree.map_structure(
            lambda a, start=start: (
                None if a is None else a[start : start + size]
            ),
            whole,
        )
        for start in range(0, count, size)
    ]


def _same_layout(batches: list[Batch]) -> bool:
    def layout(batch: Batch) -> Any:
        structure = keras.tree.map_structure(lambda _: 0, batch)
        leaves = keras.tree.flatten(batch)
        shapes = [None if a is None else a.shape[1:] for a in leaves]
        return structure, shapes

    return all(layout(batch) == layout(batches[0]) for batch in batches)
