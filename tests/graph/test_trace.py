"""What a person asks of a channel graph."""

import keras
import numpy as np
import pytest
import zoo
from keras import layers

import kprune


def reasons(model, name):
    return kprune.trace(model)[name].pinned


def test_coverage_counts_and_explains():
    graph = kprune.trace(zoo.sequential())
    assert (graph.coverage.prunable, graph.coverage.pinned) == (24, 4)
    assert graph.coverage.share == pytest.approx(24 / 28)
    assert graph.coverage.reasons == {"feeds the model output 'head'": 4}
    assert str(graph.coverage).startswith("24 of 28 channels prunable (85.7%)")


def test_members_point_at_the_right_slices():
    model = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.Conv2D(3, 3, name="conv"),
            layers.BatchNormalization(name="bn"),
            layers.Flatten(),
            layers.Dense(2, name="head"),
        ]
    )
    group = kprune.trace(model)["conv"]
    places = {(m.layer.name, m.name): m for m in group.members}
    assert [m.role for m in group.producers] == ["filter", "filter"]
    assert {m.name for m in group.scales} == {"gamma", "beta"}
    assert len(group.members) == 7
    np.testing.assert_array_equal(
        places["conv", "kernel"].matrix(),
        np.asarray(model.layers[0].kernel).reshape(-1, 3).T,
    )
    head = places["head", "kernel"]
    assert (head.axis, head.role, head.feature_axis) == (0, "input", 1)
    # Flatten puts channel c of position p at row 3 p + c.
    assert head.index.tolist() == [[0, 3, 6, 9], [1, 4, 7, 10], [2, 5, 8, 11]]


def test_channels_added_to_the_input_are_pinned():
    x = inputs = keras.Input((4, 4, 6))
    y = layers.Conv2D(6, 3, padding="same", name="conv")(x)
    y = layers.Conv2D(4, 1, name="mid")(layers.Add(name="sum")([x, y]))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(y)))
    assert "model input" in reasons(model, "conv")
    assert reasons(model, "mid") is None


def test_skip_takes_names_and_layers():
    model = zoo.sequential()
    graph = kprune.trace(model, skip=["conv1", model.get_layer("dense")])
    assert [g.name for g in graph.prunable] == ["conv2"]
    assert graph["conv1"].pinned == "named in skip"


def test_skip_refuses_unknown_names_and_other_types():
    with pytest.raises(ValueError, match=r"nosuch.*calls no such layer"):
        kprune.trace(zoo.sequential(), skip=["nosuch"])
    with pytest.raises(
        TypeError, match="layers, nested models, or their names"
    ):
        kprune.trace(zoo.sequential(), skip=[3])


def test_subclassed_model_error_names_class_and_ways_out():
    class Net(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match=r"class Net.*functional API") as error:
        kprune.trace(Net())
    assert "copy the weights" in str(error.value)


def test_what_is_no_model_is_refused():
    with pytest.raises(TypeError, match=r"trace\(\) needs a keras.Model.*list"):
        kprune.trace([1])


def test_unbuilt_sequential_says_how_to_build():
    with pytest.raises(ValueError, match=r"keras.Input"):
        kprune.trace(keras.Sequential([layers.Dense(3)]))


def test_unknown_group_suggests_close_names():
    with pytest.raises(KeyError, match="conv1"):
        kprune.trace(zoo.sequential())["convl"]


def test_tracing_leaves_the_model_alone():
    model = zoo.projection_resnet()
    before = {layer.name: len(layer._inbound_nodes) for layer in model.layers}
    kprune.rebuild(kprune.wrap(model))
    assert before == {
        layer.name: len(layer._inbound_nodes) for layer in model.layers
    }


def test_softmax_over_channels_is_pinned_with_its_reason():
    x = inputs = keras.Input((4, 4, 3))
    x = layers.Conv2D(5, 1, activation="softmax", name="attention")(x)
    x = layers.Conv2D(5, 1, name="after")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert "activation 'softmax'" in reasons(model, "attention")
    assert reasons(model, "after") is None


def test_a_users_activation_needs_no_list():
    def squash(x):
        return x / (1 + keras.ops.abs(x))

    def share(x):
        return x / (1 + keras.ops.sum(keras.ops.abs(x), axis=-1, keepdims=True))

    for function, pinned in ((squash, False), (share, True)):
        x = inputs = keras.Input((6,))
        x = layers.Dense(5, activation=function, name="dense")(x)
        model = keras.Model(inputs, layers.Dense(2, name="head")(x))
        assert (reasons(model, "dense") is not None) == pinned
