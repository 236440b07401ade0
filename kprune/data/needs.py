"""Check that a session has the samples or the loss that a method needs."""

from __future__ import annotations

from typing import Any


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
