"""Counts against formulas written out and against Keras."""

import keras
import numpy as np
import pytest
import zoo
from harness import random_masks
from hypothesis import given
from hypothesis import strategies as st
from keras import layers
from keras import ops

import kprune
from kprune.cost.evaluator import Evaluator
from kprune.cost.model import CostModel


@pytest.mark.parametrize(
    ("layer", "shape", "macs"),
    [
        (layers.Conv2D(8, 3), (10, 12, 4), 8 * 10 * 3 * 3 * 4 * 8),
        (
            layers.Conv2D(8, 3, strides=2, padding="same"),
            (9, 9, 4),
            25 * 36 * 8,
        ),
        (layers.Conv2D(8, 3, groups=2), (10, 12, 4), 8 * 10 * 3 * 3 * 2 * 8),
        (layers.Conv1D(6, 5), (20, 3), 16 * 5 * 3 * 6),
        (layers.DepthwiseConv2D(3, depth_multiplier=2), (8, 8, 4), 36 * 9 * 8),
        (layers.SeparableConv2D(6, 3), (8, 8, 4), 36 * (9 * 4 + 4 * 6)),
        (layers.Conv2DTranspose(6, 3), (8, 8, 4), 64 * 9 * 4 * 6),
        (layers.Dense(7), (5,), 35),
        (layers.Dense(7), (3, 5), 3 * 35),
    ],
    ids=lambda v: getattr(v, "name", None),
)
def test_macs_of_one_layer(layer, shape, macs):
    model = keras.Sequential([keras.Input(shape), layer])
    cost = kprune.cost(model)
    assert cost.macs == macs
    assert cost.params == model.count_params()


def test_published_cifar_count():
    # 40.55 M MACs of convolutions for ResNet-20, plus 640 of the classifier.
    x = inputs = keras.Input((32, 32, 3))
    width = 16
    x = layers.Conv2D(16, 3, padding="same", use_bias=False)(x)
    for stage in range(3):
        for block in range(3):
            stride = 2 if stage and not block else 1
            width = 16 * 2**stage
            for s in (stride, 1):
                x = layers.Conv2D(
                    width, 3, strides=s, padding="same", use_bias=False
                )(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(10)(x))
    assert kprune.cost(model).macs == 40_550_400 + 640 - 0


def test_the_table_adds_up_and_prints():
    cost = kprune.cost(zoo.squeeze_excite())
    assert sum(row.macs for row in cost.table) == cost.macs
    assert sum(row.params for row in cost.table) == cost.params
    assert cost.bytes == 4 * cost.params
    page = str(cost)
    assert "depthwise" in page and f"{cost.macs:,}" in page.splitlines()[-1]


def test_bytes_follow_the_data_type():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, dtype="float16"), layers.Dense(2)]
    )
    assert kprune.cost(model).bytes == 2 * 15 + 4 * 8


def test_unknown_sizes_count_as_one():
    model = keras.Sequential(
        [keras.Input((None, None, 3)), layers.Conv2D(4, 1)]
    )
    assert kprune.cost(model).macs == 12


@pytest.mark.parametrize("build", zoo.CORE, ids=lambda f: f.__name__)
def test_prediction_equals_the_rebuilt_model(build):
    masked = kprune.wrap(build())
    for seed in range(2):
        kprune.set_masks(masked, random_masks(kprune.trace(masked), seed))
        compact = kprune.rebuild(masked)
        a, b = kprune.cost(masked), kprune.cost(compact)
        assert (a.macs, a.params, a.bytes) == (b.macs, b.params, b.bytes)
        assert a.params == compact.count_params()


def flattened():
    """An axis of tokens x channels, next to others."""
    inputs = keras.Input((4, 3))
    x = layers.Dense(6, name="channels")(inputs)
    x = layers.Dense(5, name="tokens")(layers.Permute((2, 1))(x))
    y = layers.Dense(7, name="other")(layers.Flatten()(inputs))
    x = layers.Concatenate()([layers.Flatten()(x), y, layers.Flatten()(inputs)])
    x = layers.Dense(6, name="reads", activation="relu")(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def bilinear():
    """An axis of all pairs of the channels of two layers, and of one with itself."""
    inputs = keras.Input((3,))
    a = layers.Dense(6, name="a")(inputs)
    b = layers.Dense(5, name="b")(inputs)
    pairs = [ops.einsum("bi,bj->bij", a, other) for other in (b, a)]
    flat = [layers.Reshape((-1,))(x) for x in pairs]
    return keras.Model(
        inputs, layers.Dense(2)(layers.Concatenate()([*flat, b]))
    )


@pytest.mark.parametrize("build", [flattened, bilinear])
def test_an_axis_of_products_may_have_other_parts(build):
    masked = kprune.wrap(build())
    graph = kprune.trace(masked)
    assert len(graph.prunable) > 1
    kprune.set_masks(masked, random_masks(graph))
    a, b = kprune.cost(masked), kprune.cost(kprune.rebuild(masked))
    assert (a.macs, a.params, a.bytes) == (b.macs, b.params, b.bytes)


COSTS = CostModel(kprune.trace(zoo.projection_resnet()))


@given(st.data())
def test_cost_falls_with_every_channel(data):
    kept = np.array([data.draw(st.integers(2, int(n))) for n in COSTS.sizes])
    fewer = kept.copy()
    fewer[data.draw(st.integers(0, len(kept) - 1))] -= 1
    batch = COSTS.evaluate(np.stack([kept, fewer]))
    for key, value in batch.items():
        assert value[1] < value[0] <= COSTS.full[key]
        assert value[0] == COSTS.evaluate(kept)[key]


def joined():
    """Two branches, joined by concatenation and by addition."""
    x = inputs = keras.Input((8, 8, 3))
    a = layers.Conv2D(6, 3, padding="same", name="a")(x)
    b = layers.Conv2D(5, 3, padding="same", name="b")(a)
    c = layers.Conv2D(6, 3, padding="same", name="c")(b)
    x = layers.BatchNormalization()(layers.Add()([a, c]))
    d = layers.Conv2D(4, 3, padding="same", name="d")(x)
    x = layers.Conv2D(7, 1, name="e")(layers.Concatenate()([x, d]))
    x = layers.DepthwiseConv2D(3)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(2)(x))


def test_savings_of_one_group_are_differences_of_whole_costs():
    costs = CostModel(kprune.trace(joined()))
    rng = np.random.default_rng(0)
    full = costs.full
    for _ in range(5):
        kept = rng.integers(1, costs.sizes + 1)
        for group, size in enumerate(costs.sizes):
            widths = np.arange(1, size + 1)
            saved = costs.savings(kept, group, widths, full)
            plain = Evaluator.savings(costs, kept, group, widths, full)
            for name in full:
                np.testing.assert_allclose(
                    saved[name], plain[name], rtol=1e-12, atol=1e-6
                )


def test_groups_that_are_not_near_do_not_change_each_others_savings():
    costs = CostModel(kprune.trace(joined()))
    full, kept = costs.full, costs.sizes
    far = 0
    for group in range(len(kept)):
        before = costs.savings(kept, group, np.array([1]), full)
        for other in range(len(kept)):
            fewer = kept.copy()
            fewer[other] = 1
            if other == group:
                continue
            after = costs.savings(fewer, group, np.array([1]), full)
            same = all(before[n] == after[n] for n in full)
            near = group in costs.near(other, full)
            assert near == (not same)
            far += not near
    assert far
    # Nothing is known of costs of others.
    assert set(costs.near(0, ["ram"])) == set(range(len(kept)))
