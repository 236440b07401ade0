"""Options of training-aware compression."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kprune.arguments import number
from kprune.arguments import whole

DEFAULTS: dict[str, Any] = {
    "data": None,
    "epochs": 1,
    "learning_rate": 1e-4,
    "loss": None,
    "clusters": None,
}
"""Options that the `.tflite` format takes, with their defaults."""


def is_wanted(quantize: str | None, options: Mapping[str, Any]) -> bool:
    """Return whether TF-MOT is needed.

    Args:
        quantize: Kind of quantisation.
        options: Options of the format.

    Returns:
        True for quantisation-aware training and for clustering.
    """
    return quantize == "qat" or options["clusters"] is not None


def check(
    model: keras.Model, quantize: str | None, options: Mapping[str, Any]
) -> None:
    """Raise if options are wrong or cannot be combined.

    Args:
        model: The model to export.
        quantize: Kind of quantisation.
        options: Options of the format.

    Raises:
        ValueError: The message names the argument and the way out.
        TypeError: `data` can be read only once.
    """
    _check_values(options)
    trained = options["data"] is not None
    if not is_wanted(quantize, options):
        _refuse_idle(options, "quantize='qat' or clusters=16")
        return
    if quantize == "qat" and not trained:
        raise ValueError(
            '`quantize="qat"` trains the model and needs `data` with targets: '
            "export(..., data=(x_train, y_train)). Without any, use "
            '`quantize="int8"`, which needs `calibration`.'
        )
    if not trained:
        _refuse_idle(options, "`data`")
        return
    _check_data(options["data"])
    if options["loss"] is None and not _has_loss(model):
        raise ValueError(
            f"Model {model.name!r} is not compiled with a loss, so there is "
            "nothing to train it by. Pass one: export(..., "
            'loss="sparse_categorical_crossentropy"), or call model.compile '
            "first."
        )


def _check_data(data: Any) -> None:
    if hasattr(data, "__next__"):
        raise TypeError(
            "`data` is an iterator, which can be read only once, but calibration "
            "and training read it several times. Pass a function that returns "
            "one, arrays `(x, y)`, or batches of them in a tf.data.Dataset or a "
            "keras.utils.PyDataset."
        )


def _has_loss(model: keras.Model) -> bool:
    return bool(model.compiled and getattr(model, "loss", None) is not None)


def _check_values(options: Mapping[str, Any]) -> None:
    clusters, epochs = options["clusters"], options["epochs"]
    rate = options["learning_rate"]
    if clusters is not None:
        of, why = "different weights in each kernel", ", for example 16"
        whole(clusters, "Clustering", "clusters", 2, of, why, True)
    whole(epochs, "Training", "epochs", exact=True)
    number(rate, "Training", "learning_rate", above=0)


def _refuse_idle(options: Mapping[str, Any], needed: str) -> None:
    """Raise if an option is given that would have no effect."""
    for name in ("data", "epochs", "learning_rate", "loss"):
        given, default = options[name], DEFAULTS[name]
        if given is not default and (default is None or given != default):
            raise ValueError(
                f"`{name}` is for training, and nothing is trained without "
                f"{needed}. Leave `{name}` out, or pass {needed} too."
            )
