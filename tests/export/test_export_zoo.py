"""Every model of the zoo as a TFLite file, or the reason why it is none."""

from __future__ import annotations

import importlib

import keras
import pytest
import zoo
from harness import assert_converts
from harness import floatx
from harness import masked_and_compact
from harness import random_inputs
from harness import randomise

# What each test module of tests/graph calls its models.
MODULES = {
    "test_application_layers": "ZOO",
    "test_architectures": "CASES",
    "test_attention": "ZOO",
    "test_convolutions": "CASES",
    "test_cross_channel": "ZOO",
    "test_embedding": "ZOO",
    "test_layers": "CASES",
    "test_operations": "CASES",
    "test_recurrent": "CASES",
    "test_sharing": "CASES",
}

# What TensorFlow's converter refuses, of the models as they are too.
FLOAT64 = "computes in float64"
CANNOT = {
    # On TensorFlow, Keras computes in float64 with float64 arrays.
    "arithmetic": FLOAT64,
    "token_and_position": FLOAT64,
    "transformer_encoder": FLOAT64,
    "vision_transformer": FLOAT64,
    # Convolution of an image of unknown size cut to a known one.
    "dynamic_size": "operators outside LiteRT's builtins: Conv2D",
    # A projection from a single value channel.
    "single_head": "BatchMatMulV2",
}


def cases():
    builds = list(zoo.CORE)
    for name, table in MODULES.items():
        builds += getattr(importlib.import_module(f"graph.{name}"), table)
    return builds


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("build", cases(), ids=lambda f: f.__name__)
def test_compact_model_converts(build, tmp_path):
    keras.utils.set_random_seed(0)
    with floatx("float32"):
        model = build()
        randomise(model)
        _, compact = masked_and_compact(model)
        x = random_inputs(compact)
        path = tmp_path / "compact.tflite"
        if build.__name__ in CANNOT:
            with pytest.raises(ValueError, match=CANNOT[build.__name__]):
                assert_converts(compact, x, path)
            return
        assert_converts(compact, x, path)
