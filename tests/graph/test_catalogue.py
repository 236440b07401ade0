"""Everything of its kind that Keras has: exact, or pinned with a reason."""

import keras
import numpy as np
from harness import assert_exact
from harness import floatx
from keras import layers
from keras import ops

import kprune


def branches(functions):
    """Every function on channels of its own: what one pins is known."""
    inputs = keras.Input((4,))
    outputs = []
    for name, function in functions.items():
        x = layers.Dense(5, activation="sigmoid", name=f"to_{name}")(inputs)
        outputs.append(function(x))
    return keras.Model(
        inputs, layers.Dense(3, name="head")(layers.Concatenate()(outputs))
    )


def public(module):
    return {
        n: f
        for n, f in vars(module).items()
        if n[0].islower() and callable(f) and not isinstance(f, type)
    }


def keeps_shape(function, count):
    """Whether it takes `count` tensors and is finite between 0 and 1."""
    x = keras.KerasTensor((None, 5), "float64")
    rng = np.random.default_rng(0)
    try:
        y = function(*[x] * count)
        fits = isinstance(y, keras.KerasTensor) and y.shape == x.shape
        if not fits or "float" not in str(y.dtype):
            return False
        node = y._keras_history.operation._inbound_nodes[-1]
        if len(node.input_tensors) != count:
            return False
        value = function(*rng.uniform(0.1, 0.9, (count, 3, 5)))
        value = ops.convert_to_numpy(value)
        return value.shape == (3, 5) and bool(np.isfinite(value).all())
    except Exception:  # asks for other arguments
        return False


def pinned(model):
    """Names of the functions whose channels must stay."""
    groups = kprune.trace(model).groups
    prunable = {g.name for g in groups if g.pinned is None}
    names = {layer.name for layer in model.layers if "to_" in layer.name[:3]}
    return {name.removeprefix("to_") for name in names - prunable}


def test_activations():
    with floatx("float64"):
        names = public(keras.activations).keys() - {
            "deserialize", "get", "serialize", "glu", "threshold",
        }  # fmt: skip
        model = branches({n: layers.Activation(n) for n in sorted(names)})
        assert pinned(model) == {"log_softmax", "softmax", "sparsemax"}
        assert_exact(model, 1e-10)


# Not finite where a channel is removed, or not channel by channel.
PINNED = set(
    "erfinv log log10 log2 reciprocal rsqrt log_softmax softmax sparsemax "
    "layer_normalization normalize rms_normalization sort tril triu".split()
)


def operations(count):
    return {
        name: function
        for name, function in sorted(public(ops).items())
        if keeps_shape(function, count) and name != "empty_like"
    }


def test_operations_on_one_tensor():
    with floatx("float64"):
        found = operations(1)
        assert len(found) > 50
        model = branches(found)
        assert found.keys() & PINNED <= pinned(model)
        assert len(pinned(model)) < 30
        assert_exact(model, 1e-10)


def test_operations_on_two_tensors():
    with floatx("float64"):
        found = operations(2)
        assert len(found) > 15
        model = branches(
            {n: lambda x, f=f: f(x, 1 - x) for n, f in found.items()}
        )
        assert not pinned(model) & {"add", "subtract", "multiply", "maximum"}
        assert_exact(model, 1e-10)
