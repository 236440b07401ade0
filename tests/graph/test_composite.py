"""Layers made of other layers are read like nested models."""

import keras
import numpy as np
import pytest
from harness import assert_exact
from harness import difference
from harness import floatx
from harness import outputs
from harness import prunable_sizes
from harness import run_pruning_test
from keras import layers

import kprune
from kprune.graph import reading
from kprune.graph import registry
from kprune.report.inspection import inspection
from kprune.report.inspection import inspection_text


@keras.saving.register_keras_serializable(package="kprune_tests")
class Bottleneck(layers.Layer):
    """Two convolutions and a shortcut, in the way people write blocks."""

    def __init__(self, filters, **kwargs):
        super().__init__(**kwargs)
        self.filters = filters
        self.inside = layers.Conv2D(filters, 3, padding="same", name="inside")
        self.norm = layers.BatchNormalization(name="norm")
        self.outside = layers.Conv2D(6, 1, name="outside")

    def build(self, shape):
        self.inside.build(shape)
        middle = (*shape[:-1], self.filters)
        self.norm.build(middle)
        self.outside.build(middle)
        self.built = True

    def call(self, x):
        y = keras.ops.relu(self.norm(self.inside(x)))
        return x + self.outside(y)

    def get_config(self):
        return {**super().get_config(), "filters": self.filters}


def network():
    x = inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(6, 3, activation="relu", name="stem")(x)
    x = Bottleneck(5, name="block")(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def test_a_composite_block_is_pruned_inside(tmp_path):
    assert "models of their layers: 1 Bottleneck" in str(
        kprune.trace(network())
    )
    run_pruning_test(network, tmp_path, expected={"stem": 6, "inside": 5})


@pytest.fixture
def rules(monkeypatch):
    """A registry that forgets."""
    monkeypatch.setattr(registry, "_RULES", dict(registry._RULES))


def test_with_the_rule_the_word_of_the_user_is_taken(rules):
    kprune.register_rule(Bottleneck)(kprune.graph.CompositeRule)
    assert prunable_sizes(network()) == {"stem": 6, "inside": 5}


class Sum(layers.Layer):
    """Several inputs, functions of the backend's library, and a flag."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.project = layers.Conv2D(6, 1, name="project")

    def call(self, x, residual, scale=1.0):
        total = self.project(x) * scale + residual
        if keras.config.backend() == "tensorflow":
            import tensorflow as tf

            return tf.reduce_mean(tf.nn.relu(total), axis=[1, 2])
        return keras.ops.mean(keras.ops.relu(total), axis=(1, 2))


def several():
    inputs = keras.Input((6, 6, 3))
    x = layers.Conv2D(4, 3, padding="same", name="a")(inputs)
    y = layers.Conv2D(6, 3, padding="same", name="b")(inputs)
    x = Sum(name="sum")(x, y, scale=2.0)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


def test_several_inputs_and_functions_of_the_backend(tmp_path):
    expected = {"a": 4, "b": 6}
    run_pruning_test(several, tmp_path, expected=expected, train=False)


class Opaque(layers.Layer):
    """A layer that cannot be read, around one that is known."""

    cause = "training"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.conv = layers.Conv2D(6, 3, padding="same", name="conv")

    def call(self, x, training=False):
        if self.cause == "training" and training:
            x = -x
        if self.cause == "random":
            x = x + np.random.default_rng().normal(size=(1, 1, 1, 3))
        if self.cause == "new":
            return layers.Conv2D(6, 3, padding="same")(self.conv(x))
        return self.conv(x)


@pytest.mark.parametrize(
    ("cause", "told"),
    [
        ("training", "it behaves differently in training"),
        ("random", "it does something else at every call"),
        ("new", "its call creates new layers"),
    ],
)
def test_what_cannot_be_read_is_named_first_with_its_cause(cause, told):
    layer = type("Opaque", (Opaque,), {"cause": cause})(name="own")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="after")(layer(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    page = " ".join(str(kprune.trace(model)).split())
    assert page.index("Not analysed: 1 layer") < page.index("Prunable")
    assert "own, Opaque: 168 weights" in page and told in page
    assert [g.name for g in kprune.trace(model).prunable] == ["after"]
    text = inspection_text(inspection(model))
    assert text.startswith("not analysed: own (Opaque), 168 weights")


def test_work_of_layers_inside_is_counted():
    layer = Opaque(name="own")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="after")(layer(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    costs = {row.name: row.macs for row in kprune.cost(model).table}
    assert costs["own"] == 64 * 9 * 3 * 6
    assert costs["after"] == 64 * 6 * 4


def test_a_call_set_on_an_instance_stays():
    layer = Opaque(name="own")
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 1, name="after")(layer(inputs))
    original = layer.conv.call
    layer.conv.call = lambda x: -original(x)
    mine = layer.conv.call
    kprune.trace(keras.Model(inputs, layers.Flatten()(x)))
    assert layer.conv.call is mine


class Own(layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 6), name="kernel")

    def call(self, x):
        return x @ self.kernel


def test_work_with_weights_of_its_own_is_unknown():
    inputs = keras.Input((8,))
    x = layers.Dense(4, name="after")(Own(name="own")(inputs))
    graph = kprune.trace(keras.Model(inputs, layers.Dense(2)(x)))
    (opaque,) = graph.opaque
    assert not opaque.counted and opaque.params == 48
    assert "MACs unknown" in str(graph) and "own: 'kernel'" in str(graph)


class Tied(layers.Layer):
    """Computes with a weight that another layer, or its own sublayer, has."""

    how = "tensor"

    def __init__(self, source, **kwargs):
        super().__init__(**kwargs)
        self.source = source

    def call(self, x):
        kernel = self.source.kernel
        if self.how == "fraction":
            return x * float(keras.ops.convert_to_numpy(kernel)[0, 0])
        if self.how == "number":
            return x * kernel[0, 0]
        if self.how == "variable":
            return keras.ops.matmul(self.source(x), kernel)
        return keras.ops.matmul(x, keras.ops.transpose(kernel))

    def compute_output_shape(self, shape):
        return (shape[0], 8)


@pytest.mark.parametrize("how", ["tensor", "number", "fraction", "variable"])
def test_weights_that_would_become_constants_are_refused(how):
    inputs = keras.Input((8,))
    to = layers.Dense(8, use_bias=False, name="to")
    tied = type("Tied", (Tied,), {"how": how})(to, name="tied")
    to.build((None, 8))
    x = tied(layers.Dense(8, name="before")(inputs))
    model = keras.Model(inputs, layers.Dense(2)(layers.Dense(7, name="a")(x)))
    graph = kprune.trace(model)
    assert {g.name for g in graph.prunable} == {"a"}
    assert "uses weight 'to/kernel' outside" in str(graph.opaque[0])


class Undefined(layers.Layer):
    """Computes with a constant that is not equal to itself."""

    kind = "fraction"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Dense(8, name="inside")

    def build(self, shape):
        self.inside.build(shape)

    def call(self, x):
        y = self.inside(x)
        nan = float("nan")
        if self.kind == "array":
            nan = np.array([nan], "float32")
        return keras.ops.nan_to_num(keras.ops.where(y > 0, y, nan))


@pytest.mark.parametrize("kind", ["fraction", "array"])
def test_constants_that_are_not_a_number_are_no_change(kind):
    x = inputs = keras.Input((6,))
    layer = type("Undefined", (Undefined,), {"kind": kind})(name="own")
    x = layers.Dense(5, name="after")(layer(x))
    model = keras.Model(inputs, layers.Dense(2)(x))
    assert prunable_sizes(model) == {"inside": 8, "after": 5}


def test_a_call_without_constants_is_not_read_with_other_weights(monkeypatch):
    varied = []
    monkeypatch.setattr(reading, "_varied", lambda v: varied.append(v) or v)
    assert "inside" in prunable_sizes(network())
    assert not varied


class FixedTable(layers.Layer):
    """Adds a frozen table outside of the call of its layer."""

    how = "tensor"

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inside = layers.Dense(8, name="inside")
        self.table = layers.Embedding(6, 8, name="table", trainable=False)

    def build(self, shape):
        self.inside.build(shape)
        self.table.build(None)

    def call(self, x):
        table = self.table.embeddings
        if self.how == "tensor":
            table = keras.ops.convert_to_tensor(table)
        return keras.ops.add(self.inside(x), table)


@pytest.mark.parametrize("how", ["tensor", "variable"])
@pytest.mark.parametrize("whole", [False, True])
def test_frozen_weights_may_become_constants(how, whole):
    inputs = keras.Input((6, 3))
    layer = type("FixedTable", (FixedTable,), {"how": how})(name="own")
    x = layers.Dense(5, name="after")(layer(inputs))
    model = keras.Model(inputs, layers.Dense(2)(x))
    # A layer that is frozen as a whole may be made trainable again.
    layer.trainable = not whole
    layer.table.trainable = False
    masked, _, _ = assert_exact(model, 1e-5)
    inside = {} if whole else {"inside": 8}
    assert prunable_sizes(masked) == {**inside, "after": 5}


def test_layers_that_share_a_weight_get_one_each_with_a_warning(caplog):
    inputs = [keras.Input((4, 6)), keras.Input((6,))]
    shared = layers.Dense(8, name="shared")
    x = layers.TimeDistributed(shared, name="steps")(inputs[0])
    x = layers.GlobalAveragePooling1D()(x)
    x = layers.Concatenate()([x, shared(inputs[1])])
    x = layers.Dense(7, name="after")(x)
    model = keras.Model(inputs, layers.Dense(2)(x))
    masked, _, _ = assert_exact(model, 1e-5)
    assert prunable_sizes(masked) == {"steps": 8, "after": 7}
    assert "'steps' and 'shared' of model" in caplog.text
    assert "will no longer share weight 'steps/shared/kernel'" in caplog.text


class LanguageModel(keras.Model):
    def __init__(self):
        super().__init__(name="lm")
        self.words = layers.Embedding(11, 8, name="words")
        self.hidden = layers.Dense(8, name="hidden")

    def call(self, ids):
        x = self.hidden(self.words(ids))
        return keras.ops.matmul(x, keras.ops.transpose(self.words.embeddings))


def test_a_head_tied_by_hand_is_refused():
    model = LanguageModel()
    model(np.zeros((1, 4), "int32"))
    with pytest.raises(TypeError, match=r"words/embeddings.*Reversible"):
        kprune.trace(model)


def shared(block, size, **kwargs):
    inputs = keras.Input((size, size, 3))
    x = layers.Conv2D(6, 1, name="before")(inputs)
    x = layers.GlobalAveragePooling2D()(block(x, **kwargs))
    x = layers.Dense(7, name="after")(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def test_a_block_called_in_two_models_is_read_for_both():
    block = Bottleneck(5, name="block")
    first = shared(block, 8)
    assert "inside" in prunable_sizes(first)
    second = shared(block, 6)
    for model in (first, second):
        masked = kprune.wrap(model)
        assert "inside" in prunable_sizes(masked)
        x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
        assert difference(outputs(model, x), outputs(masked, x)) < 1e-6


class Times(Bottleneck):
    def call(self, x, factor=1.0):
        return super().call(x) * factor


def test_a_block_called_with_other_arguments_in_another_model_stays_whole():
    block = Times(5, name="block")
    assert "inside" in prunable_sizes(shared(block, 8, factor=1.0))
    model = shared(block, 8, factor=3.0)
    masked = kprune.wrap(model)
    assert prunable_sizes(masked) == {"after": 7}
    assert "called with different arguments" in str(kprune.trace(model))
    x = np.random.default_rng(0).normal(size=(2, 8, 8, 3))
    assert difference(outputs(model, x), outputs(masked, x)) < 1e-6


@keras.saving.register_keras_serializable(package="kprune_tests")
class Positions(layers.Layer):
    """Adds embeddings of positions, which do not depend on the input."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.projection = layers.Dense(8, name="projection")
        self.table = layers.Embedding(6, 8, name="table")

    def build(self, shape):
        self.projection.build(shape)
        self.table.build(shape[1:2])

    def call(self, x):
        positions = keras.ops.expand_dims(keras.ops.arange(x.shape[1]), axis=0)
        return self.projection(x) + self.table(positions)


def positioned():
    x = inputs = keras.Input((6, 3))
    x = layers.Dense(7, name="before")(x)
    x = layers.Dense(5, name="after")(Positions(name="own")(x))
    return keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))


def test_embeddings_of_positions_are_pruned_and_trained():
    with floatx("float64"):
        masked, _, _ = assert_exact(positioned(), 1e-12)
    assert prunable_sizes(masked) == {"before": 7, "projection": 8, "after": 5}
    trained = [v.path for v in masked.trainable_variables]
    assert "table/embeddings" in trained
