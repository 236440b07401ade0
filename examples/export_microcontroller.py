"""A pruned int8 model as a C header for a microcontroller, within its RAM.

    python examples/export_microcontroller.py --ram 7000

The header holds the file as an array, the size of the tensor arena and the operators
to register. docs/microcontrollers.md shows the firmware's side of it.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from common import litert_accuracy
from common import print_result
from common import trained_model
from common import x_test
from common import x_train
from common import y_test

import kprune

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--ram", type=int, default=7000, help="bytes for the arena")
parser.add_argument("--out", type=Path, default=Path("digits.h"))
options = parser.parse_args()


model = trained_model(options.epochs)


def export(network):
    # With int8 inputs the firmware needs no floating-point operator.
    return kprune.export(
        network,
        options.out,
        "int8",
        calibration=x_train[:256],
        io_dtype="int8",
        original=model,
    )


whole = export(model)
print(f"arena: {whole.arena.total:,} bytes, {options.ram:,} are there")

# Activations shrink with the share that is removed, what else the interpreter keeps
# hardly: so more is removed, step by step, until all of it fits.
share, compact, report = 0.0, model, whole
while report.arena.total > options.ram:
    share += 0.1
    if share > 0.85:
        raise SystemExit(f"{options.ram} bytes are too few for this network.")
    masked = kprune.prune(model, reduce={"ram": share}, data=x_train)
    compact = kprune.rebuild(masked)
    report = export(compact)
print(f"arena: {report.arena.total:,} bytes with {share:.0%} of RAM removed")
print_result(model, compact, x_test, y_test)
print(report)

# The firmware compiles what the header says: read it back, and run that.
header = options.out.read_text("utf-8")
array = re.search(r"\{([^}]*0x[^}]*)\}", header).group(1)
content = bytes(int(value, 16) for value in re.findall(r"0x\w\w", array))
interpreter = Interpreter(model_content=content)
(given,) = interpreter.get_input_details()
scale, zero = given["quantization"]


def quantize(image):
    return np.clip(np.rint(image / scale) + zero, -128, 127)


right = litert_accuracy(interpreter, quantize, x_test, y_test)
print(f"accuracy of the header: {right:.4f}")
