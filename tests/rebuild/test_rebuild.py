"""What the compact model is, beside being equal."""

import json
import zipfile

import keras
import numpy as np
import pytest
import zoo
from harness import difference
from harness import floatx
from harness import masked_and_compact
from harness import outputs
from harness import random_inputs
from harness import randomise
from keras import ops

import kprune
from kprune.masking import is_masked


def test_compact_is_an_ordinary_model(tmp_path):
    masked, compact = masked_and_compact(zoo.nested_backbone())
    assert not is_masked(compact)
    assert [layer.name for layer in compact.layers] == [
        layer.name for layer in masked.layers
    ]
    compact.save(tmp_path / "c.keras")
    with zipfile.ZipFile(tmp_path / "c.keras") as archive:
        config = archive.read("config.json").decode()
    assert "kprune" not in config
    assert json.loads(config)["class_name"] == "Functional"


def test_shapes_follow_the_masks():
    masked = kprune.wrap(zoo.sequential())
    kprune.set_masks(
        masked, {"conv1": [1, 0, 0, 1, 1, 1], "conv2": [1, 1, 0, 0, 0, 0, 0, 0]}
    )
    compact = kprune.rebuild(masked)
    assert compact.get_layer("conv1").kernel.shape == (3, 3, 3, 4)
    assert compact.get_layer("conv2").kernel.shape == (2, 2, 4, 2)
    assert compact.get_layer("dense").kernel.shape == (2 * 2 * 2, 10)


def test_all_ones_reproduce_the_model_to_the_bit():
    model = zoo.dense_block()
    randomise(model)
    compact = kprune.rebuild(kprune.wrap(model))
    x = random_inputs(model)
    np.testing.assert_array_equal(outputs(model, x)[0], outputs(compact, x)[0])


def test_attenuation_factors_are_folded_in():
    with floatx("float64"):
        model = zoo.squeeze_excite()
        randomise(model)
        masked = kprune.wrap(model)
        vector = [1, 0.5, 0, 0.25, 1, 1, 0.125, 1]
        kprune.set_masks(masked, {"expand": vector})
        compact = kprune.rebuild(masked)
        x = random_inputs(model)
        assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-10
        assert difference(outputs(model, x), outputs(compact, x)) > 1e-3
    kernel = np.asarray(compact.get_layer("expand").kernel)
    whole = np.asarray(model.get_layer("expand").kernel)
    np.testing.assert_allclose(kernel[..., 1], whole[..., 1] * 0.5)


def test_compact_model_can_be_pruned_again():
    _, compact = masked_and_compact(zoo.option_a_resnet())
    again, smaller = masked_and_compact(compact, seed=1)
    x = random_inputs(compact)
    assert difference(outputs(again, x), outputs(smaller, x)) <= 1e-5
    assert smaller.count_params() < compact.count_params()


def test_a_squeeze_of_nothing_keeps_the_dtype(tmp_path):
    inputs = keras.Input(batch_shape=(2, 4, 6))
    x = keras.layers.Dense(8, dtype="mixed_bfloat16", name="a")(inputs)
    x = keras.layers.Dense(2, dtype="mixed_bfloat16")(x)
    model = keras.Model(inputs, ops.squeeze(x))
    masked = kprune.wrap(model)
    kprune.set_masks(masked, {"a": [1, 0] * 4})
    compact = kprune.rebuild(masked)
    x = random_inputs(model)
    compact.save(tmp_path / "compact.keras")
    for one in (compact, keras.saving.load_model(tmp_path / "compact.keras")):
        assert one.output.dtype == "bfloat16"
        assert keras.backend.standardize_dtype(one(x).dtype) == "bfloat16"
        assert (
            difference(*(np.float32(outputs(m, x)) for m in (masked, one)))
            < 0.1
        )


def test_added_operations_have_free_names_and_outputs_keep_theirs(tmp_path):
    """Automatic names start again in a new process, where a file is loaded."""
    with floatx("float64"):
        keras.utils.clear_session()
        x = inputs = keras.Input((4, 6))
        x = keras.layers.Dense(8, activation="relu", name="a")(x)
        gated = keras.layers.Multiply()([x, ops.max(x, axis=-1, keepdims=True)])
        parts = [gated, ops.take(x, [0, 2, 4, 6], axis=-1), x[:, :, ::-1]]
        head = keras.layers.Dense(3, name="mean_kept")
        model = keras.Model(
            inputs,
            [
                ops.mean(x, axis=-1),
                head(ops.concatenate(parts, axis=-1)),
                ops.squeeze(keras.layers.Dense(1)(x), axis=-1),
            ],
        )
        model.compile(
            "sgd", {"mean": "mse", "mean_kept": "mse", "squeeze": None}
        )
        randomise(model)
        model.save(tmp_path / "m.keras")
        keras.utils.clear_session()
        model = kprune.load(tmp_path / "m.keras")
        masked = kprune.wrap(model)
        kprune.set_masks(masked, {"a": [1, 0, 1, 0], "a:2": [0, 0, 1, 1]})
        compact = kprune.rebuild(masked)
        assert compact.output_names == model.output_names
        x = random_inputs(model)
        assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-12
        y = outputs(masked, x)
        assert np.isclose(
            *(m.evaluate(x, y, verbose=0)[0] for m in (masked, compact))
        )


def test_plain_model_is_refused_with_the_way_out():
    with pytest.raises(ValueError, match=r"kprune.wrap"):
        kprune.rebuild(zoo.sequential())


def test_dynamic_sizes_stay_dynamic():
    x = inputs = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(6, 3, name="conv")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    masked, compact = masked_and_compact(model)
    assert compact.input_shape == (None, None, None, 3)
    x = np.random.default_rng(0).normal(size=(2, 9, 11, 3)).astype("float32")
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5


def test_dropout_models_agree_at_inference():
    x = inputs = keras.Input((6,))
    x = keras.layers.Dense(8, activation="relu", name="hidden")(x)
    x = keras.layers.Dropout(0.5)(x)
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    masked, compact = masked_and_compact(model)
    x = random_inputs(model)
    assert difference(outputs(masked, x), outputs(compact, x)) <= 1e-5
