"""What kprune does not know is left alone, and it says so."""

import keras
import numpy as np
import pages
import pytest
from harness import run_pruning_test
from keras import layers
from keras import ops

import kprune
from kprune.graph.registry import find_rule
from kprune.graph.rules.convolution import ConvRule
from kprune.graph.rules.normalization import BatchNormalizationRule
from kprune.recovery._linear import linear


@keras.saving.register_keras_serializable("test_unknown")
class Halve(layers.Layer):
    """A custom layer without variables, whose call nobody can read."""

    def call(self, inputs, training=False):
        return inputs * 0.5 if training else inputs / 2


@keras.saving.register_keras_serializable("test_unknown")
class Weighted(layers.Layer):
    def build(self, input_shape):
        self.weight = self.add_weight(shape=input_shape[-1:], name="weight")

    def call(self, inputs):
        return inputs * self.weight


def around(middle):
    """A pinned layer between two that stay prunable."""

    def build():
        x = inputs = keras.Input((4,))
        x = layers.Dense(6, activation="relu", name="free")(x)
        x = layers.Dense(5, name="pinned")(x)
        x = middle(x)
        x = layers.Dense(6, activation="sigmoid", name="after")(x)
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    return build


UNKNOWN = {
    "no variables": (Halve, "layer 'halve' has no rule: register one with "
                     "@kprune.register_rule(Halve)"),
    "variables": (Weighted, "@kprune.register_rule(Weighted)"),
    "sort": (lambda: lambda x: ops.sort(x, axis=-1), "Sort has no rule"),
    "cumsum": (lambda: lambda x: ops.cumsum(x, axis=1), "Cumsum has no rule"),
    "norm": (lambda: lambda x: x / ops.norm(x, axis=-1, keepdims=True),
             "no finite slope"),
    "divisor": (lambda: lambda x: 1 / (x + 9), "divides by these channels"),
    "arctan2": (lambda: lambda x: ops.arctan2(x, x), "Arctan2 has no rule"),
    "std": (lambda: lambda x: ops.std(x[:, None], axis=1), "no finite slope"),
    "single": (lambda: lambda x: x[:, 2:3], "picks a single channel"),
    "index": (lambda: lambda x: ops.take(x, [[0, 1], [2, 3]], axis=1)[:, 0],
              "picks single channels"),
    "model": (lambda: _Subclassed(), "is not functional"),
}  # fmt: skip


@keras.saving.register_keras_serializable("test_unknown")
class _Subclassed(keras.Model):
    def call(self, inputs, training=False):
        return inputs + inputs if training else inputs * 2


@pytest.mark.parametrize("name", UNKNOWN)
def test_unknown_things_pin_what_they_touch(name):
    middle, told = UNKNOWN[name]
    graph = kprune.trace(around(lambda x: middle()(x))())
    pinned = [g.pinned for g in graph.groups if g.pinned and g.name != "head"]
    assert any(told in reason for reason in pinned), pinned
    assert {"free", "after"} <= {g.name for g in graph.prunable}


@pytest.mark.parametrize("layer", [Halve, Weighted], ids=lambda c: c.__name__)
def test_models_with_unknown_layers_are_pruned_around_them(layer, tmp_path):
    build = around(lambda x: layer()(x))
    run_pruning_test(build, tmp_path, expected={"free": 6, "after": 6})


def test_lambda_is_pinned_and_survives():
    def turn(x):
        # PyTorch does not infer output_shape.
        return layers.Lambda(lambda v: -v, output_shape=(5,), name="turn")(x)

    build = around(turn)
    assert "Lambda 'turn'" in kprune.trace(build())["pinned"].pinned
    run_pruning_test(build, expected={"free": 6, "after": 6}, save=False)


class SameConv(layers.Conv2D):
    """Adds nothing that Keras computes with."""

    note = "mine"

    def describe(self):
        return self.note


class Standardized(layers.Conv2D):
    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel - ops.mean(kernel))


class Sixteen(layers.Conv2D):
    def __init__(self, **kwargs):
        super().__init__(16, 3, **kwargs)


def test_subclasses_that_change_anything_are_unknown():
    assert find_rule(SameConv(4, 3)) is find_rule(layers.Conv2D(4, 3))
    assert find_rule(Standardized(4, 3)) is None
    assert find_rule(Sixteen()) is None


class OwnConv(layers.Conv2D):
    def call(self, inputs):
        return super().call(inputs)


class OwnNorm(layers.BatchNormalization):
    def call(self, inputs, training=None):
        return super().call(inputs, training=training)


def test_one_rule_makes_a_layer_known_to_criteria_penalties_and_repairs():
    kprune.register_rule(OwnConv)(ConvRule)
    kprune.register_rule(OwnNorm)(BatchNormalizationRule)
    x = inputs = keras.Input((6, 6, 2))
    x = layers.ReLU()(OwnNorm(name="norm")(OwnConv(4, 3, name="conv")(x)))
    model = keras.Model(inputs, layers.Dense(2)(layers.Flatten()(x)))
    gamma = np.array([1.0, 4.0, 2.0, 3.0])
    model.get_layer("norm").gamma.assign(gamma)
    groups = kprune.trace(model).prunable
    scores = kprune.criteria.score_groups("bn_scale", groups)["conv"]
    np.testing.assert_allclose(scores, gamma)
    assert kprune.regularizers.attach(model, "l2") == ["conv"]
    kprune.regularizers.detach(model)
    samples = np.random.default_rng(0).normal(size=(8, 6, 6, 2))
    masked = kprune.prune(
        model, allocation={"conv": 0.25}, data=samples, recover="bn"
    )
    compact = kprune.rebuild(masked)
    convolved = keras.Model(compact.input, compact.get_layer("conv").output)
    wanted = ops.convert_to_numpy(convolved(samples)).mean((0, 1, 2))
    mean = ops.convert_to_numpy(compact.get_layer("norm").moving_mean)
    np.testing.assert_allclose(mean, wanted, atol=1e-6)
    assert linear(model.get_layer("conv")).channels == 2


def test_subclassed_model_error_names_the_class_and_ways_out():
    class Detector(keras.Model):
        def call(self, inputs):
            return inputs

    message = r"(?s)Detector.*it is not built.*To fix this.*functional"
    with pytest.raises(TypeError, match=message):
        kprune.trace(Detector())


def test_nothing_prunable_is_an_error_that_lists_why():
    x = inputs = keras.Input((4,))
    x = layers.Dense(5, name="hidden")(x)
    model = keras.Model(
        inputs, layers.Dense(2, name="out")(Halve(name="own")(x))
    )
    with pytest.raises(ValueError) as error:
        kprune.wrap(model)
    message = str(error.value)
    assert "hidden (5 channels): layer 'own' has no rule" in message
    assert "out (2 channels): feeds the model output" in message
    assert "register_rule" in message


def test_a_rule_that_returns_wrong_labels_is_told():
    class Wrong(layers.Layer):
        def call(self, inputs):
            return inputs[:, :2]

    kprune.register_rule(Wrong)(lambda call: call.input)
    with pytest.raises(ValueError, match="Every axis must have size 1"):
        kprune.trace(around(lambda x: Wrong()(x))())


def test_a_rule_for_one_output_of_several_is_told():
    class Twice(layers.Layer):
        def call(self, x):
            return x, 2 * x

    kprune.register_rule(Twice)(lambda call: call.input)
    inputs = keras.Input((4,))
    model = keras.Model(inputs, Twice(name="twice")(inputs))
    with pytest.raises(ValueError, match=r"1 tensors.*'twice'.*2 outputs"):
        kprune.trace(model)


def test_worked_example_of_the_documentation(tmp_path, capsys):
    page = pages.DOCS / "custom_layers.md"
    space = pages.run(page)
    assert "thin:2" in capsys.readouterr().out
    codes = [block.code for block in pages.blocks(page, "python")]
    (rule,) = [code for code in codes if "class LowRankDenseRule" in code]
    assert len(rule.split("@kprune")[1].strip().splitlines()) < 20

    def build():
        x = inputs = keras.Input((3, 6))
        x = space["LowRankDense"](8, rank=4, name="thin")(x)
        x = space["Shift"](name="shift")(x)
        x = ops.sum(layers.Dense(5, activation="relu", name="next")(x), axis=-1)
        return keras.Model(inputs, layers.Dense(3, name="head")(x))

    expected = {"thin": 4, "thin:2": 8, "next": 5}
    run_pruning_test(build, tmp_path, expected=expected)
