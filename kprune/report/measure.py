"""Measure predictions, accuracy, and the difference between two models."""

from __future__ import annotations

import keras
import numpy as np

from kprune.masking.devices import predict_batch


def predict(
    model: keras.Model, x: np.ndarray, batch_size: int = 250
) -> np.ndarray:
    """Run a model over many examples.

    Args:
        model: Keras model with one input and one output.
        x: Inputs `(n, ...)`.
        batch_size: Integer, examples per step.

    Returns:
        Outputs `(n, ...)`.

    Example:

    ```python
    scores = predict(model, x_test)
    ```
    """
    starts = range(0, len(x), batch_size)
    parts = [predict_batch(model, x[i : i + batch_size]) for i in starts]
    return np.concatenate([keras.ops.convert_to_numpy(part) for part in parts])


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    """Return the share of examples whose largest score is that of the right class.

    Args:
        scores: Array `(n, classes)`.
        labels: Integers `(n,)`.

    Returns:
        Number between 0 and 1.

    Example:

    ```python
    accuracy(predict(model, x_test), y_test)
    ```
    """
    return float(np.mean(scores.argmax(axis=-1) == labels.reshape(-1)))


def relative_difference(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the largest absolute difference as a share of the largest reference value.

    Args:
        reference: Array.
        other: Array of the same shape.

    Returns:
        Number, 0 for equal arrays.

    Example:

    ```python
    relative_difference(predict(masked, x), predict(compact, x))
    ```
    """
    scale = float(np.abs(reference).max()) or 1.0
    return float(np.abs(reference - other).max()) / scale
