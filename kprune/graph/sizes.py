"""Sizes for axes of inputs whose size is unknown."""

from __future__ import annotations

from typing import Any

import keras

from kprune.graph import walk

SIZES = (32, 64, 128, 224)
"""Usual sizes, in the order in which they are tried."""


def open_size(functional: keras.Model) -> int | None:
    """Return the smallest usual size of unknown axes with which a model computes.

    Args:
        functional: A functional model.

    Returns:
        The first of `SIZES` for which no tensor inside is empty, or None.
    """
    return next((size for size in SIZES if _fits(functional, size)), None)


def sizes_of(tensor: Any, size: int | None) -> list[int]:
    """Return the shape of a sample, with `size` or the first of `SIZES` if unknown."""
    return [n or size or SIZES[0] for n in tensor.shape[1:]]


def _fits(functional: keras.Model, size: int) -> bool:
    if all(None not in t.shape[1:] for t in functional.inputs):
        return True
    given = [
        keras.KerasTensor((t.shape[0], *sizes_of(t, size)), t.dtype)
        for t in functional.inputs
    ]
    try:
        return _outputs(functional, given) is not None
    except Exception:  # An operation does not accept such shapes.
        return False


def _outputs(functional: keras.Model, given: list[Any]) -> list[Any] | None:
    """Return symbolic outputs, or None if a tensor inside is empty."""
    values = {
        id(t): x for t, x in zip(functional.inputs, given, strict=True)
    }  # fmt: skip
    for node in walk.nodes(functional):
        inner = walk.functional_of(node.operation)
        if inner is None:
            args, kwargs = node.arguments.fill_in(values)
            found = keras.tree.flatten(
                node.operation.compute_output_spec(*args, **kwargs)
            )
        else:
            read = walk.inner_inputs(node, inner)
            found = _outputs(inner, [values.get(id(t), t) for t in read])
        if found is None or any(0 in x.shape for x in found):
            return None
        for tensor, value in walk.with_outputs(node, found):
            values[id(tensor)] = value
    return [values[id(t)] for t in functional.outputs]
