"""Losses that several callbacks add to one model."""

import keras
import models
import numpy as np
import pytest

from kprune.callbacks._losses import AddedLoss


class Adds(keras.callbacks.Callback):
    """Adds a constant to the loss from one epoch to the end of another."""

    def __init__(self, value, first=0, last=9):
        super().__init__()
        self.value, self.first, self.last = value, first, last

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.first:
            self.added = AddedLoss(self, lambda *of: self.value)
            self.added.attach()

    def on_epoch_end(self, epoch, logs=None):
        if epoch == self.last:
            self.added.detach()


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


def test_a_loss_of_an_interrupted_fit_does_not_join_those_of_the_next(training):
    plain = training(epochs=1)
    with pytest.raises(KeyboardInterrupt):
        training(Adds(100.0), Interrupts())
    found = training(Adds(2.0, last=0), Adds(5.0, last=1))
    np.testing.assert_allclose(found - plain, [7.0, 5.0, 0.0], atol=1e-5)
