"""Run a mixed-precision model in float32 while it is converted."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import keras

_REPLACED = ("float16", "bfloat16", "float64")


def _sublayers(model: keras.Model) -> list[keras.layers.Layer]:
    return list(model._flatten_layers(include_self=True, recursive=True))


def reduced_precision(model: keras.Model) -> set[str]:
    """Return the compute dtypes of a model's layers that are not float32.

    Args:
        model: Any Keras model.

    Returns:
        For example `{"float16"}` for a `mixed_float16` model.
    """
    return {layer.compute_dtype for layer in _sublayers(model)} & set(_REPLACED)


@contextlib.contextmanager
def float32_compute(model: keras.Model) -> Iterator[None]:
    """Let every layer of `model` compute in float32 inside the block.

    LiteRT and ONNX Runtime have no CPU kernels for bfloat16 and few for float16
    and float64 arithmetic, and the variables of a mixed-precision model are
    float32 anyway. Policies are restored on exit.

    Args:
        model: Model whose layers are switched in place.
    """
    before = []
    try:
        for layer in _sublayers(model):
            if (
                layer.quantization_mode is None
                and layer.compute_dtype in _REPLACED
            ):
                # Through the public setter a DTypePolicyMap shared by many
                # layers would be edited and could not be put back.
                before.append((layer, layer._dtype_policy))
                layer._dtype_policy = keras.DTypePolicy("float32")
        yield
    finally:
        for layer, policy in before:
            layer._dtype_policy = policy
