"""Estimate the cost of unrolling recurrent layers for int8."""

from __future__ import annotations

import logging

import keras

from kprune.export.precision import rolled_layers
from kprune.export.sizes import format_bytes
from kprune.graph.likeness import built_shape

logger = logging.getLogger("kprune")

# Measured with `python benchmarks/quantization.py --recurrent`.
_STEP = {"LSTMCell": 5300, "GRUCell": 5000}
_OTHER_STEP = 2100
"""Bytes of a step's operators in an int8 file, without the weights."""


def warn_of_growth(model: keras.Model) -> None:
    """Log a warning if an int8 file will be larger than one in float32.

    In int8 each step of a recurrent layer gets its own operators. Float formats
    hold them once, in a loop.

    Args:
        model: The model to export.
    """
    steps = {layer.name: _steps(layer) for layer in rolled_layers(model)}
    added = sum(map(_bytes, rolled_layers(model)))
    weights = model.count_params()
    if weights + added <= 4 * weights:
        return
    listed = ", ".join(
        f"{name} ({count} steps)" for name, count in steps.items()
    )
    logger.warning(
        "export: int8 unrolls %s, which makes a file of about %s; the weights take "
        "%s with quantize='dynamic' and %s with 'float16', which keep the loop",
        listed,
        format_bytes(weights + added),
        format_bytes(weights),
        format_bytes(2 * weights),
    )


def _steps(layer: keras.layers.RNN) -> int:
    return int(built_shape(layer)[1] or 0)


def _bytes(layer: keras.layers.RNN) -> int:
    cells = getattr(layer.cell, "cells", [layer.cell])
    each = (_STEP.get(type(cell).__name__, _OTHER_STEP) for cell in cells)
    return _steps(layer) * sum(each)
