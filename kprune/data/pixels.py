"""Scale the pixels of image files to the range that a model was trained on."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.data.inputs import BATCH
from kprune.data.inputs import Input
from kprune.data.targets import chosen
from kprune.data.targets import class_indices

MODES = {
    "raw": "0 to 255",
    "unit": "0 to 1",
    "tf": "-1 to 1",
    "torch": "0 to 1, then normalised by the mean and deviation of ImageNet",
    "caffe": "blue first, less the mean of ImageNet",
}
"""Ranges of pixels; the last three are those of `keras.applications`."""

GUESS = "a guess, since nothing in the model shows which range it takes"
"""The reason given for a range that nothing supports."""

_ARITHMETIC = ("Divide", "Multiply", "Rescaling", "Subtract", "TrueDivide")
_PROBED = 64
_CLEAR = 0.2
"""Accuracy by which the best range must lead the second best."""


def as_images(x: Any, inputs: Sequence[Input]) -> np.ndarray | None:
    """Return samples as images with the axes that a model takes.

    Args:
        x: Samples in any form.
        inputs: The model's inputs.

    Returns:
        Array `(n, height, width, channels)`, with the channels first, or without
        them for a model that takes none; None if the samples are something else.
    """
    if len(inputs) != 1 or not isinstance(x, np.ndarray):
        return None
    if inputs[0].readings(x.shape)[:1] != [BATCH]:
        return None
    images = inputs[0].ranked(x)
    return images if images.ndim in (3, 4) else None


def scaled(images: np.ndarray, mode: str, first: bool = False) -> np.ndarray:
    """Return images with their pixels in another range.

    Args:
        images: Images from 0 to 255. See `as_images`.
        mode: One of `MODES`.
        first: Whether the axis of channels comes first.

    Returns:
        float32 array of the same shape.
    """
    images = images.astype("float32")
    if mode == "raw":
        return images
    if mode == "unit":
        images /= 255.0
        return images
    result: np.ndarray = keras.applications.imagenet_utils.preprocess_input(
        images,
        data_format="channels_first" if first else "channels_last",
        mode=mode,
    )
    return result


def candidates(images: np.ndarray, first: bool = False) -> list[str]:
    """Return the ranges to try; some exist for colour images only."""
    colours = images.ndim == 4 and images.shape[1 if first else -1] == 3
    return [m for m in MODES if colours or m not in ("torch", "caffe")]


def channels_first(images: np.ndarray) -> bool:
    """Return whether the channel axis comes before height and width."""
    return images.shape[-1] not in (1, 3, 4)


def choose_range(
    images: np.ndarray,
    labels: np.ndarray | None,
    predict: Callable[[np.ndarray], np.ndarray],
    model: keras.Model | None = None,
) -> tuple[str, str]:
    """Choose the range of pixels that a model was trained on.

    The range is 0 to 255 if a `Rescaling` layer or other arithmetic comes before
    the first weights. Otherwise it is the range that best matches the statistics
    in the first `Normalization` or `BatchNormalization`. Without such a layer, it
    is the range in which the model is right most often, if there are labels.

    Args:
        images: A few hundred images `(n, ...)` from 0 to 255.
        labels: Targets, or None. Others than classes are not used.
        predict: Function that maps scaled images to outputs.
        model: The model, or None for an exported file.

    Returns:
        A key of `MODES`, and the reason for it in words.
    """
    if model is not None and _rescales(model):
        return "raw", "the model scales them itself"
    first = channels_first(images)
    modes = candidates(images, first)
    # Not the first ones: folders are read class by class.
    step = max(1, len(images) // _PROBED)
    images = images[::step][:_PROBED]
    if model is not None:
        distances = _distances(model, images, modes, first)
        if distances:
            best = min(distances, key=lambda mode: distances[mode])
            return best, "as the statistics in the model suggest"
    if labels is not None:
        labels = labels[::step][:_PROBED]
        right = accuracies(images, labels, predict, modes)
        ordered = sorted(right, key=lambda mode: -right[mode])
        if ordered and right[ordered[0]] - right[ordered[1]] >= _CLEAR:
            return ordered[
                0
            ], "the range in which the model is right most often"
    return "unit", GUESS


def accuracies(
    images: np.ndarray,
    labels: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    modes: list[str],
) -> dict[str, float]:
    """Return the accuracy of a classifier for each range.

    Args:
        images: Images `(n, ...)` from 0 to 255.
        labels: Targets, class indices or one-hot.
        predict: Function that maps scaled images to outputs.
        modes: Ranges to try.

    Returns:
        Accuracies from 0 to 1; empty if the outputs are not class scores, or the
        targets no classes.
    """
    found = {}
    for mode in modes:
        scores = predict(scaled(images, mode, channels_first(images)))
        classes = class_indices(labels, [scores])
        if classes is None:
            return {}
        found[mode] = float(np.mean(chosen(scores) == classes))
    return found


def operations(model: keras.Model) -> Iterator[tuple[Any, keras.Model]]:
    """Yield the operations of a model and its nested models in order.

    Yields:
        Each operation, and the model that directly holds it.
    """
    sequential = isinstance(model, keras.Sequential)
    for operation in model.layers if sequential else model.operations:
        nested = isinstance(operation, keras.Model)
        if nested and getattr(operation, "inputs", None):
            yield from operations(operation)
        else:
            yield operation, model


def _rescales(model: keras.Model) -> bool:
    """Return whether arithmetic comes before the first weights."""
    for operation, _ in operations(model):
        if type(operation).__name__ in _ARITHMETIC:
            return True
        if getattr(operation, "weights", None) and not _is_seed(operation):
            return False
    return False


def _is_seed(operation: Any) -> bool:
    # Random augmentation layers hold the state of a generator as a weight.
    return not operation.trainable_weights and not hasattr(operation, "mean")


def _distances(
    model: keras.Model, images: np.ndarray, modes: list[str], first: bool
) -> dict[str, float]:
    """Return how far each range is from the statistics of the model.

    Empty if the model has no statistics, or its values cannot be computed.
    """
    for operation, owner in operations(model):
        known = statistics(operation)
        if known is None:
            continue
        if len(owner.inputs) != 1 or not _takes(owner, images):
            return {}
        mean, variance, axis = known
        before = keras.Model(owner.inputs[0], operation.input)
        found = {}
        for mode in modes:
            values = keras.ops.convert_to_numpy(
                before(scaled(images, mode, first), training=False)
            )
            others = tuple(
                n for n in range(values.ndim) if n != axis % values.ndim
            )
            apart = (values.mean(others) - mean) ** 2 / variance
            wider = np.abs(np.log((values.var(others) + 1e-9) / variance))
            found[mode] = float(np.mean(apart + wider))
        return found
    return {}


def _takes(model: keras.Model, images: np.ndarray) -> bool:
    shape = model.inputs[0].shape
    return len(shape) == images.ndim and all(
        n in (None, m) for n, m in zip(shape[1:], images.shape[1:], strict=True)
    )


def statistics(layer: Any) -> tuple[np.ndarray, np.ndarray, int] | None:
    """Return the mean, variance and axis of a normalization layer.

    Returns:
        None for other layers, and for untrained ones.
    """
    if isinstance(layer, keras.layers.BatchNormalization):
        pair = (layer.moving_mean, layer.moving_variance)
        axis = layer.axis
    elif isinstance(layer, keras.layers.Normalization) and layer.axis == (-1,):
        pair, axis = (layer.mean, layer.variance), -1
    else:
        return None
    mean, variance = (keras.ops.convert_to_numpy(v).reshape(-1) for v in pair)
    if not mean.any() and (variance == 1).all():
        return None
    return mean, variance + 1e-9, axis


def guess_range(images: np.ndarray) -> str:
    """Return the range that images seem to be in; empty if it is unclear."""
    low, high = float(images.min()), float(images.max())
    if low >= 0:
        return "raw" if 1.5 < high <= 255 else "unit" if high <= 1 else ""
    return "tf" if -1 <= low and high <= 1 else ""


def unscaled(images: np.ndarray, mode: str) -> np.ndarray | None:
    """Scale pixels back to 0 to 255; None for the ImageNet ranges."""
    images = images.astype("float32")
    if mode == "raw":
        return images
    if mode == "unit":
        return images * 255.0
    return (images + 1.0) * 127.5 if mode == "tf" else None
