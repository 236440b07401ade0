"""A device whose times are known: what latency tables are tested on.

It works on 16 channels that are written at once (8 in depthwise convolutions), so
that its times are staircases, with an operator's time proportional to what is read.
"""

import math

from kprune.tflite import OperatorFile

OVERHEAD = 0.0005
WRITES = {"CONV_2D": 16, "DEPTHWISE_CONV_2D": 8, "FULLY_CONNECTED": 1}


def milliseconds(content, threads=1, runs=1, seconds=0.0):
    """How long a `.tflite` file takes; arguments as of `measure`."""
    operators = OperatorFile(content).operators
    return OVERHEAD + sum(map(of_operator, operators))


def of_operator(op):
    inputs = [t.shape for t in op.tensors if not t.output and not t.constant]
    output = next(t.shape for t in op.tensors if t.output)
    constants = [t.shape for t in op.tensors if t.constant]
    if op.kind not in WRITES:
        # Of what is written alone: a line in the last axis.
        return 1e-6 * math.prod(output)
    step = WRITES[op.kind]
    written = math.ceil(output[-1] / step) * step
    places = math.prod(output[1:-1])
    if op.kind == "CONV_2D":
        written *= math.prod(constants[0][1:])
    elif op.kind == "DEPTHWISE_CONV_2D":
        written *= math.prod(constants[0][1:3])
    else:
        written *= inputs[0][-1]
    return 1e-6 * places * written
