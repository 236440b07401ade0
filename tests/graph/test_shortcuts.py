from __future__ import annotations

import keras
import pytest
import zoo

import kprune
from kprune.graph.shortcuts import projections


def names(model):
    return [layer.name for layer in projections(model)]


@pytest.mark.parametrize("wrap", [lambda model: model, kprune.wrap])
def test_projections_beside_a_block_are_found(wrap):
    assert names(wrap(zoo.projection_resnet())) == ["project1"]


@pytest.mark.parametrize(
    "build", [zoo.option_a_resnet, zoo.inception, zoo.squeeze_excite]
)
def test_other_pointwise_convolutions_are_not(build):
    assert names(build()) == []


def conv(filters, size, name):
    return keras.layers.Conv2D(filters, size, padding="same", name=name)


def test_a_bottleneck_ends_pointwise_too():
    x = inputs = keras.Input((8, 8, 4))
    y = conv(2, 1, "reduce")(x)
    y = conv(2, 3, "middle")(y)
    y = keras.layers.BatchNormalization()(conv(8, 1, "expand")(y))
    x = keras.layers.BatchNormalization()(conv(8, 1, "shortcut")(x))
    x = keras.layers.ReLU()(x + y)
    assert names(keras.Model(inputs, x)) == ["shortcut"]


def test_the_last_layer_of_an_inverted_bottleneck_is_no_projection():
    x = inputs = keras.Input((8, 8, 4))
    x = conv(4, 1, "project")(x)
    y = conv(12, 1, "expand")(x)
    y = keras.layers.DepthwiseConv2D(3, padding="same")(y)
    y = conv(4, 1, "project_again")(y)
    model = keras.Model(inputs, keras.layers.Add()([x, y]))
    assert names(model) == []


def test_nested_models_are_looked_into():
    inner = zoo.projection_resnet()
    inputs = keras.Input((8, 8, 3))
    assert names(keras.Model(inputs, inner(inputs))) == ["project1"]
