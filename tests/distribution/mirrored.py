"""One check of `test_mirrored.py`, on two virtual devices of TensorFlow."""

from __future__ import annotations

import contextlib
import sys

import keras
import numpy as np
import pages
import tensorflow as tf
from fitting import arrays
from fitting import dataset
from fitting import loss

import kprune
from kprune import callbacks
from kprune.callbacks._losses import AddedLoss

tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0],
    [tf.config.LogicalDeviceConfiguration()] * 2,
)
STRATEGY = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
X, Y = arrays()


def build(optimizer=None):
    """Fresh weights, the same each time; statistics are those of all replicas."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, name="conv1"),
            layers.BatchNormalization(synchronized=True),
            layers.ReLU(),
            layers.Conv2D(8, 3, name="conv2", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ]
    )
    model.compile(optimizer or keras.optimizers.SGD(0.1, 0.9), loss())
    return model


def replicas(variable):
    """The value on each device."""
    return [part.numpy() for part in variable.value.values]


def assert_mirrored(model):
    assert model.distribute_strategy is STRATEGY
    for variable in [*model.variables, *model.optimizer.variables]:
        first, second = replicas(variable)
        np.testing.assert_array_equal(first, second, variable.path)


def copies_stay_with_their_strategy():
    """wrap(), prune() and rebuild() outside the scope, of a model with momenta."""
    with STRATEGY.scope():
        model = build(keras.optimizers.Adam(0.01, use_ema=True))
        model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    for variable in model.optimizer.variables[2:]:
        variable.assign(rng.uniform(1, 2, variable.shape))
    masked = kprune.wrap(model)
    assert_mirrored(masked)
    for old, new in zip(
        model.optimizer.variables, masked.optimizer.variables, strict=True
    ):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    kprune.prune(masked, reduce={"macs": 0.4})
    assert_mirrored(masked)
    gone = kprune.masks(masked)["conv1"] == 0
    assert 0 < gone.sum() < 8
    moments = {v.path: v for v in masked.optimizer.variables}
    for name in ("momentum", "velocity", "average"):
        moment = moments[f"adam/conv1_kernel_{name}"]
        for value in replicas(moment):
            assert not value[..., gone].any() and value[..., ~gone].any()
    compact = kprune.rebuild(masked)
    assert_mirrored(compact)
    cut = {v.path: v for v in compact.optimizer.variables}
    np.testing.assert_array_equal(
        cut["adam/conv1_kernel_velocity"].numpy(),
        moments["adam/conv1_kernel_velocity"].numpy()[..., ~gone],
    )
    np.testing.assert_allclose(compact(X), masked(X), atol=1e-5)


def a_scope_that_is_entered_holds():
    """All that is measured is what one device measures; copies are mirrored."""
    model = build()
    data = {"data": (X, Y), "reduce": {"macs": 0.4}}
    plain = kprune.prune(model, "taylor", **data)
    expected = kprune.Session(plain, (X, Y))
    losses = expected.losses([{"conv1": np.eye(8)[n]} for n in range(2)])
    gradients = expected.gradients(X, Y)
    with STRATEGY.scope():
        masked = kprune.prune(model, "taylor", **data)
        assert masked.distribute_strategy is STRATEGY
        session = kprune.Session(masked, (X, Y))
        found = session.losses([{"conv1": np.eye(8)[n]} for n in range(2)])
        slopes = session.gradients(X, Y)
    np.testing.assert_equal(kprune.masks(masked), kprune.masks(plain))
    np.testing.assert_allclose(found, losses, rtol=1e-5)
    for one, other in zip(
        plain.trainable_variables, masked.trainable_variables, strict=True
    ):
        np.testing.assert_allclose(
            gradients[id(one)], slopes[id(other)], rtol=1e-4, atol=1e-6
        )


def learns_as_on_one_device(name):
    """A recovery that trains takes the same steps as on one device."""
    found = []
    for scope in (contextlib.nullcontext, STRATEGY.scope):
        keras.utils.clear_session(free_memory=False)
        with scope():
            model = build()
        recovery = getattr(kprune.recovery, name)(steps=3, batch_size=24)
        for recover in ([], [recovery]):
            masked = kprune.prune(
                model, "l1", {"macs": 0.4}, data=X, recover=recover
            )
            found.append(masked.predict_on_batch(X)[: len(X)])
    assert np.abs(found[1] - found[0]).max() > 0.02
    # Steps on a bias before a normalisation are rounding errors.
    np.testing.assert_allclose(found[3], found[1], atol=5e-3)


class Adds(keras.callbacks.Callback):
    """Adds 2 to the loss, and nothing to its gradients."""

    def on_train_begin(self, logs=None):
        self.added = AddedLoss(self, lambda *of: 2.0 + 0.0 * of[2][0, 0])
        self.added.attach()


def an_added_loss_counts_once():
    """A loss that a callback adds is averaged over replicas, as the compiled one."""
    found = []
    for added in ([], [Adds()]):
        with STRATEGY.scope():
            model = build(keras.optimizers.SGD(0.0))
            history = model.fit(dataset(), verbose=0, callbacks=added).history
        found.append(history["loss"][0])
    np.testing.assert_allclose(found[1] - found[0], 2.0, atol=1e-4)


CALLBACKS = {
    "prune": lambda: callbacks.PruneCallback(reduce={"macs": 0.4}),
    "loss": lambda: callbacks.PruneCallback(
        "loss_increase", reduce={"macs": 0.4}, data=(X, Y)
    ),
    "attenuate": lambda: callbacks.AttenuateCallback(reduce={"macs": 0.4}),
    "soft": lambda: callbacks.SoftPruneCallback(reduce={"macs": 0.4}),
    "duplicate": lambda: callbacks.DuplicateCallback(
        reduce={"macs": 0.4}, data=(X, Y)
    ),
}


def trains_as_on_one_device(name):
    """Masks of a callback are those that one device gets from the same batches."""
    trained = []
    for scope in (contextlib.nullcontext, STRATEGY.scope):
        keras.utils.clear_session(free_memory=False)
        with scope():
            masked = kprune.wrap(build())
            masked.fit(
                dataset(),
                epochs=3,
                shuffle=False,
                verbose=0,
                callbacks=[CALLBACKS[name]()],
            )
        trained.append(masked)
    one, mirrored = trained
    masks = kprune.masks(mirrored)
    np.testing.assert_equal(masks, kprune.masks(one))
    assert 0 < (masks["conv1"] == 0).sum() + (masks["conv2"] == 0).sum()
    for a, b in zip(one.weights, mirrored.weights, strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)
    assert_mirrored(mirrored)
    compact = kprune.rebuild(mirrored)
    assert_mirrored(compact)
    np.testing.assert_allclose(
        compact.predict(X, verbose=0), mirrored.predict(X, verbose=0), atol=1e-5
    )


def gates_train_on_both(name):
    """Replicas that take turns in a step keep what they have seen apart."""
    with STRATEGY.scope():
        recipe = kprune.recipe(name, {"macs": 0.4}, epochs=3)
        masked = recipe.prepare(build())
    masked.fit(
        dataset(),
        epochs=3,
        callbacks=recipe.callbacks,
        verbose=0,
        shuffle=False,
    )
    assert_mirrored(masked)
    found = kprune.masking.acting_gates(masked)
    assert bool(found) == (name == "manidp")
    for gate in found.values():
        assert np.ptp(gate.mean.numpy()) > 0
    if found:
        # One gate holds the running loss for all.
        assert max(g.loss_level.numpy() for g in found.values()) > 0
        kprune.masking.close_gates(masked)
    compact = kprune.rebuild(masked)
    assert_mirrored(compact)
    assert kprune.cost(compact).macs <= 0.6 * kprune.cost(build()).macs


def the_page_runs():
    """The code of docs/distribution.md, on two devices of this machine."""
    code = pages.blocks(pages.DOCS / "distribution.md", "python")[0].code
    named = "tf.distribute.MirroredStrategy()"
    assert named in code
    place = {"STRATEGY": STRATEGY}
    exec(code.replace(named, "STRATEGY"), place)
    full, compact = (kprune.cost(place[n]).macs for n in ("model", "compact"))
    assert compact <= 0.5 * full
    assert_mirrored(place["compact"])


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
