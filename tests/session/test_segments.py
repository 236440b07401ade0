"""Passes that begin at a segment, and normalisations folded into layers."""

from __future__ import annotations

import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import zoo
from harness import outputs
from harness import random_inputs
from harness import randomise
from keras import layers

import kprune
from kprune.graph import walk
from kprune.session.folding import LINEAR
from kprune.session.folding import folds
from kprune.session.program import Program
from kprune.session.segments import Segments


def folded(build):
    """Return the names of layers that take over a normalisation."""
    inputs = keras.Input((8, 8, 3))
    program = Program(keras.Model(inputs, build(inputs)))
    return [program.calls[index].layer.name for index in folds(program)]


def norm_of(layer):
    return lambda x: layers.ReLU()(layers.BatchNormalization()(layer(x)))


def read_twice(x):
    x = layers.Conv2D(4, 3, name="conv")(x)
    return layers.Add()([x, layers.BatchNormalization()(x)])


def an_output(x):
    x = layers.Conv2D(4, 3, name="conv")(x)
    return [x, layers.BatchNormalization()(x)]


def test_convolutions_and_dense_layers_take_over_the_norm_behind_them():
    assert folded(norm_of(layers.Conv2D(4, 3, name="conv"))) == ["conv"]
    assert folded(norm_of(layers.Dense(4, name="dense"))) == ["dense"]


@pytest.mark.parametrize(
    "build",
    [
        norm_of(layers.Conv2D(4, 3, activation="relu")),
        norm_of(layers.DepthwiseConv2D(3)),
        norm_of(layers.Conv2D(4, 3, dtype="mixed_bfloat16")),
        read_twice,
        an_output,
    ],
)
def test_what_is_between_them_or_unusual_stays_as_it_is(build):
    assert folded(build) == []


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


def prepared(build, batch=3):
    model = build()
    randomise(model)
    x = random_inputs(model, batch=batch)
    return kprune.Session(kprune.wrap(model)), x


def assert_close(values, wanted):
    for a, b in zip(values, wanted, strict=True):
        a = keras.ops.convert_to_numpy(a)
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def change(session, rng):
    """Return masks of one group, and weights of one of the layers they mask."""
    group = session.groups[rng.integers(len(session.groups))]
    mask = rng.integers(0, 2, group.size).astype("float32")
    mask[0] = 1.0
    touched = session.layers(group.name)
    (variable, *_) = touched[-1].layer.weights
    value = rng.uniform(0.1, 1.0, variable.shape).astype("float32")
    return {group.name: mask}, [(variable, value)], touched


@pytest.mark.parametrize(
    "build", [*zoo.CORE, shared_layers], ids=lambda build: build.__name__
)
def test_outputs_are_those_of_the_model(build):
    session, x = prepared(build)
    segments, rng = session.segments, np.random.default_rng(0)
    run = segments.start(x)
    assert_close(run.outputs(0), outputs(session.masked, x))
    changes = [change(session, rng) for _ in range(3)]
    # From the front to the back, and then where they come.
    forward = sorted(changes, key=lambda c: segments.first(c[2]))
    for masks, weights, touched in [*forward, *changes]:
        with session.trial(masks, weights):
            got = run.outputs(segments.first(touched))
            assert_close(got, outputs(session.masked, x))
    end = segments.first([])
    assert_close(run.outputs(end), outputs(session.masked, x))


@pytest.mark.parametrize("build", zoo.CORE, ids=lambda build: build.__name__)
def test_watched_layers_read_what_they_read_in_the_model(build):
    session, x = prepared(build)
    run = session.segments.start(x)
    paired = kprune.recovery.PairedRun(session.masked, None, x)
    wanted: dict = {}
    paired.visit(
        lambda step: wanted.setdefault(id(step.layer), []).append(
            [pair.before for pair in step.inputs]
        )
    )
    layers_ = map(walk.unwrap, walk.layers_of(session.masked))
    linear = {id(layer) for layer in layers_ if isinstance(layer, LINEAR)}
    seen = set()
    for call, given in run.inputs():
        seen.add(id(call.layer))
        assert_close(given, wanted[id(call.layer)].pop(0))
    assert seen == linear
    # The outputs hold no trace of it.
    assert_close(run.outputs(0), outputs(session.masked, x))


def test_nothing_before_the_change_is_computed_again(monkeypatch):
    session, x = prepared(zoo.projection_resnet)
    segments = session.segments
    ran = []
    for number, segment in enumerate(segments._segments):
        monkeypatch.setattr(
            segment,
            "run",
            lambda t, n=number, f=segment.run: ran.append(n) or f(t),
        )
    run = segments.start(x)
    last = segments.first([session.masked.get_layer("head")])
    run.outputs(0)
    run.outputs(last)
    run.outputs(last)
    everything = list(range(len(segments)))
    assert ran == [*everything, *everything, *everything[last:]]
    assert set(run._held) == set(segments._segments[last].given)


def test_layers_that_are_not_in_the_model_are_refused():
    session, _ = prepared(zoo.sequential)
    with pytest.raises(ValueError, match="layers or variables of the model"):
        session.segments.first([layers.Dense(3)])


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
    segments = Segments(model, [[model.get_layer("first")]])
    before = float(keras.ops.convert_to_numpy(counting.count))
    segments.start(np.ones((3, 6), "float32")).outputs(0)
    assert float(keras.ops.convert_to_numpy(counting.count)) == before


PADDED_SHORTCUT = """
import keras, numpy as np, kprune

def block(x):
    x = keras.layers.ZeroPadding2D(1)(x)
    x = keras.layers.Conv2D(32, 3, use_bias=False)(x)
    return keras.layers.BatchNormalization()(x)

x = keras.Input((16, 16, 16))
y = block(keras.layers.ReLU()(block(x)))
y = keras.layers.Add()([keras.ops.pad(x, [[0, 0]] * 3 + [[8, 8]]), y])
y = keras.layers.ReLU()(y)
y = keras.layers.Dense(2)(keras.layers.GlobalAveragePooling2D()(y))
model, data = keras.Model(x, y), np.ones((128, 16, 16, 16), "float32")
kprune.prune(model, reduce={"macs": 0.3}, data=data)
"""


@pytest.mark.tensorflow
def test_a_padded_shortcut_does_not_crash_with_onednn():
    environment = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": "1"}
    command = [sys.executable, "-c", PADDED_SHORTCUT]
    assert subprocess.run(command, env=environment, check=False).returncode == 0
