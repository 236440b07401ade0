"""Deployment: export to LiteRT, ONNX, Keras and SavedModel, verified and timed."""

from kprune.export.api import VerificationError
from kprune.export.api import export
from kprune.export.benchmark import Latency
from kprune.export.benchmark import benchmark
from kprune.export.compare import Comparison
from kprune.export.compare import compare
from kprune.export.intervals import Ratio
from kprune.export.report import ExportReport

__all__ = [
    "Comparison",
    "ExportReport",
    "Latency",
    "Ratio",
    "VerificationError",
    "benchmark",
    "compare",
    "export",
]
