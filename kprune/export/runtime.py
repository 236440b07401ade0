"""Load and run exported models, with one class per runtime."""

from __future__ import annotations

import abc
import contextlib
import os
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kprune.arguments import absent
from kprune.arguments import whole
from kprune.data.arrays import repeated
from kprune.export.operators import tflite_operators
from kprune.export.quiet import quiet
from kprune.export.signature import TensorSpec

_LONGEST = 300
"""Maximum number of characters shown of a runtime's own message."""


class Runtime(abc.ABC):
    """A loaded model that runs on NumPy arrays.

    `run` calls `prepare` (copy inputs), `invoke` (compute; this is what a
    benchmark times) and `fetch` (copy outputs).
    """

    name: str
    path: str | os.PathLike[str]
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    @abc.abstractmethod
    def prepare(self, inputs: Mapping[str, np.ndarray]) -> None:
        """Set the inputs for the next `invoke`, by name."""

    @abc.abstractmethod
    def invoke(self) -> None:
        """Compute the outputs from the prepared inputs."""

    @abc.abstractmethod
    def fetch(self) -> dict[str, np.ndarray]:
        """Return the outputs of the last `invoke` by name."""

    def run(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute outputs from inputs.

        Args:
            inputs: One array per input name, with the batch size that the file
                was made for, or any if it is dynamic.

        Returns:
            One array per output name.
        """
        self.prepare(inputs)
        self.invoke()
        return self.fetch()

    def run_batched(
        self, inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Compute outputs for any number of samples.

        Args:
            inputs: One array per input name, samples along axis 0.

        Returns:
            One array per output name, samples along axis 0.
        """
        batch = self.inputs[0].shape[0] or 32
        fixed = self.inputs[0].shape[0] is not None
        count = len(next(iter(inputs.values())))
        parts = []
        for start in range(0, count, batch):
            part = {
                name: x[start : start + batch] for name, x in inputs.items()
            }
            size = min(batch, count - start)
            if fixed and size < batch:
                part = {name: repeated(x, batch) for name, x in part.items()}
            parts.append(
                {k: np.array(v)[:size] for k, v in self.run(part).items()}
            )
        return {
            k: np.concatenate([part[k] for part in parts]) for k in parts[0]
        }


def _named(runtime: Runtime, act: str, error: Exception) -> ValueError:
    """Return an error that names the file and, in one line, the reason."""
    reason = " ".join(str(error).split()).rstrip(".")[:_LONGEST]
    return ValueError(
        f"{runtime.name} cannot {act} {os.fspath(runtime.path)!r}: {reason}. If "
        "the file is damaged, export or copy it again."
    )


@contextlib.contextmanager
def _naming(runtime: Runtime, act: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise _named(runtime, act, error) from error


class LiteRT(Runtime):
    """The LiteRT interpreter (formerly TensorFlow Lite).

    Args:
        path: A `.tflite` file.
        threads: Number of CPU threads.
    """

    name = "LiteRT"

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        flex = [
            op for op in tflite_operators(path).custom if op.startswith("Flex")
        ]
        if flex:
            raise ValueError(
                f"{os.fspath(path)!r} uses TensorFlow operators ({', '.join(flex)}), "
                "which the LiteRT interpreter for Python does not have."
            )
        self.path = path
        make = _interpreter_class()
        # The file has length 1 for unknown axes, which a convolution may not
        # accept. So memory is allocated only when the inputs are known.
        self._allocated = False
        with quiet(), _naming(self, "load"):
            self._interpreter = make(
                model_path=os.fspath(path), num_threads=threads
            )
            self._inputs, self._outputs = self._details()
            self.inputs, self.outputs = (
                tuple(_litert_spec(n, d) for n, d in details.items())
                for details in (self._inputs, self._outputs)
            )

    def _details(self) -> tuple[dict[str, Any], dict[str, Any]]:
        interpreter = self._interpreter
        signatures = list(interpreter.get_signature_list())
        if signatures:
            runner = interpreter.get_signature_runner(signatures[0])
            return runner.get_input_details(), runner.get_output_details()
        return (
            {d["name"]: d for d in interpreter.get_input_details()},
            {d["name"]: d for d in interpreter.get_output_details()},
        )

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> None:
        for spec in self.inputs:
            if spec.name in inputs:
                self._check_shape(spec, inputs[spec.name].shape)
        with _naming(self, "run"):
            self._prepare(inputs)

    def _prepare(self, inputs: Mapping[str, np.ndarray]) -> None:
        for name, x in inputs.items():
            detail = self._inputs[name]
            if tuple(detail["shape"]) != x.shape:
                self._interpreter.resize_tensor_input(detail["index"], x.shape)
                self._allocated = False
        if not self._allocated:
            with quiet():
                self._interpreter.allocate_tensors()
            self._allocated = True
            self._inputs, self._outputs = self._details()
        for name, x in inputs.items():
            detail = self._inputs[name]
            self._interpreter.set_tensor(detail["index"], _quantize(x, detail))

    def _check_shape(self, spec: TensorSpec, shape: tuple[int, ...]) -> None:
        """Raise if a shape differs in more than the number of samples.

        LiteRT would resize any axis, and so compute another model.
        """
        if len(shape) != len(spec.shape) or any(
            n not in (None, m)
            for n, m in zip(spec.shape[1:], shape[1:], strict=True)
        ):
            expected = ", ".join(
                "any" if n is None else str(n) for n in spec.shape[1:]
            )
            raise ValueError(
                f"{self.name} cannot run {os.fspath(self.path)!r}: the input "
                f"{spec.name!r} takes arrays of shape (samples, {expected}). "
                f"Received: {shape}."
            )

    def invoke(self) -> None:
        try:
            self._interpreter.invoke()
        except Exception as error:
            raise _named(self, "run", error) from error

    def fetch(self) -> dict[str, np.ndarray]:
        return {
            name: _dequantize(self._interpreter.get_tensor(d["index"]), d)
            for name, d in self._outputs.items()
        }


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        # There is no wheel for this platform. TensorFlow has an older interpreter.
        import tensorflow as tf

        return tf.lite.Interpreter
    return Interpreter


def _litert_spec(name: str, detail: Mapping[str, Any]) -> TensorSpec:
    shape = tuple(None if n < 0 else int(n) for n in detail["shape_signature"])
    quantized = detail["quantization"][0] != 0
    dtype = "float32" if quantized else np.dtype(detail["dtype"]).name
    return TensorSpec(name, shape, dtype)


def _quantize(x: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    dtype = np.dtype(detail["dtype"])
    if scale == 0 or x.dtype == dtype:
        return np.ascontiguousarray(x, dtype)
    limits = np.iinfo(dtype)
    levels = np.round(x / scale) + zero_point
    return np.clip(levels, limits.min, limits.max).astype(dtype)


def _dequantize(x: np.ndarray, detail: Mapping[str, Any]) -> np.ndarray:
    scale, zero_point = detail["quantization"]
    if scale == 0 or np.issubdtype(x.dtype, np.floating):
        return x
    return ((x.astype(np.float32) - zero_point) * scale).astype(np.float32)


class OnnxRuntime(Runtime):
    """ONNX Runtime on the CPU.

    Args:
        path: An `.onnx` file.
        threads: Number of CPU threads inside one operator.

    Raises:
        ImportError: ONNX Runtime is not installed.
        ValueError: The file cannot be loaded.
    """

    name = "ONNX Runtime"

    def __init__(self, path: str | os.PathLike[str], threads: int = 1) -> None:
        try:
            import onnxruntime
        except ImportError as error:
            raise ImportError(
                "Running .onnx files needs ONNX Runtime. Install it with "
                '`pip install "kprune[onnx]"`.'
            ) from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.path = path
        with _naming(self, "load"):
            self._session = onnxruntime.InferenceSession(
                os.fspath(path), options, providers=["CPUExecutionProvider"]
            )
        self._feed: dict[str, np.ndarray] = {}
        self._results: list[np.ndarray] = []
        self.inputs = tuple(map(_onnx_spec, self._session.get_inputs()))
        self.outputs = tuple(map(_onnx_spec, self._session.get_outputs()))

    def prepare(self, inputs: Mapping[str, np.ndarray]) -> None:
        dtypes = {spec.name: spec.dtype for spec in self.inputs}
        self._feed = {
            name: x.astype(dtypes[name]) for name, x in inputs.items()
        }

    def invoke(self) -> None:
        try:
            self._results = self._session.run(None, self._feed)
        except Exception as error:
            raise _named(self, "run", error) from error

    def fetch(self) -> dict[str, np.ndarray]:
        names = [spec.name for spec in self.outputs]
        return dict(zip(names, self._results, strict=True))


_ONNX_DTYPES = {"float": "float32", "double": "float64"}


def _onnx_spec(value: Any) -> TensorSpec:
    shape = tuple(n if isinstance(n, int) else None for n in value.shape)
    inner = value.type.removeprefix("tensor(").removesuffix(")")
    return TensorSpec(value.name, shape, _ONNX_DTYPES.get(inner, inner))


_RUNTIMES: dict[str, Callable[..., Runtime]] = {
    ".tflite": LiteRT,
    ".onnx": OnnxRuntime,
}


def available_threads() -> int:
    """Return the number of CPU threads that this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def open_runtime(path: str | os.PathLike[str], threads: int = 1) -> Runtime:
    """Load an exported file on the runtime made for it.

    Args:
        path: A `.tflite` or `.onnx` file.
        threads: Number of CPU threads.

    Returns:
        The loaded model.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file has another suffix or is damaged, or `threads` is
            below 1.
    """
    path = Path(path)
    threads = whole(threads, "A runtime", "threads")
    runtime = _RUNTIMES.get(path.suffix)
    if not path.exists() or (runtime is not None and not path.is_file()):
        raise absent(path)
    if runtime is None:
        raise ValueError(
            f"No runtime for {str(path)!r}: expected a file ending in "
            f"{', '.join(sorted(_RUNTIMES))} or .keras."
        )
    return runtime(path, threads)
