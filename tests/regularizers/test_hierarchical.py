"""All penalties against sums written out by hand."""

from __future__ import annotations

import math

import keras
import numpy as np
import pytest
from backends import gradients

from kprune import regularizers
from kprune.regularizers import HierarchicalGroupSparsity

PENALTIES = {
    "l1": lambda a, s: sum(map(sum, a)),
    "group_lasso": lambda a, s: sum(math.sqrt(sum(row)) for row in s),
    "hierarchical_sqrt_group_lasso": lambda a, s: sum(
        math.sqrt(sum(math.sqrt(v) for v in row)) for row in s
    ),
    "hierarchical_squared_group_lasso": lambda a, s: sum(
        sum(math.sqrt(v) for v in row) ** 2 for row in s
    ),
    "exclusive_sparsity": lambda a, s: sum(sum(row) ** 2 for row in a),
    "hierarchical_sqrt_exclusive_sparsity": lambda a, s: sum(
        math.sqrt(sum(v**2 for v in row)) for row in a
    ),
    "hierarchical_squared_exclusive_sparsity": lambda a, s: sum(
        sum(v**2 for v in row) ** 2 for row in a
    ),
    "group_l1_2": lambda a, s: sum(math.sqrt(sum(row)) for row in a),
    "hierarchical_sqrt_group_l1_2": lambda a, s: sum(
        math.sqrt(sum(math.sqrt(v) for v in row)) for row in a
    ),
    "hierarchical_squared_group_l1_2": lambda a, s: sum(
        sum(math.sqrt(v) for v in row) ** 2 for row in a
    ),
}


def kernel(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def rows(weights, grouping):
    """Summed absolute and squared weights, by group, then by kernel."""
    weights = weights.reshape(-1, *weights.shape[-2:])
    _, inputs, outputs = weights.shape

    def table(measure):
        by_input = [
            [sum(measure(w) for w in weights[:, i, o]) for o in range(outputs)]
            for i in range(inputs)
        ]
        if grouping == "feature":
            return by_input
        return [list(column) for column in zip(*by_input, strict=True)]

    return table(abs), table(lambda w: w * w)


def value(regularizer, weights):
    return float(regularizer(keras.ops.convert_to_tensor(weights)))


@pytest.mark.parametrize("shape", [(3, 3, 4, 5), (6, 3), (3, 2, 4)])
@pytest.mark.parametrize("grouping", ["feature", "neuron"])
@pytest.mark.parametrize("name", PENALTIES)
def test_it_is_the_published_formula(name, grouping, shape):
    weights = kernel(*shape)
    a, s = rows(weights, grouping)
    got = value(
        HierarchicalGroupSparsity(name, grouping, strength=1.0, mix=1.0),
        weights,
    )
    assert got == pytest.approx(PENALTIES[name](a, s), rel=1e-5)


def test_all_ten_are_there_and_no_other():
    assert set(PENALTIES) <= set(regularizers.names())
    assert len(PENALTIES) == 10


@pytest.mark.parametrize("name", PENALTIES)
def test_feature_wise_is_neuron_wise_with_inputs_and_outputs_swapped(name):
    weights = kernel(3, 3, 4, 6)
    feature = value(HierarchicalGroupSparsity(name, "feature"), weights)
    neuron = value(HierarchicalGroupSparsity(name, "neuron"), weights)
    swapped = value(
        HierarchicalGroupSparsity(name, "neuron"), weights.swapaxes(2, 3)
    )
    assert feature == pytest.approx(swapped, rel=1e-5)
    if name != "l1":
        assert feature != pytest.approx(neuron, rel=1e-3)


@pytest.mark.parametrize("zero", ["all", "kernels", "group"])
@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_finite_at_zero_kernels(name, zero):
    weights = kernel(3, 3, 4, 5)
    if zero == "all":
        weights[:] = 0
    elif zero == "kernels":
        weights[:, :, [0, 2], [1, 3]] = 0
    else:
        weights[:, :, 1] = 0
    variable = keras.Variable(weights, dtype="float32")
    regularizer = HierarchicalGroupSparsity(name)
    (slope,) = gradients(lambda: regularizer(variable), [variable])
    assert np.isfinite(slope).all()
    assert np.isfinite(value(regularizer, weights))
    # Nothing pulls a weight away from 0.
    assert (slope[weights == 0] == 0).all()


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_the_slopes_of_the_formula(name):
    weights = kernel(2, 2, 3, 3)
    regularizer = HierarchicalGroupSparsity(name, strength=1.0)
    variable = keras.Variable(weights, dtype="float64")
    (slope,) = gradients(lambda: regularizer(variable), [variable])
    direction = kernel(*weights.shape, seed=1)
    step = 1e-5
    measured = (
        value(regularizer, weights + step * direction)
        - value(regularizer, weights - step * direction)
    ) / (2 * step)
    assert (slope * direction).sum() == pytest.approx(measured, rel=1e-4)


def test_strength_and_mix_weigh_the_parts():
    weights = kernel(3, 3, 4, 5)
    a, s = rows(weights, "feature")
    expected = 0.01 * (
        0.3 * PENALTIES["group_lasso"](a, s) + 0.7 * np.abs(weights).sum()
    )
    got = value(
        HierarchicalGroupSparsity("group_lasso", strength=0.01, mix=0.3),
        weights,
    )
    assert got == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("grouping, groups", [("feature", 4), ("neuron", 5)])
def test_it_can_be_divided_by_the_number_of_groups(grouping, groups):
    weights = kernel(3, 3, 4, 5)
    whole = value(HierarchicalGroupSparsity(grouping=grouping), weights)
    mean = value(
        HierarchicalGroupSparsity(grouping=grouping, per_group=True), weights
    )
    assert mean == pytest.approx(whole / groups, rel=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_low_precision_kernels_are_penalised_in_float32(dtype):
    weights = keras.ops.cast(kernel(3, 3, 64, 64), dtype)
    regularizer = HierarchicalGroupSparsity(strength=1.0)
    got = regularizer(weights)
    assert keras.backend.standardize_dtype(got.dtype) == "float32"
    assert float(got) > 65504  # the largest number in float16
    exact = keras.ops.convert_to_numpy(keras.ops.cast(weights, "float64"))
    assert float(got) == pytest.approx(value(regularizer, exact), rel=1e-5)


def test_it_is_saved_with_the_layer_and_needs_no_custom_objects(tmp_path):
    regularizer = HierarchicalGroupSparsity(
        "exclusive_sparsity", "neuron", 0.02, 0.25, True
    )
    inputs = keras.Input((6, 6, 2))
    layer = keras.layers.Conv2D(3, 3, kernel_regularizer=regularizer)
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    again = loaded.layers[-1].kernel_regularizer
    assert again.get_config() == regularizer.get_config()
    assert regularizer.get_config()["strength"] == 0.02
    got = float(keras.ops.convert_to_numpy(loaded.losses[0]))
    assert got == pytest.approx(
        value(regularizer, keras.ops.convert_to_numpy(layer.kernel)), rel=1e-6
    )


def test_a_new_penalty_is_one_function():
    @regularizers.register("test_largest_kernel")
    def largest_kernel(absolute, squared):
        return keras.ops.sum(keras.ops.max(absolute, axis=1))

    weights = kernel(3, 3, 4, 5)
    expected = np.abs(weights).sum((0, 1)).max(1).sum()
    regularizer = HierarchicalGroupSparsity(
        "test_largest_kernel", strength=1, mix=1
    )
    assert value(regularizer, weights) == pytest.approx(expected, rel=1e-5)
    copy = HierarchicalGroupSparsity.from_config(regularizer.get_config())
    assert value(copy, weights) == value(regularizer, weights)


@pytest.mark.parametrize(
    "options, error, message",
    [
        ({"penalty": "group_laso"}, ValueError, "Did you mean 'group_lasso'"),
        ({"penalty": abs}, TypeError, "register"),
        ({"grouping": "filter"}, ValueError, "'feature', 'neuron'"),
        ({"strength": -1}, ValueError, "strength"),
        ({"mix": 1.5}, ValueError, "mix"),
    ],
)
def test_bad_options_are_refused(options, error, message):
    with pytest.raises(error, match=message):
        HierarchicalGroupSparsity(**options)


def test_a_vector_has_no_kernels():
    with pytest.raises(ValueError, match="kernel_regularizer"):
        HierarchicalGroupSparsity()(keras.ops.ones(3))
