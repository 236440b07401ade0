from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import small_net
from keras import layers

import kprune
from kprune.criteria import Folded
from kprune.graph.norms import acting_layers
from kprune.graph.norms import norm_paths


def randomised(model):
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.2, 2, w.shape) for w in model.weights])
    return model


def array(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def scores(criterion, model):
    return kprune.criteria.score_groups(criterion, kprune.trace(model).prunable)


def folded_kernel(model, conv, norm):
    kernel = array(model.get_layer(conv).kernel)
    norm = model.get_layer(norm)
    scale = array(norm.gamma) / np.sqrt(
        array(norm.moving_variance) + norm.epsilon
    )
    return (kernel * scale).reshape(-1, kernel.shape[-1]).T


def test_filters_are_scaled_by_the_norm_behind_them_alone():
    model = randomised(small_net(5))
    model.get_layer("norm1").gamma.assign([1, -2, 3, 0, 0.5])
    conv2 = array(model.get_layer("conv2").kernel).reshape(-1, 5).T
    joined = np.hstack([folded_kernel(model, "conv1", "norm1"), conv2])
    result = scores(Folded("l1"), model)
    np.testing.assert_allclose(
        result["conv1"], np.abs(joined).sum(1), rtol=1e-5
    )
    apart = np.linalg.norm(joined[:, None] - joined[None], axis=2).sum(1)
    np.testing.assert_allclose(
        scores(Folded("fpgm"), model)["conv1"], apart, rtol=1e-5
    )
    # No norm, no difference.
    np.testing.assert_array_equal(result["conv3"], scores("l1", model)["conv3"])


def test_a_norm_without_a_scale_is_folded_too():
    inputs = keras.Input((6,))
    x = layers.Dense(4, name="first")(inputs)
    x = layers.BatchNormalization(scale=False, name="norm")(x)
    model = keras.Model(inputs, layers.Dense(2)(layers.ReLU()(x)))
    model.get_layer("first").kernel.assign(np.ones((6, 4)))
    norm = model.get_layer("norm")
    norm.moving_variance.assign([1.0, 1e2, 1e4, 1e6])
    found = scores(Folded("l1"), model)["first"]
    np.testing.assert_allclose(found, [6, 0.6, 0.06, 0.006], rtol=1e-3)


def test_a_folded_score_is_that_of_the_folded_model():
    """What a model without norms, but of the same outputs, would score."""
    x = inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(5, 3, use_bias=False, name="conv")(x)
    x = layers.ReLU()(layers.BatchNormalization(name="norm")(x))
    x = layers.GlobalAveragePooling2D()(x)
    model = randomised(keras.Model(inputs, layers.Dense(2, name="head")(x)))
    y = plain_in = keras.Input((6, 6, 2))
    y = layers.Conv2D(5, 3, activation="relu", name="conv")(y)
    y = layers.GlobalAveragePooling2D()(y)
    plain = keras.Model(plain_in, layers.Dense(2, name="head")(y))
    kernel = folded_kernel(model, "conv", "norm").T.reshape(3, 3, 2, 5)
    norm = model.get_layer("norm")
    scale = kernel.sum((0, 1, 2)) / array(model.get_layer("conv").kernel).sum(
        (0, 1, 2)
    )
    bias = array(norm.beta) - array(norm.moving_mean) * scale
    plain.set_weights(
        [kernel, bias, *map(array, model.get_layer("head").weights)]
    )
    images = np.random.default_rng(1).normal(size=(3, 6, 6, 2))
    np.testing.assert_allclose(
        array(model(images)), array(plain(images)), rtol=1e-4
    )
    np.testing.assert_allclose(
        scores(Folded("l2"), model)["conv"],
        scores("l2", plain)["conv"],
        rtol=1e-5,
    )


def test_it_takes_part_in_pruning_and_sees_masked_models():
    masked = kprune.prune(randomised(small_net()), Folded())
    assert kprune.cost(masked).macs <= 0.5 * kprune.cost(small_net()).macs


def test_criteria_that_run_the_model_cannot_be_folded():
    with pytest.raises(TypeError, match="uses only the weights of one group"):
        Folded("taylor")


def paths(model):
    graph = kprune.trace(model)
    names = {id(b.layer): b.layer.name for b in graph.bindings.values()}
    return {
        names[layer]: ([n.name for n in path.norms], path.bare)
        for layer, path in norm_paths(graph).items()
    }


def test_ways_through_and_past_norms_are_found():
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, padding="same", name="stem")(x)
    y = layers.ReLU()(layers.BatchNormalization(name="pre")(x))
    y = layers.Conv2D(4, 3, padding="same", name="inner")(y)
    y = layers.BatchNormalization(name="post")(y)
    x = layers.Add()([x, y])
    x = layers.BatchNormalization(scale=False, name="unscaled")(x)
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    expected = {
        "stem": (["pre", "unscaled"], False),
        "inner": (["post"], False),
        "head": ([], True),
    }
    assert paths(model) == expected
    assert paths(kprune.wrap(model)) == expected
    names = {id(layer): layer.name for layer in model.layers}
    acting = {
        names[layer] for layer in acting_layers(kprune.trace(model)).layers
    }
    assert {"pre", "unscaled", "head"} <= acting
    assert not {"stem", "inner", "post"} & acting


def test_ways_lead_into_nested_models_and_out_again():
    base = keras.Input((8, 8, 3))
    x = layers.Conv2D(4, 3, name="conv")(base)
    backbone = keras.Model(base, x, name="backbone")
    inputs = keras.Input((8, 8, 3))
    x = layers.BatchNormalization(name="norm")(backbone(inputs))
    x = layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, layers.Dense(2, name="head")(x))
    assert paths(model)["conv"] == (["norm"], False)
    acting = acting_layers(kprune.trace(model)).layers
    assert id(model.get_layer("norm")) in acting
    assert id(backbone.get_layer("conv")) not in acting


def test_norms_that_are_repeated_over_time_count():
    """Videos, frame by frame, against the network of a single frame."""
    conv, norm = layers.Conv2D(5, 3, name="conv"), layers.BatchNormalization()
    found = []
    for shape, wrap in (((6, 6, 2), lambda x: x), ((4, 6, 6, 2), over_time)):
        x = inputs = keras.Input(shape)
        x = layers.ReLU()(wrap(norm)(wrap(conv)(x)))
        x = layers.Dense(2, name="head")(layers.Flatten()(x))
        found.append(keras.Model(inputs, x))
    randomised(found[0])
    for criterion in (Folded("l1"), "bn_scale", "bn_act"):
        (one,), (other,) = (list(scores(criterion, m).values()) for m in found)
        np.testing.assert_allclose(one, other, rtol=1e-5)
        assert np.ptp(one) > 0.1


def over_time(layer):
    return layers.TimeDistributed(layer)
