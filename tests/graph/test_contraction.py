"""Sums of products: exact where removed positions are 0, else pinned."""

import keras
import numpy as np
import pytest
from harness import assert_exact
from harness import floatx
from harness import prunable_sizes
from harness import run_pruning_test
from keras import layers
from keras import ops
from models import head

import kprune
from kprune.graph.rules.contraction import parse

# Equation, output shape, bias axes -> sizes of what the layer adds.
EQUATIONS = {
    ("abc,cd->abd", (4, 6), "d"): [6],
    ("abc,cde->abde", (4, 3, 6), "e"): [3, 6],
    ("...c,cd->...d", 6, "d"): [6],
    ("...bc,cbd->...d", 6, None): [6],
    ("ab...,bd->ad...", 6, "d"): [6],
    ("abc,bcd->abd", (4, 6), "d"): [6],
    ("abc,bd->adc", (6, 7), "dc"): [6],
    ("abc,c->abc", (4, 7), "c"): [],
    ("abc,bd->ad", 6, "d"): [6],
    ("abc,cd->ad", 6, "d"): [6],
}


@pytest.mark.parametrize("case", EQUATIONS, ids=lambda c: c[0])
def test_einsum_dense(case, tmp_path):
    equation, shape, bias = case

    def build():
        inputs = keras.Input((4, 5))
        x = layers.Dense(7, name="before")(inputs)
        x = layers.EinsumDense(equation, shape, bias_axes=bias, name="einsum")(
            x
        )
        return keras.Model(inputs, head(layers.Flatten()(x)))

    # The position axis (b) stays: it comes from the input.
    with floatx("float64"):
        found = prunable_sizes(build())
    assert found.pop("before") == 7
    assert sorted(found.values()) == EQUATIONS[case]
    run_pruning_test(build, tmp_path)


def test_einsum_dense_passes_labels_of_two_axes():
    def build():
        inputs = keras.Input((4, 5))
        x = layers.Permute((2, 1))(inputs)
        x = layers.Dense(6, name="tokens")(x)
        x = layers.Permute((2, 1))(x)
        x = layers.EinsumDense(
            "abc,cd->abd", (6, 7), bias_axes="d", activation="gelu", name="mix"
        )(x)
        x = layers.EinsumDense(
            "abc,bc->abc", (6, 7), bias_axes="b", name="own"
        )(x)
        return keras.Model(inputs, head(layers.Flatten()(x)))

    run_pruning_test(build, expected={"tokens": 6, "mix": 7})


def test_einsum_dense_that_does_not_know_an_axis_pins_it():
    inputs = keras.Input((4, 5))
    x = layers.Permute((2, 1))(inputs)
    x = layers.Permute((2, 1))(layers.Dense(6, name="tokens")(x))
    x = layers.EinsumDense("abc,cd->abd", (None, 7), name="mix")(x)
    x = layers.GlobalAveragePooling1D()(x)
    graph = kprune.trace(keras.Model(inputs, head(x)))
    assert "unknown size" in graph["tokens"].pinned
    assert graph["mix"].pinned is None


def test_einsum_dense_that_sums_over_what_is_not_zero_pins_it():
    inputs = keras.Input((4, 5))
    x = layers.Dense(7, activation="sigmoid", name="before")(inputs)
    x = layers.EinsumDense("abc,bd->ad", 6, name="einsum")(x)
    graph = kprune.trace(keras.Model(inputs, head(x)))
    assert "not 0 once masked" in graph["before"].pinned
    assert graph["einsum"].pinned is None


def test_softmax_over_the_outputs_pins_them():
    inputs = keras.Input((4, 5))
    x = layers.EinsumDense(
        "abc,cd->abd", (None, 6), activation="softmax", name="einsum"
    )(inputs)
    assert (
        "mixes channels"
        in kprune.trace(keras.Model(inputs, head(x)))["einsum"].pinned
    )


def test_a_diagonal_pins_the_outputs_and_counts():
    inputs = keras.Input((4, 4, 3))
    x = layers.EinsumDense("biik,ij->bjk", (8, 3), name="einsum")(inputs)
    model = keras.Model(inputs, head(x))
    why = "EinsumDense 'einsum' is not a plain sum of products"
    assert kprune.trace(model)["einsum"].pinned == why
    assert kprune.cost(model).table[0].macs == 4 * 8 * 3


def _pair(units=6, activation="relu"):
    inputs = keras.Input((4, 5))
    a = layers.Dense(units, activation=activation, name="a")(inputs)
    b = layers.Dense(units, activation="sigmoid", name="b")(inputs)
    return inputs, a, b


CONSTANT = np.linspace(-1, 1, 42).reshape(6, 7)

OPERATIONS = {
    "matmul": lambda a, b: ops.matmul(a, ops.swapaxes(b, 1, 2)),
    "gram": lambda a, b: ops.matmul(ops.swapaxes(a, 1, 2), b),
    "einsum": lambda a, b: ops.einsum("bic,bjc->bij", a, b),
    "implicit": lambda a, b: ops.einsum("bic,bjc", a, b),
    "outer": lambda a, b: ops.einsum("...ic,...id->...cd", a, b),
    "three": lambda a, b: ops.einsum("bic,bjc,bjd->bid", a, b, b),
    "sum": lambda a, b: ops.einsum("bic->bi", a) + ops.einsum("bic->bi", a * b),
    "constant": lambda a, b: ops.matmul(a, CONSTANT),
    "variable": lambda a, b: ops.matmul(a, keras.Variable(CONSTANT)),
    "tensordot": lambda a, b: ops.tensordot(a, CONSTANT, axes=1),
    "dot": lambda a, b: ops.dot(a, CONSTANT),
    "vector": lambda a, b: ops.matmul(a, CONSTANT[:, 0])[..., None],
}
# The columns of a constant are channels too, named after what reads them.
COLUMNS = {"a": 6, "head:2": 7}
PRUNABLE = {
    "matmul": {"b": 6},
    "constant": COLUMNS,
    "variable": COLUMNS,
    "tensordot": COLUMNS,
    "dot": COLUMNS,
    "gram": {"a": 6, "b": 6},
    "outer": {"a": 6, "b": 6},
    "three": {"a": 6},
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation(name, tmp_path):
    def build():
        inputs, a, b = _pair()
        return keras.Model(
            inputs, head(layers.Flatten()(OPERATIONS[name](a, b)))
        )

    run_pruning_test(build, tmp_path, expected=PRUNABLE.get(name, {"a": 6}))


@pytest.mark.parametrize("name", ["matmul", "einsum", "constant", "tensordot"])
def test_summing_what_is_not_zero_pins_it(name):
    inputs, a, b = _pair(activation="softplus")
    model = keras.Model(inputs, head(layers.Flatten()(OPERATIONS[name](a, b))))
    reasons = [g.pinned for g in kprune.trace(model).groups if g.size == 6]
    assert reasons and all("not 0 once masked" in why for why in reasons)


def test_a_factor_that_must_stay_keeps_the_other():
    inputs, a, _ = _pair(units=5)
    x = ops.matmul(a, ops.swapaxes(inputs, 1, 2))
    graph = kprune.trace(keras.Model(inputs, head(x)))
    assert "model input" in graph["a"].pinned


@pytest.mark.parametrize(
    "function",
    [
        lambda a: ops.einsum("bii->bi", a),
        lambda a: ops.einsum("bij->b", a)[:, None, None] * ops.ones((1, 4, 4)),
    ],
)
def test_unusual_einsum_is_exact_or_pinned(function):
    inputs = keras.Input((4, 5))
    x = layers.Dense(4, activation="sigmoid", name="a")(inputs)
    x = layers.Dense(4, name="b")(layers.Flatten()(function(x)))
    graph = kprune.trace(keras.Model(inputs, head(x)))
    assert graph["a"].pinned is not None
    assert graph["b"].pinned is None


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_dot_layer(normalize, activation, tmp_path):
    def build():
        inputs, a, b = _pair(activation=activation)
        one = layers.Dot((2, 2), normalize=normalize)([a, b])
        flat = layers.GlobalMaxPooling1D()
        two = layers.Dot(-1, normalize=normalize)([flat(a), flat(b)])
        x = layers.Concatenate()([layers.Flatten()(one), two])
        return keras.Model(inputs, head(x))

    run_pruning_test(build, tmp_path, expected={"a": 6})


def test_dot_over_positions_keeps_both_channel_axes():
    def build():
        inputs, a, b = _pair()
        return keras.Model(
            inputs, head(layers.Flatten()(layers.Dot(1)([a, b])))
        )

    with floatx("float64"):
        model = build()
        assert prunable_sizes(model) == {"a": 6, "b": 6}
        assert_exact(model, 1e-10)


@pytest.mark.parametrize(
    ("subscripts", "ranks", "specs", "output"),
    [
        ("ab,bc->ac", (2, 2), ["ab", "bc"], "ac"),
        ("ba, ca", (2, 2), ["ba", "ca"], "bc"),
        ("i", (1,), ["i"], "i"),
    ],
)
def test_parse(subscripts, ranks, specs, output):
    found = parse(subscripts, ranks)
    assert found == ([tuple(s) for s in specs], tuple(output))


def test_parse_pairs_ellipses_from_their_end():
    specs, output = parse("...ab,b...->...a", (4, 2))
    assert specs == [("...2", "...1", "a", "b"), ("b", "...1")]
    assert output == ("...2", "...1", "a")


def test_work_counts_every_product():
    inputs = keras.Input((4, 5))
    x = layers.Dense(6, name="a")(inputs)
    x = ops.matmul(x, ops.swapaxes(x, 1, 2))
    x = layers.EinsumDense("abc,cde->abde", (None, 2, 3), name="einsum")(x)
    cost = kprune.cost(keras.Model(inputs, x))
    macs = {row.name: row.macs for row in cost.table}
    assert macs["a"] == 4 * 5 * 6
    assert macs["einsum"] == 4 * 4 * 2 * 3
    assert cost.macs == 4 * 5 * 6 + 4 * 4 * 6 + 4 * 4 * 6


# Keras compares an unknown size with -1.
@pytest.mark.filterwarnings("ignore:NotImplemented should not be used")
def test_tensordot_over_named_axes():
    def build():
        inputs, a, _ = _pair()
        x = ops.tensordot(a, np.ones((7, 6, 4)), axes=((2, 1), (1, 2)))
        return keras.Model(inputs, head(x))

    with floatx("float64"):
        model = build()
        assert prunable_sizes(model) == {"a": 6, "head:2": 7}
        assert_exact(model, 1e-10)
