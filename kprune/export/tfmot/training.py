"""Fine-tuning a re-created model by the loss of the Keras 3 model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from kprune.export.samples import collect_samples
from kprune.export.signature import ModelSignature
from kprune.export.tfmot.packages import packages
from kprune.export.tfmot.recreate import flat_call

logger = logging.getLogger("kprune")

BATCH_SIZE = 64
"""Samples per step if `data` is arrays."""


class Batch(NamedTuple):
    """The data of one training step.

    Args:
        x: One array per input.
        y: Targets, as the loss takes them.
        weight: Sample weights, or None.
    """

    x: list[np.ndarray]
    y: Any
    weight: Any


def batches(
    signature: ModelSignature, data: Any, epoch: int
) -> Iterator[Batch]:
    """Read training data for one epoch.

    Args:
        signature: The model's inputs.
        data: A tuple of arrays `(x, y)` or `(x, y, sample_weight)`, which is
            shuffled by `epoch`; or an iterable of such batches: a
            `tf.data.Dataset` or a `keras.utils.PyDataset`.
        epoch: Number of the epoch, from 0.

    Yields:
        The batches.

    Raises:
        ValueError: If there are no batches, no targets, or no end.
    """
    empty = True
    for x, y, weight in _read(signature, data, epoch):
        if y is None:
            raise ValueError(
                "`data` has inputs but no targets. Pass (x, y), or batches "
                "of (x, y)."
            )
        flat = collect_samples(signature, x, limit=sys.maxsize)
        if len(flat[0]) != len(keras.tree.flatten(y)[0]):
            raise ValueError(
                f"`data` has {len(flat[0])} inputs and "
                f"{len(keras.tree.flatten(y)[0])} targets in one batch. Pass "
                "one target per input, in batches."
            )
        empty = False
        yield Batch(flat, y, weight)
    if empty:
        raise ValueError(
            f"`data` yields no batches in epoch {epoch + 1}. Pass at least one "
            "batch, from something that can be read once per epoch."
        )


def _read(signature: ModelSignature, data: Any, epoch: int) -> Iterator[Any]:
    if isinstance(data, tuple) and len(data) in (2, 3):
        yield from _shuffled(signature, data, epoch)
    elif isinstance(data, keras.utils.PyDataset):
        if data.num_batches is None:
            raise ValueError(_ENDLESS.format("its `__len__`"))
        for index in range(data.num_batches):
            yield keras.utils.unpack_x_y_sample_weight(data[index])
        data.on_epoch_end()
    else:
        cardinality = getattr(data, "cardinality", lambda: 0)
        if int(cardinality()) == -1:
            raise ValueError(_ENDLESS.format("`data.take(steps)`"))
        for item in data:
            yield keras.utils.unpack_x_y_sample_weight(item)


_ENDLESS = "`data` never ends, so an epoch would not either. Limit it with {}."


def _shuffled(
    signature: ModelSignature, data: tuple[Any, ...], epoch: int
) -> Iterator[Any]:
    x, y, weight = keras.utils.unpack_x_y_sample_weight(data)
    if y is None:
        yield x, None, None
        return
    flat = collect_samples(signature, x, limit=sys.maxsize)
    count = len(flat[0])
    targets = (y, weight)
    sizes = {len(a) for a in keras.tree.flatten(targets) if a is not None} | {
        count
    }
    if len(sizes) != 1:
        raise ValueError(
            f"`data` has {count} inputs, and targets or weights of length "
            f"{sorted(sizes - {count})}. Pass one target per input."
        )
    order = np.random.default_rng(epoch).permutation(count)
    # A last smaller batch would be traced again.
    steps = max(1, count // BATCH_SIZE)
    for step in range(steps):
        rows = order[step * BATCH_SIZE : (step + 1) * BATCH_SIZE]
        part = keras.tree.map_structure(
            lambda a, rows=rows: None if a is None else np.asarray(a)[rows],
            targets,
        )
        inputs = [array[rows] for array in flat]
        yield (inputs[0] if len(inputs) == 1 else inputs), *part


def train(
    model: Any, signature: ModelSignature, options: Mapping[str, Any]
) -> None:
    """Train a tf_keras model in place with Adam.

    Args:
        model: tf_keras model with the flat inputs and outputs of `signature`.
        signature: The Keras 3 model, whose loss is used.
        options: `data`, `epochs`, `learning_rate` and `loss`.

    Raises:
        ValueError: If the data does not fit, or the loss is not finite.
    """
    step = _train_step(model, signature, options)
    for epoch in range(options["epochs"]):
        losses = [
            float(step(batch))
            for batch in batches(signature, options["data"], epoch)
        ]
        loss = float(np.mean(losses))
        logger.info(
            "export: epoch %d of %d: loss %.4f",
            epoch + 1,
            options["epochs"],
            loss,
        )
        if not np.isfinite(loss):
            raise ValueError(
                f"The loss became {loss} in epoch {epoch + 1}. Pass a smaller "
                f"`learning_rate` than {options['learning_rate']}, and check "
                "`data`."
            )


def _train_step(
    model: Any, signature: ModelSignature, options: Mapping[str, Any]
) -> Any:
    import tensorflow as tf

    tf_keras = packages().tf_keras
    optimizer = tf_keras.optimizers.Adam(options["learning_rate"])
    # A weight that is used twice is listed twice.
    variables = list({id(v): v for v in model.trainable_variables}.values())
    loss_of = _loss(signature, options["loss"])

    @tf.function(reduce_retracing=True, autograph=False)
    def compiled(x: Any, y: Any, weight: Any) -> Any:
        with tf.GradientTape() as tape:
            outputs = flat_call(model, x, training=True)
            loss = loss_of(y, outputs, weight)
        gradients = tape.gradient(loss, variables)
        pairs = zip(gradients, variables, strict=True)
        optimizer.apply_gradients([(g, v) for g, v in pairs if g is not None])
        return loss

    started = False

    def step(batch: Batch) -> Any:
        nonlocal started
        x, y, weight = keras.tree.map_structure(
            lambda a: None if a is None else tf.convert_to_tensor(a),
            tuple(batch),
        )
        if not started:
            # A loss makes its variables when it is first called, and errors
            # read better outside of a graph.
            loss_of(y, flat_call(model, x, training=False), weight)
            started = True
        return compiled(x, y, weight)

    return step


def _loss(signature: ModelSignature, loss: Any) -> Any:
    """Return the loss as a function of targets, flat outputs and weights."""
    model = signature.model
    sequential = isinstance(model, keras.Sequential)
    structure = model.outputs[0] if sequential else model.output
    judge = model
    if loss is not None:
        # The user's model stays compiled as it is.
        judge = keras.Model(model.inputs, structure)
        judge.compile(loss=loss)

    def compute(y: Any, outputs: Sequence[Any], weight: Any) -> Any:
        packed = keras.tree.pack_sequence_as(structure, list(outputs))
        return judge.compute_loss(y=y, y_pred=packed, sample_weight=weight)

    return compute
