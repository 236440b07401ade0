from __future__ import annotations

import keras
import numpy as np
import pytest
import zoo
from fitting import arrays
from fitting import dataset
from fitting import loss
from fitting import small_net
from harness import randomise

import kprune
from kprune.regularizers import HierarchicalGroupSparsity
from kprune.regularizers import Orthonormal
from kprune.regularizers import attach
from kprune.regularizers import detach

PENALTY = HierarchicalGroupSparsity(strength=0.01)


def convolutions(model):
    found = {}
    for layer in model._flatten_layers():
        inner = getattr(layer, "layer", layer)
        if isinstance(inner, keras.layers.Conv2D):
            found[inner.name] = inner
    return found


def penalty_of(kernels):
    arrays = [keras.ops.convert_to_numpy(kernel) for kernel in kernels]
    return sum(float(PENALTY(keras.ops.convert_to_tensor(a))) for a in arrays)


def losses(model):
    return sum(float(keras.ops.convert_to_numpy(v)) for v in model.losses)


def step_loss(model):
    """The loss of a training step that changes nothing."""
    model.reset_metrics()  # before Keras 3.15 losses of batches are averaged
    return float(model.train_on_batch(*arrays()))


def frozen_steps(model):
    jit = keras.config.backend() == "jax"  # elsewhere slow to compile
    model.compile(keras.optimizers.SGD(0.0), loss(), jit_compile=jit)
    return model


@pytest.mark.parametrize("masked", [False, True])
def test_the_loss_of_fit_holds_the_penalty_exactly_once(masked):
    model = small_net(6)
    if masked:
        model = kprune.wrap(model)
    frozen_steps(model)
    before = step_loss(model)
    names = attach(model, PENALTY)
    assert names == ["conv1", "conv2", "conv3"]
    added = penalty_of(c.kernel for c in convolutions(model).values())
    assert added > 0.05
    assert step_loss(model) == pytest.approx(before + added, rel=1e-5)
    assert float(model.test_on_batch(*arrays())) > added
    assert sorted(detach(model)) == names
    assert step_loss(model) == pytest.approx(before, rel=1e-5)


def test_a_masked_kernel_is_penalised_as_the_compact_one():
    masked = kprune.wrap(small_net(6))
    kprune.set_masks(
        masked, {"conv1": [1, 0, 1, 1, 0, 1], "conv3": [1] * 5 + [0]}
    )
    attach(masked, PENALTY)
    compact = kprune.rebuild(masked)
    expected = penalty_of(c.kernel for c in convolutions(compact).values())
    assert losses(masked) == pytest.approx(expected, rel=1e-5)


def test_removed_weights_do_not_move_and_others_shrink():
    masked = kprune.wrap(small_net(6))
    kprune.set_masks(masked, {"conv3": [1, 1, 0, 1, 1, 1]})
    masked.compile(keras.optimizers.SGD(0.05), loss(), run_eagerly=True)
    attach(masked, HierarchicalGroupSparsity(strength=0.1))
    kernel = convolutions(masked)["conv3"].kernel
    before = np.array(keras.ops.convert_to_numpy(kernel))
    x, y = arrays(16)
    for _ in range(5):
        masked.train_on_batch(x, y)
    after = keras.ops.convert_to_numpy(kernel)
    np.testing.assert_array_equal(after[..., 2], before[..., 2])
    alive = [0, 1, 3, 4, 5]
    assert np.abs(after[..., alive]).sum() < np.abs(before[..., alive]).sum()


def test_the_models_own_regularizers_stay():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, kernel_regularizer="l2", name="conv")(inputs)
    model = keras.Model(
        inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x))
    )
    own = losses(model)
    attach(model, PENALTY)
    added = penalty_of([model.get_layer("conv").kernel])
    assert losses(model) == pytest.approx(own + added, rel=1e-5)
    assert isinstance(
        model.get_layer("conv").kernel_regularizer, keras.regularizers.L2
    )
    detach(model)
    assert losses(model) == pytest.approx(own)


@pytest.mark.parametrize("wrap", [False, True])
def test_nested_models_are_reached_and_shortcut_projections_left_out(wrap):
    for model, names in (
        (zoo.nested_backbone(), {"conv1", "conv2"}),
        (zoo.projection_resnet(), {"stem", "a0", "b0", "a1", "b1"}),
    ):
        model = kprune.wrap(model) if wrap else model
        assert set(attach(model, PENALTY)) == names
        added = penalty_of(
            c.kernel for n, c in convolutions(model).items() if n in names
        )
        got = losses(model)
        assert got == pytest.approx(added, rel=1e-5)


def test_a_shared_layer_is_penalised_once():
    inputs = keras.Input((8, 8, 3))
    conv = keras.layers.Conv2D(3, 3, padding="same", name="shared")
    model = keras.Model(inputs, conv(conv(inputs)))
    assert attach(model, PENALTY) == ["shared"]
    got = losses(model)
    assert got == pytest.approx(penalty_of([conv.kernel]), rel=1e-5)


def other_layouts():
    x = inputs = keras.Input((6, 6, 4))
    x = keras.layers.Conv2D(6, 3, padding="same", groups=2, name="apart")(x)
    x = keras.layers.Conv2DTranspose(5, 3, name="up")(x)
    x = keras.layers.DepthwiseConv2D(3, depth_multiplier=2, name="deep")(x)
    return keras.Model(inputs, keras.layers.Flatten()(x))


def rows_of(model, name):
    """The kernels of a layer whose filters read the same channels, in NumPy."""
    kernel = keras.ops.convert_to_numpy(model.get_layer(name).kernel)
    if name == "apart":
        return [kernel[..., :3], kernel[..., 3:]]
    if name == "up":
        return [np.moveaxis(kernel, -1, -2)]
    return [kernel[:, :, c : c + 1] for c in range(kernel.shape[2])]


@pytest.mark.parametrize(
    "penalty",
    [
        Orthonormal(0.1),
        HierarchicalGroupSparsity(strength=0.1),
        HierarchicalGroupSparsity(strength=0.1, grouping="neuron"),
    ],
)
@pytest.mark.parametrize("name", ["apart", "up", "deep"])
def test_filters_are_compared_that_read_the_same_channels(penalty, name):
    model = other_layouts()
    expected = sum(float(penalty(k)) for k in rows_of(model, name))
    attach(model, penalty, name)
    assert losses(model) == pytest.approx(expected, rel=1e-5)


def test_orthonormal_filters_of_a_transposed_convolution_cost_nothing():
    model = other_layouts()
    rows, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(54, 5)))
    kernel = np.swapaxes(rows.reshape(3, 3, 6, 5), 2, 3)
    model.get_layer("up").kernel.assign(kernel)
    attach(model, Orthonormal(1.0), "up")
    assert losses(model) == pytest.approx(0, abs=1e-4)


class Named(keras.regularizers.Regularizer):
    """Keeps the kernels that `across` gets."""

    def across(self, kernels):
        self.kernels = kernels
        return [PENALTY] * len(kernels)


@pytest.mark.parametrize("masked", [False, True])
def test_across_gets_variables_with_the_names_of_the_layers_kernels(masked):
    model = other_layouts()
    penalty = Named()
    names = ["apart", "up", "deep"]
    attach(kprune.wrap(model) if masked else model, penalty, names)
    for name, kernel in zip(names, penalty.kernels, strict=True):
        parts = rows_of(model, name)
        own = model.get_layer(name).kernel
        assert (kernel.name, kernel.path) == (own.name, own.path)
        assert kernel.groups == len(parts)
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(kernel), np.concatenate(parts, -1)
        )


def test_across_gets_the_layers_own_variables_where_possible():
    model = small_net(6)
    penalty = Named()
    names = attach(model, penalty, ["conv1", "head"])
    for name, kernel in zip(names, penalty.kernels, strict=True):
        assert kernel is model.get_layer(name).kernel


def test_by_default_all_convolutions_but_depthwise_ones_are_penalised():
    assert attach(other_layouts(), PENALTY) == ["apart", "up"]


def test_layers_can_be_named_and_given():
    model = kprune.wrap(small_net(6))
    head = model.get_layer("head")
    assert attach(model, PENALTY, ["conv3", head]) == ["conv3", "head"]
    kernels = [convolutions(model)["conv3"].kernel, head.layer.kernel]
    expected = penalty_of(kernels)
    got = losses(model)
    assert got == pytest.approx(expected, rel=1e-5)


def test_copies_carry_no_attached_penalty(tmp_path):
    masked = kprune.wrap(small_net(6))
    attach(masked, PENALTY)
    masked.save(tmp_path / "masked.keras")
    loaded = keras.models.load_model(tmp_path / "masked.keras")
    assert not kprune.rebuild(masked).losses and not loaded.losses
    assert attach(loaded, PENALTY) == ["conv1", "conv2", "conv3"]


def test_what_a_layer_was_made_with_is_kept_by_wrap_and_rebuild():
    inputs = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, kernel_regularizer=PENALTY, name="conv")(
        inputs
    )
    model = keras.Model(
        inputs, keras.layers.Dense(3)(keras.layers.Flatten()(x))
    )
    masked = kprune.wrap(model)
    expected = penalty_of([model.get_layer("conv").kernel])
    for copy in (masked, kprune.rebuild(masked)):
        assert losses(copy) == pytest.approx(expected, rel=1e-5)


def test_fit_sees_it_and_it_can_be_detached_while_training_goes_on():
    masked = kprune.wrap(small_net(6))
    frozen_steps(masked)

    class Stop(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                detach(self.model)

    attach(masked, PENALTY)
    history = masked.fit(
        dataset(48, 48), epochs=2, verbose=0, callbacks=[Stop()]
    ).history["loss"]
    added = penalty_of(c.kernel for c in convolutions(masked).values())
    assert history[0] - history[1] == pytest.approx(added, rel=1e-4)


def test_mixed_precision_models_are_penalised_in_float32():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        masked = kprune.wrap(small_net(6))
    finally:
        keras.config.set_dtype_policy("float32")
    frozen_steps(masked)
    before = step_loss(masked)
    attach(masked, PENALTY)
    added = penalty_of(c.kernel for c in convolutions(masked).values())
    assert losses(masked) == pytest.approx(added, rel=1e-5)
    assert step_loss(masked) - before == pytest.approx(added, rel=1e-2)


def test_scores_by_loss_do_not_see_the_penalty():
    model = small_net(6)
    randomise(model)
    frozen_steps(model)
    masked = kprune.wrap(model)
    data = arrays(16)
    session = kprune.Session(masked, data)
    before = session.loss()
    attach(masked, PENALTY)
    assert session.loss() == before
    assert kprune.Session(masked, data).loss() == before


def test_errors_name_the_layer_and_the_way_out():
    model = small_net(6)
    with pytest.raises(ValueError, match=r"Did you mean .*'conv1'"):
        attach(model, PENALTY, ["conv0"])
    with pytest.raises(ValueError, match=r"'norm1'.*no kernel"):
        attach(model, PENALTY, ["norm1"])
    with pytest.raises(ValueError, match="Received: None"):
        attach(model, None)
    attach(model, PENALTY, "conv1")
    with pytest.raises(ValueError, match="attached already"):
        attach(model, PENALTY)
    assert detach(model) == ["conv1"] and detach(model) == []
    inputs = keras.Input((4, 3))
    with pytest.raises(ValueError, match="no convolution"):
        attach(keras.Model(inputs, keras.layers.GRU(2)(inputs)), PENALTY)


def test_without_images_other_kernels_are_penalised():
    x = inputs = keras.Input((8, 3))
    x = keras.layers.Conv1D(4, 3, name="conv")(x)
    x = keras.layers.SeparableConv1D(4, 3, name="separable")(x)
    x = keras.layers.Flatten()(x)
    model = keras.Model(inputs, keras.layers.Dense(2, name="head")(x))
    assert attach(model, PENALTY) == ["conv"]
    model = keras.Sequential(
        [inputs, keras.layers.Flatten(), keras.layers.Dense(4, name="dense")]
    )
    assert attach(model, PENALTY) == ["dense"]
    assert keras.ops.convert_to_numpy(model.losses[0]) > 0
