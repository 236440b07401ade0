"""The loss of a masked model on a fixed subset, measured again and again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING
from typing import Any

import keras
import numpy as np
from keras import ops

from kprune.data.source import Batch
from kprune.data.source import as_source
from kprune.data.source import check_steps
from kprune.masking import TemporaryMasks
from kprune.session.gradients import InferenceModel
from kprune.session.gradients import structures

if TYPE_CHECKING:
    from kprune.graph import ChannelGraph

BATCH_NUMBERS = 2**20
"""Input numbers per batch at which larger batches stop paying off."""

BATCH_SAMPLES = 256
"""Most samples that are put together to one batch."""


class LossProbe:
    """Mean compiled loss of a masked model, under the masks it has now.

    The model runs in inference mode on samples that are drawn once and held in
    memory; penalties and added losses are left out. What is compiled once
    serves all masks, since they are weights. Nothing of the model changes: not
    its state, metrics, optimizer nor functions.

    Args:
        masked: A model made by `kprune.wrap`, compiled with a loss.
        data: Samples with targets: arrays `(x, y)` or
            `(x, y, sample_weight)`, a `tf.data.Dataset`, a
            `keras.utils.PyDataset` or a generator of batches.
        steps: Batches to draw; `None` for all.
        graph: `kprune.trace(masked)`, if it is at hand already.

    Raises:
        ValueError: The model is not compiled with a loss, or `data` is missing
            or has no targets.

    Example:

    ```python
    probe = LossProbe(masked, (x_train[:1000], y_train[:1000]))
    increase = probe.trial({"conv1": [1, 0, 1, 1]}) - probe()
    ```
    """

    def __init__(
        self,
        masked: keras.Model,
        data: Any,
        steps: int | None = None,
        graph: ChannelGraph | None = None,
    ) -> None:
        check_loss(masked, data, type(self).__name__)
        check_steps(steps, type(self).__name__)
        self.loss = masked.loss
        self._temporary = TemporaryMasks(masked, graph)
        self._model = _Stateless.of(masked)
        self.load(data, steps)

    def load(self, data: Any, steps: int | None = None) -> None:
        """Measure on other samples from now on.

        Args:
            data: As of the constructor.
            steps: As of the constructor.
        """
        batches = list(as_source(data).batches(steps))
        if any(y is None for _, y, _ in batches):
            raise ValueError(
                "The loss needs targets, but `data` has inputs alone. Pass (x, y)."
            )
        self._batches = [
            (_samples(batch), keras.tree.map_structure(_tensor, batch))
            for batch in _rebatch(batches)
        ]

    @property
    def samples(self) -> int:
        """How many samples the loss is measured on."""
        return sum(count for count, _ in self._batches)

    def __call__(self) -> float:
        """Return the mean loss under the model's present masks."""
        total = 0.0
        for count, (x, y, weight) in self._batches:
            logs = self._model.test_on_batch(x, y, weight, return_dict=True)
            total += count * float(logs["loss"])
        return total / self.samples

    def trial(self, masks: Mapping[str, Any]) -> float:
        """Return the mean loss under other masks, which hold for this call alone.

        Args:
            masks: Group name -> vector `(group.size,)`, 0 = removed. Groups
                left out keep their masks.

        Raises:
            ValueError: A name is no prunable group, or a vector does not fit.
        """
        with self._temporary(masks):
            return self()


def check_loss(model: keras.Model | None, data: Any, owner: str) -> None:
    """Raise unless there is a compiled loss and data to measure it on.

    Args:
        model: The masked model, or `None` if there is none.
        data: What the user gave as `data=`.
        owner: What needs the loss, for messages.

    Raises:
        ValueError: What is missing, and how to give it.
    """
    if data is None:
        raise ValueError(
            f"{owner} measures the loss on samples, but there are none. Pass some "
            "hundred of them with their targets as `data=`: arrays (x, y), a "
            "tf.data.Dataset, a keras.utils.PyDataset or a generator."
        )
    if (
        model is None
        or not model.compiled
        or getattr(model, "loss", None) is None
    ):
        raise ValueError(
            f"{owner} measures the loss, but the model is not compiled with one. "
            "Call model.compile(loss=...) first; a model with its own train_step "
            "needs it too."
        )


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
