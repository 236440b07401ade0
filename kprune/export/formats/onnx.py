"""ONNX files through tf2onnx."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from typing import ClassVar

import numpy as np

from kprune.export.formats.base import Format
from kprune.export.formats.base import Job
from kprune.export.formats.base import register
from kprune.export.operators import Operators
from kprune.export.operators import onnx_model_operators
from kprune.export.operators import onnx_operators
from kprune.export.quiet import quiet
from kprune.export.runtime import OnnxRuntime
from kprune.export.runtime import available_threads
from kprune.export.serving import check_batch_size
from kprune.export.serving import serving_function

_OPSETS = range(9, 19)
"""Opsets that tf2onnx 1.17 writes."""


@register("onnx")
class Onnx(Format):
    """`.onnx` through tf2onnx.

    Options:
        opset: Version of the ONNX operator set. Defaults to tf2onnx's default.
        batch_size: Samples per call. Defaults to any number, or to that which the
            model was built for.
    """

    name = "ONNX"
    suffix = ".onnx"
    options: ClassVar[Mapping[str, Any]] = {"opset": None, "batch_size": None}
    float32 = True

    def require(self) -> None:
        for package in ("onnx", "onnxruntime", "tf2onnx"):
            _require(package)

    def check(self, job: Job) -> None:
        check_batch_size(job.options["batch_size"])
        opset = job.options["opset"]
        if opset is not None and opset not in _OPSETS:
            raise ValueError(
                f"`opset` must be an integer from {_OPSETS[0]} to {_OPSETS[-1]}. "
                f"Received: {opset!r}."
            )

    def write(self, job: Job, path: Path) -> None:
        path.write_bytes(convert(job).SerializeToString())

    def run(
        self, job: Job, path: Path, samples: Sequence[np.ndarray]
    ) -> list[np.ndarray]:
        runtime = OnnxRuntime(path, available_threads())
        names = [spec.name for spec in job.signature.inputs]
        outputs = runtime.run_batched(dict(zip(names, samples, strict=True)))
        return [outputs[spec.name] for spec in job.signature.outputs]

    def tolerance(self, job: Job) -> float:
        return 1e-3  # see TFLite.tolerance

    def operators(self, path: Path) -> Operators:
        return onnx_operators(path)


def _require(package: str) -> None:
    import importlib.util

    if importlib.util.find_spec(package) is None:
        raise ImportError(
            f"Exporting to ONNX needs {package}. Install it with "
            '`pip install "kprune[onnx]"`.'
        )


def convert(job: Job) -> Any:
    """Convert a model to ONNX.

    Args:
        job: The model and how to write it.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        ValueError: The model uses operators that ONNX does not have.
    """
    with quiet():
        import tf2onnx

        serve, specs = serving_function(
            job.signature, job.options["batch_size"]
        )
        proto, _ = tf2onnx.convert.from_function(
            serve,
            specs,
            opset=job.options["opset"],
            custom_op_handlers={"Erfc": (_erfc, [])},
        )
    unknown = onnx_model_operators(proto).custom
    if unknown:
        raise ValueError(
            f"Model {job.signature.model.name!r} uses operators that tf2onnx "
            f"cannot write with opset {proto.opset_import[0].version}: "
            f"{', '.join(unknown)}. Try a higher `opset` (up to {_OPSETS[-1]}), or "
            "replace the layers they come from."
        )
    if job.options["batch_size"] is None:
        for value in (*proto.graph.input, *proto.graph.output):
            dims = value.type.tensor_type.shape.dim
            if dims and not dims[0].HasField("dim_value"):
                dims[0].dim_param = "batch"
    return proto


def _erfc(ctx: Any, node: Any, name: str, args: Any) -> None:
    """Write Erfc, which TensorFlow's exact GELU uses, as 1 - Erf."""
    dtype = ctx.get_dtype(node.output[0])
    shape = ctx.get_shape(node.output[0])
    one = ctx.make_const(f"{name}_one", np.ones((), np.float32))
    erf = ctx.make_node("Erf", [node.input[0]], dtypes=[dtype], shapes=[shape])
    ctx.remove_node(name)
    ctx.make_node(
        "Sub",
        [one.output[0], erf.output[0]],
        name=name,
        outputs=node.output,
        dtypes=[dtype],
        shapes=[shape],
    )
