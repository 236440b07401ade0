"""Losses that several callbacks add to one model."""

import keras
import models
import numpy as np
import pytest

import kprune
from kprune.callbacks import RegularizeCallback
from kprune.callbacks._fitting import completed
from kprune.callbacks._fitting import undo_if_interrupted
from kprune.callbacks._fitting import undo_interrupted
from kprune.callbacks._losses import AddedLoss


class Adds(keras.callbacks.Callback):
    """Adds a constant to the loss from one epoch to the end of another."""

    def __init__(self, value, first=0, last=9):
        super().__init__()
        self.value, self.first, self.last = value, first, last

    def on_train_begin(self, logs=None):
        undo_interrupted(self)

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.first:
            self.added = AddedLoss(self, lambda *of: self.value)
            self.added.attach()
            undo_if_interrupted(self, self.added.detach)

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.last:
            self.added.detach()
            completed(self)


class Interrupts(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        raise KeyboardInterrupt


@pytest.fixture
def training():
    """Fit a model that no longer learns, and return the loss of each epoch."""
    model = models.convolutions([4])
    model.compile(keras.optimizers.SGD(0.0), "mse")
    x = np.ones((4, 8, 8, 3), "float32")
    y = np.ones((4, 3), "float32")

    def losses(*callbacks, epochs=3):
        history = model.fit(
            x, y, epochs=epochs, callbacks=list(callbacks), verbose=0
        )
        return np.array(history.history["loss"])

    return losses


def test_losses_of_several_callbacks_add_up(training):
    plain = training(epochs=1)
    found = training(Adds(2.0, last=0), Adds(5.0, first=1, last=1))
    np.testing.assert_allclose(found - plain, [2.0, 5.0, 0.0], atol=1e-5)
    found = training(Adds(2.0, last=1), Adds(5.0, last=0))
    np.testing.assert_allclose(found - plain, [7.0, 2.0, 0.0], atol=1e-5)


@pytest.mark.parametrize(
    ("callbacks", "expected"),
    [
        (lambda: [Adds(2.0, last=0), Adds(5.0, last=1)], [7.0, 5.0, 0.0]),
        (lambda: [RegularizeCallback(keras.regularizers.L2(0.0))], [0.0] * 3),
        (lambda: [], [0.0] * 3),
    ],
)
def test_the_next_fit_drops_a_loss_of_an_interrupted_one(
    training, callbacks, expected
):
    plain = training(epochs=1)
    with pytest.raises(KeyboardInterrupt):
        training(Adds(100.0), Interrupts())
    found = training(*callbacks())
    np.testing.assert_allclose(found - plain, expected, atol=1e-5)


class OwnLoss(keras.Model):
    """Overrides compute_loss with the signature of its time."""

    def compute_loss(self, x, y, y_pred, sample_weight):
        return 3.0 * super().compute_loss(x, y, y_pred, sample_weight)


class OwnConstructor(OwnLoss):
    """Builds its graph itself."""

    def __init__(self, width):
        inputs = keras.Input((4,))
        hidden = keras.layers.Dense(width)(inputs)
        super().__init__(inputs, keras.layers.Dense(2)(hidden))


def own_loss():
    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(5)(inputs)
    return OwnLoss(inputs, keras.layers.Dense(2)(hidden))


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("build", [own_loss, lambda: OwnConstructor(5)])
def test_a_model_that_does_not_know_when_it_trains(build, wrapped):
    model = build()
    model.compile(keras.optimizers.SGD(0.0), "mse")
    if wrapped:
        model = kprune.wrap(model)
    x, y = np.ones((4, 4), "float32"), np.ones((4, 2), "float32")
    plain = model.evaluate(x, y, verbose=0)
    history = model.fit(
        x,
        y,
        epochs=2,
        validation_data=(x, y),
        callbacks=[Adds(2.0)],
        verbose=0,
    ).history
    np.testing.assert_allclose(history["loss"], plain + 2.0, atol=1e-5)
    np.testing.assert_allclose(history["val_loss"], plain, atol=1e-5)
    np.testing.assert_allclose(model.evaluate(x, y, verbose=0), plain)
