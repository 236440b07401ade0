"""Models re-created in tf_keras compute the same."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf
from export import zoo
from export.tf_zoo import MODELS
from export.tf_zoo import lively
from keras import layers
from keras import ops

from kprune.export.differences import compare_outputs
from kprune.export.samples import random_samples
from kprune.export.signature import ModelSignature

# Importing TF-MOT to find out would switch `tf.keras` for all other tests.
if importlib.util.find_spec("tensorflow_model_optimization") is None:
    pytest.skip("needs kprune[tfmot]", allow_module_level=True)

from kprune.export.tfmot.packages import packages
from kprune.export.tfmot.recreate import RecreatedSignature
from kprune.export.tfmot.recreate import recreate
from kprune.export.tfmot.steps import RecreationError


def embedded_parts(model: keras.Model) -> set[str]:
    """Re-creates the model, checks it, and returns what was embedded."""
    signature = ModelSignature(lively(model))
    samples = random_samples(signature, 6)
    before = model.get_weights()
    recreation = recreate(signature, samples)
    outputs = RecreatedSignature(signature, recreation.model).predict(samples)
    assert compare_outputs(signature.predict(samples), outputs).max_rel <= 1e-5
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    return {recreation.origins[name].name for name in recreation.embedded}


def runs_channels_first():
    """Whether TensorFlow has this convolution here; not on every processor."""
    image, kernel = np.zeros((1, 3, 4, 4)), np.zeros((3, 3, 3, 2))
    try:
        keras.ops.conv(
            image.astype("float32"),
            kernel.astype("float32"),
            data_format="channels_first",
        )
    except tf.errors.UnimplementedError:
        return False
    return True


@pytest.mark.parametrize("name", MODELS)
def test_the_same_is_computed(name):
    if name == "channels first" and not runs_channels_first():
        pytest.skip("TensorFlow convolves channels first on other processors")
    build, embedded = MODELS[name]
    if name == "float16":
        from kprune.export.precision import float32_compute

        model = build()
        with float32_compute(model):
            assert embedded_parts(model) == embedded
    else:
        assert embedded_parts(build()) == embedded


@pytest.mark.slow
def test_mobilenet_has_a_counterpart_for_every_layer():
    model = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, weights=None, classes=10
    )
    assert embedded_parts(model) == set()


def test_layers_that_do_not_train_stay_so():
    model = zoo.conv_net()
    model.get_layer("conv").trainable = False
    signature = ModelSignature(model)
    made = recreate(signature, random_samples(signature, 2)).model
    assert not made.get_layer("conv").trainable
    assert made.get_layer("norm").trainable


def test_masks_are_refused():
    signature = ModelSignature(zoo.recurrent())
    with pytest.raises(RecreationError, match="hands on a mask"):
        recreate(signature, random_samples(signature, 2))


def test_a_model_that_cannot_run_in_a_graph_is_named():
    class Eager(layers.Layer):
        def call(self, x):
            return ops.convert_to_tensor(np.asarray(x) * 2)

        def compute_output_spec(self, x):
            return keras.KerasTensor(x.shape)

    inputs = keras.Input((4,))
    signature = ModelSignature(keras.Model(inputs, Eager(name="e")(inputs)))
    with pytest.raises(RecreationError, match="'e' does not run in tf_keras"):
        recreate(signature, random_samples(signature, 2))


_PROCESS = """
import os, sys
import keras, tensorflow as tf
import kprune
assert not {"tf_keras", "tensorflow_model_optimization"} & set(sys.modules)
from kprune.export.tfmot.packages import packages
assert packages().tf_keras.__version__.startswith("2.")
assert "TF_USE_LEGACY_KERAS" not in os.environ
assert tf.keras.Model is keras.Model
layer = keras.layers.Dense(2)
assert keras.ops.shape(layer(keras.ops.ones((1, 3)))) == (1, 2)
"""


def test_keras_stays_keras_3(monkeypatch):
    import tensorflow as tf

    monkeypatch.delenv("TF_USE_LEGACY_KERAS", raising=False)
    assert packages().tf_keras.__version__.startswith("2.")
    assert "TF_USE_LEGACY_KERAS" not in os.environ
    assert tf.keras.Model is keras.Model


@pytest.mark.slow
def test_keras_stays_keras_3_in_a_fresh_process():
    environment = {
        k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"
    }
    subprocess.run(
        [sys.executable, "-c", _PROCESS], check=True, env=environment
    )


def test_missing_packages_name_the_extra(monkeypatch):
    packages.cache_clear()
    monkeypatch.setitem(sys.modules, "tensorflow_model_optimization", None)
    with pytest.raises(ImportError, match=r"kprune\[tfmot\]"):
        packages()
    packages.cache_clear()
