"""Filters go, the layers that stay are repaired, and training goes on."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net

import kprune
from kprune.callbacks import AttenuateCallback
from kprune.callbacks import DuplicateCallback
from kprune.callbacks import Merge
from kprune.callbacks import PruneCallback
from kprune.callbacks import SoftPruneCallback
from kprune.duplication import Copies
from kprune.graph.values import read

X, Y = arrays(96)
HALF = {"macs": 0.5}


class Before(keras.callbacks.Callback):
    """The outputs when an epoch begins; to be listed behind what prunes."""

    def __init__(self):
        super().__init__()
        self.outputs = []

    def on_epoch_begin(self, epoch, logs=None):
        self.outputs.append(read(self.model(X)))


def trained():
    keras.utils.set_random_seed(0)
    model = small_net()
    model.compile(keras.optimizers.Adam(0.01), loss())
    model.fit(dataset(), epochs=4, verbose=0, shuffle=False)
    return model


def run(callback, epochs=1, optimizer=None, rate=0.0):
    """The outputs of the trained model, and those before each epoch."""
    masked = kprune.wrap(trained())
    # At a rate of 0 nothing but the callback changes the weights.
    masked.compile(optimizer or keras.optimizers.SGD(rate), loss())
    watch = Before()
    start = read(masked(X))
    masked.fit(
        dataset(),
        epochs=epochs,
        callbacks=[callback, watch],
        verbose=0,
        shuffle=False,
    )
    return start, watch.outputs, masked


def error(a, b):
    return float(np.mean((a - b) ** 2))


WAYS = {
    "prune": lambda recover: PruneCallback(
        "l1", HALF, "one_shot", "global", X, recover
    ),
    "soft": lambda recover: SoftPruneCallback(
        "l2",
        HALF,
        kprune.schedules.Constant(end=1),
        data=X,
        recover=recover,
    ),
    "attenuate": lambda recover: AttenuateCallback(
        None,
        HALF,
        kprune.schedules.Constant(end=1),
        data=X,
        factor=0.9,
        recover=recover,
    ),
    "duplicate": lambda recover: DuplicateCallback(
        "l1",
        HALF,
        "uniform",
        data=X,
        copies=Copies(noise=0.5),
        merge=Merge(epoch=1, criterion="l1"),
        recover=recover,
    ),
}


@pytest.mark.parametrize("way", ["prune", "attenuate"])
def test_training_starts_from_repaired_layers(way):
    gaps = {}
    for recover in ([], "reconstruct"):
        start, outputs, masked = run(WAYS[way](recover), epochs=2)
        assert kprune.cost(masked).macs <= 0.5 * kprune.cost(small_net()).macs
        gaps[str(recover)] = error(start, outputs[-1])
    assert gaps["reconstruct"] < 0.7 * gaps["[]"]


@pytest.mark.parametrize("way", ["soft", "duplicate"])
def test_the_final_removal_is_repaired(way):
    found = []
    calls = []

    def spy(session, before):
        gone = sum(int((~a).sum()) for a in session.alive().values())
        now = session.snapshot()
        before.restore()
        found.append(read(session.masked(X)))
        now.restore()
        calls.append(gone)

    _, outputs, masked = run(WAYS[way](spy), epochs=2)
    assert len(calls) == (2 if way == "duplicate" else 1)
    assert all(count > 0 for count in calls)
    # What it leads back to is the model that trained until then.
    assert error(found[-1], outputs[0]) < error(found[-1], outputs[1])
    assert kprune.cost(masked).macs <= 0.5 * kprune.cost(small_net()).macs


def test_every_round_is_repaired():
    rounds = []

    def spy(session, before):
        rounds.append(sum(int((~a).sum()) for a in session.alive().values()))

    run(
        PruneCallback("l1", HALF, kprune.Linear(end=2), "global", recover=spy),
        epochs=4,
    )
    assert len(rounds) == 3
    assert rounds == sorted(set(rounds))


def test_with_data_alone_the_best_path_is_taken():
    callback = PruneCallback(reduce=HALF, schedule="one_shot", data=X)
    _, outputs, masked = run(callback)
    expected = kprune.prune(trained(), reduce=HALF, data=X)
    np.testing.assert_allclose(outputs[0], read(expected(X)), atol=1e-4)
    masks = kprune.masks(expected)
    for name, mask in kprune.masks(masked).items():
        np.testing.assert_array_equal(mask, masks[name])


def test_without_data_nothing_is_repaired():
    _, outputs, _ = run(PruneCallback(reduce=HALF, schedule="one_shot"))
    expected = kprune.prune(trained(), "l1", HALF)
    np.testing.assert_allclose(outputs[0], read(expected(X)), atol=1e-5)


def test_slots_of_what_stays_are_kept():
    slots = {}

    class Slots(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            known = kprune.masking.slots.slots_by_variable(self.model)
            layer = self.model.get_layer("conv3").layer
            mine = known.get(id(layer.kernel), {})
            slots[epoch, self.name] = {
                n: read(s).copy() for n, s in mine.items()
            }

    first, second = Slots(), Slots()
    first.name, second.name = "first", "second"
    masked = kprune.wrap(trained())
    masked.compile(keras.optimizers.Adam(1e-3), loss())
    prune = PruneCallback(
        "l1", HALF, kprune.OneShot(1), "global", X, "reconstruct"
    )
    masked.fit(
        dataset(),
        epochs=2,
        callbacks=[first, prune, second],
        verbose=0,
        shuffle=False,
    )
    masks = kprune.masks(masked)
    kept = masked.get_layer("conv3").axis_mask(
        masked.get_layer("conv3").layer.kernel, 3
    )
    assert masks["conv3"].sum() == kept.sum()
    live = masked.get_layer("conv3").axis_mask(
        masked.get_layer("conv3").layer.kernel, 2
    )
    assert 0 < live.sum() < len(live) or 0 < kept.sum() < len(kept)
    places = np.ix_([0], [0], live > 0, kept > 0)
    assert slots[1, "first"]
    for name, before in slots[1, "first"].items():
        after = slots[1, "second"][name]
        assert np.abs(before).max() > 0
        np.testing.assert_array_equal(after[places], before[places])
        gone = after.copy()
        gone[places] = 0
        assert not gone.any()


@pytest.mark.slow
def test_an_average_of_weights_moves_with_the_repair():
    kernels = []

    class Kernels(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            kernels.append(read(kernel_of(self.model)).copy())

    def kernel_of(masked):
        return masked.get_layer("conv3").layer.kernel

    masked = kprune.wrap(trained())
    optimizer = keras.optimizers.SGD(0.0, use_ema=True, ema_momentum=0.9)
    masked.compile(optimizer, loss())
    prune = PruneCallback(
        "l1", HALF, kprune.OneShot(1), "global", X, "reconstruct"
    )
    callbacks = [prune, Kernels()]
    masked.fit(
        dataset(), epochs=2, callbacks=callbacks, verbose=0, shuffle=False
    )
    assert error(kernels[0], kernels[1]) > 1e-6
    # Training ends with the averages. Nothing was trained, so they are what
    # the repair has made of the weights.
    np.testing.assert_allclose(
        read(kernel_of(masked)), kernels[1], rtol=1e-5, atol=1e-7
    )


def test_a_recovery_without_its_samples_is_refused():
    with pytest.raises(ValueError, match="Reconstruct runs the model"):
        run(PruneCallback("l1", HALF, recover="reconstruct"))
    with pytest.raises(ValueError, match="Did you mean 'reconstruct'"):
        PruneCallback("l1", HALF, recover="reconstrukt")
    with pytest.raises(ValueError, match="lacks data"):
        kprune.recipe("similarity", epochs=3, recover="reconstruct")


@pytest.mark.parametrize("name", ["similarity", "attenuation", "duplication"])
def test_recipes_repair(name):
    calls = []

    def spy(session, before):
        calls.append(sum(int((~a).sum()) for a in session.alive().values()))

    r = kprune.recipe(name, HALF, (X, Y), 6, recover=spy)
    assert "Repairs the remaining layers by spy." in str(r)
    model = trained()
    model.compile(keras.optimizers.SGD(0.01), loss())
    masked = r.prepare(model)
    masked.fit(
        dataset(), epochs=6, callbacks=r.callbacks, verbose=0, shuffle=False
    )
    assert calls
    assert all(count > 0 for count in calls)


@pytest.mark.parametrize(
    ("name", "parts", "expected"),
    [
        ("scop", {}, ["BatchStatistics", "Reconstruct", "Mimic"]),
        ("scop", {"refresh": "mimic"}, ["Reconstruct", "Mimic", "Mimic"]),
        ("filtersketch", {}, ["Sketch", "Reconstruct", "Mimic"]),
        ("snpfi", {}, ["Reconstruct", "Mimic", "InteractionMatch"]),
        ("refit", {}, ["Reconstruct", "Mimic"]),
        ("refit", {"repair": None}, ["Reconstruct", "Mimic"]),
    ],
)
def test_a_repair_after_a_part_keeps_its_refit(name, parts, expected):
    r = kprune.recipe(name, HALF, (X, Y), 3, recover="mimic", **parts)
    chain = kprune.recovery.get(r.callbacks[-1].recover)
    assert [type(part).__name__ for part in chain.parts] == expected
    # A list says itself what runs.
    r = kprune.recipe(name, HALF, (X, Y), 3, recover=["bn"], **parts)
    chain = kprune.recovery.get(r.callbacks[-1].recover)
    assert "BatchStatistics" in [type(part).__name__ for part in chain.parts]
    alone = kprune.recipe("scop", HALF, (X, Y), 3, recover=["mimic"])
    assert alone.callbacks[-1].recover[1:] == ["mimic"]


def test_a_function_as_recipe_takes_recover_if_it_says_so():
    def own(reduce, data, epochs, recover=None):
        """Filters go at once."""
        return [PruneCallback("l1", reduce, data=data, recover=recover)]

    def plain(reduce, data, epochs):
        """Filters go at once."""
        return []

    base = kprune.recipes.base
    found = base._adapt(own, epochs=2, data=X, recover="reconstruct")
    assert found.callbacks[1].recover == "reconstruct"
    with pytest.raises(ValueError, match="without an argument"):
        _ = base._adapt(plain, epochs=2, data=X, recover="bias").callbacks
