"""Make the content of a file with 4-bit weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from kprune.export.formats import Job
from kprune.export.int4.mixture import MEASURED
from kprune.export.int4.mixture import mixed
from kprune.export.int4.packages import packages
from kprune.export.int4.products import Inputs
from kprune.export.int4.quantize import IntegerFile
from kprune.export.samples import spread

_SLOW = (
    "LiteRT computes convolutions with 4-bit weights on a CPU several times more "
    "slowly than with 8-bit weights: use the file for its size, and time it with "
    "`kprune bench`"
)

_CALIBRATED = 256
"""Maximum number of samples to measure ranges and products on."""

Calls = Callable[[Job], Iterable[Inputs]]
Run = Callable[[Job, Path, list[np.ndarray]], list[np.ndarray]]


def low_bit(
    job: Job, convert: Callable[[Job], bytes], calls: Calls, run: Run
) -> Job:
    """Return the job with the content of its file.

    Args:
        job: Job with `quantize="int4"` or `"mixed"`, and calibration data.
        convert: Function that converts a job to the content of a file.
        calls: Function that yields the calibration data as inputs of the file.
        run: Function that runs a file of a job on samples.

    Raises:
        ValueError: The model cannot be converted, no weights can have 4 bits, or
            a limit cannot be met.
        ImportError: ai-edge-quantizer is not installed.
    """
    packages()
    data = spread(job.calibration or (), _CALIBRATED)
    plain = dataclasses.replace(
        job,
        quantize=None,
        options={**job.options, "io_dtype": "float32"},
        calibration=data,
    )
    integer_io = job.options["io_dtype"] == "int8"
    file = IntegerFile(convert(plain), list(calls(plain)), integer_io)
    chosen, notes = file.names, []
    if job.quantize == "mixed":
        samples = spread(data, MEASURED)
        chosen, note = mixed(
            file,
            job.signature.predict(samples),
            lambda path: run(job, path, samples),
            job.options["error_limit"],
            job.options["size_limit"],
        )
        notes.append(note)
    if any(file.kinds()[name] == "CONV_2D" for name in chosen):
        notes.append(_SLOW)
    return dataclasses.replace(
        job, content=file.content(chosen), notes=(*job.notes, *notes)
    )
