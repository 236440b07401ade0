"""Access to the `fit` that a callback runs in, and to its other callbacks."""

from __future__ import annotations

import functools
import inspect
import logging
import traceback
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Mapping
from collections.abc import Sequence
from typing import Any

import keras

from kprune.masking import trained_part

_log = logging.getLogger("kprune")

READERS = (
    keras.callbacks.CSVLogger,
    keras.callbacks.RemoteMonitor,
    keras.callbacks.TensorBoard,
)
"""Callbacks that record the `logs` when they are called."""


def require_fit(callback: keras.callbacks.Callback) -> None:
    """Raise if a callback does not know its model and the number of epochs.

    Raises:
        RuntimeError: If it is called outside of `fit` without them.
    """
    if callback.model is None or not isinstance(callback.params, dict):
        raise outside_fit(callback)


def outside_fit(callback: keras.callbacks.Callback) -> RuntimeError:
    """Return the error for a callback that is used outside of `fit`."""
    return RuntimeError(
        f"{type(callback).__name__} acts inside `fit`: pass it as fit(..., "
        "callbacks=[...]). In a custom training loop, wrap it in "
        "keras.callbacks.CallbackList([callback], model=model, epochs=epochs), "
        "and call the methods of that."
    )


def undo_if_interrupted(
    callback: keras.callbacks.Callback, undo: Callable[[], None]
) -> None:
    """Let the next `fit` undo what a callback changes about a model during `fit`.

    Keras does not tell callbacks that `fit` was interrupted, by Ctrl-C or an error.

    Args:
        callback: The callback, while it is part of a `fit`.
        undo: What to do unless `completed` is called before.
    """
    for model in _models(callback):
        present = vars(model).get("fit")
        if not isinstance(present, _Fit):
            # An attribute of the instance hides the method of the class.
            present = vars(model)["fit"] = _Fit(model)
        present.left[callback] = callback.params, undo


def completed(callback: keras.callbacks.Callback) -> None:
    """Leave nothing to undo, because a callback has done so itself."""
    for model in _models(callback):
        present = vars(model).get("fit")
        if isinstance(present, _Fit):
            present.left.pop(callback, None)
            present.remove()


def undo_interrupted(callback: keras.callbacks.Callback) -> None:
    """Undo what interrupted training has left, when a callback begins another one.

    All callbacks of a `fit` are given the same object as `params`.
    """
    for model in _models(callback):
        present = vars(model).get("fit")
        if isinstance(present, _Fit):
            present.undo(callback.params)


class _Fit:
    """The `fit` of a model that callbacks have changed.

    Args:
        model: The model.
    """

    copied = False
    """Read by `kprune.wrap` and `kprune.rebuild`."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._own = vars(model).get("fit")
        self._original = model.fit
        self.left: dict[Any, tuple[Any, Callable[[], None]]] = {}
        functools.update_wrapper(self, self._original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _is_fitting(self._model):
            self.undo(None)
        return self._original(*args, **kwargs)

    def undo(self, current: Any) -> None:
        """Undo what is left, but for that of the `fit` with these `params`."""
        for callback, (params, undo) in list(self.left.items()):
            if params is not current:
                # Not by `completed`: the callback may have another model by now.
                self.left.pop(callback, None)
                undo()
        self.remove()

    def remove(self) -> None:
        """Make this the original method again, if there is nothing to undo."""
        if not self.left and vars(self._model).get("fit") is self:
            vars(self._model).pop("fit")
            if self._own is not None:
                vars(self._model)["fit"] = self._own


def _is_fitting(model: Any) -> bool:
    """Return whether this is called inside of a `fit` of the model or its Distiller."""
    for frame, _ in traceback.walk_stack(inspect.currentframe()):
        owner = frame.f_locals.get("self")
        if frame.f_code.co_name == "fit" and isinstance(owner, keras.Model):
            if model in (owner, trained_part(owner)):
                return True
    return False


def _models(callback: keras.callbacks.Callback) -> list[Any]:
    """Return the model in training and, of a Distiller, also the student."""
    model = callback.model
    part = trained_part(model)
    return [model] if part is model else [model, part]


def companions(
    callback: keras.callbacks.Callback,
) -> list[keras.callbacks.Callback]:
    """Return all callbacks of the current `fit`, in order.

    Keras gives a callback no access to the others, so the list that is calling it
    is looked up on the stack. The result is empty if there is none.
    """
    for frame, _ in traceback.walk_stack(inspect.currentframe()):
        owner = frame.f_locals.get("self")
        if isinstance(owner, keras.callbacks.CallbackList):
            return list(owner.callbacks)
    return []


def warn_of_order(
    callback: keras.callbacks.Callback,
    others: Iterable[keras.callbacks.Callback],
    names: Iterable[str],
) -> None:
    """Warn about callbacks that will not see what one adds to `logs`.

    Args:
        callback: The callback that adds to the logs at the end of each epoch.
        others: All callbacks of the `fit`, in order.
        names: Names of what it adds.
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


def restoring_after(
    callback: keras.callbacks.Callback,
    others: Sequence[keras.callbacks.Callback],
) -> list[keras.callbacks.EarlyStopping]:
    """Return the callbacks that restore weights after a callback has ended.

    Args:
        callback: The callback.
        others: All callbacks of the `fit`, in order.
    """
    later = others[others.index(callback) :] if callback in others else ()
    return [
        other
        for other in later
        if isinstance(other, keras.callbacks.EarlyStopping)
        and other.restore_best_weights
    ]


def warn_of_restoring(
    callback: keras.callbacks.Callback,
    later: Iterable[keras.callbacks.EarlyStopping],
    met: Mapping[int, bool],
) -> None:
    """Warn if filters will come back when training has ended.

    Args:
        callback: The callback that has removed them.
        later: From `restoring_after`.
        met: Whether the target was met at the end of each epoch.
    """
    for other in later:
        if other.best_weights is not None and not met.get(
            other.best_epoch, True
        ):
            _log.warning(
                "EarlyStopping restores epoch %d, which was before the pruning target "
                "was reached: filters come back. Let it begin later "
                "(start_from_epoch), and list it before %s.",
                other.best_epoch + 1,
                type(callback).__name__,
            )


class BestCheckpoints:
    """Tracks whether `ModelCheckpoint(save_best_only=True)` keeps a pruned epoch.

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
        """Record which checkpoints have been saved since the last call.

        Args:
            met: Whether the target was met at that time.
        """
        for number, other in enumerate(self._watched):
            if other.best != self._best[number]:
                self._best[number] = other.best
                self._met[number] = met

    def warn(self) -> None:
        """Warn about checkpoints of an epoch in which the target was not met."""
        for other, met in zip(self._watched, self._met, strict=True):
            if met is False:
                _log.warning(
                    "The epoch that ModelCheckpoint(save_best_only=True) keeps in "
                    "%r was before the pruning target was reached. Make pruning end "
                    "earlier, or use the checkpoint in a later fit.",
                    str(other.filepath),
                )
