"""Turn a Keras model into a TensorFlow function for the converters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from kprune.arguments import whole
from kprune.export.signature import ModelSignature


def serving_function(
    signature: ModelSignature, batch_size: int | None
) -> tuple[Any, list[Any]]:
    """Turn a model into a function with named inputs and outputs, for converters.

    Its weights become constants.

    Args:
        signature: The model.
        batch_size: Fixed length of axis 0, or None for any.

    Returns:
        A `tf.function` from positional tensors to a dictionary by output name,
        and its `tf.TensorSpec`s. Floating-point inputs are float32.

    Raises:
        ValueError: The model takes text, or no batches of this size.
    """
    import tensorflow as tf
    from tensorflow.python.framework import convert_to_constants

    text = [spec.name for spec in signature.inputs if spec.dtype == "string"]
    if text:
        raise ValueError(
            f"Model {signature.model.name!r} takes text as input {text[0]!r}, which "
            "only .keras and SavedModel files can. Export the part behind its "
            "TextVectorization or StringLookup, and prepare the text in the app."
        )
    specs = [
        tf.TensorSpec(
            (batch_size, *spec.shape[1:]),
            "float32" if "float" in spec.dtype else spec.dtype,
            name=spec.name,
        )
        for spec in signature.inputs
    ]
    names = [spec.name for spec in signature.outputs]

    # Autograph would rewrite Keras code that is traceable as it stands.
    @tf.function(input_signature=specs, autograph=False)
    def trace(*flat: Any) -> list[Any]:
        # An output that is also an input, or is listed twice, needs a tensor of
        # its own. Otherwise converters drop or merge its name.
        return [tf.identity(tensor) for tensor in signature.call(flat)]

    # Captured constants, such as the mean of Normalization, would become inputs
    # of an ONNX file. Constant weights also halve the time of conversion.
    try:
        with _inlined_functions():
            traced = trace.get_concrete_function()
    except Exception as error:
        fixed = signature.batch_size
        if fixed is None or batch_size == fixed:
            raise
        raise ValueError(
            f"Model {signature.model.name!r} was built for batches of {fixed} "
            f"samples and does not run with `batch_size={batch_size}`. Leave "
            "`batch_size` out, or build the model with keras.Input(shape)."
        ) from error
    frozen = convert_to_constants.convert_variables_to_constants_v2(
        traced, lower_control_flow=False
    )

    @tf.function(input_signature=specs, autograph=False)
    def serve(*flat: Any) -> dict[str, Any]:
        return dict(zip(names, frozen(*flat), strict=True))

    return serve, specs


@contextlib.contextmanager
def _inlined_functions() -> Iterator[None]:
    """Trace through nested `tf.function`s instead of calling them.

    Keras computes grouped convolutions in one that is compiled by XLA, which
    tf2onnx cannot convert.
    """
    import tensorflow as tf

    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def has_loops(serve: Any) -> bool:
    """Return whether a function contains loops.

    Args:
        serve: Function made by `serving_function`.

    Returns:
        True if any of its graphs has a `While` operator.
    """
    graph = serve.get_concrete_function().graph.as_graph_def()
    nodes = [
        *graph.node,
        *(n for f in graph.library.function for n in f.node_def),
    ]
    return any(node.op in ("While", "StatelessWhile") for node in nodes)


def check_batch_size(batch_size: Any) -> None:
    """Raise if `batch_size` is neither None nor a positive integer.

    Args:
        batch_size: The option's value.

    Raises:
        ValueError: It is anything else.
    """
    if batch_size is not None:
        why = ", or None for any batch size"
        whole(batch_size, "Export", "batch_size", why=why, exact=True)
