"""Training with copies, and what is left of them."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs

import kprune
from kprune.callbacks import DuplicateCallback
from kprune.callbacks import Merge
from kprune.duplication import Copies
from kprune.duplication import Split

HALF = {"macs": 0.5}


def compiled(optimizer="sgd", seed=0):
    keras.utils.set_random_seed(seed)
    model = small_net(8)
    if optimizer == "sgd":
        optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    model.compile(optimizer, loss())
    return model


def fit(masked, *callbacks, epochs=3, **kwargs):
    return masked.fit(
        dataset(), epochs=epochs, verbose=0, callbacks=list(callbacks), **kwargs
    ).history


def callback(**kwargs):
    kwargs = {"reduce": HALF, "allocation": "uniform", **kwargs}
    return DuplicateCallback(**kwargs)


def saved(model, small):
    return 1 - kprune.cost(small).macs / kprune.cost(model).macs


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_tied_copies_are_merged_at_the_end(optimizer):
    masked = kprune.wrap(compiled(optimizer))
    history = fit(masked, callback())
    small = kprune.rebuild(masked, merge=None)
    x, _ = arrays()
    assert 0.5 <= saved(masked_full(), small) < 0.65
    assert difference(outputs(masked, x), outputs(small, x)) < 1e-5
    assert set(history["copies"]) == {4}
    assert history["pruned_macs"][-1] < 0.05, "nothing is saved before merging"
    # The model's own count, afterwards.
    assert saved(masked_full(), masked) >= 0.5


def masked_full():
    return kprune.wrap(small_net(8))


def test_the_outputs_at_the_end_of_training_stay():
    """Merging tied copies is exact: as the callback-free run that ties."""
    masked = kprune.wrap(compiled())
    seen = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen[epoch] = outputs(self.model, arrays()[0])

    fit(masked, callback(), Look())
    assert difference(seen[2], outputs(masked, arrays()[0])) < 1e-5


def test_merging_at_the_number_of_epochs_is_merging_at_the_end():
    masked = kprune.wrap(compiled())
    fit(masked, callback(merge=Merge(epoch=2)), epochs=2)
    assert saved(masked_full(), masked) >= 0.5


def test_merging_before_an_epoch_trains_the_small_model_on():
    masked = kprune.wrap(compiled())
    history = fit(masked, callback(merge=Merge(epoch=2)), epochs=4)
    assert [c > 0 for c in history["copies"]] == [True, True, False, False]
    shares = history["pruned_macs"]
    assert shares[1] < 0.05 and shares[2] == shares[3] >= 0.5
    small = kprune.rebuild(masked)
    x, _ = arrays()
    assert difference(outputs(masked, x), outputs(small, x)) < 1e-5


def test_duplicating_later():
    masked = kprune.wrap(compiled())
    history = fit(masked, callback(epoch=1))
    assert [c > 0 for c in history["copies"]] == [False, True, True]
    assert saved(masked_full(), kprune.rebuild(masked)) >= 0.5


@pytest.mark.parametrize(
    "copies",
    [
        Copies(consumers=Split("random")),
        Copies(noise=0.01),
        Copies(consumers="naive"),
    ],
    ids=["shares", "noise", "naive"],
)
def test_parted_copies_are_pruned_by_similarity(copies):
    masked = kprune.wrap(compiled())
    fit(masked, callback(copies=copies, merge=Merge(allocation="uniform")))
    small = kprune.rebuild(masked)
    assert 0.5 <= saved(masked_full(), small) < 0.65
    x, _ = arrays()
    assert difference(outputs(masked, x), outputs(small, x)) < 1e-5


def test_close_copies_can_be_merged():
    copies = Copies(noise=1e-4)
    masked = kprune.wrap(compiled())
    fit(masked, callback(copies=copies, merge=Merge(tolerance=0.05)), epochs=1)
    assert saved(masked_full(), kprune.rebuild(masked)) >= 0.5


def test_each_epoch_ends_with_equal_copies():
    """What moved copies apart in an epoch is gone at its end."""

    class Nudge(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            kernel = self.model.get_layer("conv3").layer.kernel
            value = np.array(keras.ops.convert_to_numpy(kernel))
            kernel.assign(value * (1 + 1e-3 * np.arange(8) / 8))

    masked = kprune.wrap(compiled())
    fit(masked, Nudge(), callback())
    assert saved(masked_full(), kprune.rebuild(masked)) >= 0.5


def test_copies_that_are_there_already_are_taken_as_they_are():
    masked = kprune.duplicate(
        compiled(), reduce={"macs": 0.6}, allocation="uniform"
    )
    fit(masked, callback(reduce={"macs": 0.3}))
    assert saved(masked_full(), kprune.rebuild(masked)) >= 0.6


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_the_recipe_makes_copies_once(noise):
    model, copies = compiled(), Copies(noise=noise)
    parts = {"allocation": "uniform", "copies": copies}
    expected = kprune.duplicate(model, reduce=HALF, **parts).get_weights()
    r = kprune.recipe("duplication", HALF, epochs=3, **parts)
    masked = r.prepare(model)
    calls = keras.callbacks.CallbackList(r.callbacks, model=masked, epochs=3)
    calls.on_train_begin()
    calls.on_epoch_begin(0)
    for ours, theirs in zip(masked.get_weights(), expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert ("in prepare" in str(r)) == (noise == 0)


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path):
    """Copies are found again in the restored weights."""
    whole = kprune.wrap(compiled())
    fit(whole, callback(), epochs=3)

    first = kprune.wrap(compiled())

    class Keep(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                self.model.save(tmp_path / "epoch.keras")

    fit(first, callback(), Keep(), epochs=3)
    again = keras.models.load_model(tmp_path / "epoch.keras")
    history = fit(again, callback(), epochs=3, initial_epoch=2)
    assert history["copies"] == [4]
    for a, b in zip(
        kprune.rebuild(whole).get_weights(),
        kprune.rebuild(again).get_weights(),
        strict=True,
    ):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_tolerance_by_default():
    masked = kprune.wrap(compiled())
    fit(masked, DuplicateCallback(reduce=HALF, data=arrays()), epochs=1)
    assert saved(masked_full(), kprune.rebuild(masked)) >= 0.5


def test_a_dictionary_as_allocation():
    masked = kprune.wrap(compiled())
    fit(masked, DuplicateCallback(allocation={"conv3": 0.5}), epochs=1)
    small = kprune.rebuild(masked)
    assert small.get_layer("conv3").filters == 4
    assert small.get_layer("conv1").filters == 8


def test_errors():
    with pytest.raises(ValueError, match="must merge copies after"):
        DuplicateCallback(epoch=3, merge=Merge(epoch=3))
    with pytest.raises(ValueError, match="1 or more"):
        Merge(epoch=0)
    with pytest.raises(ValueError, match="tolerance"):
        Merge(tolerance=-1)
    with pytest.raises(ValueError, match="measures the loss"):
        fit(kprune.wrap(compiled()), DuplicateCallback(reduce=HALF))
