"""Settings shared by all tests: quiet logs, fixed seeds, untouched globals."""

from __future__ import annotations

import os
from collections.abc import Iterator

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# JAX has no float64 otherwise, and exactness is judged in float64.
os.environ.setdefault("JAX_ENABLE_X64", "1")
# Small tensors: XLA would spend more time on code than in it.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")

import hypothesis
import keras
import pytest
from keras.src.backend.common import dtypes

# Keras computes in float32 where it promotes float64, except on TensorFlow.
dtypes.BIT64_TO_BIT32_DTYPE["float64"] = "float64"

if keras.config.backend() == "tensorflow":
    import tensorflow as tf
    from tensorflow.python.data.ops import dataset_ops

    # With autotune on, `fit` and `predict` of arrays can return seconds after
    # their last step, and Keras offers no option for the datasets it makes.
    _as_given = dataset_ops.DatasetV2._apply_debug_options

    def _without_autotune(dataset: tf.data.Dataset) -> tf.data.Dataset:
        options = tf.data.Options()
        options.autotune.enabled = False
        return _as_given(dataset).with_options(options)

    dataset_ops.DatasetV2._apply_debug_options = _without_autotune

# A failing example must fail on every run, and the first call of a model
# compiles, which says nothing about the tested code's speed.
hypothesis.settings.register_profile(
    "kprune", derandomize=True, deadline=None, database=None
)
hypothesis.settings.load_profile("kprune")


@pytest.fixture(autouse=True)
def _same_start_for_every_test() -> Iterator[None]:
    """Reset layer names, dtype policy and seeds; keep other settings as found."""
    floatx = keras.config.floatx()
    image_data_format = keras.config.image_data_format()
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)
    yield
    keras.config.set_floatx(floatx)
    keras.config.set_image_data_format(image_data_format)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what the backend that Keras runs on cannot do."""
    backend = keras.config.backend()
    for item in items:
        if backend != "tensorflow" and item.get_closest_marker("tensorflow"):
            reason = f"needs TensorFlow; the backend is {backend}"
            item.add_marker(pytest.mark.skip(reason=reason))
        for marker in item.iter_markers("not_on"):
            if marker.args[0] == backend:
                reason = f"{backend}: {marker.kwargs['reason']}"
                item.add_marker(pytest.mark.skip(reason=reason))
