"""Read and edit TensorFlow Lite files: operators, tensors and constants."""

from kprune.tflite.flatbuffer import Flatbuffer as Flatbuffer
from kprune.tflite.flatbuffer import dtype_names as dtype_names
from kprune.tflite.flatbuffer import shape as shape
from kprune.tflite.operators import Operator as Operator
from kprune.tflite.operators import OperatorFile as OperatorFile
from kprune.tflite.operators import Place as Place

__all__ = [
    "Flatbuffer",
    "Operator",
    "OperatorFile",
    "Place",
    "dtype_names",
    "shape",
]
