from __future__ import annotations

import itertools

import keras
import numpy as np
import pytest

import kprune
from kprune.data import source as data_module
from kprune.data.source import Source
from kprune.data.source import as_source

X = np.arange(10.0).reshape(5, 2)
Y = np.arange(5)
WEIGHT = np.linspace(0, 1, 5)


class Sequence(keras.utils.PyDataset):
    def __init__(self, count=3):
        super().__init__()
        self.count = count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return X + index, Y


def joined(source, steps=None):
    """All inputs, targets and weights, put together again."""
    x, y, weight = zip(*source.batches(steps), strict=True)
    return [
        None if part[0] is None else np.concatenate(part)
        for part in (x, y, weight)
    ]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_arrays_come_in_batches_and_in_order(count):
    given = (X, Y, WEIGHT)[:count]
    source = Source(given, batch_size=2)
    assert [len(x) for x, _, _ in source.batches()] == [2, 2, 1]
    for got, expected in zip(
        joined(source), (*given, None, None), strict=False
    ):
        np.testing.assert_equal(got, expected)


def test_a_lone_array_is_inputs_and_tensors_become_numpy():
    x, y, weight = next(Source(keras.ops.convert_to_tensor(X)).batches())
    assert isinstance(x, np.ndarray)
    np.testing.assert_equal(x, X)
    assert y is None
    assert weight is None


def test_lists_and_dictionaries_are_several_inputs():
    ((x, y, _),) = Source(([X, X + 1], {"a": Y})).batches()
    np.testing.assert_equal(x[1], X + 1)
    np.testing.assert_equal(y["a"], Y)
    ((x, y, _),) = Source({"left": X}).batches()
    np.testing.assert_equal(x["left"], X)
    assert y is None
    ((x, y, _),) = Source([X, X]).batches()
    assert len(x) == 2
    assert y is None


@pytest.mark.tensorflow
def test_a_dataset_can_be_used_again():
    import tensorflow as tf

    source = Source(tf.data.Dataset.from_tensor_slices((X, Y)).batch(2))
    for _ in range(2):
        x, y, weight = joined(source)
        np.testing.assert_equal(x, X)
        np.testing.assert_equal(y, Y)
        assert weight is None


@pytest.mark.tensorflow
def test_endless_datasets_are_limited(monkeypatch):
    import tensorflow as tf

    monkeypatch.setattr(data_module, "ENDLESS_LIMIT", 4)
    endless = tf.data.Dataset.from_tensor_slices(X).batch(5).repeat()
    assert len(list(Source(endless).batches())) == 4
    assert len(list(Source(endless).batches(steps=6))) == 6
    finite = tf.data.Dataset.from_tensor_slices(X).batch(1)
    assert len(list(Source(finite).batches())) == 5


def test_pydatasets_finite_and_endless(monkeypatch):
    monkeypatch.setattr(data_module, "ENDLESS_LIMIT", 4)
    batches = list(Source(Sequence()).batches())
    assert [x[0, 0] for x, _, _ in batches] == [0, 1, 2]
    assert len(list(Source(Sequence(count=None)).batches())) == 4
    assert len(list(Source(Sequence()).batches(steps=2))) == 2


def test_what_a_generator_yielded_is_kept_for_the_next_time():
    drawn = []

    def generate():
        for i in range(4):
            drawn.append(i)
            yield X + i, Y

    source = Source(generate())
    first = [x[0, 0] for x, _, _ in source.batches(steps=2)]
    second = [x[0, 0] for x, _, _ in source.batches(steps=3)]
    assert (first, second) == ([0, 1], [0, 1, 2])
    assert drawn == [0, 1, 2]
    assert len(list(source.batches())) == 4


def test_endless_generators_are_limited(monkeypatch):
    monkeypatch.setattr(data_module, "ENDLESS_LIMIT", 5)
    source = Source((X, Y) for _ in itertools.count())
    assert len(list(source.batches())) == 5
    assert len(source.inputs(40)) == source.sample(40).size == 40
    assert len(list(source.batches())) == 5


def test_any_iterable_of_batches():
    class Loader:
        def __iter__(self):
            return iter([(X, Y), [X, Y]])

    assert joined(Source(Loader()))[0].shape == (10, 2)


def test_no_batch_is_an_error():
    with pytest.raises(ValueError, match="holds no batch"):
        list(Source(x for x in ()).batches())


def test_a_source_passes_through():
    source = Source(X)
    assert as_source(source) is source
    assert isinstance(as_source(X), Source)


@pytest.mark.parametrize("given", [3, "file.npz", None])
def test_other_types_are_refused(given):
    with pytest.raises(TypeError, match="`data` must be arrays"):
        Source(given)


def test_unequal_and_too_many_arrays_are_refused():
    with pytest.raises(ValueError, match="arrays of 4 and 5 samples"):
        Source((X, Y[:4]))
    with pytest.raises(ValueError, match=r"\(\[x1, x2\], y\)"):
        Source((X, X, X, Y))


@pytest.mark.parametrize("steps", [0, -1, 1.5, True])
def test_steps_are_whole_and_positive(steps):
    with pytest.raises(
        ValueError, match="Taylor needs a whole number of batches"
    ):
        kprune.criteria.Taylor(steps)
    assert kprune.criteria.Taylor(None).steps is None
    assert kprune.criteria.Taylor(3).steps == 3


def test_nested_lists_of_numbers_are_to_be_arrays():
    with pytest.raises(ValueError, match=r"a list of length 4.* np\.asarray"):
        list(Source(np.ones((2, 4, 3)).tolist(), model=None).batches())
