"""One rule for what is data, and what a model refuses of it."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers

from kprune.data.source import Source
from kprune.data.source import as_source

RNG = np.random.default_rng(0)
X = RNG.normal(size=(10, 8, 8, 3)).astype("float32")
IDS = np.arange(50).reshape(10, 5) % 11
Y = np.arange(10)
WEIGHT = np.linspace(0, 1, 10)


@pytest.fixture(scope="module")
def one():
    image = keras.Input((8, 8, 3), name="image")
    return keras.Model(image, layers.Dense(3)(layers.Flatten()(image)))


@pytest.fixture(scope="module", params=["list", "dict"])
def two(request):
    image = keras.Input((8, 8, 3), name="image")
    tokens = keras.Input((5,), name="tokens", dtype="int32")
    x = layers.Dense(2)(layers.Flatten()(image))
    x = layers.Add()([x, layers.Dense(2)(layers.Flatten()(tokens))])
    both = [image, tokens]
    if request.param == "dict":
        both = {"image": image, "tokens": tokens}
    return keras.Model(both, x)


class Loader:
    """Like that of PyTorch: lists of batches, with more than NumPy arrays."""

    class Tensor:
        def __init__(self, array):
            self.array = array

        shape = property(lambda self: self.array.shape)

        def detach(self):
            return self

        def cpu(self):
            return self.array

    def __init__(self, *parts):
        self.parts = parts

    def __iter__(self):
        for start in range(0, 10, 4):
            yield [self.Tensor(p[start : start + 4]) for p in self.parts]


def parts(size):
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, 10, size)]


ONE = {
    "arrays": lambda: (X, Y),
    "list of one input": lambda: ([X], Y),
    "list of batches": lambda: parts(3),
    "list of samples": lambda: list(zip(X, Y, strict=True)),
    "list of lists": lambda: [list(part) for part in parts(3)],
    "generator of samples": lambda: zip(X, Y, strict=True),
    "generator function": lambda: lambda: (part for part in parts(4)),
    "function that returns arrays": lambda: lambda: (X, Y),
    "loader": lambda: Loader(X, Y),
    "dictionary": lambda: ({"image": X}, Y),
}


@pytest.mark.parametrize("kind", ONE)
def test_one_input_with_targets(one, kind):
    source = Source(ONE[kind](), 4, one)
    for _ in range(2):
        x, y, weight = zip(*source.batches(), strict=True)
        np.testing.assert_array_equal(np.concatenate(x), X)
        np.testing.assert_array_equal(np.concatenate(y), Y)
        assert set(weight) == {None}


@pytest.mark.parametrize(
    "given",
    [X, [X], [X[:4], X[4:]], list(X), lambda: iter(X), {"image": X}],
    ids=["array", "inputs", "batches", "samples", "function", "dictionary"],
)
def test_one_input_alone(one, given):
    np.testing.assert_array_equal(Source(given, 4, one).inputs(99), X)
    assert next(Source(given, 4, one).batches())[1] is None


def test_single_samples_become_batches_with_targets_and_weights(one):
    source = Source(zip(X, Y, WEIGHT, strict=True), 4, one)
    assert [len(x) for x, _, _ in source.batches()] == [4, 4, 2]
    ((x, y, weight),) = Source((X[0], Y[0], WEIGHT[0]), 4, one).batches()
    assert (x.shape, y.shape, weight.shape) == ((1, 8, 8, 3), (1,), (1,))


@pytest.mark.tensorflow
@pytest.mark.parametrize("batch", [None, 3])
def test_datasets_batched_or_not(one, batch):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((X, Y))
    data = data if batch is None else data.batch(batch)
    source = Source(data, 4, one)
    assert [len(y) for _, y, _ in source.batches()] == (
        [4, 4, 2] if batch is None else [3, 3, 3, 1]
    )
    np.testing.assert_array_equal(source.inputs(99), X)


@pytest.mark.tensorflow
def test_a_dataset_of_other_shapes_is_refused_before_it_is_read(one):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(X[:, :4]).batch(2)
    with pytest.raises(ValueError, match=r"shape \(None, 4, 8, 3\).*'image'"):
        Source(data, model=one)


TWO = {
    "list": lambda: [X, IDS],
    "list with targets": lambda: ([X, IDS], Y),
    "tuple of inputs": lambda: (X, IDS),
    "nested tuple": lambda: ((X, IDS), Y, WEIGHT),
    "dictionary": lambda: ({"tokens": IDS, "image": X}, Y),
    "list of samples": lambda: [
        ((x, i), 1) for x, i in zip(X, IDS, strict=True)
    ],
    "list of batches": lambda: [([X[:6], IDS[:6]], 1), ([X[6:], IDS[6:]], 1)],
    "loader without targets": lambda: Loader(X, IDS),
    "generator of dictionaries": lambda: iter([{"image": X, "tokens": IDS}]),
}


@pytest.mark.parametrize("kind", TWO)
def test_two_inputs(two, kind):
    x = Source(TWO[kind](), 4, two).inputs(99)
    # In the structure of the model.
    assert isinstance(x, type(two.input))
    image, tokens = keras.tree.flatten(x)
    np.testing.assert_array_equal(image, X)
    np.testing.assert_array_equal(tokens, IDS)


def test_a_last_axis_of_one_is_added_or_taken_away():
    vector = keras.Input((1,), name="vector")
    model = keras.Model(vector, layers.Dense(2)(vector))
    assert Source(np.arange(5.0), model=model).inputs(9).shape == (5, 1)
    matrix = keras.Input((4, 4), name="matrix")
    model = keras.Model(matrix, layers.Dense(2)(matrix))
    x = np.zeros((3, 4, 4, 1), "float32")
    assert Source(x, model=model).inputs(9).shape == (3, 4, 4)


def test_the_same_samples_for_another_model(one):
    source = Source(iter(parts(5)))
    fitted = as_source(source, one)
    assert as_source(fitted, one) is fitted
    np.testing.assert_array_equal(fitted.inputs(7), X[:7])
    np.testing.assert_array_equal(fitted.inputs(10), X)


def test_a_list_waits_for_its_model(one):
    # As in a callback, which knows the model once training begins.
    for data in (parts(3), [X[:4], X[4:]], list(zip(X, Y, strict=True))):
        fitted = Source(data, 4).fit(one)
        np.testing.assert_array_equal(fitted.inputs(99), X)


def test_draws_do_not_depend_on_the_form(one):
    drawn = Source((X, Y), model=one).sample(4, seed=3)
    expected = np.random.default_rng(3).permutation(10)[:4]
    ((x, y, _),) = drawn.batches()
    np.testing.assert_array_equal(y, expected)
    np.testing.assert_array_equal(x, X[expected])
    streamed = [
        Source(d, 4, one).sample(4, 3) for d in (parts(4), lambda: parts(4))
    ]
    a, b = (next(source.batches())[1] for source in streamed)
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (X[..., :1], r"`data` has shape \(10, 8, 8, 1\) for input 'image'"),
        (
            [X[:, :7]] * 2,
            r"shape \(10, 7, 8, 3\).*Expected \(samples, 8, 8, 3\)",
        ),
        ({"picture": X}, r"no entry for the inputs \['image'\].*picture"),
        ((X, Y[:4]), "arrays of 4 and 10 samples"),
        ([], "is empty"),
        (X[:0], "is empty"),
        (X.astype(complex), "dtype complex128 for input 'image'.*float32"),
        (np.full(X.shape, "a"), "dtype <U1 for input 'image'"),
        ((X, X, X, X), r"length 4.*\(\[x1, x2\], y\)"),
        ([np.zeros(3), np.zeros((9, 9))], r"shape \(3,\) for input 'image'"),
    ],
)
def test_what_does_not_fit_is_explained(one, data, message):
    with pytest.raises(ValueError, match=message):
        list(Source(data, model=one).batches())


def test_missing_and_mixed_inputs_are_explained(two):
    with pytest.raises(ValueError, match=r"has 2 inputs \(image, tokens\)"):
        list(Source([X], model=two).batches())
    with pytest.raises(ValueError, match="mixes batches and single samples"):
        Source(([X, IDS[0]], Y), model=two)
    with pytest.raises(ValueError, match="'tokens', which takes int32"):
        Source([X, IDS + 0.5], model=two)


def test_the_argument_is_named(one):
    with pytest.raises(ValueError, match="`calibration` has shape"):
        as_source(X[..., :1], one, "calibration")
    with pytest.raises(TypeError, match="`calibration` must be arrays"):
        as_source(3, one, "calibration")


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("form", ["arrays", "batches", "samples"])
def test_values_that_spoil_the_outputs_are_refused(one, value, form):
    x = X.copy()
    x[7, 1, 2, 0] = value
    data = {"arrays": x, "batches": [x[:5], x[5:]], "samples": list(x)}[form]
    message = (
        rf"`data` holds {value} in sample 7 of input 'image' \(at \[1, 2, 0\]"
    )
    with pytest.raises(ValueError, match=message):
        list(Source(data, 4, one).batches())


def test_values_that_a_model_replaces_are_accepted():
    x = inputs = keras.Input((8, 8, 3), name="image")
    x = keras.ops.where(keras.ops.isnan(x), 0.0, x)
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    x = X.copy()
    x[7, 1, 2, 0] = np.nan
    for data in (x, [x[:5], x[5:]]):
        np.testing.assert_array_equal(Source(data, 4, model).inputs(99), x)
    # Infinity goes through.
    with pytest.raises(ValueError, match="holds inf in sample 7"):
        Source(np.where(np.isnan(x), np.inf, x), 4, model)


def test_arrays_on_a_disk_are_checked_when_they_are_read(one, tmp_path):
    x = X.copy()
    x[7] = np.nan
    np.save(tmp_path / "x.npy", x)
    source = Source(np.load(tmp_path / "x.npy", mmap_mode="r"), 4, one)
    assert len(list(source.batches(steps=1))) == 1
    with pytest.raises(ValueError, match="sample 7"):
        list(source.batches())


def test_a_model_without_symbolic_inputs_checks_nothing():
    class Own(keras.Model):
        def call(self, x):
            return x

    assert len(list(Source(X, 4, Own()).batches())) == 3
