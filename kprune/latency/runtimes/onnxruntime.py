"""ONNX Runtime on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import ClassVar

from kprune.export.formats import format_for
from kprune.export.quiet import quiet
from kprune.export.runtime import OnnxRuntime as Session
from kprune.latency.runtimes.base import Runtime
from kprune.latency.runtimes.base import register
from kprune.latency.runtimes.litert import timed


@register("onnxruntime")
class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU, in float32. Needs the extra `onnx`.

    Operators are converted from LiteRT by tf2onnx. A file from `kprune.export` is
    converted from Keras and may have transpositions in other places. Times are the
    lower quartile of all runs.
    """

    dtypes: ClassVar[tuple[str, ...]] = ("float32",)
    packages: ClassVar[tuple[str, ...]] = ("onnxruntime",)

    def measure(
        self, content: bytes, threads: int, runs: int, seconds: float
    ) -> float:
        format_for("model.onnx").require()
        import tf2onnx

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "operator.tflite"
            path.write_bytes(content)
            converted = path.with_suffix(".onnx")
            with quiet():
                proto, _ = tf2onnx.convert.from_tflite(str(path))
            converted.write_bytes(proto.SerializeToString())
            return timed(Session(converted, threads), runs, seconds)
