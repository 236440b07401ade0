"""Run a file once in a separate process, in case it crashes."""

from __future__ import annotations

import os
import subprocess
import sys

SECONDS = 300
"""Time limit for one run in seconds, including the start of Python."""

# Exceptions are ignored: they will be raised and reported in the real run.
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
    """Raise if running a `.tflite` file crashes the process.

    The interpreter trusts the file: damage that leaves it readable can still make
    the interpreter access invalid memory.

    Args:
        path: A `.tflite` file that another program may have written.

    Raises:
        ValueError: The process crashed or did not finish in time.
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
        what = "crashes the process"
    raise ValueError(
        f"{name!r} is damaged: running it {what}. Export or copy it again."
    )
