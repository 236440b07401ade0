"""Tables of tokens: their columns are channels."""

import keras
import numpy as np
import pytest
from harness import assert_exact
from harness import difference
from harness import floatx
from harness import masked_and_compact
from harness import outputs
from harness import prunable_sizes
from harness import run_pruning_test
from keras import layers
from keras import ops
from models import head

import kprune
from kprune.graph.registry import copy_operation


def bag_of_tokens():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True, name="embed")(inputs)
    x = layers.GlobalAveragePooling1D()(layers.Dropout(0.0)(x))
    return keras.Model(inputs, head(x))


def token_and_position():
    """A learned table of positions, added as it is looked up once."""
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 8, name="tokens")(inputs)
    positions = ops.zeros_like(inputs) + np.arange(6, dtype="int32")
    x = x + layers.Embedding(6, 8, name="positions")(positions)
    x = x * keras.Variable(np.linspace(0.5, 1, 8)) + np.ones((1, 6, 8))
    x = layers.Conv1D(7, 3, activation="relu", name="conv")(x)
    return keras.Model(inputs, head(layers.GlobalMaxPooling1D()(x)))


def shared_table():
    """One table for two inputs, whose vectors are compared."""
    table = layers.Embedding(5, 8, name="table")
    first = keras.Input((), dtype="int32", name="first")
    second = keras.Input((), dtype="int32", name="second")
    a, b = table(first), table(second)
    x = layers.Concatenate()([layers.Dot(1)([a, b]), a])
    return keras.Model([first, second], head(x))


def tied_language_model():
    inputs = keras.Input((6,), dtype="int32")
    table = layers.ReversibleEmbedding(5, 8, name="table")
    x = table(inputs)
    x = layers.Dense(9, activation="gelu", name="up")(x)
    x = layers.Dense(8, name="down")(x)
    return keras.Model(inputs, table(x, reverse=True))


def untied_language_model():
    inputs = keras.Input((6,), dtype="int32")
    table = layers.ReversibleEmbedding(
        5, 8, tie_weights=False, logit_soft_cap=2.0, name="table"
    )
    x = layers.LayerNormalization()(table(inputs))
    return keras.Model(inputs, table(x, reverse=True))


ZOO = {
    bag_of_tokens: {"embed": 8},
    token_and_position: {"tokens": 8, "conv": 7},
    shared_table: {"table": 8},
    tied_language_model: {"table": 8, "up": 9},
    untied_language_model: {"table": 8},
}


@pytest.mark.parametrize("build", ZOO, ids=lambda f: f.__name__)
def test_masked_equals_compact(build, tmp_path):
    found = kprune.trace(build())
    expected = ZOO[build]
    assert sorted(g.size for g in found.prunable) == sorted(expected.values())
    run_pruning_test(build, tmp_path)


def test_a_single_column_stays():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Flatten()(layers.Embedding(5, 1, name="embed")(inputs))
    graph = kprune.trace(keras.Model(inputs, head(x)))
    assert "only column" in graph["embed"].pinned


def test_channels_used_as_tokens_stay():
    with floatx("float64"):
        x = inputs = keras.Input((4,))
        x = layers.Dense(6, activation="sigmoid", name="scores")(x)
        x = layers.Embedding(5, 8, name="embed")(ops.cast(x * 4, "int32"))
        model = keras.Model(inputs, head(layers.Flatten()(x)))
        assert prunable_sizes(model) == {"embed": 8}
        assert_exact(model, 1e-10)


def test_the_reverse_projection_counts_as_work():
    model = tied_language_model()
    macs = {row.name: row.macs for row in kprune.cost(model).table}
    assert macs["table"] == 6 * 5 * 8


def test_a_reversed_input_that_must_stay_keeps_the_table():
    tokens = keras.Input((6,), dtype="int32")
    vectors = keras.Input((6, 8))
    table = layers.ReversibleEmbedding(5, 8, name="table")
    model = keras.Model(
        [tokens, vectors], [head(table(tokens)), table(vectors, reverse=True)]
    )
    assert kprune.trace(model)["table"].pinned is not None


@pytest.mark.not_on("torch", reason="strings are no tensors")
@pytest.mark.not_on("jax", reason="strings are no tensors")
@pytest.mark.parametrize(
    "kind, options",
    [
        ("StringLookup", {"num_oov_indices": 2}),
        ("StringLookup", {"output_mode": "tf_idf"}),
        ("IntegerLookup", {}),
        ("TextVectorization", {"output_sequence_length": 4}),
        ("TextVectorization", {"output_mode": "tf_idf"}),
    ],
)
def test_adapted_vocabularies_are_copied(kind, options, tmp_path):
    numbers = kind == "IntegerLookup"
    known = np.arange(4) if numbers else np.array(["b c b", "a b", "c", "d a"])
    other = type(known[0])(9)
    with floatx("float64"):
        layer = getattr(layers, kind)(**options)
        layer.adapt(known)
        inputs = keras.Input((1,), dtype="int64" if numbers else "string")
        x = layer(inputs)
        if "int" in x.dtype:
            x = layers.Flatten()(layers.Embedding(9, 8, name="embed")(x))
        x = layers.Dense(6, activation="sigmoid", name="hidden")(x)
        model = keras.Model(inputs, head(x))
        x = ops.convert_to_tensor(np.array([*known, other])[:, None])
        copy = kprune.wrap(model)
        assert difference(outputs(model, x), outputs(copy, x)) <= 1e-12
        masked, compact = masked_and_compact(model)
        y = outputs(compact, x)
        assert difference(outputs(masked, x), y) <= 1e-12
        compact.save(tmp_path / "compact.keras")
        loaded = keras.saving.load_model(tmp_path / "compact.keras")
        assert difference(outputs(loaded, x), y) <= 1e-12


@pytest.mark.not_on("torch", reason="strings are no tensors")
@pytest.mark.not_on("jax", reason="strings are no tensors")
@pytest.mark.parametrize(
    "kind, options, known",
    [
        ("StringLookup", {}, None),
        ("IntegerLookup", {"mask_token": 0}, None),
        ("TextVectorization", {}, None),
        (
            "StringLookup",
            {"oov_token": None},
            ["a", "b"],
        ),
        ("StringLookup", {"invert": True, "vocabulary": ["a", "b"]}, None),
        (
            "TextVectorization",
            {"split": "character", "standardize": None},
            ["ab\n\nc d", "b a\ta\u2028"],
        ),
        (
            "TextVectorization",
            {
                "split": "character",
                "standardize": None,
                "output_mode": "tf_idf",
                "max_tokens": 9,
                "pad_to_max_tokens": True,
            },
            ["ab\n\nc", "b a"],
        ),
    ],
)
def test_any_vocabulary_is_copied(kind, options, known):
    layer = getattr(layers, kind)(**options)
    if known:
        layer.adapt(np.array(known, dtype=object))
    new = copy_operation(layer)
    assert new.get_vocabulary() == layer.get_vocabulary()
    if known:
        x = ops.convert_to_tensor(np.array(known, dtype=object))
        assert difference(outputs(layer, x), outputs(new, x)) == 0


def test_files_that_cannot_be_copied_name_the_layer():
    class Own(layers.Layer):
        def save_assets(self, folder):
            raise RuntimeError("Not adapted.")

        def load_assets(self, folder):
            pass

    with pytest.raises(ValueError, match=r"Own 'mine'.*Not adapted"):
        copy_operation(Own(name="mine"))
