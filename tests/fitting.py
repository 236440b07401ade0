"""A small net and data whose fits are quick and repeatable."""

from __future__ import annotations

import keras
import numpy as np


def small_net(width=16):
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(
        width, 3, padding="same", use_bias=False, name="conv1"
    )(inputs)
    x = keras.layers.BatchNormalization(name="norm1")(x)
    x = keras.layers.ReLU()(x)
    y = keras.layers.Conv2D(width, 3, padding="same", name="conv2")(x)
    x = keras.layers.Add()([x, y])
    x = keras.layers.DepthwiseConv2D(3, strides=2, name="depthwise")(x)
    x = keras.layers.Conv2D(width, 1, activation="relu", name="conv3")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))


def loss():
    return keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def arrays(count=48):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(count, 8, 8, 1)).astype("float32")
    return x, (x.mean((1, 2, 3)) > 0).astype("int64") + (x[:, 0, 0, 0] > 1)


class Batches(keras.utils.PyDataset):
    """The same batches in the same order, every epoch."""

    def __init__(self, batch, count):
        super().__init__()
        self._arrays = arrays(count)
        self._batch = batch

    @property
    def num_batches(self):
        return -(-len(self._arrays[0]) // self._batch)

    def __getitem__(self, index):
        part = slice(index * self._batch, (index + 1) * self._batch)
        return tuple(array[part] for array in self._arrays)


def dataset(batch=16, count=48):
    if keras.config.backend() != "tensorflow":
        return Batches(batch, count)
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(arrays(count)).batch(batch)
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.with_options(options)
