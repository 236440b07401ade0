"""Check that a session has the samples or the loss that a method needs."""

from __future__ import annotations

from typing import Any

import keras

from kprune.data.arrays import repeated
from kprune.data.inputs import fixed_batch


def require_data(session: Any, owner: str) -> None:
    """Raise unless there are samples.

    Args:
        session: A `kprune.Session`, or `None`.
        owner: What needs the samples, for messages.

    Raises:
        ValueError: There are no samples.
    """
    if session is None or session.source is None:
        raise ValueError(
            f"{owner} runs the model on samples, but there are none. Pass "
            "a few hundred as `data=`: arrays x or (x, y), a tf.data.Dataset, "
            "a keras.utils.PyDataset or a generator."
        )


def require_loss(session: Any, owner: str) -> None:
    """Raise unless there is a compiled loss and samples to measure it on.

    Args:
        session: A `kprune.Session`, or `None`.
        owner: What needs the loss, for messages.

    Raises:
        ValueError: There are no samples, or no loss, or the loss cannot take
            the targets.
    """
    if session is None or session.source is None:
        raise ValueError(
            f"{owner} measures the loss on samples, but there are none. Pass a "
            "few hundred with their targets as `data=`: arrays (x, y), a "
            "tf.data.Dataset, a keras.utils.PyDataset or a generator."
        )
    model = session.masked
    if not model.compiled or getattr(model, "loss", None) is None:
        raise ValueError(
            f"{owner} measures the loss, but the model is not compiled with one. "
            "Call model.compile(loss=...) first, also for a model with its own "
            "train_step."
        )
    session.source.check_targets()


def require_any_batch(model: keras.Model, x: Any) -> None:
    """Raise if a model takes only the batches that its inputs are declared for.

    Most models with a batch size in their inputs take other batches too.

    Args:
        model: Any model.
        x: Samples that it takes.

    Raises:
        ValueError: The model fails on a batch of another size, or returns another
            number of outputs.
    """
    size = fixed_batch(model)
    if size is None:
        return
    more = size + 1
    x = keras.tree.map_structure(
        lambda a: None if a is None else repeated(a, more), x
    )
    cause = None
    try:
        with keras.StatelessScope():
            outputs = keras.tree.flatten(model(x, training=False))
    except Exception as error:
        outputs, cause = [], error
    if cause is not None or any(y.shape[:1] != (more,) for y in outputs):
        raise ValueError(
            f"Model '{model.name}' takes only batches of {size} samples, but batches "
            "of other sizes are needed to measure or train it. Build it with "
            "keras.Input(shape) in place of a batch size, and with -1 or "
            "keras.ops.shape(x)[0] where layers or operations name the number of "
            "samples."
        ) from cause


def takes_any_batch(model: keras.Model, x: Any) -> bool:
    """Return whether a model takes other batches than its inputs are declared for.

    Args:
        model: Any model.
        x: Samples that it takes.
    """
    try:
        require_any_batch(model, x)
    except ValueError:
        return False
    return True
