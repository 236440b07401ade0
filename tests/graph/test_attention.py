"""Heads, the channels inside them, and the models made of them."""

import keras
import numpy as np
import pytest
from harness import assert_exact
from harness import assert_trains_alike
from harness import difference
from harness import except_on
from harness import floatx
from harness import outputs
from harness import random_inputs
from harness import randomise
from harness import run_pruning_test
from keras import layers
from keras import ops
from models import head

import kprune


def self_attention():
    x = inputs = keras.Input((5, 6))
    x = layers.Dense(8, name="embed")(x)
    x = x + layers.MultiHeadAttention(4, 6, name="mha")(x, x)
    return keras.Model(inputs, head(x))


def cross_attention():
    """Three sources, widths of their own, several output axes, a gate."""
    inputs = keras.Input((5, 6))
    query = layers.Dense(7, name="q", activation="sigmoid")(inputs)
    value = layers.Dense(8, name="v")(inputs[:, :4])
    key = layers.Dense(9, name="k")(inputs[:, 1:])
    mha = layers.MultiHeadAttention(
        3, 4, value_dim=5, output_shape=(4, 6), use_gate=True, name="mha"
    )
    x = mha(query, value, key)
    return keras.Model(inputs, head(layers.Reshape((5, 24))(x)))


def masked_attention():
    """Padding masks, causal masks, a sliding window, dropout, no bias."""
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 8, mask_zero=True, name="embed")(inputs)
    x = x + layers.MultiHeadAttention(2, 4, dropout=0.3, name="drop")(
        x, x, use_causal_mask=True
    )
    x = layers.MultiHeadAttention(
        2, 3, value_dim=4, use_bias=False, sliding_window=2, name="slide"
    )(x, x)
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, head(x))


def attention_over_one_axis_of_two():
    inputs = keras.Input((3, 4, 6))
    x = layers.Dense(8, name="embed")(inputs)
    x = layers.MultiHeadAttention(2, 4, attention_axes=(2,), name="mha")(x, x)
    return keras.Model(inputs, head(x))


def single_head():
    inputs = keras.Input((5, 6))
    x = layers.MultiHeadAttention(1, 4, value_dim=1, name="mha")(inputs, inputs)
    return keras.Model(inputs, head(x))


def grouped_queries():
    x = inputs = keras.Input((5, 6))
    x = layers.Dense(8, name="embed")(x)
    x = x + layers.GroupQueryAttention(4, 6, 2, name="gqa")(x, x)
    x = layers.GroupQueryAttention(3, 4, 1, use_gate=True, name="mqa")(
        x, x[:, 2:], x[:, :3]
    )
    x = layers.GroupQueryAttention(4, 3, 3, use_bias=False, name="mha")(x, x)
    return keras.Model(inputs, head(x))


def plain_attention():
    """No projections: query, key and value are 0 nowhere once masked."""
    inputs = keras.Input((5, 6))
    query = layers.Dense(7, name="q", activation="sigmoid")(inputs)
    value = layers.Dense(8, name="v", activation="sigmoid")(inputs)
    key = layers.Dense(7, name="k", activation="softplus")(inputs)
    dot = layers.Attention(use_scale=True)([query, value, key])
    joined = layers.Attention(score_mode="concat")([query, value, key])
    own = layers.Attention()([value, value])
    x = layers.Add()([dot, joined, own])
    return keras.Model(inputs, head(x))


def additive_attention():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(5, 6, mask_zero=True, name="embed")(inputs)
    query = layers.Dense(7, name="q", activation="sigmoid")(x)
    value = layers.Dense(7, name="v")(x)
    x = layers.AdditiveAttention()([query, value])
    y = layers.AdditiveAttention(use_scale=False)([query, value])
    return keras.Model(inputs, head(layers.GlobalMaxPooling1D()(x + y)))


def _split(x, heads, name):
    x = layers.Dense(heads * 4, name=name)(x)
    return ops.reshape(x, (-1, 5, heads, 4))


def attention_by_operations():
    inputs = keras.Input((5, 6))
    query, key, value = (_split(inputs, 3, name) for name in "qkv")
    one = ops.dot_product_attention(query, key, value, is_causal=True)
    query, key, value = (
        ops.transpose(x, (0, 2, 1, 3)) for x in (query, key, value)
    )
    scores = ops.matmul(query, ops.swapaxes(key, -1, -2)) * 0.5
    two = ops.transpose(ops.matmul(ops.softmax(scores), value), (0, 2, 1, 3))
    x = layers.Concatenate()([ops.reshape(t, (-1, 5, 12)) for t in (one, two)])
    return keras.Model(inputs, head(x))


def attention_by_einsum():
    """Heads and head channels as axes of their own."""
    inputs = keras.Input((5, 6))
    query, key, value = (
        layers.EinsumDense(
            "bsc,chd->bshd", (None, 3, size), bias_axes="hd", name=name
        )(inputs)
        for name, size in (("q", 4), ("k", 4), ("v", 5))
    )
    scores = ops.softmax(ops.einsum("bqhd,bkhd->bhqk", query, key))
    x = ops.einsum("bhqk,bkhd->bqhd", scores, value)
    x = layers.EinsumDense("bqhd,hdm->bqm", (None, 7), name="merge")(x)
    return keras.Model(inputs, head(x))


def transformer_encoder():
    inputs = keras.Input((6,), dtype="int32")
    x = layers.Embedding(5, 8, name="embed")(inputs)
    x = x + np.linspace(-1, 1, 48).reshape(1, 6, 8)
    for n in range(2):
        y = layers.LayerNormalization()(x)
        x = x + layers.MultiHeadAttention(2, 4, name=f"mha{n}")(y, y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(10, activation="gelu", name=f"up{n}")(y)
        x = x + layers.Dense(8, name=f"down{n}")(y)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(inputs, head(x))


def vision_transformer():
    """Patches by a convolution; the class token is what pooling makes."""
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((4, 8))(x)
    x = x + keras.Variable(np.linspace(-1, 1, 32).reshape(1, 4, 8))
    y = layers.LayerNormalization()(x)
    x = x + layers.MultiHeadAttention(2, 4, name="mha")(y, y)
    y = layers.LayerNormalization()(x)
    y = layers.Dense(12, activation="gelu", name="up")(y)
    x = x + layers.Dense(8, name="down")(y)
    return keras.Model(
        inputs, head(layers.Flatten()(layers.LayerNormalization()(x)))
    )


def mlp_mixer():
    inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(8, 4, strides=4, name="patches")(inputs)
    x = layers.Reshape((4, 8))(x)
    for n in range(2):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        y = layers.Dense(6, activation="gelu", name=f"tokens_up{n}")(y)
        y = layers.Dense(4, name=f"tokens_down{n}")(y)
        x = x + layers.Permute((2, 1))(y)
        y = layers.LayerNormalization()(x)
        y = layers.Dense(10, activation="gelu", name=f"channels_up{n}")(y)
        x = x + layers.Dense(8, name=f"channels_down{n}")(y)
    return keras.Model(inputs, head(layers.GlobalAveragePooling1D()(x)))


ZOO = {
    self_attention: {"embed": 8, "mha": 4, "mha:2": 6},
    cross_attention: {
        "k": 9,
        "q": 7,
        "v": 8,
        "mha": 3,
        "mha:2": 4,
        "mha:3": 5,
        "mha:4": 4,
        "mha:5": 6,
    },
    masked_attention: {
        "embed": 8,
        "drop": 2,
        "drop:2": 4,
        "slide": 2,
        "slide:2": 3,
        "slide:3": 4,
        "slide:4": 8,
    },
    attention_over_one_axis_of_two: {
        "embed": 8,
        "mha": 2,
        "mha:2": 4,
        "mha:3": 8,
    },
    single_head: {"mha": 4, "mha:2": 6},
    grouped_queries: {
        "embed": 8,
        "gqa": 2,
        "gqa:2": 3,
        "gqa:3": 4,
        "mqa": 4,
        "mqa:2": 3,
        "mha": 3,
        "mha:2": 4,
    },
    plain_attention: {"k": 7, "v": 8},
    additive_attention: {"embed": 6, "q": 7},
    attention_by_operations: {"k": 4},
    attention_by_einsum: {"k": 3, "k:2": 4, "v": 5, "merge": 7},
    transformer_encoder: {
        "embed": 8,
        "mha0": 2,
        "mha0:2": 4,
        "up0": 10,
        "mha1": 2,
        "mha1:2": 4,
        "up1": 10,
    },
    vision_transformer: {"patches": 8, "mha": 2, "mha:2": 4, "up": 12},
    mlp_mixer: {
        "patches": 8,
        "tokens_up0": 6,
        "channels_up0": 10,
        "tokens_up1": 6,
        "channels_up1": 10,
    },
}

# Fewer key channels mean another weight for the same score, and so another
# gradient: these models compute the same, but do not train alike.
RESCALED = {
    self_attention,
    cross_attention,
    masked_attention,
    attention_over_one_axis_of_two,
    single_head,
    grouped_queries,
    transformer_encoder,
    vision_transformer,
}


UNEQUAL = "key_dim of MultiHeadAttention must equal value_dim"
MISSING = {
    "jax": dict.fromkeys(
        [cross_attention, masked_attention, single_head], UNEQUAL
    )
}


@pytest.mark.parametrize("build", except_on(MISSING, ZOO))
def test_masked_equals_compact(build, tmp_path):
    run_pruning_test(
        build, tmp_path, expected=ZOO[build], train=build not in RESCALED
    )


@pytest.mark.parametrize("build", [self_attention, grouped_queries])
def test_without_whole_heads_masked_and_compact_train_alike(build):
    with floatx("float64"):
        model = build()
        randomise(model)
        masked = kprune.wrap(model)
        heads = [
            g
            for g in kprune.trace(masked).prunable
            if any(
                m.axis == 1 and len(m.variable.shape) == 3 for m in g.producers
            )
        ]
        assert heads
        kprune.set_masks(
            masked, {g.name: [0] + [1] * (g.size - 1) for g in heads}
        )
        compact = kprune.rebuild(masked)
        x = random_inputs(model)
        assert difference(outputs(masked, x), outputs(compact, x)) < 1e-12
        assert_trains_alike(masked, compact, x, 1e-9)


def test_tensors_and_flags_may_both_be_keywords():
    """Keras refuses a mixture of both in the `**kwargs` of a wrapper."""
    with floatx("float64"):
        inputs = keras.Input((4, 3))
        mask = keras.Input((4, 4), dtype="bool")
        x = layers.Dense(8, name="embed")(inputs)
        mha = layers.MultiHeadAttention(2, 3, name="mha")
        y = mha(x, x, attention_mask=mask, use_causal_mask=True)
        model = keras.Model([inputs, mask], head(layers.Flatten()(y)))
        rng = np.random.default_rng(0)
        allowed = rng.random((3, 4, 4)) < 0.7
        x = [rng.normal(size=(3, 4, 3)), allowed]
        assert_exact(model, 1e-10, x=x)


@pytest.mark.not_on("jax", reason=UNEQUAL)
def test_a_removed_head_is_a_removed_head():
    """Against attention computed head by head in NumPy."""
    inputs = keras.Input((4, 6))
    x = layers.MultiHeadAttention(3, 2, value_dim=5, name="mha")(inputs, inputs)
    model = keras.Model(inputs, head(x))
    randomise(model)
    masked = kprune.wrap(model)
    kprune.set_masks(masked, {"mha": [1, 0, 1]})
    x = np.random.default_rng(0).normal(size=(2, 4, 6)).astype("float32")
    mha = model.get_layer("mha")
    query, key, value = (
        np.einsum("bsc,chd->bhsd", x, np.asarray(d.kernel))
        + np.asarray(d.bias)[:, None]
        for d in (mha.query_dense, mha.key_dense, mha.value_dense)
    )
    scores = np.exp(np.einsum("bhqd,bhkd->bhqk", query, key) / np.sqrt(2))
    scores /= scores.sum(-1, keepdims=True)
    heads = np.einsum(
        "bhqk,bhkd,hdm->bhqm", scores, value, mha.output_dense.kernel
    )
    expected = heads[:, [0, 2]].sum(1) + np.asarray(mha.output_dense.bias)
    last = model.get_layer("head")
    expected = expected @ np.asarray(last.kernel) + np.asarray(last.bias)
    for m in (masked, kprune.rebuild(masked)):
        np.testing.assert_allclose(
            outputs(m, x)[0], expected, rtol=1e-4, atol=1e-5
        )


def test_attention_scores_that_are_an_output_pin_the_heads():
    inputs = keras.Input((5, 6))
    x, scores = layers.MultiHeadAttention(3, 4, name="mha")(
        inputs, inputs, return_attention_scores=True
    )
    model = keras.Model(inputs, [head(x), scores])
    graph = kprune.trace(model)
    assert {g.size for g in graph.prunable} == {4, 6}
    assert "feeds the model output" in graph["mha"].pinned
    assert_exact(model, 1e-5)


def test_attention_scores_may_be_pruned_by_head():
    inputs = keras.Input((5, 6))
    x, scores = layers.MultiHeadAttention(4, 3, name="mha")(
        inputs, inputs, return_attention_scores=True
    )
    scores = layers.Conv2D(
        3, 2, data_format="channels_last", activation="relu", name="conv"
    )(layers.Permute((2, 3, 1))(scores))
    model = keras.Model(inputs, [x[:, 0, :2], head(layers.Flatten()(scores))])
    graph = kprune.trace(model)
    assert graph["mha"].pinned is None and graph["mha"].size == 4
    assert "conv" in {m.layer.name for m in graph["mha"].consumers}
    assert_exact(model, 1e-5)


@pytest.mark.parametrize("heads", [1, 3])
def test_a_mask_of_its_own_for_every_head_pins_them(heads):
    inputs = keras.Input((5, 6))
    mask = np.tril(np.ones((5, 5), bool))[None, None].repeat(heads, 1)
    x = layers.MultiHeadAttention(3, 4, name="mha")(
        inputs, inputs, attention_mask=mask
    )
    model = keras.Model(inputs, head(x))
    pinned = kprune.trace(model)["mha"].pinned
    assert (pinned is not None) == (heads == 3)
    assert pinned is None or "between heads" in pinned
    assert_exact(model, 1e-5)


def test_positions_that_are_compared_stay():
    inputs = keras.Input((5, 6))
    x = layers.Permute((2, 1))(
        layers.Dense(4, name="tokens")(layers.Permute((2, 1))(inputs))
    )
    x = layers.MultiHeadAttention(2, 3, name="mha")(x, x)
    graph = kprune.trace(keras.Model(inputs, head(x)))
    assert "compares the positions" in graph["tokens"].pinned


def test_query_attention_stays_as_wide_as_a_query_that_must_stay():
    inputs = keras.Input((5, 6))
    x = layers.GroupQueryAttention(4, 4, 2, name="gqa")(inputs, inputs)
    model = keras.Model(inputs, head(x))
    assert {g.size for g in kprune.trace(model).prunable} == {2, 4}
    assert_exact(model, 1e-5)


@pytest.mark.parametrize("constant", ["key", "value", "query"])
def test_constant_operands_are_read_whole(constant):
    with floatx("float64"):
        inputs = keras.Input(batch_shape=(2, 4, 6))
        x = layers.Dense(8, activation="sigmoid", name="x")(inputs)
        given = {"query": x, "value": x, "key": x}
        given[constant] = np.sin(np.arange(64.0)).reshape(2, 4, 8)
        y = layers.MultiHeadAttention(2, 3, name="heads")(**given)
        z = layers.Attention()([x, given["value"], given["key"]])
        y = layers.Flatten()(layers.Concatenate()([y, z]))
        model = keras.Model(inputs, head(y))
        x = random_inputs(model, batch=2)
        assert_exact(model, 1e-10, x=x)
