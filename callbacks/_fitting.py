"""The `fit` that a callback runs in, and the other callbacks of it."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterable
from typing import Any

import keras

_log = logging.getLogger("kprune")

READERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)
"""Callbacks that write down what `logs` hold when it is their turn."""


def require_fit(callback: keras.callbacks.Callback) -> None:
    """Raise unless a callback was told its model and the number of epochs.

    Raises:
        RuntimeError: It is called by hand without.
    """
    if callback.model is None or not isinstance(callback.params, dict):
        raise outside_fit(callback)


def outside_fit(callback: keras.callbacks.Callback) -> RuntimeError:
    """Return the error for a callback that is asked outside of `fit`."""
    return RuntimeError(
        f"{type(callback).__name__} acts inside `fit`: pass it as fit(..., "
        "callbacks=[...]). In a loop of your own, put it into "
        "keras.callbacks.CallbackList([callback], model=model, epochs=epochs), "
        "and call that."
    )


def companions(
    callback: keras.callbacks.Callback,
) -> list[keras.callbacks.Callback]:
    """Return all callbacks of the `fit` that calls one, in their order.

    Keras does not tell a callback of the others: the list that is calling it
    is looked up. Empty if there is none.
    """
    frame = inspect.currentframe()
    while frame is not None:
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return list(owner.callbacks)
        frame = frame.f_back
    return []


def warn_of_order(
    callback: keras.callbacks.Callback,
    others: Iterable[keras.callbacks.Callback],
    names: Iterable[str],
) -> None:
    """Warn of callbacks that will not see what one adds to `logs`.

    Args:
        callback: It adds to the logs at the end of each epoch.
        others: All callbacks of the `fit`, in their order.
        names: What it adds.
    """
    early = []
    for other in others:
        if other is callback:
            break
        if isinstance(other, READERS):
            early.append(type(other).__name__)
    else:
        return
    if early:
        _log.warning(
            "%s will not see %s: it comes before %s in `callbacks`. List %s first.",
            " and ".join(early),
            ", ".join(names),
            type(callback).__name__,
            type(callback).__name__,
        )


class BestCheckpoints:
    """Tells whether what `ModelCheckpoint(save_best_only=True)` keeps is pruned.

    Args:
        others: All callbacks of the `fit`.
    """

    def __init__(self, others: Iterable[keras.callbacks.Callback]) -> None:
        self._watched = [
            other
            for other in others
            if isinstance(other, keras.callbacks.ModelCheckpoint)
            and other.save_best_only
        ]
        self._best: list[Any] = [other.best for other in self._watched]
        self._met: list[bool | None] = [None] * len(self._watched)

    def look(self, met: bool) -> None:
        """Note which of them have saved since the last call.

        Args:
            met: Whether the target was met meanwhile.
        """
        for number, other in enumerate(self._watched):
            if other.best != self._best[number]:
                self._best[number] = other.best
                self._met[number] = met

    def warn(self) -> None:
        """Warn of those that keep an epoch short of the target."""
        for other, met in zip(self._watched, self._met, strict=True):
            if met is False:
                _log.warning(
                    "ModelCheckpoint(save_best_only=True) keeps in %r an epoch in "
                    "which the pruning target was not reached yet. Let pruning end "
                    "earlier, or give the checkpoint to another fit after it.",
                    str(other.filepath),
                )
