"""Fine-tune a re-created model with the loss of the Keras 3 model."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.data.arrays import Batch
from kprune.data.arrays import count
from kprune.data.source import Source
from kprune.export.signature import ModelSignature
from kprune.export.tfmot.packages import packages
from kprune.export.tfmot.recreate import flat_call

logger = logging.getLogger("kprune")

BATCH_SIZE = 64
"""Samples per step if `data` is arrays."""


def batches(
    signature: ModelSignature, options: Mapping[str, Any], epoch: int
) -> Iterator[Batch]:
    """Yield the batches of one epoch, with inputs as a flat list.

    Args:
        signature: The model's inputs.
        options: `data` (see `kprune.data.source.Source`; arrays are shuffled with
            the seed `epoch`) and `loss`, which takes the targets.
        epoch: Index of the epoch, from 0.

    Raises:
        ValueError: The data has no batches, no targets, or no end.
    """
    data, loss = options["data"], options["loss"]
    source = Source(data, BATCH_SIZE, signature.model)
    if source.endless:
        raise ValueError(
            "`data` never ends, so an epoch would not either. Limit it with "
            "`data.take(steps)`, or with its `__len__`."
        )
    if source.size is not None:
        # A smaller last batch would be traced again.
        whole = source.size // BATCH_SIZE * BATCH_SIZE
        source = source.sample(whole or source.size, epoch)
    for x, y, weight in source.labelled("Training", sys.maxsize, loss):
        count((x, y))
        flat = [
            array.astype(spec.dtype)
            for array, spec in zip(
                keras.tree.flatten(x), signature.inputs, strict=True
            )
        ]
        yield flat, y, weight
    if isinstance(data, keras.utils.PyDataset):
        data.on_epoch_end()


def train(
    model: Any, signature: ModelSignature, options: Mapping[str, Any]
) -> None:
    """Train a tf_keras model in place with Adam.

    Args:
        model: tf_keras model with the flat inputs and outputs of `signature`.
        signature: The Keras 3 model, whose loss is used.
        options: `data`, `epochs`, `learning_rate` and `loss`.

    Raises:
        ValueError: The data does not fit, or the loss is not finite.
    """
    step = _train_step(model, signature, options)
    for epoch in range(options["epochs"]):
        losses = [
            float(step(batch)) for batch in batches(signature, options, epoch)
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
            lambda a: None if a is None else tf.convert_to_tensor(a), batch
        )
        if not started:
            # The first call runs eagerly: a loss creates its variables in it, and
            # errors are easier to read outside of a graph.
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
        # A second model leaves the user's compiled model unchanged.
        judge = keras.Model(model.inputs, structure)
        judge.compile(loss=loss)

    def compute(y: Any, outputs: Sequence[Any], weight: Any) -> Any:
        packed = keras.tree.pack_sequence_as(structure, list(outputs))
        return judge.compute_loss(y=y, y_pred=packed, sample_weight=weight)

    return compute
