"""Comparison of a copy with its original on one random sample."""

from __future__ import annotations

import logging
from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.likeness import alike
from kprune.graph.likeness import random_values
from kprune.masking.state import no_gradients

logger = logging.getLogger("kprune")

OPEN_SIZE = 32
"""Size used for axes of unknown size."""

MOST = 64
"""Largest size of images and sequences in the first try."""


def require_same_outputs(
    model: keras.Model, copy: keras.Model, tensors: dict[int, Any]
) -> None:
    """Raise if a copy computes something else than its original.

    Both run on one random sample, call by call, and are not changed. Images and
    sequences are cut to `MOST` positions if the model accepts that, to limit the
    cost. Models that fail on a random sample, or whose outputs vary from run to
    run, are not compared.

    Args:
        model: The original.
        copy: Its copy, with the same weights.
        tensors: `id` of every tensor of the model -> tensor of the copy.

    Raises:
        ValueError: If the outputs differ. The message names the first layer
            whose output does.
    """
    ours = walk.require_functional(model)
    theirs = walk.require_functional(copy)
    for small in (True, False):
        sample = [_value(t, small) for t in ours.inputs]
        try:
            expected = _run(ours, sample)
        except Exception as error:  # The model may need other inputs.
            cause = error
            continue
        node = _first_difference(ours, expected, _run(theirs, sample), tensors)
        if node is None:
            return
        again = _run(ours, sample)
        if _first_difference(ours, expected, again, {}) is None:
            _refuse(model, node)
        return
    logger.info(
        "The copy of model '%s' could not be compared with it: %s",
        model.name,
        cause,
    )


def _refuse(model: keras.Model, node: Any) -> None:
    layer = node.operation
    remedy = (
        "Make its get_config() return all constructor arguments, and everything "
        "set afterwards (attributes, functions)."
    )
    if hasattr(layer, "finalize_state"):
        # Keras computes with values that it derives from the variables once.
        remedy = (
            "If its weights were assigned, for example by `set_weights()`, call "
            "its `finalize_state()`: until then, it uses the values from before."
        )
    raise ValueError(
        f"The copy of layer '{layer.name}' ({type(layer).__name__}) computes "
        f"something else than the layer, so model '{model.name}' cannot be "
        f"copied. {remedy}"
    )


def _value(tensor: Any, small: bool) -> Any:
    """Return a random value for an input."""
    batch, *sizes = tensor.shape
    sizes = [OPEN_SIZE if n is None else n for n in sizes]
    if small:
        # The channel axis is not cut, wherever it is.
        first = len(sizes) > 2 and sizes[0] < sizes[-1]
        spatial = slice(1, None) if first else slice(0, -1)
        sizes[spatial] = [min(n, MOST) for n in sizes[spatial]]
    rng = np.random.default_rng(0)
    shape = (batch or 1, *sizes)
    value = random_values(rng, tensor.dtype, shape)
    return keras.ops.convert_to_tensor(value, dtype=tensor.dtype)


def _run(functional: keras.Model, inputs: list[Any]) -> dict[int, list[Any]]:
    """Return the outputs of all calls by the id of their first output tensor."""
    found: dict[int, list[Any]] = {}
    with no_gradients(), keras.StatelessScope():
        _run_into(found, functional, inputs)
    return found


def _run_into(
    found: dict[int, list[Any]], functional: keras.Model, inputs: list[Any]
) -> list[Any]:
    values = {
        id(t): x for t, x in zip(functional.inputs, inputs, strict=True)
    }  # fmt: skip
    for node in walk.nodes(functional):
        inner = walk.functional_of(node.operation)
        if inner is not None:
            given = [
                values.get(id(x), x) for x in walk.inner_inputs(node, inner)
            ]
            outputs = _run_into(found, inner, given)
        else:
            args, kwargs = node.arguments.fill_in(values)
            if getattr(node.operation, "_call_has_training_arg", False):
                kwargs["training"] = False
            outputs = keras.tree.flatten(node.operation(*args, **kwargs))
            found.setdefault(
                id(node.outputs[0]),
                [np.asarray(keras.ops.convert_to_numpy(y)) for y in outputs],
            )
        for tensor, value in walk.with_outputs(node, outputs):
            values[id(tensor)] = value
    return [values[id(t)] for t in functional.outputs]


def _first_difference(
    functional: keras.Model,
    expected: dict[int, list[Any]],
    found: dict[int, list[Any]],
    tensors: dict[int, Any],
) -> Any:
    """Return the first call whose outputs differ, or None."""
    for node in walk.nodes(functional):
        inner = walk.functional_of(node.operation)
        if inner is not None:
            within = _first_difference(inner, expected, found, tensors)
            if within is not None:
                return within
            continue
        tensor = node.outputs[0]
        theirs = found[id(tensors.get(id(tensor), tensor))]
        if not alike(expected[id(tensor)], theirs):
            return node
    return None
