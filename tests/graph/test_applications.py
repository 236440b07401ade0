"""One application of every family, with random masks and statistics."""

import keras
import pytest
from harness import assert_exact
from harness import floatx

FAMILIES = {
    "VGG16": 48,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "DenseNet121": 64,
    "InceptionV3": 80,
    "Xception": 80,
    "NASNetMobile": 64,
}


SLOW = (
    "VGG16",
    "ResNet50V2",
    "MobileNet",
    "EfficientNetV2B0",
    "DenseNet121",
    "InceptionV3",
    "Xception",
    "NASNetMobile",
)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else [])
        for name in FAMILIES
    ],
)
def test_masked_equals_compact(name):
    with floatx("float64"):
        size = FAMILIES[name]
        model = getattr(keras.applications, name)(
            weights=None,
            include_top=False,
            pooling="avg",
            input_shape=(size, size, 3),
        )
        x = model.output
        model = keras.Model(model.input, keras.layers.Dense(3)(x))
        assert_exact(model, 1e-10)
