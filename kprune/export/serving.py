"""A Keras model as a TensorFlow function with flat, named inputs and outputs."""

from __future__ import annotations

from typing import Any

from kprune.export.signature import ModelSignature


def serving_function(
    signature: ModelSignature, batch_size: int | None
) -> tuple[Any, list[Any]]:
    """Wrap a model for the converters.

    Args:
        signature: The model.
        batch_size: Fixed length of axis 0, or None for any.

    Returns:
        A `tf.function` from positional tensors to a dictionary by output name,
        and its `tf.TensorSpec`s. Floating-point inputs are float32.
    """
    import tensorflow as tf

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
    def serve(*flat: Any) -> dict[str, Any]:
        # An output that is an input itself, or is listed twice, needs a tensor
        # of its own: converters drop or merge the name otherwise.
        outputs = [tf.identity(tensor) for tensor in signature.call(flat)]
        return dict(zip(names, outputs, strict=True))

    return serve, specs


def check_batch_size(batch_size: Any) -> None:
    """Raise if `batch_size` is neither None nor a positive integer.

    Args:
        batch_size: The option's value.

    Raises:
        ValueError: If it is anything else.
    """
    if batch_size is None:
        return
    if (
        isinstance(batch_size, bool)
        or not isinstance(batch_size, int)
        or batch_size < 1
    ):
        raise ValueError(
            "`batch_size` must be an integer >= 1, or None for any batch size. "
            f"Received: {batch_size!r}."
        )
