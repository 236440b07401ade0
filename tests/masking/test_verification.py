"""wrap() compares the copy with the original."""

from typing import ClassVar

import keras
import numpy as np
import pytest
from keras import layers
from keras import ops

import kprune
from kprune.graph.values import read


class Forgetful(layers.Layer):
    """Multiplies by an argument that its configuration does not have."""

    seen: ClassVar[list] = []

    def __init__(self, factor=1.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor

    def call(self, x, training=False):
        if not isinstance(x, keras.KerasTensor):
            self.seen.append(tuple(x.shape))
        # Something else in training, so that it is not read as a model.
        return x * self.factor + (0 * x if training else 0)

    def get_config(self):
        return super().get_config()


def network(*middle, shape=(8, 8, 3)):
    x = inputs = keras.Input(shape)
    x = layers.Conv2D(6, 3, padding="same", name="first")(x)
    for layer in middle:
        x = layer(x)
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 1, name="second")(x))
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def test_a_layer_that_forgets_is_named():
    model = network(layers.ReLU(), Forgetful(2.0, name="own"), layers.ReLU())
    with pytest.raises(ValueError, match=r"copy of layer 'own' \(Forgetful\)"):
        kprune.wrap(model)
    inner = network(Forgetful(2.0, name="inside"))
    inputs = keras.Input((8, 8, 3))
    outer = keras.Model(inputs, layers.Dense(3)(inner(inputs)))
    with pytest.raises(ValueError, match=r"copy of layer 'inside'"):
        kprune.wrap(outer)
    assert kprune.wrap(network(Forgetful(1.0)))


@pytest.mark.skipif(
    keras.backend.backend() == "torch",
    reason="on PyTorch, Normalization sees weights that are assigned",
)
def test_a_layer_with_assigned_weights_that_it_does_not_use_yet():
    model = network(layers.Normalization(name="statistics"))
    statistics = model.get_layer("statistics")
    statistics.set_weights([np.full(6, 3.0), np.full(6, 2.0), np.array(1)])
    with pytest.raises(ValueError, match=r"'statistics'.*finalize_state"):
        kprune.wrap(model)
    statistics.finalize_state()
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    np.testing.assert_allclose(
        read(kprune.wrap(model)(x)), read(model(x)), rtol=1e-5, atol=1e-6
    )


def test_one_sample_of_a_part_of_a_large_image():
    Forgetful.seen.clear()
    model = network(Forgetful(1.0), shape=(512, 384, 3))
    Forgetful.seen.clear()
    kprune.wrap(model)
    eager = {s for s in Forgetful.seen if isinstance(s[0], int)}
    assert eager == {(1, 64, 64, 6)}


def test_a_model_that_needs_its_whole_input_gets_it():
    x = inputs = keras.Input((80, 80, 3))
    x = layers.Conv2D(2, 3, strides=8, name="first")(x)
    x = layers.Dense(4, name="second")(layers.Flatten()(x))
    x = Forgetful(3.0, name="own")(x)
    with pytest.raises(ValueError, match="'own'"):
        kprune.wrap(keras.Model(inputs, layers.Dense(2)(x)))


@pytest.mark.tensorflow
def test_whole_numbers_and_strings():
    words = keras.Input((3,), dtype="string")
    number = keras.Input((), dtype="int32")
    x = layers.StringLookup(vocabulary=["0", "1"], output_mode="multi_hot")(
        words
    )
    y = layers.Embedding(5, 4)(number)
    x = layers.Dense(6, name="first")(layers.Concatenate()([x, y]))
    x = Forgetful(2.0, name="own")(x)
    model = keras.Model([words, number], layers.Dense(2)(layers.Dense(5)(x)))
    with pytest.raises(ValueError, match="'own'"):
        kprune.wrap(model)


class Noisy(layers.Layer):
    """Another result at every call."""

    def call(self, x):
        noise = np.random.default_rng().normal()
        return x + noise * ops.ones_like(x)


def test_a_model_that_differs_from_itself_is_not_blamed():
    assert kprune.wrap(network(Noisy()))


class MonteCarlo(keras.Model):
    """Dropout also in inference."""

    def __init__(self):
        super().__init__(name="monte_carlo")
        self.hidden = layers.Dense(8, name="hidden")
        self.drop = layers.Dropout(0.5)
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(self.drop(self.hidden(x), training=True))


def test_dropout_in_inference_is_not_blamed():
    model = MonteCarlo()
    model(np.zeros((1, 6)))
    masked = kprune.wrap(model)
    assert [g.name for g in kprune.trace(masked).prunable] == ["hidden"]


def test_nothing_changes():
    model = network(layers.GaussianNoise(0.1), layers.BatchNormalization())
    before = [read(v).copy() for v in model.variables]
    kprune.wrap(model)
    for old, new in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(old, read(new))


class Scaled(layers.Layer):
    """A layer that is read as a model of its layers."""

    factor = 2.0

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Conv2D(6, 1, name="inside")

    def call(self, x):
        return self.inside(x) * self.factor


class ScaledModel(keras.Model):
    def __init__(self):
        super().__init__(name="scaled")
        self.parts = [Scaled(), layers.Dense(2, name="head")]
        self.factor = 2.0

    def call(self, x):
        for part in self.parts:
            x = part(x)
        return x * self.factor


@pytest.mark.parametrize("which", ["layer", "model", "layer of a model"])
def test_an_attribute_set_after_the_call_was_read(which):
    if which == "layer":
        changed = Scaled(name="own")
        model = network(changed)
    else:
        model = ScaledModel()
        model(np.zeros((1, 8, 8, 3)))
        changed = model if which == "model" else model.parts[0]
    kprune.trace(model)
    changed.factor = 3.0
    told = rf"read from the call\(\) of '{changed.name}' \({type(changed).__name__}\)"
    with pytest.raises(ValueError, match=told):
        kprune.wrap(model)
