"""Layers made of other layers are read like nested models."""

import keras
from harness import prunable_sizes
from harness import run_pruning_test
from keras import layers

import kprune


@keras.saving.register_keras_serializable(package="kprune_tests")
class Bottleneck(layers.Layer):
    """Two convolutions and a shortcut, in the way people write blocks."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.inside = layers.Conv2D(filters, 3, padding="same", name="inside")
        self.norm = layers.BatchNormalization(name="norm")
        self.outside = layers.Conv2D(6, 1, name="outside")

    def build(self, shape):
        self.inside.build(shape)
        middle = (*shape[:-1], self.filters)
        self.norm.build(middle)
        self.outside.build(middle)
        self.built = True

    def call(self, x):
        y = keras.ops.relu(self.norm(self.inside(x)))
        return x + self.outside(y)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def network():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="stem")(x)
    x = Bottleneck(5, name="block")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def test_without_a_rule_the_block_keeps_its_channels():
    assert prunable_sizes(network()) == {}


def test_a_composite_block_is_pruned_inside(tmp_path, monkeypatch):
    from kprune.graph import registry

    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))
    kprune.register_rule(Bottleneck)(kprune.graph.CompositeRule)
    run_pruning_test(network, tmp_path, expected={"stem": 6, "inside": 5})
