"""Blocks of well-known networks in small."""

import keras
import pytest
from harness import run_pruning_test
from keras import layers
from keras import ops
from models import pooled_model


def conv(x, filters, name, size=1, activation="sigmoid", **kwargs):
    return layers.Conv2D(
        filters,
        size,
        padding="same",
        activation=activation,
        name=name,
        **kwargs,
    )(x)


def cbam():
    """Channel gate with a shared MLP, spatial gate over channel statistics."""
    x = inputs = keras.Input((6, 6, 3))
    x = conv(x, 8, "stem", activation="relu")
    squeeze = layers.Dense(3, activation="relu", name="squeeze")
    excite = layers.Dense(8, name="excite")
    average = excite(squeeze(layers.GlobalAveragePooling2D()(x)))
    largest = excite(squeeze(layers.GlobalMaxPooling2D()(x)))
    gate = layers.Activation("sigmoid")(layers.Add()([average, largest]))
    x = layers.Multiply()([x, layers.Reshape((1, 1, 8))(gate)])
    pooled = [
        ops.mean(x, axis=-1, keepdims=True),
        ops.max(x, axis=-1, keepdims=True),
    ]
    spatial = conv(layers.Concatenate()(pooled), 1, "spatial", 3)
    return pooled_model(
        inputs, conv(layers.Multiply()([x, spatial]), 5, "last")
    )


def unet():
    x = inputs = keras.Input((8, 8, 3))
    skips = []
    for n, filters in enumerate([4, 6]):
        x = conv(x, filters, f"down{n}", 3)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = conv(x, 8, "middle", 3)
    for n, filters in enumerate([6, 4]):
        x = layers.Conv2DTranspose(filters, 2, strides=2, name=f"up{n}")(x)
        x = layers.Concatenate()([x, skips.pop()])
        x = conv(x, filters, f"join{n}", 3)
    return keras.Model(inputs, conv(x, 2, "head", activation="softmax"))


def fpn():
    """Top-down sums, one shared head on every level."""
    inputs = keras.Input((8, 8, 3))
    c1 = conv(inputs, 4, "c1")
    c2 = conv(c1, 6, "c2", strides=2)
    p2 = conv(c2, 5, "lateral2", activation=None)
    p1 = conv(c1, 5, "lateral1", activation=None)
    p1 = layers.Add()([p1, layers.UpSampling2D()(p2)])
    tower = layers.Conv2D(
        4, 3, padding="same", activation="softplus", name="tower"
    )
    boxes = layers.Conv2D(2, 1, name="boxes")
    found = [layers.Reshape((-1, 2))(boxes(tower(p))) for p in (p1, p2)]
    return keras.Model(inputs, layers.Concatenate(axis=1)(found))


def shuffle(x, groups):
    _, height, width, channels = x.shape
    x = layers.Reshape((height, width, groups, channels // groups))(x)
    x = layers.Permute((1, 2, 4, 3))(x)
    return layers.Reshape((height, width, channels))(x)


def shufflenet():
    x = inputs = keras.Input((6, 6, 3))
    x = conv(x, 8, "stem")
    y = conv(x, 12, "reduce", groups=2)
    y = shuffle(y, 2)
    y = layers.DepthwiseConv2D(3, padding="same")(y)
    y = conv(y, 8, "expand", groups=2, activation=None)
    return pooled_model(
        inputs, conv(layers.ReLU()(layers.Add()([x, y])), 6, "last")
    )


def shufflenet_v2():
    """Channels are split, worked on and shuffled back, by ops."""
    x = inputs = keras.Input((6, 6, 3))
    x = conv(x, 8, "stem")
    for n in range(2):
        left, right = ops.split(x, 2, axis=-1)
        right = conv(right, 4, f"right{n}", 3)
        x = ops.concatenate([left, right], axis=-1)
        x = ops.reshape(x, (-1, 6, 6, 2, 4))
        x = ops.transpose(x, (0, 1, 2, 4, 3))
        x = ops.reshape(x, (-1, 6, 6, 8))
    return pooled_model(inputs, conv(x, 6, "last"))


def pixel_shuffle():
    x = inputs = keras.Input((4, 4, 3))
    x = conv(x, 12, "up")
    x = layers.Reshape((4, 4, 2, 2, 3))(x)
    x = layers.Permute((1, 3, 2, 4, 5))(x)
    x = layers.Reshape((8, 8, 3))(x)
    return pooled_model(inputs, conv(x, 4, "after"))


def c2f():
    """YOLO's C2f: split, a chain of bottlenecks, concatenation of all."""
    x = inputs = keras.Input((6, 6, 3))
    x = conv(x, 8, "enter")
    parts = [x[..., :4], x[..., 4:]]
    for n in range(2):
        y = conv(conv(parts[-1], 3, f"a{n}", 3), 4, f"b{n}", 3)
        parts.append(y + parts[-1])
    x = conv(layers.Concatenate()(parts), 6, "leave")
    return pooled_model(inputs, x)


def selective_kernel():
    """Softmax over branches, not over channels."""
    x = inputs = keras.Input((6, 6, 3))
    branches = [conv(x, 6, "three", 3), conv(x, 6, "five", 5)]
    total = layers.GlobalAveragePooling2D()(layers.Add()(branches))
    squeeze = layers.Dense(4, activation="relu", name="squeeze")(total)
    scores = ops.stack(
        [layers.Dense(6, name=f"score{n}")(squeeze) for n in range(2)], axis=1
    )
    weights = ops.softmax(scores, axis=1)
    chosen = ops.stack(branches, axis=1) * weights[:, :, None, None, :]
    return pooled_model(inputs, conv(ops.sum(chosen, axis=1), 5, "last"))


def generator():
    x = inputs = keras.Input((5,))
    x = layers.Dense(3 * 3 * 6, use_bias=False, name="dense")(x)
    x = layers.LeakyReLU()(layers.BatchNormalization()(x))
    x = layers.Reshape((3, 3, 6))(x)
    x = layers.Conv2DTranspose(4, 3, strides=2, name="up")(x)
    x = layers.BatchNormalization()(x)
    return keras.Model(inputs, conv(x, 2, "head", activation="tanh"))


def mixer():
    """Tokens and channels carry labels of their own on one tensor."""
    inputs = keras.Input((4, 6))
    x = layers.Dense(8, name="embed")(inputs)
    y = layers.Permute((2, 1))(x)
    y = layers.Dense(10, activation="gelu", name="tokens_up")(y)
    y = layers.Dense(4, name="tokens_down")(y)
    x = layers.Add()([x, layers.Permute((2, 1))(y)])
    y = layers.Dense(12, activation="sigmoid", name="channels_up")(x)
    x = layers.Add()([x, layers.Dense(8, name="channels_down")(y)])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def squeezed_attention():
    """Instance statistics by hand, and an L2-like normalised gate."""
    x = inputs = keras.Input((5, 5, 3))
    x = conv(x, 6, "a", activation="relu")
    x = x - ops.mean(x, axis=(1, 2), keepdims=True)
    x = x / (ops.sum(ops.abs(x), axis=-1, keepdims=True) + 1.0)
    return pooled_model(inputs, conv(ops.square(x), 5, "b"))


def dynamic_size():
    x = inputs = keras.Input((None, None, 3))
    x = conv(x, 6, "a", 3)
    x = layers.BatchNormalization()(x)
    y = conv(layers.UpSampling2D()(layers.AveragePooling2D(2)(x)), 6, "b")
    x = layers.ZeroPadding2D(1)(layers.Concatenate()([x[:, :6, :6], y]))
    x = layers.Reshape((-1, 4, 3))(x)
    x = ops.reshape(x, (-1, 12))
    x = layers.Dense(5, activation="relu", name="c")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


CASES = {
    cbam: {"stem": 8, "squeeze": 3, "last": 5},
    unet: {
        "down0": 4,
        "down1": 6,
        "middle": 8,
        "up0": 6,
        "join0": 6,
        "up1": 4,
        "join1": 4,
    },
    fpn: {"c1": 4, "c2": 6, "lateral2": 5, "tower": 4},
    shufflenet: {"stem": 4, "reduce": 3, "last": 6},
    shufflenet_v2: {"stem": 2, "stem:2": 2, "stem:3": 4, "last": 6},
    pixel_shuffle: {"up": 3, "after": 4},
    c2f: {"enter": 4, "enter:2": 4, "a0": 3, "a1": 3, "leave": 6},
    selective_kernel: {"five": 6, "squeeze": 4, "last": 5},
    generator: {"dense": 6, "up": 4},
    mixer: {"embed": 8, "tokens_up": 10, "channels_up": 12},
    squeezed_attention: {"a": 6, "b": 5},
    dynamic_size: {"a": 3, "c": 5},
}


@pytest.mark.parametrize("build", CASES, ids=lambda f: f.__name__)
def test_architecture(build, tmp_path):
    # PyTorch has no float64 gradient of a convolution with one filter.
    train = keras.config.backend() != "torch" or build is not cbam
    run_pruning_test(build, tmp_path, expected=CASES[build], train=train)
