from __future__ import annotations

import keras
import numpy as np
import pytest
from keras import layers
from keras import losses

from kprune.data.source import Source
from kprune.data.targets import as_loss_wants

X = np.zeros((6, 4), "float32")
CLASSES = np.array([0, 1, 2, 0, 1, 2])
ONE_HOT = np.eye(3)[CLASSES]
SPARSE = losses.SparseCategoricalCrossentropy(from_logits=True)


def model(loss, units=3):
    net = keras.Sequential([keras.Input((4,)), layers.Dense(units, name="out")])
    net.compile(loss=loss)
    return net


def check(loss, y, units=3):
    """Check them as arrays, and as batches."""
    net = model(loss, units)
    errors = []
    for data in ((X, y), [(X[:3], y[:3]), (X[3:], y[3:])]):
        source = Source(data, model=net)
        try:
            source.check_targets()
            list(source.labelled("The loss"))
        except ValueError as error:
            errors.append(str(error))
        else:
            errors.append(None)
    assert (errors[0] is None) == (errors[1] is None)
    return errors[0]


@pytest.mark.parametrize(
    ("loss", "y", "units"),
    [
        (SPARSE, CLASSES, 3),
        (SPARSE, CLASSES[:, None], 3),
        (SPARSE, CLASSES.astype("float32"), 3),
        ("sparse_categorical_crossentropy", CLASSES, 3),
        (
            losses.SparseCategoricalCrossentropy(ignore_class=-1),
            CLASSES - 1,
            3,
        ),
        (losses.CategoricalCrossentropy(), ONE_HOT, 3),
        ("categorical_crossentropy", 0.9 * ONE_HOT + 0.1 / 3, 3),
        ("binary_crossentropy", CLASSES % 2, 1),
        (losses.BinaryFocalCrossentropy(), ONE_HOT, 3),
        ("mse", 10 * ONE_HOT, 3),
        ("mse", CLASSES, 1),
        ("mse", CLASSES[:, None], 1),
        (losses.Huber(), ONE_HOT[..., None], 3),
        ("kl_divergence", ONE_HOT, 3),
        (losses.Circle(), CLASSES, 3),
        (lambda y, p: keras.ops.sum(p), np.full(6, np.nan), 3),
    ],
)
def test_what_a_loss_takes_is_accepted(loss, y, units):
    assert check(loss, y, units) is None


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    [
        (SPARSE, ONE_HOT, "one-hot targets of shape (6, 3) for output 'out'"),
        ("sparse_categorical_crossentropy", ONE_HOT, "Pass y.argmax(-1)"),
        (SPARSE, np.zeros((6, 2)), "takes class indices of shape (samples)"),
        (SPARSE, CLASSES + 1, "from 1 to 3"),
        (SPARSE, CLASSES - 1, "whole numbers from 0 to 2"),
        (SPARSE, CLASSES + 0.5, "whole numbers from 0 to 2"),
        ("categorical_crossentropy", CLASSES, "to_categorical(y, 3)"),
        (losses.CategoricalCrossentropy(), CLASSES[:, None], "one-hot"),
        ("categorical_crossentropy", ONE_HOT[:, :2], "vectors of length 3"),
        ("categorical_crossentropy", 2 * ONE_HOT, "numbers from 0 to 1"),
        ("binary_crossentropy", 2 * ONE_HOT - 1, "from -1.0 to 1.0"),
        ("mse", ONE_HOT * np.nan, "NaN or infinite targets"),
        (SPARSE, CLASSES.astype(str), "targets of dtype <U21"),
        (SPARSE, CLASSES.astype(object), "targets of dtype object"),
        ("mse", np.zeros((6, 5)), "whose output has the shape (samples, 3)"),
        ("mse", CLASSES, "targets of shape (6,)"),
        ("binary_crossentropy", np.zeros((6, 2)), "targets of shape (6, 2)"),
        ("kl_divergence", -ONE_HOT, "numbers from 0 to 1"),
    ],
)
def test_what_a_loss_cannot_take_is_explained(loss, y, message):
    assert message in check(loss, y)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (np.array([1, 1, np.nan, 1, 1, 1]), "NaN or infinite sample weights"),
        (np.array(["1"] * 6), "sample weights of dtype <U1"),
        (np.ones(5), "same number of samples"),
    ],
)
def test_sample_weights_are_finite_numbers(weight, message):
    net = model(SPARSE)
    with pytest.raises(ValueError, match=message):
        Source((X, CLASSES, weight), model=net)
    batches = [
        (X[:3], CLASSES[:3], weight[:3]),
        (X[3:], CLASSES[3:], weight[3:]),
    ]
    with pytest.raises(ValueError, match=message):
        list(Source(batches, model=net).batches())


def test_a_batch_with_fewer_targets():
    batches = [(X[:3], CLASSES[:3]), (X[3:], CLASSES[3:5])]
    with pytest.raises(ValueError, match="`data` must hold the same number"):
        list(Source(batches, model=model(SPARSE)).batches())


def test_images_of_classes():
    inputs = keras.Input((None, None, 1))
    net = keras.Model(inputs, layers.Conv2D(3, 1)(inputs))
    net.compile(loss=SPARSE)
    x = np.zeros((2, 4, 4, 1), "float32")
    y = np.ones((2, 4, 4))
    Source((x, y), model=net).check_targets()
    Source((x, y[..., None]), model=net).check_targets()
    with pytest.raises(ValueError, match="one-hot"):
        Source((x, np.eye(3)[y.astype(int)]), model=net).check_targets()
    with pytest.raises(ValueError, match=r"from 1\.0 to 5\.0"):
        y[0, 0, 0] = 5
        Source((x, y), model=net).check_targets()


@pytest.mark.parametrize("structure", ["list", "dict"])
def test_several_outputs_are_told_apart(structure):
    inputs = keras.Input((4,))
    outputs = [layers.Dense(3, name=n)(inputs) for n in ("kind", "size")]
    loss = [SPARSE, "mse"]
    if structure == "dict":
        outputs = dict(zip(("kind", "size"), outputs, strict=True))
        loss = dict(zip(("kind", "size"), loss, strict=True))
    net = keras.Model(inputs, outputs)
    net.compile(loss=loss)

    def given(kind, size):
        y = [kind, size]
        return dict(zip(outputs, y, strict=True)) if structure == "dict" else y

    Source((X, given(CLASSES, ONE_HOT)), model=net).check_targets()
    with pytest.raises(ValueError, match=r"output 'kind'.*class indices"):
        Source((X, given(ONE_HOT, ONE_HOT)), model=net).check_targets()
    with pytest.raises(ValueError, match="for output 'size'"):
        Source((X, given(CLASSES, ONE_HOT + np.inf)), model=net).check_targets()


@pytest.mark.parametrize(
    ("structure", "loss", "fits"),
    [
        ("list", "mse", False),
        ("list", ["mse", "mse"], False),
        ("dict", {"kind": "mse", "size": "mse"}, False),
        ("list", ["mse", None], True),
        ("dict", {"kind": "mse"}, True),
        ("list", None, True),
    ],
)
def test_one_array_for_several_outputs(structure, loss, fits):
    inputs = keras.Input((4,))
    outputs = [layers.Dense(3, name=n)(inputs) for n in ("kind", "size")]
    if structure == "dict":
        outputs = dict(zip(("kind", "size"), outputs, strict=True))
    kinds = {keras.Model: fits}

    class Split(keras.Model):
        def compute_loss(self, x=None, y=None, y_pred=None, **kwargs):
            return super().compute_loss(x, [y[:, :3], y[:, 3:]], y_pred)

    kinds[Split] = True
    for kind, accepted in kinds.items():
        net = kind(inputs, outputs)
        net.compile("sgd", loss=loss)
        source = Source((X, ONE_HOT), model=net)
        if accepted:
            source.check_targets()
        else:
            with pytest.raises(ValueError, match="a loss: kind, size"):
                source.check_targets()


def test_missing_targets_and_another_loss():
    net = model("mse")
    with pytest.raises(ValueError, match="sweep needs targets"):
        list(Source(X, model=net).labelled("sweep"))
    with pytest.raises(ValueError, match="class indices"):
        list(Source((X, ONE_HOT), model=net).labelled("sweep", loss=SPARSE))


@pytest.mark.parametrize(
    ("loss", "given", "wanted"),
    [
        (SPARSE, ONE_HOT, CLASSES),
        (SPARSE, CLASSES, CLASSES),
        ("categorical_crossentropy", CLASSES, ONE_HOT),
        ("categorical_crossentropy", CLASSES[:, None], ONE_HOT),
        ("binary_crossentropy", CLASSES, ONE_HOT),
        ("mse", CLASSES, ONE_HOT),
        ("mse", CLASSES / 2, CLASSES / 2),
        ("categorical_crossentropy", CLASSES + 1, CLASSES + 1),
        (None, CLASSES, CLASSES),
    ],
)
def test_targets_become_what_the_loss_wants(loss, given, wanted):
    net = keras.Sequential([keras.Input((4,)), layers.Dense(3)])
    if loss is not None:
        net.compile(loss=loss)
    np.testing.assert_array_equal(as_loss_wants(given, net), wanted)
