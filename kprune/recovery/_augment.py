"""Augmentation of samples for label-free training."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from kprune.graph.values import read

AUTO = "auto"
SHIFT = 8
"""Images are shifted by up to one eighth of their size."""


class Augment:
    """Augments batches, and mixes samples in some of them.

    Args:
        augment: See `kprune.recovery.Mimic`.
        mixup: Share of the batches in which samples are mixed.
        inputs: Samples, from which `"auto"` recognises images.
    """

    def __init__(self, augment: Any, mixup: float, inputs: Any) -> None:
        if augment == AUTO:
            augment = flip_and_crop if _is_image(inputs) else None
        if not (augment is None or callable(augment)):
            raise TypeError(
                'Mimic needs "auto", None, a function f(x, rng) -> x, or a Keras '
                f"layer or model as `augment`. Received: {augment!r}."
            )
        self._augment = augment
        self._mixup = mixup

    def __call__(self, x: Any, rng: np.random.Generator) -> Any:
        """Return an augmented batch of inputs.

        Args:
            x: Array or structure of arrays of shape `(n, ...)`.
            rng: Random generator; Keras layers use their own.
        """
        if isinstance(self._augment, keras.layers.Layer):
            x = keras.tree.map_structure(read, self._augment(x, training=True))
        elif self._augment is not None:
            x = self._augment(x, rng)
        return mix(x, rng) if rng.random() < self._mixup else x


def flip_and_crop(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Flip images at random, and shift them by up to an eighth of their size.

    Gaps are filled by reflection, which suits both pixels and standardised
    values.

    Args:
        x: Images of shape `(n, height, width, channels)`, or channels first if
            that is Keras' image data format.
        rng: Random generator.
    """
    first = keras.config.image_data_format() == "channels_first"
    images = np.moveaxis(x, 1, -1) if first else x
    count, *sizes = images.shape[:3]
    index = [np.arange(count)[:, None, None]]
    for axis, size in enumerate(sizes):
        most = size // SHIFT
        shift = rng.integers(-most, most + 1, (count, 1))
        places = np.abs(shift + np.arange(size))
        places = np.where(places >= size, 2 * (size - 1) - places, places)
        if axis:
            flipped = rng.random((count, 1)) < 0.5
            places = np.where(flipped, places[:, ::-1], places)
        index.append(places[:, :, None] if not axis else places[:, None, :])
    images = images[tuple(index)]
    return np.moveaxis(images, -1, 1) if first else images


def mix(x: Any, rng: np.random.Generator) -> Any:
    """Mix each sample with another one, with a weight uniform from 0 to 1.

    Args:
        x: Array or structure of arrays of shape `(n, ...)`. If any has integers
            other than `uint8`, nothing is mixed.
        rng: Random generator.
    """
    arrays = keras.tree.flatten(x)
    if not all(a.dtype.kind == "f" or a.dtype == np.uint8 for a in arrays):
        return x
    weight = rng.random(len(arrays[0]))
    other = rng.permutation(len(weight))

    def mixed(a: np.ndarray) -> np.ndarray:
        shape = [-1] + [1] * (a.ndim - 1)
        kind = a.dtype if a.dtype.kind == "f" else np.dtype("float32")
        share = weight.astype(kind).reshape(shape)
        a = a.astype(kind)
        return share * a + (1 - share) * a[other]

    return keras.tree.map_structure(mixed, x)


def _is_image(inputs: Any) -> bool:
    arrays = keras.tree.flatten(inputs)
    if len(arrays) != 1 or arrays[0].ndim != 4:
        return False
    first = keras.config.image_data_format() == "channels_first"
    height, width = arrays[0].shape[2:] if first else arrays[0].shape[1:3]
    return min(height, width) >= SHIFT
