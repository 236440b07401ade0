"""Change how a model computes during conversion, and restore it afterwards."""

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
    with contextlib.ExitStack() as stack:
        for layer in _sublayers(model):
            if layer.quantization_mode or layer.compute_dtype not in _REPLACED:
                continue
            # The public setter would edit a DTypePolicyMap that many layers may
            # share, and the edit could not be undone.
            policy = _float32_policy(layer.variable_dtype)
            stack.enter_context(replaced(layer, "_dtype_policy", policy))
            if isinstance(layer, keras.layers.Normalization):
                # Its constants were cast to its dtype when it was built.
                for name in ("mean", "variance"):
                    constant = keras.ops.cast(getattr(layer, name), "float32")
                    stack.enter_context(replaced(layer, name, constant))
        yield


def _float32_policy(variable_dtype: str) -> keras.DTypePolicy:
    policy = keras.DTypePolicy("float32")
    # No policy name means "float64 variables, float32 arithmetic". Without the
    # true variable dtype the layer would not cast its variables.
    policy._variable_dtype = variable_dtype
    return policy


def rolled_layers(model: keras.Model) -> list[keras.layers.Layer]:
    """List the recurrent layers that are computed as a loop.

    Args:
        model: Any Keras model.

    Returns:
        The layers, nested ones included.
    """
    return [
        layer
        for layer in _sublayers(model)
        if isinstance(layer, keras.layers.RNN) and not layer.unroll
    ]


@contextlib.contextmanager
def unrolled(model: keras.Model) -> Iterator[None]:
    """Unroll recurrent layers of known length inside the block.

    The int8 calibrator crashes the whole process on the loops that recurrent
    layers are written as (tensorflow/tensorflow#87468); unrolled ones are fine.

    Args:
        model: Model whose layers are switched in place.
    """
    with contextlib.ExitStack() as stack:
        for layer in rolled_layers(model):
            stack.enter_context(replaced(layer, "unroll", True))
        yield


@contextlib.contextmanager
def replaced(target: object, name: str, value: object) -> Iterator[None]:
    """Set an attribute inside the block and restore it afterwards.

    Args:
        target: Object that has the attribute.
        name: Name of the attribute.
        value: Its value inside the block.
    """
    before = getattr(target, name)
    setattr(target, name, value)
    try:
        yield
    finally:
        setattr(target, name, before)
