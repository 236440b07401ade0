"""Clusters of filters: found, drawn together, merged."""

from __future__ import annotations

import keras
import numpy as np
import pytest
import zoo
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs
from harness import prunable_sizes
from harness import random_inputs
from harness import random_masks
from harness import randomise
from keras import layers

import kprune
from kprune.callbacks import ClusterCallback
from kprune.duplication.api import merge_copies
from kprune.duplication.clusters import cluster
from kprune.duplication.clusters import draw_together
from kprune.duplication.clusters import find_clusters
from kprune.rebuild.copies import assign

HALF = {"macs": 0.5}


def values(variable):
    return np.array(keras.ops.convert_to_numpy(variable), "float64")


def partition(labels):
    return {frozenset(np.flatnonzero(labels == n)) for n in set(labels)}


def test_planted_clusters_are_found():
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.arange(40) % 7)
    rows = rng.normal(size=(7, 30))[labels] + 0.1 * rng.normal(size=(40, 30))
    assert partition(cluster(rows, 7)) == partition(labels)
    again = cluster(rows[labels], 12)  # with equal rows
    assert set(again) == set(range(12))
    assert partition(cluster(rows, 40)) == {frozenset([n]) for n in range(40)}


def clustered(model, pull=1.0):
    randomise(model)
    session = kprune.Session(kprune.wrap(model))
    masks = random_masks(session.graph)
    maps = find_clusters(session, masks, session.alive())
    before = {id(v): values(v) for v in session.masked.variables}
    edit = draw_together(maps, pull)
    assign(session.masked, session.graph, maps, edit)
    return session, masks, maps, before


def test_filters_go_towards_the_mean_of_their_cluster():
    session, _, maps, before = clustered(small_net(8), 0.25)
    assert set(maps) == set(prunable_sizes(small_net(8)))
    for name, known in maps.items():
        for member in session.graph[name].members:
            was = np.moveaxis(before[id(member.variable)], member.axis, 0)
            now = np.moveaxis(values(member.variable), member.axis, 0)
            for channels in partition(known.donors):
                places = member.index[sorted(channels)].ravel()
                if member.role == "input":
                    continue
                mean = was[places].mean(axis=0)
                wanted = was[places] + 0.25 * (mean - was[places])
                np.testing.assert_allclose(now[places], wanted, atol=1e-6)
    head = session.masked.get_layer("head").layer.kernel
    np.testing.assert_array_equal(values(head), before[id(head)])


@pytest.mark.parametrize("build", [zoo.option_a_resnet, small_net])
def test_merging_clusters_changes_no_output(build):
    session, masks, maps, _ = clustered(build())
    assert maps
    x = random_inputs(session.masked, batch=4)
    before = outputs(session.masked, x)
    merged = merge_copies(session, maps)
    for name, mask in merged.items():
        assert mask.sum() == masks[name].sum()
    session.remove(merged)
    assert difference(before, outputs(session.masked, x)) <= 1e-5
    compact = kprune.rebuild(session.masked, merge=None)
    assert difference(before, outputs(compact, x)) <= 1e-5
    sizes = prunable_sizes(compact)
    assert {n: sizes[n] for n in merged} == {
        n: int(m.sum()) for n, m in merged.items()
    }


def test_as_many_clusters_as_filters_do_nothing():
    session = kprune.Session(kprune.wrap(small_net(8)))
    alive = session.alive()
    assert find_clusters(session, alive, alive) == {}


def compiled(model):
    eager = keras.config.backend() != "jax"
    model.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), loss(), run_eagerly=eager
    )
    return model


def test_training_with_clusters_ends_in_a_small_model():
    keras.utils.set_random_seed(0)
    model = compiled(small_net(8))
    recipe = kprune.recipe("ascp", HALF, epochs=4, schedule=SCHEDULE)
    masked = recipe.prepare(model)
    history = masked.fit(
        dataset(), epochs=4, callbacks=recipe.callbacks, verbose=0
    ).history
    clusters, shares = history["clustered_filters"], history["pruned_macs"]
    assert 0 < clusters[0] < clusters[1] and clusters[2:] == [0, 0]
    assert shares[1] < 0.05 and shares[2] == shares[3] >= 0.5
    compact = kprune.rebuild(masked, merge=None)
    saved = 1 - kprune.cost(compact).macs / kprune.cost(model).macs
    assert 0.5 <= saved < 0.65
    x, _ = arrays()
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


SCHEDULE = kprune.schedules.Linear(end=2)


def test_groups_without_exact_copies_are_pruned(caplog):
    x = inputs = keras.Input((6,))
    x = layers.LayerNormalization()(layers.Dense(8, name="normed")(x))
    x = layers.Dense(8, activation="relu", name="free")(x)
    model = compiled(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    masked = kprune.wrap(model)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 6)).astype("float32"), np.arange(8) % 3
    callback = ClusterCallback(
        reduce={"params": 0.4}, schedule=kprune.schedules.Constant(end=1)
    )
    calls = keras.callbacks.CallbackList([callback], model=masked, epochs=2)
    with caplog.at_level("INFO", logger="kprune"):
        calls.on_train_begin()
        for epoch in range(2):
            calls.on_epoch_begin(epoch)
            masked.train_on_batch(x, y)
            calls.on_epoch_end(epoch)
    assert "Group 'normed' is not clustered" in caplog.text
    compact = kprune.rebuild(masked, merge=None)
    sizes = prunable_sizes(compact)
    assert sizes["normed"] < 8 and sizes["free"] < 8
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


def test_what_is_merged_already_is_not_merged_again():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    x = layers.Dense(8, activation="relu", name="one")(inputs)
    x = layers.Dense(8, activation="relu", name="two")(x)
    model = compiled(keras.Model(inputs, layers.Dense(3, name="head")(x)))
    masked = kprune.wrap(model)
    # Twins, so that the clusters change nothing.
    for name in ("one", "two"):
        kernel, bias = masked.get_layer(name).layer.get_weights()
        kernel[:, 4:] = kernel[:, :4]
        masked.get_layer(name).layer.set_weights([kernel, bias])
    x = np.random.default_rng(0).normal(size=(16, 6)).astype("float32")
    before = outputs(masked, x)
    callback = ClusterCallback(
        allocation={"one": 0.5, "two": 0.5},
        schedule=kprune.schedules.Constant(end=1),
        recover="merge",
    )
    calls = keras.callbacks.CallbackList([callback], model=masked, epochs=2)
    calls.on_train_begin()
    calls.on_epoch_begin(1)
    assert kprune.masks(masked)["one"].sum() == 4
    assert difference(before, outputs(masked, x)) < 1e-5


def test_a_pull_is_a_share():
    with pytest.raises(ValueError, match="ClusterCallback needs a number"):
        ClusterCallback(pull=0)
