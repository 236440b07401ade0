"""LiteRT (TensorFlow Lite) files, with post-training quantisation."""

from __future__ import annotations

import contextlib
import functools
import re
import tempfile
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import ClassVar

import numpy as np

from kprune.export.float64 import explain_float64
from kprune.export.formats.base import Format
from kprune.export.formats.base import Job
from kprune.export.formats.base import register
from kprune.export.int4 import options as int4
from kprune.export.operators import Operators
from kprune.export.operators import tflite_operators
from kprune.export.precision import rolled_layers
from kprune.export.precision import unrolled
from kprune.export.quiet import quiet
from kprune.export.runtime import LiteRT
from kprune.export.runtime import available_threads
from kprune.export.serving import check_batch_size
from kprune.export.serving import has_loops
from kprune.export.serving import serving_function
from kprune.export.tfmot import options as training_aware
from kprune.export.unrolling import warn_of_growth
from kprune.outputs import clean_exit

INTEGER = ("int8", "qat")
"""Values of `quantize` whose files compute in int8."""

LOW_BIT = int4.KINDS

_LOOPS = (
    "Model {name!r} has loops that the int8 converter cannot calibrate (recurrent "
    "layers with an unknown number of steps, or `keras.ops.while_loop`, `scan`). "
    "Give sequences a fixed length, or use `quantize='dynamic'`."
)


@register("tflite")
class TFLite(Format):
    """`.tflite` through `tf.lite.TFLiteConverter`.

    Options:
        batch_size: Samples per call. Defaults to 1, or to the number that the
            model was built for. None makes the batch axis
            dynamic, but then recurrent layers do not convert, and accelerators
            often refuse the file.
        io_dtype: `"float32"`, or `"int8"` for int8 inputs and outputs of a
            model whose `quantize` is `"int8"`, `"qat"`, `"int4"` or `"mixed"`.
        error_limit, size_limit: Limit of a `"mixed"` file: its output error as a
            multiple of the int8 file's (2 by default), or its size in bytes.
        clusters: Number of different weights to leave in each kernel, or None.
        data: Training data with targets, for `"qat"` and `clusters`.
        epochs, learning_rate, loss: How to train on `data`. `loss` defaults to the
            compiled model's loss.
    """

    name = "LiteRT"
    suffix = ".tflite"
    quantize: ClassVar[tuple[str | None, ...]] = (
        None,
        "float16",
        "dynamic",
        *INTEGER,
        *LOW_BIT,
    )
    options: ClassVar[Mapping[str, Any]] = {
        "batch_size": 1,
        "io_dtype": "float32",
        **int4.DEFAULTS,
        **training_aware.DEFAULTS,
    }
    float32 = True

    def check(self, job: Job) -> None:
        check_batch_size(job.options["batch_size"])
        io_dtype = job.options["io_dtype"]
        if io_dtype not in ("float32", "int8"):
            raise ValueError(
                f"`io_dtype` must be 'float32' or 'int8'. Received: {io_dtype!r}."
            )
        integer = (*INTEGER, *LOW_BIT)
        if io_dtype == "int8" and job.quantize not in integer:
            raise ValueError(
                f"`io_dtype='int8'` needs quantize={', '.join(map(repr, integer))}. "
                f"Received: quantize={job.quantize!r}."
            )
        int4.check(job.signature.model, job.quantize, job.options)
        training_aware.check(job.signature.model, job.quantize, job.options)
        if job.quantize in INTEGER:
            warn_of_growth(job.signature.model)

    def prepare(self, job: Job) -> Job:
        if job.quantize in LOW_BIT:
            from kprune.export.int4.pipeline import low_bit

            try:
                return low_bit(job, convert, calls, self.run)
            except RuntimeError as error:
                # Calibration begins with length 1 for all unknown axes.
                unknown = unknown_sizes(job)
                if unknown is None:
                    raise
                raise ValueError(unknown) from error
        if not training_aware.is_wanted(job.quantize, job.options):
            return job
        from kprune.export.tfmot.pipeline import compress

        return compress(job)

    def write(self, job: Job, path: Path) -> None:
        path.write_bytes(job.content or convert(job))

    def run(
        self, job: Job, path: Path, samples: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        runtime = LiteRT(path, available_threads())
        names = [spec.name for spec in job.signature.inputs]
        outputs = runtime.run_batched(dict(zip(names, samples, strict=True)))
        return [outputs[spec.name] for spec in job.signature.outputs]

    def tolerance(self, job: Job) -> float:
        # Rounding alone reaches 2e-4 in an untrained InceptionV3, and 9e-3 with
        # float16 weights in an untrained MobileNetV2. A wrong operator gives far
        # more. The cost of int8 or clustering depends on the model, and the user
        # must judge it, but a difference above the output's own scale is useless.
        if job.options.get("clusters") is not None:
            return 1.0
        return {None: 1e-3, "float16": 5e-2}.get(job.quantize, 1.0)

    def operators(self, path: Path) -> Operators:
        return tflite_operators(path)

    def notes(self, job: Job) -> list[str]:
        found = []
        if job.quantize in INTEGER and rolled_layers(job.signature.model):
            found.append("recurrent layers are unrolled, which int8 needs")
        others = [
            f"{spec.name!r} ({spec.dtype})"
            for spec in (*job.signature.inputs, *job.signature.outputs)
            if "float" not in spec.dtype
        ]
        if job.options["io_dtype"] == "int8" and others:
            found.append(
                "`io_dtype='int8'` changes floating-point inputs and outputs only, "
                f"not {', '.join(others)}"
            )
        return found


def convert(job: Job) -> bytes:
    """Convert a model to the content of a `.tflite` file.

    Args:
        job: The model and how to write it.

    Returns:
        The flatbuffer.

    Raises:
        ValueError: The converter fails. The message names the operators.
    """
    import tensorflow as tf

    unrolling = (
        unrolled(job.signature.model)
        if job.quantize in INTEGER
        else contextlib.nullcontext()
    )
    temporary = tempfile.TemporaryDirectory()
    with clean_exit(), quiet(), unrolling, temporary as folder:
        serve = _traced(job)
        module = tf.Module()
        module.serve = serve
        # Storing gradients would fail for some Keras models.
        options = tf.saved_model.SaveOptions(
            experimental_custom_gradients=False
        )
        tf.saved_model.save(
            module, folder, serve.get_concrete_function(), options=options
        )
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        _configure(converter, job)
        try:
            return converter.convert()
        except Exception as error:
            raise ValueError(_explain(error, job)) from error


def _traced(job: Job) -> Any:
    int8 = job.quantize in INTEGER
    loops = ValueError(_LOOPS.format(name=job.signature.model.name))
    try:
        serve, _ = serving_function(job.signature, job.options["batch_size"])
    except ValueError as error:
        if int8 and "Cannot unroll" in str(error):
            raise loops from error
        raise
    if int8 and has_loops(serve):
        raise loops
    return serve


def _configure(converter: Any, job: Job) -> None:
    import tensorflow as tf

    ops = tf.lite.OpsSet
    supported = [ops.TFLITE_BUILTINS]
    if job.quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if job.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if job.quantize in INTEGER:
        # Calibration is also needed after quantisation-aware training, for the
        # layers that it does not cover.
        supported = [ops.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = functools.partial(calls, job)
        io_dtype = tf.as_dtype(job.options["io_dtype"])
        converter.inference_input_type = io_dtype
        converter.inference_output_type = io_dtype
    converter.target_spec.supported_ops = supported


def calls(job: Job) -> Iterator[dict[str, np.ndarray]]:
    """Yield the calibration data of a job as inputs of its file's signature."""
    names = [spec.name for spec in job.signature.inputs]
    arrays = job.calibration or []
    step = job.options["batch_size"] or 1
    for start in range(0, len(arrays[0]), step):
        rows = np.arange(start, start + step) % len(arrays[0])
        yield {
            name: np.asarray(
                array[rows],
                # NumPy does not count bfloat16 as floating.
                np.float32 if "float" in array.dtype.name else None,
            )
            for name, array in zip(names, arrays, strict=True)
        }


def unknown_sizes(job: Job) -> str | None:
    """Return what to do about unknown sizes of inputs; None if all are known."""
    unknown = [s for s in job.signature.inputs if None in s.shape[1:]]
    if not unknown:
        return None
    shapes = ", ".join(f"{s.name!r} {s.shape}" for s in unknown)
    return (
        f"LiteRT cannot convert all of model {job.signature.model.name!r} while "
        f"sizes of its inputs are unknown: {shapes}. Build the model with a "
        "keras.Input that has numbers in place of None, or export to '.onnx'."
    )


def _explain(error: Exception, job: Job) -> str:
    text = str(error)
    name = job.signature.model.name
    if "tensor list ops" in text and job.options["batch_size"] is None:
        return (
            f"LiteRT cannot convert the recurrent layers of model {name!r} with a "
            "dynamic batch size. Export with `batch_size=1`."
        )
    float64 = explain_float64(job.signature.model, text)
    if float64 is not None:
        return float64
    outside = re.findall(
        r"^(?:TF Select|Custom) ops: (.+)$", text, re.MULTILINE
    )
    unknown = unknown_sizes(job)
    if unknown and (outside or job.quantize in INTEGER):
        return unknown
    if outside:
        # TensorFlow operators would need the Flex delegate, which no Python
        # package has shipped since TensorFlow 2.20: nothing could be verified.
        return (
            f"Model {name!r} uses operators outside LiteRT's builtins: "
            f"{'; '.join(outside)}. Replace the layers they come from, or export "
            "to '.onnx'."
        )
    if job.quantize in INTEGER:
        return (
            f"LiteRT cannot quantise all of model {name!r} to int8: "
            f"{_last_line(text)} Use `quantize='dynamic'` (int8 weights, float "
            "activations) or `quantize='float16'`."
        )
    return f"LiteRT cannot convert model {name!r}: {text}"


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no reason given."
