"""Subclassed models, subclasses of layers, Lambda, LoRA, quantisation, skip."""

import keras
import numpy as np
import pytest
from harness import difference
from harness import outputs
from harness import prunable_sizes
from keras import layers
from keras import ops

import kprune
from kprune.graph.registry import find_rule


class Net(keras.Model):
    """Two convolutions and a head, in the way of tutorials."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(8, 3, activation="relu", name="stem")
        self.blocks = [
            layers.Conv2D(6, 3, padding="same", name=f"block{n}")
            for n in range(2)
        ]
        self.drop = layers.Dropout(0.5)
        self.head = layers.Dense(2, name="head")

    def call(self, x, training=None):
        x = self.stem(x)
        for block in self.blocks:
            x = ops.relu(block(x))
        x = ops.reshape(x, (ops.shape(x)[0], -1))
        return self.head(self.drop(x, training=training))


def images(size=4):
    rng = np.random.default_rng(0)
    return rng.normal(size=(size, 8, 8, 3)).astype("float32")


def test_a_subclassed_model_is_pruned_saved_and_loaded(tmp_path):
    model, x = Net(), images()
    expected = outputs(model, x)
    assert prunable_sizes(model) == {"stem": 8, "block0": 6, "block1": 6}
    masked = kprune.wrap(model)
    assert difference(outputs(masked, x), expected) < 1e-6
    masked = kprune.prune(model, reduce={"macs": 0.5})
    compact = kprune.rebuild(masked)
    assert compact.count_params() < model.count_params()
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5
    assert difference(outputs(model, x), expected) == 0
    compact.save(tmp_path / "compact.keras")
    loaded = keras.saving.load_model(tmp_path / "compact.keras")
    assert (
        difference(outputs(loaded, images(3)), outputs(compact, images(3))) == 0
    )


class Weighing(Net):
    """A subclassed model with a loss and a training step of its own."""

    factor = 10.0

    def compute_loss(self, *args, **kwargs):
        return self.factor * super().compute_loss(*args, **kwargs)

    def train_step(self, *args):
        return {**super().train_step(*args), "blocks": len(self.blocks)}


class Halved(keras.Sequential):
    """A Sequential with a call, an attribute and a training step of its own."""

    def __init__(self, given, factor, **kwargs):
        super().__init__(given, **kwargs)
        self.factor = factor
        self.first = self.layers[0]

    def call(self, inputs, training=None, mask=None):
        return super().call(inputs, training=training, mask=mask) / 2

    def compute_loss(self, *args, **kwargs):
        return self.factor * super().compute_loss(*args, **kwargs)

    def train_step(self, *args):
        return {**super().train_step(*args), "blocks": 2}


def halved():
    return Halved(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Conv2D(6, 3),
            layers.Flatten(),
            layers.Dense(2),
        ],
        factor=10.0,
    )


@pytest.mark.parametrize("build", [Weighing, halved])
def test_own_training_logic_is_kept(build, tmp_path):
    model, x, y = build(), images(), np.ones((4, 2))
    expected = outputs(model, x)
    model.compile("sgd", "mse")
    loss = model.evaluate(x, y, verbose=0)
    masked = kprune.wrap(model)
    compact = kprune.rebuild(masked)
    for copy in (masked, compact):
        assert difference(outputs(copy, x), expected) < 1e-6
        assert copy.evaluate(x, y, verbose=0) == pytest.approx(loss)
        assert copy.train_on_batch(x, y, return_dict=True)["blocks"] == 2
        assert isinstance(copy, type(model)) and copy.factor == 10.0
    mine = "blocks" if build is Weighing else "first"
    assert getattr(compact, mine) is not getattr(model, mine)
    compact.save(tmp_path / "compact.keras")
    loaded = keras.saving.load_model(tmp_path / "compact.keras", compile=False)
    assert difference(outputs(loaded, x), outputs(compact, x)) == 0


class Pair(keras.Model):
    def __init__(self):
        super().__init__()
        self.words = layers.Embedding(20, 6, name="table")
        self.dense = layers.Dense(5, name="dense")

    def call(self, inputs):
        x = ops.mean(self.words(inputs["words"]), axis=1)
        return {
            "out": self.dense(ops.concatenate([x, inputs["more"]], axis=-1))
        }


def test_dictionaries_and_whole_numbers():
    model = Pair()
    x = {
        "words": np.arange(6).reshape(2, 3),
        "more": np.ones((2, 4), "float32"),
    }
    expected = outputs(model, x)
    masked = kprune.wrap(model)
    assert prunable_sizes(model) == {"table": 6}
    assert difference(outputs(masked, x), expected) < 1e-6
    assert list(masked(x)) == ["out"]


class Pooled(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.stem = layers.Conv2D(8, 3, activation="relu", name="stem")
        self.head = layers.Dense(2, name="head")

    def call(self, x):
        return self.head(ops.mean(self.stem(x), axis=(1, 2)))


def test_a_model_nested_in_another_is_read_too():
    inputs = keras.Input((8, 8, 3))
    x = Pooled(name="inner")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="last")(x))
    assert prunable_sizes(model) == {"stem": 8, "head": 2}
    masked = kprune.prune(model, reduce={"macs": 0.4})
    compact = kprune.rebuild(masked)
    x = images()
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


class Wider(layers.DepthwiseConv2D):
    """What people write to load old files."""

    def __init__(self, *args, groups=1, **kwargs):
        super().__init__(*args, **kwargs)


class Fixed(layers.Conv2D):
    def __init__(self, **kwargs):
        kwargs = {k: v for k, v in kwargs.items() if k in ("name", "dtype")}
        super().__init__(16, 3, activation="relu", **kwargs)


class Doubled(layers.Conv2D):
    """Changes in its constructor what it computes."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.convolution_op = self.doubled

    def doubled(self, inputs, kernel):
        return 2 * layers.Conv2D.convolution_op(self, inputs, kernel)


@pytest.mark.parametrize(("cls", "alike"), [(Fixed, True), (Doubled, False)])
def test_a_subclass_with_its_own_constructor_counts_if_it_computes_alike(
    cls, alike
):
    layer = cls(name="own") if cls is Fixed else cls(16, 3, name="own")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 1, name="next")(Wider(2, name="wide")(layer(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    assert (find_rule(layer) is not None) == alike
    assert ("own" in prunable_sizes(model)) == alike
    masked = kprune.prune(model, reduce={"params": 0.4})
    compact = kprune.rebuild(masked)
    x = images()
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5
    assert isinstance(compact.get_layer("wide"), Wider)


def double(x):
    return 2 * x


def chain(middle=(), units=2):
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, activation="relu", name="a")(x)
    x = layers.Conv2D(6, 3, activation="relu", name="b")(x)
    for layer in middle:
        x = layer(x)
    return keras.Model(
        inputs, layers.Dense(units, name="c")(layers.Flatten()(x))
    )


def test_a_lambda_of_a_named_function_is_pinned_and_copied():
    model = chain([layers.Lambda(double, output_shape=(4, 4, 6), name="twice")])
    masked = kprune.prune(model, reduce={"params": 0.3})
    compact = kprune.rebuild(masked)
    assert compact.get_layer("twice").function is double
    assert prunable_sizes(model) == {"a": 8}
    x = images()
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


def test_lora_is_pinned_and_says_what_to_do_first():
    model, x = chain(), images()
    layer = model.get_layer("b")
    layer.enable_lora(2)
    layer.lora_kernel_b.assign(np.ones(layer.lora_kernel_b.shape))
    graph = kprune.trace(model)
    assert "merge LoRA first" in graph.opaque[0].why
    # "a" feeds the layer that stays.
    assert graph.coverage.prunable == 0
    with pytest.raises(ValueError, match="merge LoRA first"):
        kprune.wrap(model)
    other = keras.Model(model.input, layers.Dense(3)(
        layers.Dense(7, name="free")(model.output)
    ))  # fmt: skip
    assert difference(outputs(kprune.wrap(other), x), outputs(other, x)) < 1e-6


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:Layer .* does not have a `quantize`")
@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_quantised_layers_are_pinned_and_say_what_to_do_first(mode):
    model, x = chain(units=16), images()
    model.get_layer("c").quantize(mode)
    y = layers.Dense(7, name="free")(model.output)
    model = keras.Model(model.input, layers.Dense(3)(y))
    graph = kprune.trace(model)
    assert "prune first, quantise after" in graph.opaque[0].why
    assert set(prunable_sizes(model)) == {"a", "free"}
    assert difference(outputs(kprune.wrap(model), x), outputs(model, x)) < 1e-6


def backbone():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 3, name="inside")(x)
    x = layers.Conv2D(4, 3, name="inside2")(x)
    return keras.Model(inputs, layers.Flatten()(x), name="backbone")


@pytest.mark.parametrize("how", ["name", "model", "layers"])
def test_skip_takes_nested_models_and_their_layers(how):
    inner = backbone()
    inputs = keras.Input((8, 8, 3))
    x = layers.Dense(8, name="outside")(inner(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    skip = {"name": "backbone", "model": inner, "layers": inner.layers}[how]
    assert prunable_sizes(kprune.wrap(model, skip=skip)) == {"outside": 8}


def test_a_layer_is_skipped_by_identity():
    first, second = (
        layers.Conv2D(8, 3, name="same"),
        layers.Conv2D(6, 3, name="same"),
    )
    a = keras.Sequential([keras.Input((8, 8, 3)), first], name="first")
    b = keras.Sequential([keras.Input((6, 6, 8)), second], name="second")
    inputs = keras.Input((8, 8, 3))
    x = layers.Flatten()(b(a(inputs)))
    model = keras.Model(inputs, layers.Dense(2)(x))
    pinned = [g.size for g in kprune.trace(model, skip=[second]).prunable]
    assert pinned == [8]
    with pytest.raises(ValueError, match=r"skip names \['other'\]"):
        kprune.trace(model, skip=[first, layers.Dense(2, name="other")])
    with pytest.raises(TypeError, match="nested models"):
        kprune.trace(model, skip=[3])


class Transfer(keras.Model):
    """A network on a backbone that always runs in inference, as in tutorials."""

    def __init__(self, rate=0.0):
        super().__init__()
        inputs = keras.Input((6,))
        x = layers.BatchNormalization(name="norm")(layers.Dense(8)(inputs))
        x = layers.Dropout(rate, name="drop")(x)
        self.base = keras.Model(inputs, x, name="base")
        self.head = layers.Dense(5)
        self.last = layers.Dense(2)

    def call(self, x, training=None):
        x = self.base(x, training=False)
        return self.last(self.head(x))


def test_a_frozen_part_may_always_run_in_inference():
    model, x = Transfer(), np.ones((4, 6), "float32")
    model(x)
    model.base.trainable = False
    masked = kprune.wrap(model)
    expected, found = (
        ops.convert_to_numpy(m(x, training=True)) for m in (model, masked)
    )
    assert difference([found], [expected]) < 1e-6


@pytest.mark.parametrize(
    ("rate", "frozen", "layer"), [(0.0, False, "norm"), (0.5, True, "drop")]
)
def test_inference_that_a_functional_model_cannot_keep_is_refused(
    rate, frozen, layer
):
    model = Transfer(rate)
    model(np.ones((4, 6)))
    model.base.trainable = not frozen
    said = f"calls 'base' with training=False, .* layer '{layer}' depends"
    with pytest.raises(TypeError, match=said):
        kprune.trace(model)
    # The way out.
    model.base.trainable = False
    model.base.get_layer("drop").rate = 0
    assert kprune.trace(model).prunable


class Still(layers.Layer):
    """Fixes the mode of a layer, but has no argument `training` itself."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization()

    def call(self, x):
        return self.norm(x, training=False)


class Default(layers.Layer):
    """Has a default for `training`, which callers override."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.norm = layers.BatchNormalization()

    def call(self, x, training=False):
        return self.norm(x, training=training)


class Blocks(keras.Model):
    def __init__(self):
        super().__init__()
        self.block = Default()
        self.last = layers.Dense(2)

    def call(self, x):
        return self.last(self.block(x))


@pytest.mark.parametrize(("cls", "read"), [(Still, False), (Default, True)])
def test_a_nested_layer_that_fixes_inference_stays_as_it_is(cls, read):
    inputs = keras.Input((6,))
    x = cls()(layers.Dense(8, name="first")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    graph = kprune.trace(model)
    assert [g.name for g in graph.prunable] == (["first"] if read else [])
    assert bool(graph.opaque) != read


def test_a_default_of_training_is_not_fixed():
    model = Blocks()
    model(np.ones((4, 6)))
    assert kprune.trace(model)
