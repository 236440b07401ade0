"""Which channels go, and how many of each group."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import weakref

import keras
import numpy as np
import pytest
from keras import layers
from models import dense_layers

import kprune
from kprune.recovery import _elimination as elimination
from kprune.recovery.allocation import output_error


def data(count=400, size=8, seed=0):
    rng = np.random.default_rng(seed)
    mixed = rng.normal(size=(count, size)) @ rng.normal(size=(size, size))
    return mixed.astype("float32")


def dense(activation=None):
    return dense_layers((6,), inputs=8, activation=activation)


def error_without(model, x, gone):
    """Relative error of the best refit of the head, by NumPy."""
    hidden = keras.Model(model.input, model.get_layer("d0").output)
    z = keras.ops.convert_to_numpy(hidden(x)).astype("float64")
    y = keras.ops.convert_to_numpy(model(x)).astype("float64")
    y -= y.mean(axis=0)
    kept = [c for c in range(z.shape[1]) if c not in gone]
    rows = z[:, kept] - z[:, kept].mean(axis=0)
    weights, *_ = np.linalg.lstsq(rows, y, rcond=None)
    return ((rows @ weights - y) ** 2).sum() / (y**2).sum()


@pytest.mark.parametrize("activation", [None, "relu"])
def test_scores_are_errors_of_greedy_removal(activation):
    model, x = dense(activation), data()
    graph = kprune.trace(model)
    masked = kprune.wrap(model)
    scores = kprune.Session(masked, x).score("reconstruction")["d0"]
    gone: list[int] = []
    for _ in range(5):
        left = [c for c in range(6) if c not in gone]
        errors = {c: error_without(model, x, [*gone, c]) for c in left}
        best = min(errors, key=errors.get)
        assert int(np.argsort(scores)[len(gone)]) == best
        np.testing.assert_allclose(
            scores[best], errors[best], rtol=0.05, atol=2e-3
        )
        gone.append(best)
    assert scores[next(c for c in range(6) if c not in gone)] == scores.max()
    assert graph["d0"].size == 6


def test_a_copy_goes_first():
    model, x = dense("relu"), data()
    first = model.get_layer("d0")
    kernel = np.array(keras.ops.convert_to_numpy(first.kernel))
    kernel[:, 4] = 3 * kernel[:, 2]
    first.kernel.assign(kernel)
    masked = kprune.prune(
        model, "reconstruction", allocation={"d0": 1 / 6}, data=x
    )
    gone = np.flatnonzero(kprune.masks(masked)["d0"] == 0)
    assert gone.tolist() in ([2], [4])


def test_removed_channels_score_0_and_are_not_counted_on():
    model, x = dense("relu"), data()
    first = model.get_layer("d0")
    kernel = np.array(keras.ops.convert_to_numpy(first.kernel))
    kernel[:, 4] = kernel[:, 2]
    first.kernel.assign(kernel)
    masked = kprune.wrap(model)
    mask = np.ones(6)
    mask[4] = 0
    kprune.set_masks(masked, {"d0": mask})
    scores = kprune.Session(masked, x).score("reconstruction")["d0"]
    assert scores[4] == 0
    assert scores[2] > 1e-3  # its copy, which could have stood in, is gone


def redundant_net():
    """Two equal branches, of which only the second has copies of filters."""
    inputs = keras.Input((8, 8, 3))
    outs = []
    for name in ("plain", "copies"):
        y = layers.Conv2D(12, 3, padding="same", activation="relu", name=name)(
            inputs
        )
        y = layers.Conv2D(4, 3, padding="same", name=f"{name}_out")(y)
        outs.append(y)
    y = layers.GlobalAveragePooling2D()(layers.Concatenate()(outs))
    model = keras.Model(inputs, layers.Dense(3, name="head")(y))
    conv = model.get_layer("copies")
    kernel = np.array(keras.ops.convert_to_numpy(conv.kernel))
    kernel[..., 3:] = np.concatenate([kernel[..., :3]] * 3, axis=-1)
    conv.kernel.assign(kernel)
    return model


def test_shares_follow_what_the_outputs_notice():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(64, 8, 8, 3)).astype("float32")
    model = redundant_net()
    skip = ["plain_out", "copies_out"]
    results = {}
    for allocation in ("output_error", "uniform"):
        masked = kprune.prune(
            model,
            "reconstruction",
            {"macs": 0.3},
            allocation,
            data=x,
            skip=skip,
            recover="reconstruct",
        )
        kept = {n: int(m.sum()) for n, m in kprune.masks(masked).items()}
        compact = kprune.rebuild(masked)
        assert kprune.cost(compact).macs <= 0.7 * kprune.cost(model).macs
        change = np.mean(
            (model.predict(x, verbose=0) - compact.predict(x, verbose=0)) ** 2
        )
        results[allocation] = kept, change
    assert results["output_error"][0]["plain"] > results["uniform"][0]["plain"]
    assert results["output_error"][1] < 0.1 * results["uniform"][1]


def test_the_search_leaves_the_weights_as_they_were():
    x = data()
    masked = kprune.wrap(dense("relu"))
    before = masked.get_weights()
    kprune.pruning.Policy(
        kprune.Session(masked, x),
        "reconstruction",
        {"macs": 0.5},
        "output_error",
    ).choose()
    for a, b in zip(masked.get_weights(), before, strict=True):
        np.testing.assert_array_equal(a, b)


def test_softmax_outputs_are_compared_by_logits():
    """Probabilities near 0 and 1 hide what happens to the classes."""
    x = data()
    inputs = keras.Input((8,))
    y = layers.Dense(6, activation="relu", name="first")(inputs)
    logits = layers.Dense(3, name="head")
    plain = keras.Model(inputs, logits(y))
    soft = keras.Model(inputs, layers.Softmax()(plain.outputs[0]))
    layer = layers.Dense(3, activation="softmax", name="soft")
    inside = keras.Model(inputs, layer(y))
    layer.set_weights(logits.get_weights())
    curves = []
    for model in (plain, soft, inside):
        session = kprune.Session(kprune.wrap(model), x)
        asked = dataclasses.replace(
            kprune.allocation.request(session, {"macs": 0.3}),
            scores=session.score("reconstruction"),
        )
        allocation = kprune.recovery.OutputError()
        curves.append(allocation.curves(asked, session)[0])
    np.testing.assert_allclose(curves[1], curves[2], rtol=1e-3)
    # Up to the constant that a softmax does not see.
    assert np.corrcoef(curves[0], curves[2])[0, 1] > 0.95


def test_needs_samples():
    with pytest.raises(
        ValueError, match="Allocation OutputError runs the model"
    ):
        kprune.prune(dense(), "l1", allocation="output_error")
    with pytest.raises(ValueError, match="Criterion Reconstruction runs"):
        kprune.prune(dense(), criterion="reconstruction")
    with pytest.raises(ValueError, match="levels"):
        kprune.recovery.OutputError(levels=[0.5, 1.0])


def test_every_combination_of_costs_is_met():
    model, x = redundant_net(), np.zeros((8, 8, 8, 3), "float32")
    x += np.random.default_rng(0).normal(size=x.shape)
    for macs, params in itertools.product([0.3, 0.5], repeat=2):
        masked = kprune.prune(
            model,
            "l1",
            {"macs": macs, "params": params},
            "output_error",
            data=x,
        )
        cost, full = kprune.cost(masked), kprune.cost(model)
        assert cost.macs <= (1 - macs) * full.macs
        assert cost.params <= (1 - params) * full.params


def reader_of_first(x):
    masked = kprune.wrap(dense("relu"))
    session = kprune.Session(masked, x)
    readers = elimination.observe(session, session.groups, len(x))
    ((member, reader),) = elimination.members_read(session.groups[0], readers)
    return session, member, reader


def test_one_factor_gives_what_a_solution_for_each_number_gives():
    _, member, reader = reader_of_first(data())
    order = np.array([3, 1, 5, 0, 2, 4])
    prefixes = elimination.Prefixes(member, reader, order)
    h, old = reader.covariance(), reader.matrix()
    scale = np.einsum("co,co->", old, h @ old)
    for count in range(5):
        stay = np.sort(order[count:])
        wanted = np.linalg.solve(h[np.ix_(stay, stay)], h[stay] @ old)
        (kernel, got), (_, bias) = prefixes.weights(count)
        assert kernel is reader.view.kernel
        np.testing.assert_allclose(got[stay], wanted, rtol=1e-6, atol=1e-8)
        assert not got[order[:count]].any()
        change = old.copy()
        change[stay] -= wanted
        mean = reader.sums.rows / reader.sums.count
        np.testing.assert_allclose(bias, mean @ change, atol=1e-6)
        error = np.einsum("co,co->", change, h @ change) / scale
        np.testing.assert_allclose(
            prefixes.errors[count], error, rtol=1e-6, atol=1e-9
        )


def test_samples_that_hardly_differ_can_choose():
    model = dense("relu")
    x = np.full_like(data(), 100.0)
    masked = kprune.prune(model, reduce={"macs": 0.5}, data=x)
    assert kprune.cost(masked).macs <= 0.5 * kprune.cost(model).macs
    outputs = keras.ops.convert_to_numpy(masked(data()))
    assert np.isfinite(outputs).all()
    with pytest.raises(ValueError, match="needs at least 5 samples"):
        kprune.prune(model, reduce={"macs": 0.5}, data=data()[:1])


def residual_of_operations():
    """Linear layers that only `keras.ops` read: a sum and a ReLU."""
    x = inputs = keras.Input((6, 6, 2))
    x = keras.ops.relu(layers.Conv2D(6, 3, name="conv")(x))
    a = layers.Dense(6, activation="relu", name="a")(x)
    b = layers.Dense(6, name="b")(a)
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(a + b))
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


@pytest.mark.parametrize(
    "options", [{}, {"recover": [kprune.recovery.Mimic(steps=1)]}]
)
def test_operations_may_read_linear_layers(options):
    model = residual_of_operations()
    x = np.random.default_rng(0).normal(size=(64, 6, 6, 2)).astype("float32")
    masked = kprune.prune(model, reduce={"macs": 0.4}, data=x, **options)
    compact = kprune.rebuild(masked)
    assert kprune.cost(compact).macs <= 0.6 * kprune.cost(model).macs
    np.testing.assert_allclose(
        compact.predict(x, verbose=0), masked.predict(x, verbose=0), atol=1e-5
    )


def test_rounding_below_zero_leaves_a_factor():
    mean = np.full((8, 1), 1e3, "float32")
    h = np.zeros((8, 8)) - 1e-3 * np.ones((8, 8))
    factor = elimination._cholesky(h, float((mean**2).sum()))
    assert np.isfinite(factor).all()
    # Nothing is added where nothing is missing.
    h = np.diag(np.arange(1.0, 9.0))
    np.testing.assert_array_equal(
        elimination._cholesky(h, 1e6), np.linalg.cholesky(h)
    )


def test_a_session_is_observed_once_until_something_changes(monkeypatch):
    session, _, reader = reader_of_first(data())
    ran = []
    start = session.segments.start
    monkeypatch.setattr(
        session.segments, "start", lambda x: ran.append(1) or start(x)
    )
    again = elimination.observe(session, session.groups, 400)
    assert not ran
    assert reader in again.values()
    kernel = session.masked.get_layer("d0").layer.kernel
    kernel.assign(kernel * 2)
    elimination.observe(session, session.groups, 400)
    assert ran


def test_a_session_that_was_observed_can_be_freed():
    session, _, _ = reader_of_first(data())
    gone = weakref.ref(session)
    del session
    gc.collect()
    assert gone() is None


def test_between_measured_errors_the_readers_say_how_they_rise():
    local = np.array([0.0, 0.1, 0.3, 0.4, 1.0, 2.0])
    points = {0: 0.0, 2: 0.6, 4: 4.0}
    found = output_error._between(points, local, [1, 2, 3, 4])
    assert found[1] == pytest.approx(0.2)  # twice the readers', as at 2
    assert found[3] == pytest.approx(0.4 * np.sqrt(8.0))
    assert found[0] == 0.0
    assert found[2] == 0.6
    assert found[4] == 4.0
    assert output_error._between(points, None, [1, 2, 3]) == points


def test_measured_is_every_second_number_without_the_last():
    assert output_error._some([1, 2, 3, 4, 5, 6, 7]) == [1, 3, 5]
    assert output_error._some([1, 2]) == [1]
    assert output_error._some([3]) == [3]
    assert output_error._some([]) == []
