"""wrap(), masks() and set_masks()."""

import functools
import inspect

import keras
import numpy as np
import pytest
import zoo
from harness import difference
from harness import masked_and_compact
from harness import outputs
from harness import random_inputs
from harness import random_masks
from keras import layers
from keras import ops

import kprune
from kprune.graph.live import made_from
from kprune.graph.values import read
from kprune.masking import filter_masks
from kprune.masking import is_masked
from kprune.masking.compilation import recreated


def test_wrap_keeps_names_weights_and_outputs():
    model = zoo.nested_backbone()
    masked = kprune.wrap(model)
    assert [layer.name for layer in masked.layers] == [
        layer.name for layer in model.layers
    ]
    assert isinstance(masked.get_layer("hidden"), kprune.FilterMask)
    x = random_inputs(model)
    np.testing.assert_array_equal(outputs(model, x)[0], outputs(masked, x)[0])
    assert not is_masked(model) and is_masked(masked)


def test_the_original_is_not_tied_to_the_copy():
    model = zoo.sequential()
    masked = kprune.wrap(model)
    masked.get_layer("conv1").layer.kernel.assign(
        np.zeros(model.get_layer("conv1").kernel.shape)
    )
    assert np.asarray(model.get_layer("conv1").kernel).any()


def test_wrapping_twice_is_refused():
    with pytest.raises(ValueError, match="wrapped already"):
        kprune.wrap(kprune.wrap(zoo.sequential()))


def test_nothing_to_prune_lists_why():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="only")])
    with pytest.raises(ValueError, match=r"no channel.*\n.*only.*model output"):
        kprune.wrap(model)


def test_masks_act_at_every_member():
    masked = kprune.wrap(zoo.projection_resnet())
    kprune.set_masks(masked, {"stem": [0, 1, 1, 1, 1, 1, 1, 1]})
    by_name = {w.name: w for w in filter_masks(masked)}
    for producer in ("stem", "b0"):
        assert by_name[producer].mask[0] == 0
    project = by_name["project1"]
    assert project.axis_mask(project.layer.kernel, 2)[0] == 0
    assert by_name["stem_bn"].mask[0] == 0


def test_masks_can_be_replayed_on_another_copy():
    model = zoo.option_a_resnet()
    first, second = kprune.wrap(model), kprune.wrap(model)
    kprune.set_masks(first, random_masks(kprune.trace(first)))
    kprune.set_masks(second, kprune.masks(first))
    x = random_inputs(model)
    np.testing.assert_array_equal(outputs(first, x)[0], outputs(second, x)[0])


def test_partial_masks_leave_other_groups_alone():
    masked = kprune.wrap(zoo.sequential())
    kprune.set_masks(masked, {"conv1": [1, 0, 1, 1, 1, 1]})
    kprune.set_masks(masked, {"conv2": [0, 1, 1, 1, 1, 1, 1, 1]})
    assert kprune.masks(masked)["conv1"].tolist() == [1, 0, 1, 1, 1, 1]


def test_masking_can_be_undone():
    model = zoo.inception()
    masked = kprune.wrap(model)
    kprune.set_masks(masked, random_masks(kprune.trace(masked)))
    kprune.set_masks(
        masked, {k: np.ones_like(v) for k, v in kprune.masks(masked).items()}
    )
    x = random_inputs(model)
    np.testing.assert_array_equal(outputs(model, x)[0], outputs(masked, x)[0])


def test_factors_are_read_back():
    masked = kprune.wrap(zoo.sequential())
    kprune.set_masks(masked, {"conv1": [1, 0, 0.25, 1, 1, 1]})
    assert kprune.masks(masked)["conv1"].tolist() == [1, 0, 0.25, 1, 1, 1]
    assert masked.get_layer("conv1").factor.tolist() == [1, 1, 0.25, 1, 1, 1]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"conv9": [1]}, "no such group.*conv1"),
        ({"head": [1, 0, 1, 1]}, "cannot be pruned: feeds the model output"),
        ({"conv1": [1, 0]}, r"shape \(6,\)"),
        ({"conv1": [1, 0, 1, 1, 1, -1]}, "between 0"),
        ({"conv1": [0] * 6}, "removes all 6 channels"),
    ],
)
def test_bad_masks_are_refused_and_nothing_changes(given, message):
    masked = kprune.wrap(zoo.sequential())
    with pytest.raises(ValueError, match=message):
        kprune.set_masks(masked, {"conv2": [0, 1, 1, 1, 1, 1, 1, 1], **given})
    assert all(v.all() for v in kprune.masks(masked).values())


def test_an_unwrapped_model_says_how_to_wrap():
    with pytest.raises(ValueError, match=r"kprune.wrap\(model\)"):
        kprune.masks(zoo.sequential())


def test_skipped_groups_stay_whole_after_loading(tmp_path):
    masked = kprune.wrap(zoo.sequential(), skip=["conv1"])
    assert list(kprune.masks(masked)) == ["conv2", "dense"]
    masked.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    assert list(kprune.masks(loaded)) == ["conv2", "dense"]


def test_compiled_model_stays_compiled():
    model = zoo.sequential()
    model.compile(keras.optimizers.Adam(0.01), "mse", metrics=["mae"])
    x = random_inputs(model)
    model.train_on_batch(x, np.zeros((3, 4)))
    masked = kprune.wrap(model)
    assert masked.optimizer is not model.optimizer
    assert int(masked.optimizer.iterations.value) == 1
    model.reset_metrics()  # before Keras 3.15 losses of batches are averaged
    first = model.train_on_batch(x, np.ones((3, 4)), return_dict=True)
    second = masked.train_on_batch(x, np.ones((3, 4)), return_dict=True)
    assert first["loss"] == pytest.approx(second["loss"], rel=1e-5)
    a, b = outputs(model, x)[0], outputs(masked, x)[0]
    np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


class Stepping(keras.Model):
    """A functional model with a training step of its own."""

    def train_step(self, data):
        return {**super().train_step(data), "mine": keras.ops.ones(())}


def test_the_model_class_is_kept():
    base = zoo.sequential()
    inputs = keras.Input((8, 8, 3))
    model = Stepping(inputs, base(inputs))
    masked = kprune.wrap(model)
    assert isinstance(masked, Stepping)
    assert isinstance(kprune.rebuild(masked), Stepping)


def test_frozen_layers_stay_frozen():
    model = zoo.sequential()
    model.get_layer("conv1").trainable = False
    masked = kprune.wrap(model)
    compact = kprune.rebuild(masked)
    for copy in (masked, compact):
        assert len(copy.trainable_variables) == 6


class Scaled(keras.Model):
    """A functional model with an argument and a loss of its own."""

    def __init__(self, inputs, outputs, factor):
        super().__init__(inputs, outputs)
        self.factor = factor
        self.hidden = self.layers[1]

    def compute_loss(self, *args, **kwargs):
        return self.factor * super().compute_loss(*args, **kwargs)


def test_own_training_logic_and_attributes_are_kept():
    base = zoo.sequential()
    model = Scaled(base.inputs, base.outputs, factor=100.0)
    model.compile("sgd", "mse")
    x, y = random_inputs(model), np.zeros((3, 4))
    masked = kprune.wrap(model)
    compact = kprune.rebuild(masked)
    expected = model.evaluate(x, y, verbose=0)
    for copy in (masked, compact):
        assert copy.evaluate(x, y, verbose=0) == pytest.approx(expected)
        assert copy.hidden is copy.layers[1]
        assert copy.hidden is not model.hidden


class Own(keras.Sequential):
    """A Sequential with a training step and an attribute of its own."""

    def train_step(self, *args):
        found = super().train_step(*args)
        if keras.config.backend() == "jax":
            logs, state = found
            return {**logs, "mine": self.mine}, state
        return {**found, "mine": self.mine}


def test_a_sequential_keeps_its_own_training_step():
    model = Own(zoo.sequential().layers)
    model.build((None, 8, 8, 3))
    model.mine = 7
    model.compile("sgd", "mse")
    x, y = random_inputs(model), np.zeros((3, 4))
    masked = kprune.wrap(model)
    compact = kprune.rebuild(masked)
    for copy in (masked, compact):
        assert copy.train_on_batch(x, y, return_dict=True)["mine"] == 7


class Above(keras.metrics.Mean):
    """Forgets its argument in `get_config`."""

    def __init__(self, threshold=0.5, name="above", **kwargs):
        super().__init__(name=name, **kwargs)
        self.threshold = threshold


def test_a_metric_that_cannot_be_recreated_is_left_out_by_name(caplog):
    model = zoo.sequential()
    model.compile("sgd", "mse", metrics=["mae", Above(0.0)])
    x, y = random_inputs(model), np.zeros((3, 4))
    masked = kprune.wrap(model)
    assert "Above 'above' (threshold)" in caplog.text
    result = masked.evaluate(x, y, return_dict=True, verbose=0)
    assert set(result) == {"loss", "mae"}


class Weighted(keras.metrics.Mean):
    """Has an array as argument, and no configuration that says so."""

    def __init__(self, class_weights=None, name="weighted", **kwargs):
        super().__init__(name=name, **kwargs)
        self.class_weights = class_weights


class Bare(keras.metrics.Mean):
    def get_config(self):
        raise NotImplementedError


def test_metrics_with_arrays_or_without_configuration_are_left_out(caplog):
    model = zoo.sequential()
    metrics = [Weighted(), Weighted(np.arange(3.0)), Bare(name="bare")]
    model.compile("sgd", "mse", metrics=metrics)
    masked = kprune.wrap(model)
    assert "Weighted 'weighted' (class_weights)" in caplog.text
    assert "Bare 'bare' (NotImplementedError)" in caplog.text
    assert len(masked._compile_config.config["metrics"]) == 1


def test_metrics_of_keras_can_all_be_recreated():
    lost = []
    arguments = {"k": 2, "num_classes": 3, "target_class_ids": [0], "name": "m"}
    arguments |= {"recall": 0.5, "precision": 0.5, "specificity": 0.5}
    arguments |= {"sensitivity": 0.5, "fn": keras.losses.mean_squared_error}
    made = 0
    for kind in vars(keras.metrics).values():
        if not isinstance(kind, type) or kind is keras.metrics.Metric:
            continue
        wanted = inspect.signature(kind.__init__).parameters
        given = {n: v for n, v in arguments.items() if n in wanted}
        assert recreated(kind(**given), lost) is not None
        made += 1
    assert made > 30 and lost == []


class MaybeAdd(layers.Layer):
    def call(self, x, y=None):
        return x if y is None else x + y

    def compute_output_spec(self, x, y=None):
        return keras.KerasTensor(x.shape, x.dtype)


def test_optional_inputs_stay_optional():
    given = keras.Input((6,), name="given")
    more = keras.Input((6,), optional=True, name="more")
    x = layers.Dense(6)(layers.Dense(8, name="a")(given))
    model = keras.Model([given, more], layers.Dense(3)(MaybeAdd()(x, more)))
    masked = kprune.wrap(model)
    x = np.random.default_rng(0).normal(size=(4, 6))
    for copy in (masked, kprune.rebuild(masked)):
        for other in (None, x):
            expected = model.predict([x, other], verbose=0)
            found = copy.predict([x, other], verbose=0)
            np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


class Residual(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = layers.Dense(8, name="inner")

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return x + self.inner(x)


def test_activity_regularizers_of_own_layers_are_kept():
    inputs = keras.Input((6,))
    x = layers.Dense(8, name="a")(inputs)
    x = Residual(activity_regularizer="l2", name="own")(x)
    x = layers.Dense(7, name="b")(x)
    model = keras.Model(inputs, layers.Dense(3)(x))
    masked = kprune.wrap(model)
    x = np.ones((2, 6), "float32")
    model(x), masked(x)
    assert float(sum(masked.losses)) == pytest.approx(float(sum(model.losses)))
    assert len(masked.losses) == 1


def test_what_was_set_on_single_weights_is_kept():
    inputs = keras.Input((6,))
    x = layers.Dense(8, kernel_regularizer="l1", name="a")(inputs)
    model = keras.Model(inputs, layers.Dense(3)(x))
    layer = model.get_layer("a")
    layer.bias.trainable = False
    layer.bias.regularizer = keras.regularizers.L2(0.5)
    layer.kernel.constraint = keras.constraints.MaxNorm(1.0)
    layer.bias.assign(np.ones(8))
    masked = kprune.wrap(model)
    for copy in (masked.get_layer("a").layer, kprune.rebuild(masked).layers[1]):
        assert [v.name for v in copy.trainable_variables] == ["kernel"]
        assert isinstance(copy.kernel.regularizer, keras.regularizers.L1)
        assert isinstance(copy.kernel.constraint, keras.constraints.MaxNorm)
        assert float(copy.bias.regularizer(copy.bias)) == pytest.approx(4.0)


class Tempered(keras.Model):
    """A functional model with a setting, a weight and a metric of its own."""

    def __init__(self, *args, alpha=0.1, **kwargs):
        super().__init__(*args, **kwargs)
        self.alpha = alpha
        self.temperature = self.add_weight(
            shape=(), initializer="ones", name="temperature"
        )
        self.seen = keras.metrics.Mean(name="seen")

    def compute_loss(self, *args, **kwargs):
        loss = super().compute_loss(*args, **kwargs)
        return self.alpha * loss * self.temperature


class Strict(Tempered):
    def __init__(self, *args, alpha, **kwargs):
        super().__init__(*args, alpha=alpha, **kwargs)


class Sized(Tempered):
    def __init__(self, units, alpha):
        inputs = keras.Input((6,))
        x = layers.Dense(units, activation="relu", name="a")(inputs)
        super().__init__(inputs, layers.Dense(3)(x), alpha=alpha)


@pytest.mark.parametrize("cls", [Tempered, Strict, Sized])
def test_attributes_and_weights_of_own_classes_are_copied(cls, tmp_path):
    model = Sized(8, alpha=0.9)
    if cls is not Sized:
        model = cls(model.input, model.output, alpha=0.9)
    model.temperature.assign(5.0)
    x, y = np.ones((4, 6), "float32"), np.ones((4, 3), "float32")
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9)
    model.compile(optimizer, "mse", run_eagerly=True)
    model.train_on_batch(x, y)
    before = read(model.temperature).copy()
    assert before != 5.0
    masked = kprune.wrap(model)
    compact = kprune.rebuild(masked)
    for copy in (masked, compact):
        assert copy.alpha == 0.9
        assert len(copy.trainable_variables) == 5
        assert read(copy.temperature) == before
        copy.train_on_batch(x, y)
    # The momentum was copied too, so both took the same step.
    model.train_on_batch(x, y)
    for copy in (masked, compact):
        assert read(copy.temperature) == pytest.approx(
            read(model.temperature), rel=1e-6
        )
    compact.save_weights(tmp_path / "compact.weights.h5")
    compact.temperature.assign(0.0)
    compact.load_weights(tmp_path / "compact.weights.h5")
    assert read(compact.temperature) == read(masked.temperature)
    compact.save(tmp_path / "compact.keras")
    loaded = keras.models.load_model(
        tmp_path / "compact.keras", {"Tempered": Tempered}, compile=False
    )
    np.testing.assert_allclose(
        loaded.predict(x, verbose=0), compact.predict(x, verbose=0), rtol=1e-6
    )


def halved(x):
    return ops.relu(x) - 0.5


class Squares(keras.regularizers.Regularizer):
    """A regularizer that Keras cannot serialize."""

    def __call__(self, x):
        return ops.sum(ops.square(x))


class Nothing(keras.constraints.Constraint):
    """A constraint that Keras cannot find by its name."""

    def __call__(self, w):
        return 0 * w


def own_objects():
    """Layers with functions and objects that are not registered."""
    x = inputs = keras.Input((5, 4))
    x = layers.TimeDistributed(layers.Dense(6, activation=halved))(x)
    x = layers.LSTM(
        6,
        activation=functools.partial(ops.leaky_relu, negative_slope=0.3),
        kernel_regularizer=Squares(),
        return_sequences=True,
    )(x)
    x = layers.Conv1D(
        5,
        2,
        activation=lambda x: 1.1 * halved(x),
        activity_regularizer=lambda x: ops.mean(x),
        kernel_constraint=Nothing(),
        kernel_initializer=lambda shape, dtype=None: ops.ones((2, 6, 5)),
    )(x)
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


@pytest.mark.filterwarnings("ignore:The object being serialized includes")
def test_functions_and_objects_that_are_not_registered_are_passed_on():
    model = own_objects()
    activation = model.layers[2].cell.activation
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    expected = outputs(model, x)
    losses = len(model.losses)
    assert losses >= 1
    masked, compact = masked_and_compact(model)
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5
    for copy in (kprune.wrap(model), model):
        assert difference(outputs(copy, x), expected) < 1e-6
        assert len(copy.losses) == losses
    assert compact.layers[2].cell.activation is activation
    assert model.layers[2].cell.activation is activation
    compact.compile("sgd", "mse")
    compact.train_on_batch(x, np.ones((2, 2)))
    assert not compact.get_layer(model.layers[3].name).kernel.numpy().any()


class Missing(layers.Layer):
    """A layer whose configuration lacks an argument."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)

    def get_config(self):
        return {"name": self.name}

    def call(self, x, training=False):
        return -x if training else x


@pytest.mark.parametrize(
    ("layer", "told"),
    [
        (Missing(3, name="own"), "Make get_config"),
        (
            layers.Dense(3, activation=Missing(3), name="own"),
            "Decorate the functions",
        ),
    ],
)
def test_what_cannot_be_copied_names_the_layer_and_the_way_out(layer, told):
    inputs = keras.Input((5,))
    x = layer(layers.Dense(4)(layers.Dense(4)(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    with pytest.raises(ValueError, match=f"'own' .* {told}"):
        kprune.wrap(model)


def test_operations_with_functions_are_copied():
    inputs = keras.Input((5, 4))
    x = layers.Dense(6)(layers.Dense(7)(inputs))
    x = ops.vectorized_map(lambda row: ops.cumsum(row), x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    masked, compact = masked_and_compact(model)
    x = np.random.default_rng(0).normal(size=(2, 5, 4)).astype("float32")
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


class Mixed(layers.Layer):
    """Has a part that makes its own parts when it is built, before another one."""

    def __init__(self, activation="relu", **kwargs):
        super().__init__(**kwargs)
        self.attend = layers.MultiHeadAttention(2, 3)
        self.last = layers.Dense(4, activation=activation)

    def call(self, x):
        return self.last(self.attend(x, x))

    def get_config(self):
        return {
            **super().get_config(),
            "activation": keras.activations.serialize(self.last.activation),
        }


def test_own_objects_reach_the_part_they_belong_to():
    layer = Mixed(halved)
    layer(keras.Input((5, 4)))
    copy = made_from(layer, lambda: Mixed.from_config(layer.get_config()))
    assert copy.last.activation is halved
