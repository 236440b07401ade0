"""Models to re-create in tf_keras, each with the layers that are embedded."""

from __future__ import annotations

import keras
import numpy as np
from export import zoo
from keras import layers
from keras import ops


def lively(model: keras.Model) -> keras.Model:
    """The model with weights in which every mistake shows."""
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights(
                [rng.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()]
            )
        elif getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(size=layer.bias.shape))
    return model


def convolutions():
    x = inputs = keras.Input((16, 16, 4))
    x = layers.Conv2D(8, 3, dilation_rate=2, activation="relu")(x)
    x = layers.DepthwiseConv2D((3, 3), padding="same", depth_multiplier=2)(x)
    x = layers.BatchNormalization(epsilon=0.1, scale=False)(x)
    x = layers.SeparableConv2D(6, 3, 2, padding="same", activation="tanh")(x)
    x = layers.Conv2DTranspose(5, 3, strides=2, padding="same")(x)
    x = layers.Conv2D(10, 3, groups=5, padding="same")(x)
    return keras.Model(inputs, x)


def shapes():
    x = inputs = keras.Input((16, 16, 4))
    x = layers.ZeroPadding2D(((1, 2), (0, 3)))(x)
    x = layers.AveragePooling2D(3, 2, padding="same")(x)
    x = layers.UpSampling2D(2, interpolation="bilinear")(x)
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    x = layers.Cropping2D(1)(x)
    y = layers.GlobalMaxPooling2D()(x)
    x = layers.Dropout(0.5)(layers.Reshape((-1, 4))(x))
    x = layers.Conv1D(6, 3, padding="causal")(x)
    x = layers.Flatten()(layers.Permute((2, 1))(x))
    return keras.Model(inputs, layers.Dense(3)(layers.Concatenate()([x, y])))


def squeeze_excite():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3)(x)
    y = layers.GlobalAveragePooling2D(keepdims=True)(x)
    y = layers.Conv2D(2, 1, activation="relu")(y)
    y = layers.Conv2D(8, 1, activation="sigmoid")(y)
    return keras.Model(inputs, layers.Multiply(name="scale")([x, y]))


def option_a():
    """The shortcut of CIFAR ResNets, in `keras.ops`."""
    inputs = keras.Input((8, 8, 4))
    x = layers.ReLU()(layers.Conv2D(4, 3, padding="same")(inputs))
    y = layers.Conv2D(8, 3, strides=2, padding="same")(x)
    x = ops.pad(x[:, ::2, ::2, :], [[0, 0], [0, 0], [0, 0], [2, 2]])
    x = ops.relu(x + y)
    x = ops.concatenate([x, ops.reshape(y, (-1, 4, 4, 8))], axis=-1)
    return keras.Model(inputs, ops.multiply(ops.add(x, 1.5), 0.5))


def siamese():
    """Shared layers and models, dictionaries, an input that is an output."""
    dense = layers.Dense(8, activation="relu")
    net = keras.Sequential([keras.Input((8,)), dense, layers.Dense(8)])
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    twice = dense(dense(a))
    return keras.Model(
        {"b": b, "a": a},
        {"sum": net(a) + net(b), "twice": twice, "same": a},
    )


def names():
    """Names that layers get which are split; outputs that are one tensor."""
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="elu", name="c_activation")(x)
    x = layers.Conv2D(4, 3, activation="elu", name="c")(x)
    x = layers.Conv2D(4, 1, name="c_activation_activation")(x)
    x = layers.Conv2D(4, 1, activation=layers.ELU(), name="a-b")(x)
    return keras.Model(inputs, [x, x])


def two_levels():
    inner = keras.Sequential(
        [keras.Input((6, 6, 3)), layers.Conv2D(4, 3), layers.ReLU(6.0)],
        name="inner",
    )
    x = keras.Input((6, 6, 3))
    outer = keras.Model(x, layers.BatchNormalization()(inner(x)), name="outer")
    y = keras.Input((6, 6, 3))
    # Layers of nested models may have the same name.
    z = layers.Conv2D(2, 1, name=inner.layers[0].name)(outer(y))
    return keras.Model(y, z)


def activations():
    x = inputs = keras.Input((8,))
    names = ("relu", "relu6", "gelu", "silu", "tanh", "sigmoid", "softmax")
    for name in names:
        x = layers.Dense(8, activation=name)(x)
        x = layers.Activation(name)(x)
    x = layers.LeakyReLU(0.3)(layers.Softmax()(x))
    return keras.Model(inputs, x)


def other_activations():
    x = inputs = keras.Input((8,))
    x = layers.Dense(8, activation="hard_swish", name="inside")(x)
    x = layers.Activation("hard_sigmoid", name="behind")(x)
    x = layers.ReLU(max_value=0.4, name="limited")(x)
    x = layers.ReLU(negative_slope=0.1, threshold=0.2, name="bent")(x)
    x = layers.Dense(4, activation=lambda t: t * t, name="own")(x)
    return keras.Model(inputs, x)


@keras.saving.register_keras_serializable("tests")
class Scaled(layers.Layer):
    """A custom layer with a weight and a mode for training."""

    def build(self, shape):
        self.scale = self.add_weight(shape=shape[-1:], initializer="normal")

    def call(self, x, training=None):
        return x * (100.0 if training else self.scale)


def custom():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3)(x)
    x = Scaled(name="scaled")(x)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(inputs, layers.Conv2D(2, 1)(x))


def channels_first():
    inputs = keras.Input((3, 8, 8))
    x = layers.Conv2D(4, 3, data_format="channels_first", name="c")(inputs)
    return keras.Model(inputs, layers.Flatten()(x))


MODELS = {
    "conv-bn-relu": (zoo.conv_net, set()),
    "convolutions": (convolutions, set()),
    "shapes": (shapes, set()),
    "squeeze-excite": (squeeze_excite, {"scale"}),
    "option A": (option_a, {"get_item", "pad", "reshape", "add_1", "multiply"}),
    "siamese": (siamese, set()),
    "names": (names, {"c", "c_activation", "a-b"}),
    "nested": (zoo.nested, set()),
    "two levels": (two_levels, set()),
    "activations": (activations, set()),
    "other activations": (
        other_activations,
        {"inside", "behind", "limited", "bent", "own"},
    ),
    "custom": (custom, {"scaled", "norm"}),
    "channels first": (channels_first, {"c"}),
    "constants": (zoo.normalized, {"normalization"}),
    "attention": (
        zoo.gelu_attention,
        {"multi_head_attention", "layer_normalization"},
    ),
    "token input": (lambda: zoo.two_inputs("dict"), {"embedding", "lstm"}),
    "float16": (lambda: zoo.mixed("mixed_float16"), set()),
}
