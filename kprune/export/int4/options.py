"""Options of files with 4-bit weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras

from kprune.arguments import number
from kprune.arguments import whole
from kprune.export.precision import rolled_layers

KINDS = ("int4", "mixed")
"""Values of `quantize` that give all or some weights 4 bits."""

DEFAULTS: dict[str, Any] = {"error_limit": None, "size_limit": None}
"""Options that the `.tflite` format takes, with their defaults."""


def check(
    model: keras.Model, quantize: str | None, options: Mapping[str, Any]
) -> None:
    """Raise if options are wrong or cannot be combined.

    Args:
        model: The model to export.
        quantize: Kind of quantisation.
        options: Options of the format.

    Raises:
        ValueError: The message names the argument and the way out.
    """
    error, size = (options.get(name) for name in DEFAULTS)
    if quantize != "mixed" and (error is not None or size is not None):
        raise ValueError(
            "`error_limit` and `size_limit` choose the layers of a file with "
            f"quantize='mixed'. Received: quantize={quantize!r}."
        )
    if error is not None and size is not None:
        raise ValueError(
            "A mixed file is held to one limit. Pass `error_limit` or "
            "`size_limit`, not both."
        )
    if error is not None:
        number(error, "A mixed file", "error_limit", least=1)
    if size is not None:
        whole(size, "A mixed file", "size_limit", of="bytes", exact=True)
    if quantize not in KINDS:
        return
    if options["clusters"] is not None:
        raise ValueError(
            "`clusters` would be lost when weights are rounded to 4 bits, which "
            "leave 15 values of each filter. Leave `clusters` out."
        )
    if options["batch_size"] is None:
        raise ValueError(
            f"quantize={quantize!r} needs a fixed `batch_size` to calibrate. "
            "Received: None."
        )
    recurrent = rolled_layers(model)
    if recurrent:
        raise ValueError(
            f"{recurrent[0].name!r} is recurrent, and ai-edge-quantizer does not "
            "look into its loop. Use `quantize='dynamic'` or 'float16'."
        )
