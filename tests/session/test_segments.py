"""Passes that begin at a segment, and normalisations folded into layers."""

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


@pytest.mark.parametrize("build", zoo.CORE, ids=lambda build: build.__name__)
def test_all_segments_give_the_outputs_of_the_model(build):
    model = build()
    randomise(model)
    masked = kprune.wrap(model)
    x = random_inputs(model, batch=3)
    session = kprune.Session(masked)
    masked.compile(jit_compile=False)
    segments = Segments(
        masked, [session.layers(g.name) for g in session.groups]
    )
    tensors = segments.inputs(x)
    for number in range(len(segments)):
        segments.run(tensors, number, number + 1)
    got = segments.outputs(tensors)
    assert len(tensors) == len({id(t) for t in got})
    for a, b in zip(got, outputs(masked, x), strict=True):
        np.testing.assert_allclose(
            keras.ops.convert_to_numpy(a), b, rtol=1e-4, atol=1e-5
        )
