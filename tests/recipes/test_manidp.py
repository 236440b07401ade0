"""ManiDP: gates that depend on the sample, their costs, their static model."""

import keras
import models
import numpy as np
import pytest
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import difference
from harness import outputs

import kprune
from kprune.callbacks.dynamic import _loss_by_sample
from kprune.callbacks.dynamic import dissimilarity
from kprune.callbacks.dynamic import easiness
from kprune.graph.values import read
from kprune.masking import add_dynamic_gates
from kprune.masking import close_gates
from kprune.masking import gates
from kprune.report.inspection import inspection
from kprune.report.inspection import inspection_text

X, _ = arrays(8)


def dense(seed=0):
    """One group; returns what a NumPy copy of it needs."""
    keras.utils.set_random_seed(seed)
    masked = kprune.wrap(models.dense_layers([6], 3, 2))
    (gate,) = add_dynamic_gates(masked).values()
    gate.scale.assign(1.0)
    x = np.random.default_rng(seed).normal(size=(5, 3)).astype("float32")
    first, second = (gate.squeeze.get_weights(), gate.excite.get_weights())
    saliency = np.maximum(
        np.maximum(x @ first[0], 0) @ second[0] + second[1], 0
    )
    return masked, gate, x, saliency


def test_each_sample_has_its_own_channels():
    masked, gate, x, saliency = dense()
    limit = np.sort(saliency.ravel())[12]
    gate.threshold.assign(limit - 1e-4)
    kernel, bias = masked.get_layer("d0").layer.get_weights()
    head = masked.get_layer("head").layer.get_weights()
    gated = saliency * (saliency >= limit - 1e-4)
    expected = (np.maximum(x @ kernel + bias, 0) * gated) @ head[0] + head[1]
    np.testing.assert_allclose(read(masked(x)), expected, rtol=1e-4, atol=1e-5)
    open_ = (gated > 0).sum(axis=1)
    assert len(set(open_)) > 1
    macs = (open_ * (3 + 2)).mean() + 6 * (3 + 6)  # both layers; the branch
    assert kprune.dynamic_cost(masked, x).macs == pytest.approx(macs, abs=1.5)


def test_saliencies_do_not_depend_on_the_scale_of_the_inputs():
    seen = []
    for scale in (1.0, 255.0):
        _, gate, x, _ = dense()
        gate.scale.assign(0.0)
        gate.witness = seen.append
        gate.look(scale * x, training=True)
        gate.look(scale * x, training=False)
    small, small_later, large, large_later = map(read, seen)
    assert np.ptp(small, axis=0).max() > 0
    for other in (small_later, large, large_later):
        np.testing.assert_allclose(other, small, rtol=1e-4, atol=1e-6)


def test_no_compact_model_but_a_static_one(tmp_path):
    masked, gate, x, _ = dense()
    gate.mean.assign([0.5, 2.0, 1.0, 0.1, 3.0, 0.7])
    gate.limit(4)
    with pytest.raises(ValueError, match="depend on the input"):
        kprune.rebuild(masked)
    with pytest.raises(ValueError, match="depend on the input"):
        kprune.export(masked, tmp_path / "model.keras")
    kernel, bias = masked.get_layer("d0").layer.get_weights()
    head = masked.get_layer("head").layer.get_weights()
    means = np.array([0, 2.0, 1.0, 0, 3.0, 0.7])
    expected = (np.maximum(x @ kernel + bias, 0) * means) @ head[0] + head[1]
    np.testing.assert_array_equal(close_gates(masked)["d0"], means > 0)
    compact = kprune.rebuild(masked)
    assert kprune.trace(compact)["d0"].size == 4
    np.testing.assert_allclose(read(compact(x)), expected, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="no active dynamic gates"):
        kprune.dynamic_cost(masked, x)


def test_the_average_sample_uses_the_share_while_saliencies_drift():
    _, gate, _, _ = dense()
    gate.limit(2)
    rng = np.random.default_rng(1)
    kernel, bias = gate.excite.get_weights()
    for size in (1.0, 0.3):
        gate.excite.set_weights([40 * size * kernel, size * bias])
        seen = []
        for _ in range(60):
            gate.look(rng.normal(size=(64, 3)).astype("float32"), True)
        gate.witness = seen.append
        for _ in range(20):
            gate.look(rng.normal(size=(64, 3)).astype("float32"), False)
        gate.witness = None
        saliency = np.concatenate([read(batch) for batch in seen])
        open_ = saliency >= read(gate.threshold)
        assert open_.mean() == pytest.approx(2 / 6, abs=0.03)
        assert len(set(open_.sum(axis=1))) > 1
    gate.limit(6)
    gate.look(rng.normal(size=(64, 3)).astype("float32"), True)
    assert read(gate.threshold) < 0


def test_gates_that_have_not_been_trained_change_nothing():
    model = small_net(8)
    masked = kprune.wrap(model)
    add_dynamic_gates(masked)
    assert difference(outputs(model, 90 * X), outputs(masked, 90 * X)) <= 1e-6


def test_the_static_model_keeps_the_largest_means_of_what_is_left():
    _, gate, _, _ = dense()
    gate.mean.assign([0.5, 2.0, 1.0, 0.1, 3.0, 0.0])
    gate.limit(3)
    left = np.array([True, True, True, True, False, True])
    np.testing.assert_allclose(gate.static(left), [0.5, 2.0, 1.0, 0, 0, 0])
    gate.limit(0)
    np.testing.assert_allclose(gate.static(left), [0, 2.0, 0, 0, 0, 0])


def test_what_is_counted_and_measured_sample_by_sample():
    masked, gate, x, saliency = dense()
    gate.threshold.assign(np.median(saliency))
    assert "kprune.dynamic_cost" in kprune.cost(masked).note
    result = inspection(masked)
    assert result["note"] in " ".join(inspection_text(result).split())
    masked.compile("sgd", "mse")
    session = kprune.Session(masked, (x, np.ones((5, 2), "float32")))
    trials = [{"d0": np.arange(6) != n} for n in range(2)]
    for trial, found in zip(trials, session.losses(trials), strict=True):
        with session.trial(trial):
            expected = np.square(read(masked(x)) - 1).mean()
        assert found == pytest.approx(expected, rel=1e-4)
    with pytest.raises(ValueError, match="parts of it cannot run"):
        kprune.prune(masked, allocation="output_error", data=x)


def test_from_end_to_end(tmp_path):
    recipe = kprune.recipe("manidp", {"macs": 0.4}, epochs=2)
    model = small_net(8)
    masked = recipe.prepare(model)
    masked.compile(
        keras.optimizers.SGD(0.05),
        loss(),
        run_eagerly=keras.config.backend() != "jax",
    )
    branch = next(iter(gates(masked).values())).squeeze
    before = np.array(branch.get_weights()[0])
    history = masked.fit(
        dataset(count=16), epochs=2, callbacks=recipe.callbacks, verbose=0
    ).history
    assert history["pruned_macs"][1] >= 0.4
    assert (branch.get_weights()[0] != before).any()
    counts = []
    for gate in gates(masked).values():
        counts.append((gate.static(np.ones(8, bool)) > 0).sum())
        assert (read(gate.threshold) > 0) == (counts[-1] < 8)
    assert min(counts) < 8
    masked.save(tmp_path / "dynamic.keras")
    loaded = keras.saving.load_model(tmp_path / "dynamic.keras")
    assert difference(outputs(masked, X), outputs(loaded, X)) <= 1e-6
    close_gates(loaded)
    compact = kprune.rebuild(loaded)
    assert difference(outputs(loaded, X), outputs(compact, X)) <= 1e-5
    assert kprune.cost(compact).macs <= 0.6 * kprune.cost(model).macs


def test_easy_samples_and_similar_ones():
    np.testing.assert_allclose(
        read(easiness(np.array([0.0, 0.5, 1.0, 3.0], "float32"), 1.0)),
        [1, 0.5, 0, 0],
    )
    rng = np.random.default_rng(0)
    p, q = rng.normal(size=(4, 3)), rng.normal(size=(4, 2, 2, 5))
    one, other = (
        v / np.linalg.norm(v, axis=1, keepdims=True)
        for v in (p, q.mean((1, 2)))
    )
    expected = np.square(one @ one.T - other @ other.T).mean()
    found = dissimilarity(p.astype("float32"), q.astype("float32"))
    assert float(read(found)) == pytest.approx(expected, rel=1e-4)


def test_nothing_is_recovered():
    recipe = kprune.recipe("manidp", data=X, epochs=2, recover="reconstruct")
    with pytest.raises(ValueError, match="removes no filter"):
        assert recipe.callbacks


def test_a_layer_that_is_called_twice_has_no_gate():
    first, second = keras.layers.Dense(6), keras.layers.Dense(4)
    one, other = keras.Input((3,)), keras.Input((3,))
    ends = [second(first(x)) for x in (one, other)]
    merged = keras.layers.Dense(2)(keras.layers.Concatenate()(ends))
    masked = kprune.wrap(keras.Model([one, other], merged))
    assert first.name in {g.name for g in kprune.trace(masked).prunable}
    with pytest.raises(ValueError, match=r"can have a gate.*called 2 times"):
        add_dynamic_gates(masked)


@pytest.mark.parametrize("recovery", ["bn", "reconstruct"])
@pytest.mark.parametrize("closed", [False, True])
def test_repairs_by_layers_say_that_gates_depend_on_the_sample(
    recovery, closed
):
    masked = kprune.wrap(models.convolutions([6, 4], norms=1))
    add_dynamic_gates(masked)
    x = np.random.default_rng(0).normal(size=(16, 8, 8, 3)).astype("float32")
    session = kprune.Session(masked, x)
    before = session.snapshot()
    if closed:
        kprune.masking.close_gates(masked)
    session.remove({"conv1": np.array([1.0, 1, 1, 1, 1, 0])})
    with pytest.raises(ValueError, match=r"depend on the sample.*close_gates"):
        kprune.recovery.recover(session, before, recovery)


def test_the_form_of_images_is_named_as_the_cause():
    x = inputs = keras.Input((3, 8, 8))
    x = keras.layers.Conv2D(4, 3, data_format="channels_first", name="c1")(x)
    x = keras.layers.GlobalAveragePooling2D(data_format="channels_first")(x)
    masked = kprune.wrap(keras.Model(inputs, keras.layers.Dense(2)(x)))
    with pytest.raises(ValueError, match=r"'c1'.*'channels_first'\. Prune"):
        add_dynamic_gates(masked)


class Weighted(keras.losses.Loss):
    """A loss that cannot be made from its configuration."""

    def __init__(self, weight):
        super().__init__()
        self.weight = weight

    def call(self, y_true, y_pred):
        return self.weight * keras.ops.mean(
            keras.ops.square(y_true - y_pred), -1
        )


def test_the_loss_of_each_sample_is_that_of_the_compiled_one():
    masked, _, x, _ = dense()
    y = keras.ops.ones((5, 2))
    masked.compile("sgd", Weighted(4.0))
    found = read(_loss_by_sample(masked)(y, masked(x)))
    expected = 4.0 * np.square(1 - read(masked(x))).mean(-1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for given in ("mse", keras.losses.mean_squared_error):
        # Targets without the last axis of the outputs.
        masked.compile("sgd", given)
        found = read(_loss_by_sample(masked)(y[:, 0], masked(x)[:, :1]))
        expected = np.square(1 - read(masked(x))[:, 0])
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    masked.compile("sgd", lambda y, p: keras.ops.mean(keras.ops.square(y - p)))
    with pytest.raises(ValueError, match="a single value"):
        _loss_by_sample(masked)(y, masked(x))
