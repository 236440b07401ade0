"""Choose the samples to calibrate a file on, and those to verify it on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from kprune.data.expectations import checked_name
from kprune.data.expectations import unexpected
from kprune.export.samples import MAX_SAMPLES
from kprune.export.samples import check_finite
from kprune.export.samples import collect_samples
from kprune.export.samples import random_samples
from kprune.export.samples import spread
from kprune.export.samples import spread_rows
from kprune.export.signature import ModelSignature

logger = logging.getLogger("kprune")

CALIBRATED = ("int8", "int4", "mixed")
"""Values of `quantize` that need calibration data."""

FEWEST = 50
"""Minimum number of calibration samples to hold some back for verification."""

_SHARE = 5
"""One in this many samples is held back, or more if more are not needed."""

_FEW_CALIBRATION_SAMPLES = 20

_NO_CALIBRATION = (
    '`quantize="{}"` needs representative inputs to choose the ranges of '
    "activations. Pass 100 to 500 of them: "
    "export(..., calibration=x_train[:256])."
)


@dataclass(frozen=True)
class Evidence:
    """The samples of one export.

    Args:
        calibration: Inputs to measure ranges on, or None. One array per input.
        inputs: Inputs to compare the file and Keras on. One array per input.
        origin: Where `inputs` come from, in words.
        notes: Reasons not to trust the figures.
    """

    calibration: list[np.ndarray] | None
    inputs: list[np.ndarray]
    origin: str
    notes: tuple[str, ...] = ()


def evidence(
    signature: ModelSignature,
    quantize: str | None,
    samples: int,
    calibration: Any = None,
    validation: Any = None,
    training: Any = None,
) -> Evidence:
    """Read the samples of an export, and hold some back for verification.

    Args:
        signature: The model's inputs.
        quantize: Kind of quantisation.
        samples: Number of samples to compare on.
        calibration: See `kprune.export`.
        validation: See `kprune.export`.
        training: Training data, `data` in `kprune.export`.

    Raises:
        ValueError: Calibration data is missing, or data does not fit the model.
        TypeError: Data is of an unsupported type.
    """
    if quantize in CALIBRATED and calibration is None and training is None:
        raise ValueError(_NO_CALIBRATION.format(quantize))
    ranges = quantize in (*CALIBRATED, "qat")
    splits = ranges and calibration is not None and validation is None
    limit = MAX_SAMPLES + (samples if splits else 0)
    data = _read(signature, quantize, limit, calibration, training)
    name = "training data" if calibration is None else "calibration data"
    notes = []
    if data is not None:
        checked = checked_name()
        notes = unexpected(signature.model, data, checked or name)
        for doubt in notes if checked is None else ():
            logger.warning("export: %s", doubt)
    if validation is not None:
        inputs = collect_samples(signature, validation, samples, "validation")
        origin = "validation data"
    elif data is None:
        inputs, origin = random_samples(signature, samples), "random inputs"
    elif splits and len(data[0]) >= FEWEST:
        data, inputs = _split(data, samples)
        origin = "calibration data held back"
        if training is not None:
            notes.append(
                "the model was trained on `data`, where agreement is better than "
                "elsewhere: if the calibration data is from it, pass `validation`"
            )
    else:
        inputs, origin = spread(data, samples), name
        if ranges or training is not None:
            notes.append(
                f"measured on the {origin} itself, where agreement is better than "
                "elsewhere: pass `validation`"
            )
    return Evidence(data, inputs, origin, tuple(notes))


def _read(
    signature: ModelSignature,
    quantize: str | None,
    limit: int,
    calibration: Any,
    training: Any,
) -> list[np.ndarray] | None:
    given = training if calibration is None else calibration
    if given is None:
        return None
    argument = "data" if calibration is None else "calibration"
    data = collect_samples(signature, given, limit, argument)
    if quantize in (*CALIBRATED, "qat"):
        check_finite(signature, data, argument)
    if quantize in CALIBRATED and len(data[0]) < _FEW_CALIBRATION_SAMPLES:
        logger.warning(
            "export: %s calibration on only %d samples; 100 to 500 are usual",
            quantize,
            len(data[0]),
        )
    return data


def _split(
    data: Sequence[np.ndarray], samples: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split samples into those to calibrate on and those to verify on."""
    size = len(data[0])
    count = min(samples, max(size // _SHARE, size - MAX_SAMPLES))
    held = np.zeros(size, bool)
    held[spread_rows(size, count)] = True
    return [a[~held] for a in data], [a[held] for a in data]
