"""Layers that only keras.applications has, in small models of their kind."""

import keras
import pytest
from harness import assert_exact
from harness import floatx
from harness import run_pruning_test
from keras import layers
from keras.src.applications.convnext import LayerScale
from keras.src.applications.convnext import StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from models import head

import kprune


def convnext():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 4, strides=4, name="stem")(x)
    x = layers.LayerNormalization(epsilon=1e-6)(x)
    y = layers.Conv2D(8, 3, padding="same", groups=8, name="depthwise")(x)
    y = layers.LayerNormalization(epsilon=1e-6)(y)
    y = layers.Dense(12, activation="gelu", name="up")(y)
    y = layers.Dense(8, name="down")(y)
    y = LayerScale(1e-6, 8, name="scale")(y)
    x = layers.Add()([x, StochasticDepth(0.0, name="drop")(y)])
    x = layers.LayerNormalization()(layers.GlobalAveragePooling2D()(x))
    return keras.Model(inputs, head(x))


def inception_resnet():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="stem")(x)
    one = layers.Conv2D(4, 1, activation="relu", name="one")(x)
    two = layers.Conv2D(5, 3, padding="same", activation="relu", name="two")(x)
    up = layers.Conv2D(8, 1, name="up")(layers.Concatenate()([one, two]))
    x = layers.ReLU()(CustomScaleLayer(0.17)([x, up]))
    return keras.Model(inputs, head(layers.GlobalAveragePooling2D()(x)))


ZOO = {
    convnext: {"stem": 8, "up": 12},
    inception_resnet: {"stem": 8, "one": 4, "two": 5},
}


@pytest.mark.parametrize("build", ZOO, ids=lambda f: f.__name__)
def test_masked_equals_compact(build):
    # Keras registers none of these layers, so it cannot load such a file.
    # StochasticDepth draws from no seed generator, which JAX refuses to compile.
    train = keras.config.backend() != "jax" or build is not convnext
    run_pruning_test(build, expected=ZOO[build], train=train)


def test_scale_of_every_channel_is_pinned():
    inputs = keras.Input((4,))
    a = layers.Dense(2, name="a")(inputs)
    b = layers.Dense(2, name="b")(inputs)
    layer = CustomScaleLayer([0.5, 2.0])
    layer.scale = keras.ops.convert_to_tensor([0.5, 2.0])
    graph = kprune.trace(keras.Model(inputs, head(layer([a, b]))))
    assert "one scale per channel" in graph["a"].pinned


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"), [("ConvNeXtTiny", 64), ("InceptionResNetV2", 80)]
)
def test_application(name, size):
    with floatx("float64"):
        base = getattr(keras.applications, name)(
            weights=None,
            include_top=False,
            pooling="avg",
            input_shape=(size, size, 3),
        )
        model = keras.Model(base.input, head(base.output))
        assert not [
            r for r in kprune.trace(model).coverage.reasons if "output" not in r
        ]
        assert_exact(model, 1e-10)
