"""Comparison of a copy with its original on one random sample."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from kprune.graph import walk
from kprune.graph.likeness import alike
from kprune.graph.likeness import arrays
from kprune.graph.likeness import inferred
from kprune.graph.likeness import outputs_of
from kprune.graph.likeness import random_values
from kprune.graph.sizes import open_size
from kprune.graph.sizes import sizes_of
from kprune.graph.values import read
from kprune.masking.state import no_gradients

logger = logging.getLogger("kprune")

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
    size = open_size(ours)
    for small in (True, False):
        sample = [_value(t, size, small) for t in ours.inputs]
        try:
            expected, outputs = _run(ours, sample)
            if walk.is_read(model):
                outputs = _call(model, ours, sample)
        except Exception as error:  # The model may need other inputs.
            cause = error
            continue
        found, copied = _run(theirs, sample)
        different = _first_difference(ours, expected, found, tensors)
        if different is None:
            if alike(outputs, copied):
                return
            different = model
        seeds = _other_seeds(model)
        again, repeated = _run(ours, sample, seeds)
        if walk.is_read(model):
            repeated = _call(model, ours, sample, seeds)
        if alike(outputs, repeated) and (
            _first_difference(ours, expected, again, {}) is None
        ):
            _refuse(model, different)
        return
    logger.info(
        "The copy of model '%s' could not be compared with it: %s",
        model.name,
        cause,
    )


def _refuse(model: keras.Model, layer: Any) -> None:
    if walk.is_read(layer):
        raise ValueError(
            f"The model read from the call() of '{layer.name}' "
            f"({type(layer).__name__}) computes something else than the call, so "
            f"model '{model.name}' cannot be copied. Use only layers and "
            "keras.ops in call(), and set all attributes before the first use "
            "of kprune."
        )
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


def _value(tensor: Any, size: int | None, small: bool) -> Any:
    """Return a random value for an input."""
    batch, *known = tensor.shape
    sizes = sizes_of(tensor, size)
    if small:
        # The channel axis is not cut, wherever it is.
        first = len(sizes) > 2 and sizes[0] < sizes[-1]
        spatial = slice(1, None) if first else slice(0, -1)
        sizes[spatial] = [
            n if unknown is None else min(n, MOST)
            for n, unknown in zip(sizes[spatial], known[spatial], strict=True)
        ]
    rng = np.random.default_rng(0)
    shape = (batch or 1, *sizes)
    value = random_values(rng, tensor.dtype, shape)
    return keras.ops.convert_to_tensor(value, dtype=tensor.dtype)


def _other_seeds(model: keras.Model) -> list[tuple[Any, Any]]:
    """Return all states of random layers of a model, each with another value.

    Without them, a layer that is random in inference, such as Monte Carlo
    dropout, would compute the same in every stateless scope.
    """
    states = [
        v for v in model.non_trainable_variables if "seed_generator" in v.path
    ]
    return [
        (v, keras.ops.convert_to_tensor(read(v) + 1, dtype=v.dtype))
        for v in states
    ]


def _run(
    functional: keras.Model,
    inputs: list[Any],
    state: Sequence[tuple[Any, Any]] = (),
) -> tuple[dict[int, list[Any]], list[Any]]:
    """Run a model call by call.

    Args:
        functional: The model.
        inputs: Its inputs.
        state: Variables with the values that they shall have meanwhile.

    Returns:
        The outputs of all calls by the id of their first output tensor, and
        those of the model.
    """
    found: dict[int, list[Any]] = {}
    with no_gradients(), keras.StatelessScope(state):
        outputs = _run_into(found, functional, inputs)
    return found, arrays(outputs)


def _call(
    model: keras.Model,
    functional: keras.Model,
    inputs: list[Any],
    state: Sequence[tuple[Any, Any]] = (),
) -> list[Any]:
    """Return the outputs of a model by its own `call`."""
    args: Any = (keras.tree.pack_sequence_as(functional.input, inputs),)
    kwargs: dict[str, Any] = {}
    if model._inbound_nodes:
        arguments = model._inbound_nodes[0].arguments
        given = walk.tensors_of(arguments.args, arguments.kwargs)
        args, kwargs = arguments.fill_in(
            {id(t): x for t, x in zip(given, inputs, strict=True)}
        )
    with no_gradients(), keras.StatelessScope(state):
        return outputs_of(model, *args, **kwargs)[: len(functional.outputs)]


def _run_into(
    found: dict[int, list[Any]], functional: keras.Model, inputs: list[Any]
) -> list[Any]:
    values = {
        id(t): x for t, x in zip(functional.inputs, inputs, strict=True)
    }  # fmt: skip
    for node in walk.nodes(functional):
        args, kwargs = node.arguments.fill_in(values)
        inner = walk.functional_of(node.operation)
        if inner is not None:
            given = [
                values.get(id(x), x) for x in walk.inner_inputs(node, inner)
            ]
            outputs = _run_into(found, inner, given)
        if inner is None or walk.is_read(node.operation):
            # The model read from a call is only as good as its reading.
            outputs = inferred(node.operation, *args, **kwargs)
        flat = list(walk.with_outputs(node, outputs))
        found.setdefault(id(node.outputs[0]), arrays([y for _, y in flat]))
        values |= {id(tensor): value for tensor, value in flat}
    return [values[id(t)] for t in functional.outputs]


def _first_difference(
    functional: keras.Model,
    expected: dict[int, list[Any]],
    found: dict[int, list[Any]],
    tensors: dict[int, Any],
) -> Any:
    """Return the first layer or operation whose outputs differ, or None."""
    for node in walk.nodes(functional):
        inner = walk.functional_of(node.operation)
        if inner is not None:
            within = _first_difference(inner, expected, found, tensors)
            if within is not None:
                return within
        tensor = node.outputs[0]
        theirs = found[id(tensors.get(id(tensor), tensor))]
        ours = expected[id(tensor)][: len(theirs)]
        if not alike(ours, theirs):
            return node.operation
    return None
