"""A file run once in a process of its own, which it may end."""

from __future__ import annotations

import os
import subprocess
import sys

SECONDS = 300
"""Time for one run, the start of Python included."""

# What goes wrong in an orderly way will do so again, and is told of then.
_RUN_ONCE = """
import sys
import numpy as np
from ai_edge_litert.interpreter import Interpreter
try:
    interpreter = Interpreter(model_path=sys.argv[1])
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        zeros = np.zeros(detail["shape"], detail["dtype"])
        interpreter.set_tensor(detail["index"], zeros)
    interpreter.invoke()
except Exception:
    pass
"""


def check_survives(path: str | os.PathLike[str]) -> None:
    """Raise if running a `.tflite` file ends the process.

    The interpreter trusts what it reads: damage that leaves a file readable can
    still make it reach into memory that is not its own.

    Args:
        path: A `.tflite` file that another program may have written.

    Raises:
        ValueError: The process was ended, or did not end by itself.
    """
    name = os.fspath(path)
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RUN_ONCE, name],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=SECONDS,
        )
    except subprocess.TimeoutExpired:
        what = f"takes more than {SECONDS} s"
    else:
        if done.returncode >= 0:
            return
        what = "ends the process"
    raise ValueError(
        f"{name!r} is damaged: running it {what}. Export or copy it again."
    )
