"""One check of `test_sharded.py`, on four virtual devices of JAX."""

from __future__ import annotations

import os
import sys

os.environ["KERAS_BACKEND"] = "jax"
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"

import keras
import numpy as np
from fitting import arrays
from fitting import loss

import kprune
from kprune import callbacks

X, Y = arrays()


def build():
    """Fresh weights, the same each time."""
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, name="conv1"),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Conv2D(8, 3, name="conv2", activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="head"),
        ],
        name="net",
    )
    model.compile(keras.optimizers.SGD(0.1, 0.9), loss())
    model.optimizer.build(model.trainable_variables)
    return model


def data_parallel():
    return keras.distribution.DataParallel(auto_shard_dataset=False)


def model_parallel():
    """Filters over two devices; one key is a whole path, which copies lack."""
    mesh = keras.distribution.DeviceMesh((2, 2), ("batch", "model"))
    layouts = keras.distribution.LayoutMap(mesh)
    layouts["net/conv1/kernel"] = (None, None, None, "model")
    layouts[".*conv2/kernel"] = (None, None, None, "model")
    layouts[".*conv2/(bias|mask.*)"] = ("model",)
    return keras.distribution.ModelParallel(
        layout_map=layouts, auto_shard_dataset=False
    )


DISTRIBUTIONS = {"data": data_parallel, "model": model_parallel}


def layouts_of(variables):
    """By the path from the layer on, the mesh axes a variable is split over."""
    found = {}
    for v in variables:
        assert tuple(v.value.sharding.spec) == v._layout.axes
        found[v.path.removeprefix("net/")] = v._layout.axes
    return found


def copies_are_split():
    """wrap() splits as the model does, rebuild() what still divides evenly."""
    keras.distribution.set_distribution(model_parallel())
    model = build()
    rng = np.random.default_rng(0)
    for variable in model.optimizer.variables[2:]:
        variable.assign(rng.uniform(1, 2, variable.shape))
    masked = kprune.wrap(model)
    before = layouts_of(model.variables)
    assert before["conv1/kernel"] == (None, None, None, "model")
    after = layouts_of(masked.variables)
    assert {path: after[path] for path in before} == before
    slots = layouts_of(masked.optimizer.variables)
    assert slots["sgd/conv1_kernel_momentum"] == before["conv1/kernel"]
    masks = {
        "conv1": [1, 1, 1, 0, 1, 1, 1, 0],
        "conv2": [1, 1, 1, 0, 1, 1, 0, 0],
    }
    kprune.set_masks(masked, masks)
    compact = kprune.rebuild(masked)  # Writes the warning that the test reads.
    cut = layouts_of(compact.variables)
    assert cut["conv1/kernel"] == before["conv1/kernel"]
    assert cut["conv2/kernel"] == (None, None, None, None)
    assert cut["conv2/bias"] == (None,)
    slots = {v.path: v for v in compact.optimizer.variables}
    momentum = slots["sgd/conv2_kernel_momentum"]
    assert momentum._layout.axes == (None, None, None, None)
    (old,) = (
        v
        for v in model.optimizer.variables
        if v.path.endswith("conv2_kernel_momentum")
    )
    kept = np.asarray(old)[:, :, np.array(masks["conv1"]) == 1]
    kept = kept[..., np.array(masks["conv2"]) == 1]
    np.testing.assert_array_equal(np.asarray(momentum), kept)
    np.testing.assert_allclose(compact(X), masked(X), atol=1e-5)
    masked_again = kprune.wrap(compact)
    assert layouts_of(masked_again.variables)["conv2/bias"] == (None,)


def measures_as_one_device(kind):
    """Gradients and losses of samples that do not divide over the devices."""
    x, y = X[:30], Y[:30]
    found = []
    for make in (lambda: None, DISTRIBUTIONS[kind]):
        keras.utils.clear_session(free_memory=False)
        keras.distribution.set_distribution(make())
        masked = kprune.prune(build(), "taylor", {"macs": 0.4}, data=(x, y))
        session = kprune.Session(masked, (x, y))
        trials = [{"conv1": np.eye(8)[n]} for n in range(2)]
        found.append((kprune.masks(masked), session.losses(trials)))
    np.testing.assert_equal(found[0][0], found[1][0])
    np.testing.assert_allclose(found[0][1], found[1][1], rtol=1e-5)


def learns_as_on_one_device(kind):
    """Steps of a recovery that trains, by samples that do not divide."""
    found = []
    for make in (lambda: None, DISTRIBUTIONS[kind]):
        keras.utils.clear_session(free_memory=False)
        keras.distribution.set_distribution(make())
        for recover in ([], [kprune.recovery.Mimic(steps=20, batch_size=21)]):
            masked = kprune.prune(
                build(), "l1", {"macs": 0.4}, data=X[:30], recover=recover
            )
            found.append(np.asarray(masked(X)))
    assert np.abs(found[1] - found[0]).max() > 0.02
    # Steps on a bias before a normalisation are rounding errors.
    np.testing.assert_allclose(found[3], found[1], atol=5e-3)


CALLBACKS = {
    "prune": lambda: callbacks.PruneCallback(reduce={"macs": 0.4}),
    "attenuate": lambda: callbacks.AttenuateCallback(reduce={"macs": 0.4}),
    "soft": lambda: callbacks.SoftPruneCallback(reduce={"macs": 0.4}),
    "duplicate": lambda: callbacks.DuplicateCallback(
        reduce={"macs": 0.4}, data=(X, Y)
    ),
}


def trains_as_on_one_device(kind, name):
    """Masks of a callback are those that one device gets from the same batches."""
    trained = []
    for make in (lambda: None, DISTRIBUTIONS[kind]):
        keras.utils.clear_session(free_memory=False)
        keras.distribution.set_distribution(make())
        masked = kprune.wrap(build())
        masked.fit(
            X,
            Y,
            batch_size=16,
            epochs=3,
            shuffle=False,
            verbose=0,
            callbacks=[CALLBACKS[name]()],
        )
        trained.append(masked)
    one, split = trained
    masks = kprune.masks(split)
    np.testing.assert_equal(masks, kprune.masks(one))
    assert 0 < (masks["conv1"] == 0).sum() + (masks["conv2"] == 0).sum()
    for a, b in zip(one.weights, split.weights, strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-5)
    compact = kprune.rebuild(split)
    np.testing.assert_allclose(
        compact.predict(X, verbose=0), split.predict(X, verbose=0), atol=1e-5
    )
    compact.fit(X, Y, batch_size=16, verbose=0)


if __name__ == "__main__":
    globals()[sys.argv[1]](*sys.argv[2:])
