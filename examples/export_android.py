"""A pruned int8 model for an Android app, with its labels, checked as the app runs it.

    python examples/export_android.py --reduce 0.5

Writes three files for the folder `assets` of an app: `digits.tflite`, `labels.txt`,
and `digits.json`, which says how to turn pixels into inputs. docs/deploy.md shows the
app's side of it.
"""

from __future__ import annotations

import argparse
import json
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
parser.add_argument("--reduce", type=float, default=0.5)
parser.add_argument("--out", type=Path, default=Path("assets"))
options = parser.parse_args()
options.out.mkdir(parents=True, exist_ok=True)

model = trained_model(options.epochs)
masked = kprune.prune(model, reduce={"macs": options.reduce}, data=x_train)
compact = kprune.rebuild(masked)
print_result(model, compact, x_test, y_test)

# Real inputs choose the ranges of int8. The file is run and compared with Keras
# before it appears.
path = options.out / "digits.tflite"
report = kprune.export(
    compact, path, "int8", calibration=x_train[:256], original=model
)
print(report)

# What the app reads is read from the file itself, so that it cannot differ from it.
interpreter = Interpreter(str(path))
(given,) = interpreter.get_input_details()
(answer,) = interpreter.get_output_details()
labels = [str(digit) for digit in range(10)]
(options.out / "labels.txt").write_text("\n".join(labels) + "\n", "utf-8")
description = {
    "file": path.name,
    "labels": "labels.txt",
    "input": {
        "shape": given["shape"].tolist(),
        "type": np.dtype(given["dtype"]).name,
        # Pixels of an image run from 0 to 255; the model was trained on 0 to 1.
        "scale": 1 / 255,
        "offset": 0.0,
    },
    "output": {
        "shape": answer["shape"].tolist(),
        "type": np.dtype(answer["dtype"]).name,
        "activation": "none, the largest score wins",
    },
}
(options.out / "digits.json").write_text(
    json.dumps(description, indent=2), "utf-8"
)


# The same steps as in the app: scale pixels, one image at a time, largest score.
def to_input(image):
    pixels = description["input"]
    return image * pixels["scale"] + pixels["offset"]


right = litert_accuracy(interpreter, to_input, np.rint(255 * x_test), y_test)
print(f"accuracy of the files: {right:.4f}")
