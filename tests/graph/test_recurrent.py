"""Recurrent layers and the wrappers around them."""

import keras
import numpy as np
import pytest
from harness import difference
from harness import outputs
from harness import prunable_sizes
from harness import run_pruning_test
from keras import layers
from models import flat_model

import kprune


def stacked():
    x = inputs = keras.Input((2, 3))
    x = layers.SimpleRNN(
        4, activation="sigmoid", return_sequences=True, name="a"
    )(x)
    x = layers.LSTM(5, return_sequences=True, go_backwards=True, name="b")(x)
    x = layers.GRU(6, return_sequences=True, name="c")(x)
    x = layers.GRU(4, reset_after=False, use_bias=False, name="d")(x)
    return flat_model(inputs, x)


def states():
    """Final states of an encoder start a decoder."""
    inputs = keras.Input((2, 3))
    _, h, c = layers.LSTM(5, return_state=True, name="encoder")(inputs)
    y, h, _ = layers.LSTM(
        5, return_sequences=True, return_state=True, name="decoder"
    )(inputs, initial_state=[h, c])
    z = layers.GRU(5, name="reader")(y, initial_state=layers.ReLU()(h))
    return flat_model(inputs, layers.Concatenate()([z, h]))


def state_from_dense():
    inputs = keras.Input((2, 3))
    first = layers.Dense(4, activation="softplus", name="start")(inputs[:, 0])
    x = layers.SimpleRNN(4, name="rnn")(inputs, initial_state=first)
    return flat_model(inputs, x)


def bidirectional():
    """Every merge mode beside each other."""
    inputs = keras.Input((3, 3))
    x = layers.Conv1D(4, 2, name="conv")(inputs)
    merged = []
    for mode in ("concat", "sum", "mul", "ave", None):
        inner = layers.SimpleRNN(4, return_sequences=True, unroll=True)
        y = layers.Bidirectional(inner, merge_mode=mode, name=f"both_{mode}")(x)
        merged += y if isinstance(y, list | tuple) else [y]
    x = layers.Bidirectional(layers.GRU(3), name="top")(
        layers.Concatenate()(merged)
    )
    return flat_model(inputs, x)


def bidirectional_states():
    inputs = keras.Input((2, 3))
    y, *first = layers.Bidirectional(
        layers.LSTM(4, return_state=True, return_sequences=True), name="one"
    )(inputs)
    z = layers.Bidirectional(
        layers.LSTM(4, activation="relu"),
        backward_layer=layers.LSTM(4, activation="tanh", go_backwards=True),
        name="two",
    )(y, initial_state=first)
    return flat_model(inputs, layers.Concatenate()([z, *first]))


def distributed():
    x = inputs = keras.Input((2, 6, 6, 2))
    x = layers.TimeDistributed(layers.Conv2D(5, 3), name="conv")(x)
    x = layers.TimeDistributed(layers.BatchNormalization(), name="bn")(x)
    x = layers.TimeDistributed(layers.Activation("sigmoid"))(x)
    x = layers.TimeDistributed(layers.MaxPooling2D(2))(x)
    x = layers.TimeDistributed(layers.Flatten())(x)
    x = layers.TimeDistributed(
        layers.Dense(6, activation="tanh"), name="dense"
    )(x)
    x = layers.TimeDistributed(layers.Dropout(0.0))(x)
    x = layers.LSTM(4, name="rnn")(x)
    return flat_model(inputs, x)


def distributed_twice():
    x = inputs = keras.Input((2, 3, 4))
    inner = layers.TimeDistributed(layers.Dense(5))
    x = layers.TimeDistributed(inner, name="frames")(x)
    x = layers.TimeDistributed(
        layers.Bidirectional(layers.SimpleRNN(3)), name="words"
    )(x)
    return flat_model(inputs, x)


def cells():
    x = inputs = keras.Input((2, 3))
    x = layers.RNN(layers.LSTMCell(4), return_sequences=True, name="one")(x)
    stack = [layers.GRUCell(4), layers.LSTMCell(5), layers.SimpleRNNCell(3)]
    x, *last = layers.RNN(
        layers.StackedRNNCells(stack), return_state=True, name="stack"
    )(x)
    flat = keras.tree.flatten(last)
    return flat_model(inputs, layers.Concatenate()([x, *flat]))


def conv_lstm():
    x = inputs = keras.Input((2, 5, 5, 2))
    x = layers.ConvLSTM2D(4, 3, return_sequences=True, name="a")(x)
    x, _, c = layers.ConvLSTM2D(
        3, 2, activation="sigmoid", return_state=True, name="b"
    )(x)
    x = layers.Add()([x, c])
    return flat_model(inputs, layers.GlobalAveragePooling2D()(x))


def conv_lstm_bidirectional():
    x = inputs = keras.Input((3, 6, 2))
    x = layers.Bidirectional(layers.ConvLSTM1D(3, 2, strides=2), name="both")(x)
    return flat_model(inputs, x)


def timestep_mask():
    inputs = keras.Input((2, 3))
    x = layers.Masking()(inputs)
    x = layers.GRU(4, return_sequences=True, name="a")(x)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="b")(x)
    x = layers.TimeDistributed(layers.Dense(4), name="c")(x)
    return flat_model(inputs, layers.LSTM(3, name="d")(x))


CASES = {
    stacked: {"a": 4, "b": 5, "c": 6, "d": 4},
    states: {"encoder": 5},
    state_from_dense: {"start": 4},
    bidirectional: {
        "conv": 4,
        "both_concat": 4,
        "both_sum": 4,
        "both_mul": 4,
        "both_ave": 4,
        "both_None": 4,
        "top": 3,
    },
    bidirectional_states: {"one": 4},
    distributed: {"conv": 5, "dense": 6, "rnn": 4},
    distributed_twice: {"frames": 5, "words": 3},
    cells: {"one": 4, "stack": 4, "stack:2": 5, "stack:3": 3},
    conv_lstm: {"a": 4, "b": 3},
    conv_lstm_bidirectional: {"both": 3},
    timestep_mask: {"a": 4, "b": 3, "c": 4, "d": 3},
}


SLOW = {
    "bidirectional",
    "cells",
    "conv_lstm_bidirectional",
    "distributed_twice",
    "stacked",
}


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            build,
            id=build.__name__,
            marks=[pytest.mark.slow] if build.__name__ in SLOW else [],
        )
        for build in CASES
    ],
)
def test_recurrent(build, tmp_path):
    run_pruning_test(build, tmp_path, expected=CASES[build])


@keras.saving.register_keras_serializable("test_recurrent")
class _Own(layers.SimpleRNNCell):
    def call(self, inputs, states, training=False):
        return super().call(inputs, states, training)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.LSTM(4, stateful=True, name="x"), "keeps state between calls"),
        (layers.RNN(_Own(4), name="x"), "cell without a rule (_Own)"),
        (layers.LSTM(4, activation="softmax", name="x"), "mixes units"),
        (layers.Bidirectional(layers.RNN(_Own(4)), name="x"), "without a rule"),
    ],
    ids=["stateful", "own cell", "softmax", "bidirectional"],
)
def test_what_stays_and_why(layer, reason):
    x = inputs = keras.Input(batch_shape=(2, 4, 3))
    x = layers.Dense(5, name="before")(x)
    x = layer(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert "x" not in prunable_sizes(model)
    told = kprune.trace(model).coverage.reasons
    assert any(reason in r for r in told), told


def test_observed_axes_count_the_time_axis():
    graph = kprune.trace(distributed())
    axes = {
        m.layer.name: m.feature_axis for g in graph.groups for m in g.consumers
    }
    assert axes == {"dense": 2, "rnn": None, "head": 1}
    reads = [m for m in graph["dense"].consumers if m.name == "kernel"]
    assert [m.feature_axis for m in reads] == [2]


def test_model_inside_time_distributed_is_pinned():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    x = inputs = keras.Input((2, 4))
    x = layers.Dense(4, name="before")(x)
    x = layers.TimeDistributed(inner)(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    graph = kprune.trace(model)
    assert not graph.prunable
    assert "which has no rule" in graph["before"].pinned
    (opaque,) = graph.opaque
    assert opaque.layer is model.layers[2] and opaque.counted
    assert "repeats 'sequential" in opaque.why
    # Two steps; the head reads both.
    assert kprune.cost(model).macs == 2 * (4 * 4 + 4 * 3 + 3 * 2)


def test_a_loop_in_a_loop_is_counted():
    inner = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    inputs = keras.Input((2, 5, 4))
    x = layers.TimeDistributed(layers.TimeDistributed(inner))(inputs)
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert kprune.trace(model).opaque[0].counted
    assert kprune.cost(model).macs == 2 * 5 * 4 * 3 + 30 * 2


@keras.saving.register_keras_serializable("test_recurrent")
class _OfLayers(layers.Layer):
    """A cell that computes with layers, unlike `_Own`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = self.state_size = self.output_size = units
        self.read = layers.Dense(units)
        self.again = layers.Dense(units)

    def build(self, shape):
        self.read.build(shape)
        self.again.build((None, self.units))

    def call(self, inputs, states, training=False):
        y = self.read(inputs) + self.again(states[0])
        return y, [y]

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@pytest.mark.parametrize(
    ("cell", "step"), [(_OfLayers, 3 * 4 + 4 * 4), (_Own, 0)]
)
@pytest.mark.parametrize("count", [1, 2])
def test_own_cells_are_listed_and_counted_where_known(cell, step, count):
    layer = layers.RNN(cell(4))
    if count == 2:
        layer = layers.Bidirectional(layer)
    inputs = keras.Input((6, 3))
    model = keras.Model(inputs, layers.Dense(2)(layer(inputs)))
    (opaque,) = kprune.trace(model).opaque
    assert opaque.layer is layer and "cell without a rule" in opaque.why
    assert opaque.counted == (cell is _OfLayers)
    assert kprune.cost(model).macs == count * (6 * step + 4 * 2)


def test_the_work_of_a_stateful_layer_counts():
    costs = []
    for stateful in (False, True):
        inputs = keras.Input(batch_shape=(2, 4, 3))
        x = layers.LSTM(4, stateful=stateful)(inputs)
        x = layers.Bidirectional(layers.GRU(3, stateful=stateful))(
            layers.RepeatVector(2)(x)
        )
        model = keras.Model(inputs, layers.Dense(2)(x))
        costs.append(kprune.cost(model).macs)
    assert costs[0] == costs[1] > 700


def test_states_are_copied():
    inputs = keras.Input(batch_shape=(2, 4, 3))
    x = layers.Dense(5)(layers.Dense(6)(inputs))
    x = layers.LSTM(4, stateful=True, return_sequences=True)(x)
    x = layers.Bidirectional(layers.GRU(3, stateful=True))(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    x = np.random.default_rng(0).normal(size=(2, 4, 3)).astype("float32")
    outputs(model, x)
    masked = kprune.wrap(model)
    for copy in (masked, kprune.rebuild(masked)):
        assert (
            difference(outputs(copy, x), outputs(kprune.wrap(model), x)) < 1e-6
        )
    first = kprune.wrap(model)
    assert difference(outputs(first, x), outputs(model, x)) < 1e-6
