"""The features in front of the last layer, of a pruned model and of its past."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from harness import difference
from harness import outputs
from harness import randomise
from keras import layers

import kprune
from kprune.recovery import Mimic
from kprune.recovery import recover
from kprune.recovery._features import last_features
from kprune.recovery._pupils import Pupil
from kprune.recovery._pupils import unpruned

MASK = [1, 0, 1, 1, 0, 1]


def model_of(head, channels=6):
    """A convolution `last`, whose channels only `head` reads."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, activation="relu", name="first")(inputs)
    x = layers.Conv2D(channels, 3, activation="relu", name="last")(x)
    model = keras.Model(inputs, head(x))
    randomise(model)
    return model


def images(count=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, 8, 8, 3)).astype("float32")


def pairs(model, before=None, masks=None):
    masked = kprune.wrap(model)
    session = kprune.Session(masked, images())
    session.remove(before or {})
    past = session.snapshot()
    session.remove(masks or {"last": MASK})
    teacher = unpruned(masked, past)
    pupil = Pupil(session, past)
    return teacher, pupil.model, pupil.features(teacher)


def compute(model, tensor):
    return outputs(keras.Model(model.input, tensor), images(4, seed=1))[0]


HEADS = {
    "pooled": lambda x: layers.Dense(3)(layers.GlobalAveragePooling2D()(x)),
    "flattened": lambda x: layers.Dense(3, activation="softmax")(
        layers.Flatten()(layers.AveragePooling2D(4)(x))
    ),
    "dropped": lambda x: layers.Softmax()(
        layers.Dense(3)(layers.Dropout(0.5)(layers.GlobalMaxPooling2D()(x)))
    ),
    "convolved": lambda x: layers.Reshape((3,))(
        layers.Conv2D(3, 1)(layers.GlobalAveragePooling2D(keepdims=True)(x))
    ),
}


@pytest.mark.parametrize("head", HEADS)
def test_kept_channels_are_compared_before_pooling(head):
    model = model_of(HEADS[head])
    teacher, pupil, [(wanted, given)] = pairs(model)
    assert given.shape == (None, 4, 4, 4)
    reference = compute(model, model.get_layer("last").output)
    expected = reference[..., np.array(MASK) > 0]
    assert difference([compute(teacher, wanted)], [expected]) < 1e-6
    assert difference([compute(pupil, given)], [expected]) < 1e-6


def test_every_position_is_a_channel_where_a_layer_reads_several():
    model = model_of(lambda x: layers.Dense(3)(layers.Flatten()(x)))
    teacher, pupil, [(wanted, given)] = pairs(model)
    assert given.shape == (None, 4 * 4 * 4)
    expected = compute(model, model.get_layer("last").output)
    expected = expected[..., np.array(MASK) > 0].reshape(4, -1)
    assert difference([compute(teacher, wanted)], [expected]) < 1e-6
    assert difference([compute(pupil, given)], [expected]) < 1e-6


def test_a_model_that_was_pruned_before():
    model = model_of(HEADS["pooled"])
    now = [1, 0, 0, 1, 0, 1]
    teacher, _, [(wanted, _)] = pairs(model, {"last": MASK}, {"last": now})
    expected = compute(model, model.get_layer("last").output)
    expected = expected[..., np.array(now) > 0]
    assert difference([compute(teacher, wanted)], [expected]) < 1e-6


def joined(x):
    pooled = layers.GlobalAveragePooling2D()(x)
    return layers.Add()([layers.Dense(3)(pooled), layers.Dense(3)(pooled)])


def nested(x):
    inner = keras.Input(x.shape[1:])
    y = layers.Dense(3)(layers.GlobalAveragePooling2D()(inner))
    return keras.Model(inner, y)(x)


@pytest.mark.parametrize("head", [joined, nested])
def test_outputs_without_features(head):
    assert last_features(model_of(head)) == [None]


def test_a_linear_model_has_no_features():
    inputs = keras.Input((5,))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dropout(0.1)(inputs)))
    assert last_features(model) == [None]


def test_features_come_closer_when_they_count():
    model = model_of(HEADS["pooled"], channels=24)
    found = []
    for weight in (0.0, 10.0):
        masked = kprune.wrap(model)
        session = kprune.Session(masked, images(64))
        before = session.snapshot()
        session.remove({"first": [1, 0, 1, 1]})
        recover(session, before, [Mimic(steps=60, features=weight)])
        compact = kprune.rebuild(masked)
        wanted, given = (
            compute(m, m.get_layer("last").output) for m in (model, compact)
        )
        found.append(np.mean(np.square(wanted - given)))
    assert found[1] < 0.8 * found[0], found
