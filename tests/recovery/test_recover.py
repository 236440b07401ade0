"""Repairs without training, against plain Keras and NumPy."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from harness import difference
from harness import floatx
from harness import outputs
from harness import randomise
from keras import layers
from models import convolutions

import kprune
from kprune.recovery import WeightSnapshot
from kprune.recovery import recover


def images(count=64, size=8, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(count, size, size, 3)).astype("float32")


def chain(padding="same", bias=True, norm=True):
    norms = 2 if norm else 0
    model = convolutions(
        (8, 6), outputs=4, norms=norms, bias=bias, padding=padding
    )
    randomise(model)
    return model


def residual():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, padding="same", name="stem")(x)
    for n in range(2):
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"a{n}")(x)
        y = layers.ReLU()(layers.BatchNormalization(name=f"bn_a{n}")(y))
        y = layers.Conv2D(8, 3, padding="same", use_bias=False, name=f"b{n}")(y)
        y = layers.BatchNormalization(name=f"bn_b{n}")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(4, name="head")(x))
    randomise(model)
    return model


def removed(model, masks, recovery, x):
    """The masked model after removal and repair."""
    masked = kprune.wrap(model)
    session = kprune.Session(masked, x)
    before = session.snapshot()
    kprune.set_masks(masked, masks)
    recover(session, before, recovery)
    return masked


def without(size, *gone):
    mask = np.ones(size)
    mask[list(gone)] = 0
    return mask


def change(model, other, x):
    return float(np.mean((outputs(model, x)[0] - outputs(other, x)[0]) ** 2))


def hidden(model, name, x):
    layer = model.get_layer(name)
    return outputs(keras.Model(model.input, layer.output), x)[0]


def test_bn_measures_what_a_training_pass_would():
    model, x = chain(), images()
    masked = removed(
        model, {"conv1": without(8, 1, 4), "conv2": without(6, 0)}, "bn", x
    )
    compact = kprune.rebuild(masked)
    reference = keras.models.clone_model(
        compact,
        clone_function=lambda layer: (
            layers.BatchNormalization.from_config(
                {**layer.get_config(), "momentum": 0.0}
            )
            if isinstance(layer, layers.BatchNormalization)
            else type(layer).from_config(layer.get_config())
        ),
    )
    reference.set_weights(compact.get_weights())
    reference(x, training=True)  # momentum 0: the statistics of this batch
    for name in ("norm1", "norm2"):
        ours, theirs = compact.get_layer(name), reference.get_layer(name)
        for a, b in zip(ours.weights, theirs.weights, strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-5)


@pytest.mark.parametrize("norm", [False, True])
def test_bias_folds_a_constant_channel_exactly_where_nothing_is_padded(norm):
    model, x = chain("valid", bias=not norm, norm=norm), images()
    first = model.get_layer("conv1")
    kernel = np.array(keras.ops.convert_to_numpy(first.kernel))
    kernel[..., 2] = 0  # the channel is a constant, which ReLU lets through
    first.kernel.assign(kernel)
    if norm:
        bn = model.get_layer("norm1")
        beta = np.array(keras.ops.convert_to_numpy(bn.beta))
        beta[2] = 5.0
        bn.beta.assign(beta)
    else:
        bias = np.array(keras.ops.convert_to_numpy(first.bias))
        bias[2] = 5.0
        first.bias.assign(bias)
    masks = {"conv1": without(8, 2)}
    plain = removed(model, masks, lambda session, before: None, x)
    masked = removed(model, masks, "bias", x)
    fresh = images(seed=1)
    assert difference(outputs(model, fresh), outputs(plain, fresh)) > 1e-2
    assert difference(outputs(model, fresh), outputs(masked, fresh)) < 1e-5


@pytest.mark.parametrize("axes", ["e", "he", "h", "te"])
def test_means_are_restored_along_the_axes_of_the_bias(axes):
    inputs = keras.Input((3, 4))
    x = layers.Dense(8, activation="relu", name="first")(inputs)
    einsum = layers.EinsumDense(
        "btd,dhe->bthe", (3, 2, 5), bias_axes=axes, name="einsum"
    )
    model = keras.Model(inputs, einsum(x))
    randomise(model)
    x = np.random.default_rng(0).normal(size=(64, 3, 4)).astype("float32")
    mean = tuple(n for n, axis in enumerate("bthe") if axis not in axes)

    def gap(recovery):
        masked = removed(model, {"first": without(8, 1, 4)}, recovery, x)
        found = outputs(model, x)[0] - outputs(masked, x)[0]
        return np.abs(found.mean(axis=mean)).max()

    assert gap(lambda session, before: None) > 1e-2
    assert gap("bias") < 1e-5


@pytest.mark.parametrize("recovery", ["bias", "merge"])
def test_weights_of_removed_filters_stay_0(recovery):
    masked = kprune.prune(
        chain(), reduce={"macs": 0.5}, data=images(), recover=recovery
    )
    for name in ("conv1", "conv2"):
        gone = kprune.masks(masked)[name] == 0
        assert gone.any()
        for weight in masked.get_layer(name).layer.weights:
            assert not kprune.graph.values.read(weight)[..., gone].any()


@pytest.mark.parametrize("recovery", ["bias", "reconstruct"])
def test_means_are_those_of_the_unpruned_model(recovery):
    model, x = residual(), images()
    masks = {"a0": without(8, 0, 3), "a1": without(8, 1, 2)}
    masked = removed(model, masks, recovery, x)
    compact = kprune.rebuild(masked)
    if recovery == "bias":  # the other makes up for what it is added to
        for name in ("bn_b0", "bn_b1"):
            wanted = hidden(model, name, x).mean(axis=(0, 1, 2))
            got = hidden(compact, name, x).mean(axis=(0, 1, 2))
            np.testing.assert_allclose(got, wanted, atol=1e-4)
    wanted = outputs(model, x)[0].mean(axis=0)
    got = outputs(compact, x)[0].mean(axis=0)
    np.testing.assert_allclose(got, wanted, atol=1e-3)


def test_reconstruct_replaces_a_channel_that_others_can_express():
    model, x = chain("same", norm=False), images()
    first = model.get_layer("conv1")
    kernel = np.array(keras.ops.convert_to_numpy(first.kernel))
    bias = np.array(keras.ops.convert_to_numpy(first.bias))
    kernel[..., 5], bias[5] = 2 * kernel[..., 1], 2 * bias[1]
    first.kernel.assign(kernel)
    first.bias.assign(bias)
    masks = {"conv1": without(8, 5)}
    plain = removed(model, masks, lambda session, before: None, x)
    masked = removed(model, masks, "reconstruct", x)
    fresh = images(seed=1)
    assert change(model, plain, fresh) > 1e-4
    assert change(model, masked, fresh) < 1e-8


def ridge_fit(rows, targets, ridge):
    """Kernel and constant by `lstsq`, the penalty as rows of their own.

    The penalty is relative to the mean variance of a column.
    """
    centred = rows - rows.mean(axis=0)
    strength = np.sqrt(ridge * np.mean(centred**2) * len(rows))
    columns, filters = rows.shape[1], targets.shape[1]
    kernel, *_ = np.linalg.lstsq(
        np.r_[centred, strength * np.eye(columns)],
        np.r_[targets - targets.mean(axis=0), np.zeros((columns, filters))],
        rcond=None,
    )
    return kernel, targets.mean(axis=0) - rows.mean(axis=0) @ kernel


def best_ridge(rows, targets):
    """The penalty that is best on every fifth row, fitted on the others."""
    held_out = np.arange(len(rows)) % 5 == 4

    def error(ridge):
        kernel, _ = ridge_fit(rows[~held_out], targets[~held_out], ridge)
        left = targets[held_out] - rows[held_out] @ kernel
        return left.var(axis=0).sum()

    return min([1e-5, 1e-4, 1e-3, 1e-2, 1e-1], key=error)


# In float32 the kernel itself and the sums of products round at 1e-7.
@pytest.mark.parametrize(
    "dtype, tolerance", [("float64", 1e-12), ("float32", 1e-6)]
)
def test_reconstruct_of_a_dense_layer_is_the_least_squares_solution(
    dtype, tolerance
):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1000, 10)).astype(dtype)
    x[:, 7] = x[:, :4].sum(axis=1) + 0.1 * x[:, 7] + 3
    head = rng.normal(size=(10, 3)).astype(dtype)
    with floatx(dtype):
        inputs = keras.Input((10,))
        y = layers.Dense(10, kernel_initializer="identity", name="first")(
            inputs
        )
        model = keras.Model(inputs, layers.Dense(3, name="head")(y))
        model.get_layer("head").set_weights([head, np.zeros(3)])
        masked = removed(model, {"first": without(10, 7, 8)}, "reconstruct", x)
        compact = kprune.rebuild(masked)
    kernel, bias = map(
        keras.ops.convert_to_numpy, compact.get_layer("head").weights
    )
    kept = [n for n in range(10) if n not in (7, 8)]
    rows, lost = x[:, kept].astype("float64"), x[:, [7, 8]] @ head[[7, 8]]
    change, constant = ridge_fit(rows, lost, best_ridge(rows, lost))
    np.testing.assert_allclose(kernel, head[kept] + change, atol=tolerance)
    np.testing.assert_allclose(bias, constant, atol=tolerance)


@pytest.mark.parametrize("build", [chain, residual])
def test_every_recovery_helps_on_unseen_samples(build):
    model, x, fresh = build(), images(256), images(64, seed=1)
    errors = {}
    for recovery in (None, "bias", "reconstruct"):
        masked = kprune.prune(
            model, "l1", {"macs": 0.4}, data=x, recover=recovery
        )
        errors[recovery] = change(model, masked, fresh)
    assert errors["reconstruct"] < errors["bias"] < errors[None]


def test_an_added_tensor_that_has_changed_is_made_up_for():
    x = images(256)
    inputs = keras.Input((8, 8, 3))
    left = layers.Conv2D(6, 3, padding="same", name="left")(inputs)
    left = layers.Conv2D(6, 1, name="left_out")(layers.ReLU()(left))
    right = layers.Conv2D(6, 3, padding="same", name="right")(inputs)
    total = layers.Add()([left, right])
    model = keras.Model(inputs, layers.Conv2D(2, 1, name="head")(total))
    masked = removed(model, {"left": without(6, 0, 1)}, "reconstruct", x)
    compact = kprune.rebuild(masked)

    def added(m):
        return keras.Model(m.input, m.get_layer("add").output)

    total_error = change(added(model), added(compact), x)
    first_error = np.mean(
        (hidden(model, "left_out", x) - hidden(compact, "left_out", x)) ** 2
    )
    assert first_error > 1e-4
    # "right" has lost nothing itself, and sees what "left" sees.
    assert total_error < 0.9 * first_error


def test_attenuated_filters_are_refitted_as_they_act():
    model, x = chain(), images(128)
    masked = kprune.wrap(model)
    factors = np.linspace(0.2, 1.0, 6)
    kprune.set_masks(masked, {"conv2": factors})
    session = kprune.Session(masked, x)
    before = session.snapshot()
    kprune.set_masks(masked, {"conv1": without(8, 2)})
    untouched = change_from(before, masked, x)
    recover(session, before, "reconstruct")
    assert change_from(before, masked, x) < untouched


def change_from(before, masked, x):
    after = WeightSnapshot(masked.variables)
    y = outputs(masked, x)[0]
    before.restore()
    wanted = outputs(masked, x)[0]
    after.restore()
    return float(np.mean((y - wanted) ** 2))


def test_masked_and_compact_agree_after_a_repair():
    model, x = residual(), images()
    masked = kprune.prune(
        model, reduce={"macs": 0.5}, data=x, recover="reconstruct"
    )
    assert_same(masked, kprune.rebuild(masked), x)


def assert_same(masked, compact, x):
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


def test_nested_models_and_several_inputs():
    backbone = chain()
    a, b = keras.Input((8, 8, 3), name="a"), keras.Input((5,), name="b")
    both = layers.Concatenate()([backbone(a), layers.Dense(6, name="side")(b)])
    model = keras.Model([a, b], layers.Dense(2, name="out")(both))
    rng = np.random.default_rng(0)
    data = {"a": images(256), "b": rng.normal(size=(256, 5)).astype("float32")}
    plain = kprune.prune(model, "l1", {"params": 0.4}, data=[*data.values()])
    masked = kprune.prune(
        model,
        "l1",
        {"params": 0.4},
        data=[*data.values()],
        recover="reconstruct",
    )
    x = [*data.values()]
    assert change(model, masked, x) < 0.5 * change(model, plain, x)


def test_a_layer_called_twice_is_left_alone():
    inputs = keras.Input((6,))
    shared = layers.Dense(6, name="shared")
    y = layers.Dense(6, name="first")(inputs)
    outputs_ = layers.Add()([shared(y), shared(layers.ReLU()(y))])
    model = keras.Model(inputs, outputs_)
    x = np.random.default_rng(0).normal(size=(64, 6)).astype("float32")
    before = keras.ops.convert_to_numpy(shared.kernel)
    masked = removed(model, {"first": without(6, 1)}, "reconstruct", x)
    after = masked.get_layer("shared").layer.kernel
    after = np.array(keras.ops.convert_to_numpy(after))
    # Weights that read what was removed are 0 after every repair.
    np.testing.assert_array_equal(after[1], 0)
    kept = [0, 2, 3, 4, 5]
    np.testing.assert_array_equal(after[kept], before[kept])


def test_the_original_model_and_its_compilation_stay():
    model, x = chain(), images()
    model.compile("adam", "mse")
    weights = model.get_weights()
    masked = kprune.prune(model, data=x, recover="reconstruct")
    for a, b in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(a, b)
    masked.fit(x, np.zeros((64, 4)), batch_size=32, verbose=0)


def test_a_function_may_repair():
    seen = []

    def look(session, before):
        inputs = session.samples.inputs(8)
        run = kprune.recovery.PairedRun(session.masked, before, inputs)
        run.visit(lambda step: seen.append(step.layer.name))

    kprune.prune(chain(), data=images(), recover=look)
    assert seen.index("conv1") < seen.index("conv2") < seen.index("head")


def test_errors_say_what_to_do():
    with pytest.raises(ValueError, match="Pass a few hundred as `data=`"):
        kprune.prune(chain(), recover="bn")
    with pytest.raises(ValueError, match="'reconstruct'"):
        kprune.prune(chain(), data=images(), recover="reconstruction")
    with pytest.raises(ValueError, match="Received: 4"):
        kprune.prune(chain(), data=images(4), recover="reconstruct")
    with pytest.raises(ValueError, match="samples=0"):
        kprune.recovery.Reconstruct(samples=0)


def parallel(norm, turned=False):
    """A net in which filter 5 is 3 times filter 2, or does as it does.

    Turned, with a normalisation: it is -3 times filter 2, and so is its scale.
    """
    model = chain(norm=norm)
    conv = model.get_layer("conv1")
    kernel = np.array(keras.ops.convert_to_numpy(conv.kernel))
    bias = np.array(keras.ops.convert_to_numpy(conv.bias))
    kernel[..., 5], bias[5] = 3 * kernel[..., 2], 3 * bias[2]
    conv.set_weights([kernel, bias])
    if norm:
        sign = np.where(np.arange(8) == 5, -1, 1)
        bn = model.get_layer("norm1")
        gamma, beta, mean, variance = bn.get_weights()
        gamma[5], beta[5] = 0.5 * gamma[2], 0.5 * beta[2]
        mean[5] = 3 * mean[2]
        variance[5] = 9 * (variance[2] + bn.epsilon) - bn.epsilon
        if turned:
            gamma[5], mean[5] = -gamma[5], -mean[5]
            conv.set_weights([kernel * sign, bias * sign])
        bn.set_weights([gamma, beta, mean, variance])
    return model


@pytest.mark.parametrize(
    ("norm", "turned"), [(False, False), (True, False), (True, True)]
)
def test_merge_is_exact_for_parallel_filters(norm, turned):
    model, x = parallel(norm, turned), images()
    masks = {"conv1": without(8, 5)}
    deleted = removed(model, masks, lambda session, before: None, x)
    merged = removed(model, masks, "merge", None)
    assert difference(outputs(model, x), outputs(deleted, x)) > 1e-3
    assert difference(outputs(model, x), outputs(merged, x)) < 1e-5
    compact = kprune.rebuild(merged)
    assert difference(outputs(model, x), outputs(compact, x)) < 1e-5


@pytest.mark.parametrize("turned", ["n1", "n2"])
def test_merge_turns_each_branch_by_its_own_gamma(turned):
    """Channel 5 is half of channel 2; in one branch filter and gamma are turned."""
    inputs = keras.Input((8, 8, 3))
    branches = [
        layers.BatchNormalization(name=f"n{n}")(
            layers.Conv2D(8, 3, use_bias=False, name=f"c{n}")(inputs)
        )
        for n in (1, 2)
    ]
    x = layers.GlobalAveragePooling2D()(layers.ReLU()(layers.Add()(branches)))
    model = keras.Model(inputs, layers.Dense(3)(x))
    randomise(model)
    for n in (1, 2):
        conv, norm = model.get_layer(f"c{n}"), model.get_layer(f"n{n}")
        sign = -1 if norm.name == turned else 1
        (kernel,) = conv.get_weights()
        kernel[..., 5] = sign * kernel[..., 2]
        conv.set_weights([kernel])
        gamma, beta, mean, variance = norm.get_weights()
        gamma[5], beta[5] = sign * gamma[2] / 2, beta[2] / 2
        mean[5], variance[5] = sign * mean[2], variance[2]
        norm.set_weights([gamma, beta, mean, variance])
    merge = kprune.recovery.Merge(threshold=0.99)
    merged = removed(model, {"c1": without(8, 5)}, merge, None)
    assert (
        difference(outputs(model, images()), outputs(merged, images())) < 1e-5
    )


def test_merge_leaves_dissimilar_filters_deleted():
    model, x = chain(), images()
    masks = {"conv1": without(8, 5)}
    deleted = removed(model, masks, lambda session, before: None, x)
    strict = kprune.recovery.Merge(threshold=1.0)
    merged = removed(model, masks, strict, None)
    assert difference(outputs(deleted, x), outputs(merged, x)) == 0


def test_merge_deletes_the_negative_of_a_filter():
    model, x = parallel(True), images()
    norm = model.get_layer("norm1")
    norm.gamma.assign(np.where(np.arange(8) == 5, -norm.gamma, norm.gamma))
    # No other filter is like it.
    merge = kprune.recovery.Merge(threshold=0.95)
    masks = {"conv1": without(8, 5)}
    deleted = removed(model, masks, lambda session, before: None, x)
    assert_same(deleted, removed(model, masks, merge, None), x)


def test_merge_skips_a_group_that_keeps_only_zeros():
    model, x = parallel(False), images()
    conv = model.get_layer("conv1")
    kernel = np.array(keras.ops.convert_to_numpy(conv.kernel))
    kernel[..., 1:] = 0
    conv.kernel.assign(kernel)
    masks = {"conv1": without(8, 0)}
    deleted = removed(model, masks, lambda session, before: None, x)
    assert_same(deleted, removed(model, masks, "merge", None), x)


def test_merge_works_where_groups_have_several_members():
    model = residual()
    masked = kprune.prune(model, "similarity", recover="merge")
    x = images()
    assert_same(masked, kprune.rebuild(masked), x)
