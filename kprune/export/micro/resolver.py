"""The operators of TensorFlow Lite Micro, and the methods that register them."""

from __future__ import annotations

from collections.abc import Iterable

# Methods `Add...` of MicroMutableOpResolver for builtin operators, as of 2026.
_METHODS = """
Abs Add AddN ArgMax ArgMin AssignVariable AveragePool2D BatchMatMul
BatchToSpaceNd BroadcastArgs BroadcastTo CallOnce Cast Ceil Concatenation
Conv2D Cos CumSum DepthToSpace DepthwiseConv2D Dequantize Div
DynamicUpdateSlice Elu EmbeddingLookup Equal Exp ExpandDims Fill Floor
FloorDiv FloorMod FullyConnected Gather GatherNd Greater GreaterEqual
HardSwish If L2Normalization L2Pool2D LeakyRelu Less LessEqual Log LogicalAnd
LogicalNot LogicalOr Logistic LogSoftmax Maximum MaxPool2D Mean Minimum
MirrorPad Mul Neg NotEqual Pack Pad PadV2 Prelu Quantize ReadVariable
ReduceAll ReduceMax ReduceMin Relu Relu6 Reshape ResizeBilinear
ResizeNearestNeighbor ReverseV2 Round Rsqrt SelectV2 Shape Sin Slice Softmax
SpaceToBatchNd SpaceToDepth Split SplitV Sqrt Square SquaredDifference
Squeeze StridedSlice Sub Sum Svdf Tanh Transpose TransposeConv
UnidirectionalSequenceLSTM Unpack VarHandle While ZerosLike
""".split()

# The schema writes CONV_2D, the resolver Conv2D.
_BY_KEY = {method.upper(): method for method in _METHODS}


def resolver_method(operator: str) -> str | None:
    """Return the method that registers an operator.

    Args:
        operator: Name in the TFLite schema.

    Returns:
        Name of a method of `MicroMutableOpResolver`, or None if TensorFlow
        Lite Micro does not have the operator.

    Example:

    ```python
    resolver_method("CONV_2D")  # "AddConv2D"
    ```
    """
    method = _BY_KEY.get(operator.replace("_", ""))
    return None if method is None else f"Add{method}"


def missing_operators(operators: Iterable[str]) -> list[str]:
    """List the operators that TensorFlow Lite Micro does not have.

    Args:
        operators: Names in the TFLite schema.

    Returns:
        Those without a method, sorted.
    """
    return sorted(op for op in operators if resolver_method(op) is None)
