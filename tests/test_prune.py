from __future__ import annotations

import colours
import keras
import numpy as np
import pytest

import kprune
from kprune.pruning import Policy


def net():
    inputs = keras.Input((8, 8, 2))
    x = keras.layers.Conv2D(8, 3, name="conv1")(inputs)
    x = keras.layers.BatchNormalization(name="norm1")(x)
    x = keras.layers.ReLU()(x)
    x = keras.layers.Conv2D(12, 3, activation="sigmoid", name="conv2")(x)
    x = keras.layers.Flatten()(x)
    x = keras.layers.Dense(16, activation="relu", name="hidden")(x)
    model = keras.Model(inputs, keras.layers.Dense(3, name="head")(x))
    rng = np.random.default_rng(0)
    for layer in model.layers:
        layer.set_weights([rng.uniform(0.1, 1, w.shape) for w in layer.weights])
    return model


@pytest.fixture
def model():
    return net()


def share_removed(masked, model):
    full, now = kprune.cost(model), kprune.cost(masked)
    return {
        "macs": 1 - now.macs / full.macs,
        "params": 1 - now.params / full.params,
    }


def test_the_default_removes_half_of_the_macs_and_leaves_the_model_alone(model):
    before = model.get_weights()
    masked = kprune.prune(model)
    assert 0.5 <= share_removed(masked, model)["macs"] < 0.6
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.parametrize("key", ["macs", "params"])
@pytest.mark.parametrize("allocation", ["global", "uniform"])
def test_targets_are_met_by_the_compact_model(model, key, allocation):
    masked = kprune.prune(model, "l2", {key: 0.6}, allocation)
    compact = kprune.rebuild(masked)
    removed = share_removed(compact, model)
    assert removed[key] >= 0.6
    assert removed == pytest.approx(Policy(kprune.Session(masked)).removed())
    assert share_removed(masked, model) == pytest.approx(removed)


def test_no_single_filter_could_be_put_back(model):
    masked = kprune.prune(model, reduce={"macs": 0.5})
    masks = kprune.masks(masked)
    pruned = {name: mask for name, mask in masks.items() if not mask.all()}
    assert pruned
    for name, mask in pruned.items():
        more = mask.copy()
        more[np.flatnonzero(mask == 0)[0]] = 1
        other = kprune.wrap(model)
        kprune.set_masks(other, {**masks, name: more})
        assert share_removed(other, model)["macs"] < 0.5


def test_the_weakest_filters_of_each_group_go(model):
    masked = kprune.prune(model, "l1", {"params": 0.7})
    kernel = model.get_layer("conv2").kernel.numpy()
    strength = np.abs(kernel).sum((0, 1, 2))
    mask = kprune.masks(masked)["conv2"] == 1
    assert not mask.all()
    assert strength[~mask].max() <= strength[mask].min()


def test_masked_and_compact_outputs_agree(model):
    masked = kprune.prune(model, "fpgm", {"macs": 0.5})
    x = np.random.default_rng(1).normal(size=(4, 8, 8, 2))
    expected = masked.predict_on_batch(x)
    np.testing.assert_allclose(
        kprune.rebuild(masked).predict_on_batch(x), expected, rtol=1e-5
    )


def test_weights_of_removed_filters_are_zero_everywhere(model):
    masked = kprune.prune(model, allocation={"conv1": 0.5})
    gone = kprune.masks(masked)["conv1"] == 0
    assert gone.sum() == 4
    layers = {w.name: w.layer for w in masked.layers if hasattr(w, "layer")}
    assert (layers["conv1"].kernel.numpy()[..., gone] == 0).all()
    assert (layers["conv1"].bias.numpy()[gone] == 0).all()
    assert (layers["norm1"].gamma.numpy()[gone] == 0).all()
    assert (layers["norm1"].beta.numpy()[gone] == 0).all()
    assert (layers["conv2"].kernel.numpy()[:, :, gone] == 0).all()
    assert (layers["conv2"].kernel.numpy()[:, :, ~gone] != 0).all()
    assert (layers["norm1"].moving_variance.numpy() > 0).all()


def test_a_wrapped_model_is_pruned_in_place_and_further(model):
    masked = kprune.wrap(model)
    assert kprune.prune(masked, reduce={"macs": 0.3}) is masked
    first = kprune.masks(masked)
    kprune.prune(masked, reduce={"macs": 0.6})
    assert share_removed(masked, model)["macs"] >= 0.6
    for name, mask in kprune.masks(masked).items():
        assert (mask <= first[name]).all()
        assert mask.any()


def test_a_compiled_model_stays_compiled(model):
    model.compile("sgd", "mse", metrics=["mae"])
    masked = kprune.prune(model)
    assert masked.compiled
    assert masked.loss == "mse"
    assert isinstance(masked.optimizer, keras.optimizers.SGD)


def test_skipped_layers_keep_their_filters(model):
    masked = kprune.prune(model, reduce={"params": 0.3}, skip=["conv1"])
    assert "conv1" not in kprune.masks(masked)
    with pytest.raises(ValueError, match=r"`skip` has no effect"):
        kprune.prune(masked, skip=["conv2"])


def test_what_masks_removed_before_does_not_count_in_scores(model):
    masked = kprune.wrap(model)
    kprune.set_masks(masked, {"conv1": [1, 1, 0, 0, 0, 0, 0, 0]})
    seen = {}

    def spy(group):
        seen[group.name] = np.abs(kprune.criteria.filters(group)).sum(axis=1)
        return seen[group.name]

    kprune.prune(masked, spy, {"macs": 0.8})
    kernel = model.get_layer("conv2").kernel.numpy()[:, :, :2]
    np.testing.assert_allclose(
        seen["conv2"], np.abs(kernel).sum((0, 1, 2)), rtol=1e-6
    )


def test_data_reaches_the_criterion(model):
    x = np.random.default_rng(1).normal(size=(8, 8, 8, 2))
    masked = kprune.prune(model, "activation", {"macs": 0.3}, data=x)
    assert share_removed(masked, model)["macs"] >= 0.3
    with pytest.raises(ValueError, match="as `data=`"):
        kprune.prune(model, "activation")
    with pytest.raises(ValueError, match=r"model.compile\(loss=...\)"):
        kprune.prune(model, "taylor", data=(x, np.zeros((8, 3))))


def test_out_of_reach_is_said_before_any_scoring(model):
    def never(group):
        raise AssertionError("scored")

    with pytest.raises(ValueError, match=r"Cannot remove 99.9% of the macs"):
        kprune.prune(model, never, {"macs": 0.999})


def test_two_prunings_with_the_same_seed_agree(model):
    criterion = kprune.criteria.Random(seed=3)
    first = kprune.masks(kprune.prune(model, criterion))
    second = kprune.masks(kprune.prune(net(), kprune.criteria.Random(seed=3)))
    np.testing.assert_equal(first, second)


def chosen(model, data=None, **given):
    session = kprune.Session(kprune.wrap(model), data)
    return tuple(kprune.pruning.choose(session, **given))


def test_what_goes_with_what_is_set(model):
    x = np.zeros((8, 8, 8, 2), "float32")
    best = ("reconstruction", "output_error", "reconstruct")
    assert chosen(model, x) == best
    assert chosen(model) == ("l1", "global", "synthetic")
    assert chosen(model, x, criterion="taylor") == ("taylor", "global", [])
    assert chosen(model, x, allocation="uniform") == ("l1", "uniform", [])
    assert chosen(model, x, criterion="reconstruction") == best
    assert chosen(model, x, allocation="output_error") == best
    assert chosen(model, x, recover="bn") == (*best[:2], "bn")
    assert chosen(model, recover=[]) == ("l1", "global", [])
    criterion = kprune.criteria.Reconstruction(samples=64)
    assert chosen(model, x, criterion=criterion) == (criterion, *best[1:])


def test_an_allocation_around_another_counts_as_the_one_inside(model):
    x = np.zeros((8, 8, 8, 2), "float32")
    Latency, Ram = kprune.allocation.Latency, kprune.allocation.Ram
    inside = kprune.allocation.OutputError(probe=64)
    for outer in (
        Latency("phone.json", inside),
        Ram(allocation=inside),
        Ram(allocation=Latency("phone.json", inside)),
        kprune.allocation.Rounds(2, inside),
    ):
        found = chosen(model, x, allocation=outer)
        assert found == ("reconstruction", outer, "reconstruct")
        assert found[1].needs_data
    plain = Ram(allocation="uniform")
    assert chosen(model, x, allocation=plain) == ("l1", plain, [])


def test_rounding_alone_changes_no_method(model):
    x = np.zeros((8, 8, 8, 2), "float32")
    rounded = kprune.allocation.Global(round_to=8)
    found = chosen(model, x, allocation=rounded)
    assert found == ("reconstruction", rounded, "reconstruct")
    assert chosen(model, allocation=rounded) == ("l1", rounded, "synthetic")
    for other in (
        kprune.allocation.Global(),
        kprune.allocation.Global(normalize="none", round_to=8),
        kprune.allocation.Uniform(round_to=8),
    ):
        assert chosen(model, x, allocation=other) == ("l1", other, [])


@pytest.mark.parametrize("nested", [False, True])
def test_a_device_alone_changes_no_method(model, nested):
    x = np.zeros((8, 8, 8, 2), "float32")
    outer = kprune.allocation.Latency("phone.json")
    if nested:
        outer = kprune.allocation.Ram(allocation=outer)
    criterion, allocation, recover = chosen(model, x, allocation=outer)
    assert (criterion, recover) == ("reconstruction", "reconstruct")
    assert isinstance(allocation.inner, kprune.allocation.OutputError)
    assert type(allocation) is type(outer) and outer.inner is None
    criterion, allocation, recover = chosen(model, allocation=outer)
    assert (criterion, recover) == ("l1", "synthetic")
    assert isinstance(allocation.inner, kprune.allocation.Global)
    found = chosen(model, x, criterion="l1", allocation=outer)
    assert isinstance(found[1].inner, kprune.allocation.Global)


def test_the_docstring_has_the_table_of_the_code():
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]]
        for line in kprune.prune.__doc__.splitlines()
        if line.strip().startswith("|")
    ]
    pruning = kprune.pruning
    for row, choice in zip(
        [rows[2], rows[3], rows[5]],
        [pruning.WITH_DATA, pruning.WITHOUT_DATA, pruning.OTHERS],
        strict=True,
    ):
        parts = [part.strip(" `") for part in row[1].split(",")]
        assert parts == [
            f'"{part}"' if isinstance(part, str) else str(part)
            for part in choice
        ]


def test_what_nothing_can_be_refitted_in_is_pruned_without():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(8, 3, name="conv")(inputs)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.Conv2D(8, 3, groups=2, name="grouped")(x)
    model = keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(x))
    data = np.zeros((8, 8, 8, 3), "float32")
    assert chosen(model, data) == tuple(kprune.pruning.WITHOUT_DATA)


def test_samples_in_another_range_are_told_once(caplog):
    unit = colours.images()[0] / 255
    model = colours.model()
    for x in (unit, unit[:4] * 255):
        kprune.prune(model, criterion="l1", data=x)
    assert caplog.messages == []
    for _ in range(2):
        masked = kprune.prune(model, criterion="l1", data=unit * 255)
    (told,) = caplog.messages
    assert told.startswith("the samples in `data` do not look like the model's")
    assert "norm" in told
    kprune.prune(masked, "l1", {"macs": 0.6}, data=unit * 255)
    assert len(caplog.messages) == 1


class Lazy:
    """An array on disk, of which parts are read."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype
        self.read = 0

    def __len__(self):
        return len(self._array)

    def __getitem__(self, index):
        part = self._array[index]
        self.read += part.size
        return part

    def __array__(self, dtype=None, copy=None):
        self.read += self._array.size
        return self._array


def test_a_look_at_the_range_does_not_read_all_samples():
    x = Lazy(np.tile(colours.images()[0] / 255, (80, 1, 1, 1)))
    assert len(x) > 1000
    kprune.prune(colours.model(), criterion="l1", data=x)
    assert 0 < x.read < 0.3 * np.prod(x.shape)
