"""Passes from the first changed layer on, against passes of the whole model."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import zoo
from harness import outputs
from harness import random_inputs
from harness import randomise
from keras import layers

import kprune
from kprune.session.passes import PartialPasses


def shared_layers():
    """One layer and one nested model, each called twice."""
    inner_in = keras.Input((8, 8, 4))
    inner = layers.Conv2D(4, 3, padding="same", name="inner")(inner_in)
    nested = keras.Model(inner_in, layers.ReLU()(inner), name="nested")
    twice = layers.Conv2D(4, 3, padding="same", name="twice")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="wide")(inputs)
    x = first = layers.Conv2D(4, 1, name="narrow")(layers.ZeroPadding2D(1)(x))
    x = nested(twice(x))
    x = nested(layers.Add()([twice(x), first]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


BUILDS = [*zoo.CORE, shared_layers]


def prepared(build):
    model = build()
    randomise(model)
    masked = kprune.wrap(model)
    return masked, random_inputs(model, batch=5)


def change(session, rng):
    """Return masks of one group, weights of one layer, and what they touch."""
    group = session.groups[rng.integers(len(session.groups))]
    mask = rng.integers(0, 2, group.size).astype("float32")
    mask[0] = 1.0
    variables = session.masked.trainable_variables
    variable = variables[rng.integers(len(variables))]
    value = rng.uniform(0.1, 1.0, variable.shape).astype("float32")
    touched = [*session.layers(group.name), variable]
    return {group.name: mask}, [(variable, value)], touched


@pytest.mark.parametrize("build", BUILDS, ids=lambda build: build.__name__)
@pytest.mark.parametrize("size", [2, 256])
def test_outputs_are_those_of_a_whole_pass(build, size):
    masked, x = prepared(build)
    session = kprune.Session(masked)
    passes = PartialPasses(masked, x, size=size)
    rng = np.random.default_rng(0)
    changes = [change(session, rng) for _ in range(4)]
    whole = PartialPasses(masked, x, size=size)
    # From the front to the back, and then where they come.
    forward = sorted(changes, key=lambda c: passes.first(c[2]))
    for masks, weights, touched in [*forward, *changes]:
        with session.trial(masks, weights):
            got = passes.outputs(touched)
            whole.forget()
            wanted = whole.outputs()
            for a, b in zip(got, wanted, strict=True):
                np.testing.assert_array_equal(a, b)
            for a, b in zip(got, outputs(masked, x), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    for a, b in zip(passes.outputs(), outputs(masked, x), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def count_calls(monkeypatch):
    """Return a list to which each computed call adds its layer's name."""
    from kprune.session import program

    seen: list[str] = []
    compute = program.Call.compute

    def counted(call, given, values):
        seen.append(call.layer.name)
        return compute(call, given, values)

    monkeypatch.setattr(program.Call, "compute", counted)
    return seen


def test_nothing_before_the_change_is_computed_again(monkeypatch):
    masked, x = prepared(zoo.projection_resnet)
    passes = PartialPasses(masked, x)
    seen = count_calls(monkeypatch)
    passes.outputs()
    assert seen.count("stem") == 1
    assert seen.count("head") == 1
    passes.outputs([masked.get_layer("b1")])
    passes.outputs([masked.get_layer("head")])
    # For the reference, and on the way to the first change.
    assert seen.count("stem") == 2
    assert seen.count("a1") == 2
    # As changed, and once more on the way to the second change.
    assert seen.count("b1") == 3
    assert seen.count("head") == 3


def test_what_a_change_does_not_reach_is_computed_once(monkeypatch):
    masked, x = prepared(zoo.inception)
    passes = PartialPasses(masked, x)
    seen = count_calls(monkeypatch)
    for _ in range(3):
        passes.outputs([masked.get_layer("one")])
    assert seen.count("one") == 3
    assert seen.count("three") == 1
    assert seen.count("separable") == 3


def test_only_what_is_read_later_is_held():
    masked, x = prepared(zoo.sequential)
    passes = PartialPasses(masked, x)
    passes.outputs([masked.get_layer("head")])
    (held,) = passes._held
    last = passes.program.calls[-1]
    assert set(held) == set(last.given)


def test_layers_that_are_not_in_the_model_are_refused():
    masked, x = prepared(zoo.sequential)
    with pytest.raises(ValueError, match="layers or variables of the model"):
        PartialPasses(masked, x).outputs([layers.Dense(3)])


def test_a_layer_that_counts_its_calls_does_not_count_trials():
    @keras.saving.register_keras_serializable("tests")
    class Counting(layers.Layer):
        def build(self, shape):
            self.count = self.add_weight(
                shape=(), initializer="zeros", trainable=False, name="count"
            )

        def call(self, x):
            self.count.assign(self.count + 1.0)
            return x * 1.0

    inputs = keras.Input((6,))
    y = layers.Dense(4, name="first")(inputs)
    outputs_ = layers.Dense(2, name="head")(Counting(name="counting")(y))
    model = keras.Model(inputs, outputs_)
    counting = model.get_layer("counting")
    passes = PartialPasses(model, np.ones((3, 6), "float32"))
    before = float(keras.ops.convert_to_numpy(counting.count))
    passes.outputs()
    passes.outputs([model.get_layer("first")])
    assert float(keras.ops.convert_to_numpy(counting.count)) == before
