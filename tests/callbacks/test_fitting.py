"""What pruning callbacks say of the callbacks beside them."""

from __future__ import annotations

import keras
import pytest
from fitting import dataset
from fitting import loss
from fitting import small_net

import kprune
from kprune.callbacks import AttenuateCallback
from kprune.callbacks import PruneCallback
from kprune.callbacks import RegularizeCallback
from kprune.callbacks import SoftPruneCallback


def fit(callbacks, epochs=4):
    keras.utils.set_random_seed(0)
    masked = kprune.wrap(small_net(6))
    masked.compile(keras.optimizers.SGD(0.01), loss())
    masked.fit(
        dataset(), epochs=epochs, verbose=0, shuffle=False, callbacks=callbacks
    )
    return masked


def prune(begin=1, end=3):
    return PruneCallback(
        reduce={"macs": 0.5}, schedule=kprune.Linear(begin, end)
    )


@pytest.mark.parametrize("first", [True, False])
def test_loggers_that_come_too_early_are_named(first, caplog, tmp_path):
    log = keras.callbacks.CSVLogger(str(tmp_path / "log.csv"))
    stop = keras.callbacks.EarlyStopping("loss", patience=9)
    fit([log, stop, prune()] if first else [stop, prune(), log])
    header = (tmp_path / "log.csv").read_text().splitlines()[0]
    assert ("pruned_macs" in header) is not first
    warned = [r.getMessage() for r in caplog.records]
    assert len(warned) == first
    if first:
        assert "CSVLogger will not see pruned_macs" in warned[0]
        assert "List PruneCallback first" in warned[0]


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(("mode", "short"), [("min", True), ("max", False)])
def test_a_best_checkpoint_short_of_the_target(
    order, mode, short, caplog, tmp_path
):
    class Loss(keras.callbacks.Callback):
        """Rises from epoch to epoch."""

        def on_epoch_end(self, epoch, logs=None):
            logs["rising"] = epoch

    path = str(tmp_path / "best.weights.h5")
    best = keras.callbacks.ModelCheckpoint(
        path, "rising", save_best_only=True, save_weights_only=True, mode=mode
    )
    fit([Loss(), *[prune(), best][::order]])
    warned = [r.getMessage() for r in caplog.records]
    assert len(warned) == short
    if short:
        assert "keeps in" in warned[0] and "best.weights.h5" in warned[0]
    # What it says is true of the file.
    kept = kprune.wrap(small_net(6))
    kept.load_weights(path)
    alive = [mask.all() for mask in kprune.masks(kept).values()]
    assert all(alive) is short


def test_a_checkpoint_of_every_epoch_is_left_alone(caplog, tmp_path):
    every = keras.callbacks.ModelCheckpoint(
        str(tmp_path / "{epoch}.weights.h5"), save_weights_only=True
    )
    fit([prune(), every])
    assert not caplog.records


@pytest.mark.parametrize(
    "callback",
    [
        PruneCallback(),
        SoftPruneCallback(),
        AttenuateCallback(),
        RegularizeCallback(keras.regularizers.L1(0.1)),
    ],
)
def test_by_hand_it_asks_for_model_and_epochs(callback):
    with pytest.raises(
        RuntimeError, match=r"CallbackList\(\[callback\], model="
    ):
        callback.on_train_begin()
    masked = kprune.wrap(small_net(6))
    masked.compile("sgd", loss())
    callback.set_model(masked)
    with pytest.raises(
        RuntimeError, match=r"CallbackList\(\[callback\], model="
    ):
        callback.on_train_begin()


def test_by_hand_in_a_list_of_callbacks():
    masked = kprune.wrap(small_net(6))
    masked.compile("sgd", loss())
    callbacks = keras.callbacks.CallbackList([prune()], model=masked, epochs=4)
    callbacks.on_train_begin()
    for epoch in range(4):
        callbacks.on_epoch_begin(epoch)
        callbacks.on_epoch_end(epoch, {})
    callbacks.on_train_end()
    assert not all(mask.all() for mask in kprune.masks(masked).values())
