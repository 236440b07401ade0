"""Replacement of TensorFlow functions by `keras.ops` in symbolic calls.

Functions such as `tf.nn.relu` reject symbolic tensors. TensorFlow asks its
dispatchers before it raises an error; while a call is read, ours answers with
the counterpart in `keras.ops`. JAX and PyTorch have no such dispatch.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops

# Keyed by the TensorFlow function's `__name__`, with its argument names.
COUNTERPARTS: dict[str, Any] = {
    "abs": lambda x: ops.abs(x),
    "add": lambda x, y: ops.add(x, y),
    "cast": lambda x, dtype: ops.cast(
        x, keras.backend.standardize_dtype(dtype)
    ),
    "clip_by_value": lambda t, clip_value_min, clip_value_max: ops.clip(
        t, clip_value_min, clip_value_max
    ),
    "concat": lambda values, axis: ops.concatenate(values, axis),
    "divide": lambda x, y: ops.divide(x, y),
    "elu": lambda features: ops.elu(features),
    "exp": lambda x: ops.exp(x),
    "expand_dims_v2": lambda input, axis: ops.expand_dims(input, axis),
    "gelu": lambda features, approximate=False: ops.gelu(features, approximate),
    "leaky_relu": lambda features, alpha=0.2: ops.leaky_relu(features, alpha),
    "log": lambda x: ops.log(x),
    "matmul": lambda a, b: ops.matmul(a, b),
    "maximum": lambda x, y: ops.maximum(x, y),
    "minimum": lambda x, y: ops.minimum(x, y),
    "multiply": lambda x, y: ops.multiply(x, y),
    "negative": lambda x: ops.negative(x),
    "reduce_max": lambda input_tensor, axis=None, keepdims=False: ops.max(
        input_tensor, axis, keepdims
    ),
    "reduce_mean": lambda input_tensor, axis=None, keepdims=False: ops.mean(
        input_tensor, axis, keepdims
    ),
    "reduce_sum": lambda input_tensor, axis=None, keepdims=False: ops.sum(
        input_tensor, axis, keepdims
    ),
    "relu": lambda features: ops.relu(features),
    "relu6": lambda features: ops.relu6(features),
    "reshape": lambda tensor, shape: ops.reshape(tensor, shape),
    "rsqrt": lambda x: ops.rsqrt(x),
    "selu": lambda features: ops.selu(features),
    "sigmoid": lambda x: ops.sigmoid(x),
    "softmax_v2": lambda logits, axis=None: ops.softmax(
        logits, -1 if axis is None else axis
    ),
    "softplus": lambda features: ops.softplus(features),
    "sqrt": lambda x: ops.sqrt(x),
    "square": lambda x: ops.square(x),
    "squeeze_v2": lambda input, axis=None: ops.squeeze(input, axis),
    "stack": lambda values, axis=0: ops.stack(values, axis),
    "subtract": lambda x, y: ops.subtract(x, y),
    "swish": lambda features, beta=1.0: features * ops.sigmoid(beta * features),
    "tanh": lambda x: ops.tanh(x),
    "transpose_v2": lambda a, perm=None: ops.transpose(a, perm),
}

_active: list[bool] = []
_registered: list[Any] = []


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Return a context in which TensorFlow functions accept symbolic tensors."""
    if keras.config.backend() == "tensorflow" and not _registered:
        _register()
    _active.append(True)
    try:
        yield
    finally:
        _active.pop()


def _register() -> None:
    # The backend has imported it already; this module must not import it.
    dispatch = sys.modules["tensorflow.python.util.dispatch"]

    class Dispatcher(dispatch.GlobalOpDispatcher):  # type: ignore[name-defined]
        def handle(self, op: Any, args: Any, kwargs: Any) -> Any:
            flat = keras.tree.flatten((args, kwargs))
            symbolic = any(isinstance(x, keras.KerasTensor) for x in flat)
            if not _active or not symbolic:
                return self.NOT_SUPPORTED
            counterpart = COUNTERPARTS.get(op.__name__)
            given = {k: v for k, v in kwargs.items() if k != "name"}
            if counterpart is None:
                raise NotImplementedError(
                    f"TensorFlow's {op.__name__} takes no symbolic tensor; use "
                    "its counterpart in keras.ops"
                )
            return counterpart(*args, **given)

    dispatcher = Dispatcher()
    dispatcher.register()
    _registered.append(dispatcher)
