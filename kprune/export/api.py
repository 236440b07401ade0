"""Export a model to any format, and verify the file."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras

from kprune.arguments import did_you_mean
from kprune.arguments import whole
from kprune.export.differences import Difference
from kprune.export.differences import compare_outputs
from kprune.export.evidence import Evidence
from kprune.export.evidence import evidence
from kprune.export.formats import Format
from kprune.export.formats import Job
from kprune.export.formats import check_backend
from kprune.export.formats import check_state
from kprune.export.formats import format_for
from kprune.export.names import explain_name
from kprune.export.operators import Operators
from kprune.export.original import measure_original
from kprune.export.precision import float32_compute
from kprune.export.precision import reduced_precision
from kprune.export.report import ExportReport
from kprune.export.signature import ModelSignature
from kprune.outputs import atomic_file
from kprune.outputs import atomic_folder
from kprune.outputs import check_file
from kprune.outputs import check_folder

logger = logging.getLogger("kprune")

_LARGE_DIFFERENCE = 0.2


class VerificationError(ValueError):
    """An exported file does not compute the same as the Keras model.

    Args:
        message: What differs, by how much, and how to go on.
        difference: The measured difference.
    """

    def __init__(self, message: str, difference: Difference) -> None:
        super().__init__(message)
        self.difference = difference


def export(  # noqa: PLR0913  each argument is independent
    model: keras.Model,
    path: str | os.PathLike[str],
    quantize: str | None = None,
    calibration: Any = None,
    tolerance: float | None = None,
    samples: int = 64,
    original: keras.Model | str | os.PathLike[str] | None = None,
    validation: Any = None,
    **options: Any,
) -> ExportReport:
    """Export a model for deployment and verify that the file computes the same.

    The suffix of `path` chooses the format: `.tflite`, `.onnx`, `.keras`, `.h`
    (a C array for TensorFlow Lite Micro), or none for a SavedModel folder. The
    file is run by the format's own runtime and compared with Keras before it
    appears under its name. If anything fails, no file appears, and an existing
    file keeps its content.

    A masked model is rebuilt into its compact form first. A model that computes
    in mixed precision or float64 is written to `.tflite` and `.onnx` in float32,
    from its float32 variables, and compared with Keras computing in float32.

    Args:
        model: Functional or Sequential model, masked or not.
        path: File or folder to write. Its parent folder must exist.
        quantize: For `.tflite`: None for float32; `"float16"` weights;
            `"dynamic"` for int8 weights; `"int8"` for int8 weights and
            activations, which needs `calibration`; `"int4"` for the same with
            int4 weights in convolutions and dense layers; `"mixed"` for int4
            weights where they cost little, int8 in other layers; `"qat"` for
            int8 after quantisation-aware training, which needs `data`.
        calibration: Real inputs, with or without targets: arrays, a
            `tf.data.Dataset` or another kind of data that `kprune.prune` takes.
            At most 512 samples calibrate int8 and int4. Further samples, or a
            fifth of 50 and more, are held back, so that the file is verified on
            samples it was not calibrated on. Fewer than 50 samples serve for both,
            and the report says so. Other formats use them for verification only.
            Defaults to the inputs of `data`, if there are any.
        tolerance: Largest accepted output difference relative to the output's
            largest magnitude. Defaults to 1e-3, 5e-2 for float16, and 1 for
            `"dynamic"`, `"int8"`, `"int4"`, `"mixed"`, `"qat"` and `clusters`,
            with a warning above 0.2. `math.inf` accepts any difference.
        samples: Number of verification samples. They are random (seeded) if there
            is no data.
        original: The model before pruning, or a file exported from it, to compare
            the size with. For a model, the size of its float32 weights counts.
            Defaults to `model`, without its masks.
        validation: Real inputs to verify on, which are not used to calibrate. All
            kinds of data that `calibration` takes. Defaults to some of
            `calibration`.
        **options: Options of the format. `.tflite`: `batch_size` (1, or the number
            that the model was built for; None makes it dynamic) and `io_dtype`
            (`"float32"` or `"int8"`); for `"mixed"` one of `error_limit` (2:
            accepted output error, as a multiple of an int8 file's) and
            `size_limit` (bytes); `clusters` (None, or the number of different
            weights to leave in each kernel); and for training with
            `quantize="qat"` or `clusters`: `data` (arrays `(x, y)`, or batches of
            them in a `tf.data.Dataset` or a `keras.utils.PyDataset`), `epochs`
            (1), `learning_rate` (1e-4, of Adam) and `loss` (None: the compiled
            model's). `.onnx`: `opset` (None: tf2onnx's default) and `batch_size`
            (None: dynamic, unless the model was built for a number). `.h`: those
            of `.tflite`, and `symbol` (name of the array).

    Returns:
        A report of sizes, differences, operators and everything else measured.

    Raises:
        ValueError: An argument does not fit, or the model cannot be converted.
        VerificationError: The difference is larger than `tolerance`.
        RuntimeError: The format needs the TensorFlow backend of Keras.
        ImportError: The format needs a package that is missing.
        OSError: The file cannot be written.

    Example:

    ```python
    report = kprune.export(
        compact, "model.tflite", quantize="int8", calibration=x_train[:256]
    )
    print(report)
    ```
    """
    path = Path(path)
    chosen = format_for(path)
    settings = _check(chosen, quantize, samples, options)
    _check_target(chosen, path)
    check_backend(chosen)
    chosen.require()
    given = model
    model, rebuilt = _compact(model)
    signature = ModelSignature(model)
    check_state(chosen, model)
    if signature.batch_size is not None and "batch_size" in chosen.options:
        settings = {**settings, "batch_size": signature.batch_size, **options}
    job = Job(signature, quantize, None, settings, name=path.stem)
    before = measure_original(given if original is None else original)
    chosen.check(job)
    found = evidence(
        job.signature,
        quantize,
        samples,
        calibration,
        validation,
        settings.get("data"),
    )
    job = dataclasses.replace(job, calibration=found.calibration)
    report = _write_verified(chosen, job, path, found, tolerance)
    return dataclasses.replace(report, rebuilt=rebuilt, original=before)


def _write_verified(
    chosen: Format,
    job: Job,
    path: Path,
    found: Evidence,
    tolerance: float | None,
) -> ExportReport:
    limit = chosen.tolerance(job) if tolerance is None else tolerance
    with (
        _computing(chosen, job.signature.model) as notes,
        _target(chosen, path) as temporary,
    ):
        with _naming(job.signature.model):
            written = chosen.prepare(job)
            chosen.write(written, temporary)
        with _state_from_zero(job.signature.model):
            reference = job.signature.predict(found.inputs)
        outputs = chosen.run(job, temporary, found.inputs)
        difference = compare_outputs(reference, outputs)
        trained = job.options.get("data") is not None
        _check_difference(difference, limit, path, trained)
        if difference.constant:
            notes.append(
                "the Keras model gives the same output for all samples, which "
                "verifies little: pass real inputs as `calibration`"
            )
        operators = chosen.operators(temporary) or Operators()
        sizes = chosen.size(temporary)
        arena = chosen.arena(temporary)
    return ExportReport(
        path=path,
        format=chosen.name,
        quantize=written.quantize,
        sizes=sizes,
        difference=difference,
        tolerance=None if math.isinf(limit) else limit,
        data=found.origin,
        original=measure_original(job.signature.model),
        operators=operators.counts,
        custom_operators=operators.custom,
        arena=arena,
        notes=(
            *found.notes,
            *notes,
            *written.notes,
            *chosen.notes(written),
        ),
    )


def _check(
    chosen: Format, quantize: str | None, samples: int, options: dict[str, Any]
) -> dict[str, Any]:
    if quantize not in chosen.quantize:
        accepted = ", ".join(map(repr, chosen.quantize))
        hint = (
            ""
            if len(chosen.quantize) > 1
            else " Quantised files are `.tflite`."
        )
        raise ValueError(
            f"{chosen.name} export takes quantize={accepted}. Received: "
            f"quantize={quantize!r}.{hint}"
        )
    whole(samples, "Export", "samples", exact=True)
    for name in options:
        if name not in chosen.options:
            raise ValueError(
                f"{chosen.name} export has no option {name!r}. "
                f"{did_you_mean(name, chosen.options)}"
            )
    return {**chosen.options, **options}


@contextlib.contextmanager
def _state_from_zero(model: keras.Model) -> Iterator[None]:
    """Let layers that keep state begin like those of a loaded file.

    Files do not hold the state. The layers get theirs back after the block.
    """
    variables = [
        variable
        for layer in model._flatten_layers(include_self=False)
        if isinstance(layer, keras.layers.RNN) and layer.stateful
        for variable in keras.tree.flatten(layer.states)
        if variable is not None
    ]
    before = [keras.ops.convert_to_numpy(each).copy() for each in variables]
    for variable in variables:
        variable.assign(keras.ops.zeros_like(variable))
    try:
        yield
    finally:
        for variable, value in zip(variables, before, strict=True):
            variable.assign(value)


@contextlib.contextmanager
def _naming(model: keras.Model) -> Iterator[None]:
    """Explain failures that come from the name of a layer."""
    try:
        yield
    except Exception as error:
        why = explain_name(model, str(error))
        if why is None:
            raise
        raise ValueError(why) from error


def _compact(model: keras.Model) -> tuple[keras.Model, bool]:
    from kprune.masking import is_masked

    if not isinstance(model, keras.Model) or not is_masked(model):
        return model, False
    from kprune.rebuild.api import rebuild

    logger.info("export: model %r is masked; rebuilding it first", model.name)
    return rebuild(model), True


@contextlib.contextmanager
def _computing(chosen: Format, model: keras.Model) -> Iterator[list[str]]:
    """Switch the model to float32 if the format wants it; yield notes."""
    reduced = sorted(reduced_precision(model))
    if not chosen.float32 or not reduced:
        yield []
        return
    note = f"computes in float32 (the Keras model in {', '.join(reduced)})"
    logger.info("export: model %r %s", model.name, note)
    with float32_compute(model):
        yield [note]


def _target(
    chosen: Format, path: Path
) -> contextlib.AbstractContextManager[Path]:
    if chosen.folder is not None:
        return atomic_folder(path, chosen.folder)
    return atomic_file(path)


def _check_target(chosen: Format, path: Path) -> None:
    if chosen.folder is not None:
        check_folder(path, chosen.folder)
    else:
        check_file(path)


def _check_difference(
    difference: Difference, limit: float, path: Path, trained: bool
) -> None:
    if _LARGE_DIFFERENCE < difference.max_rel <= limit:
        logger.warning(
            "export: %s differs from Keras by %.0f %% of the output's scale%s; "
            "check its accuracy on real data",
            path.name,
            100 * difference.max_rel,
            ", as it was trained further" if trained else "",
        )
    if difference.max_rel <= limit:
        return
    raise VerificationError(
        f"{path.name} differs from Keras by {difference.max_rel:.2e} relative to "
        f"the output's scale ({difference.max_abs:.2e} absolute) on "
        f"{difference.samples} samples; at most {limit:.0e} is accepted. Nothing "
        "was written. If this is acceptable, pass a larger `tolerance`.",
        difference,
    )
