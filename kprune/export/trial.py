"""Run a file once in a separate process, in case it crashes."""

from __future__ import annotations

import os
import subprocess
import sys

SECONDS = 300
"""Time limit for one run in seconds, including the start of Python."""

_SURVIVED = "kprune: survived"

# Exceptions are ignored: they will be raised and reported in the real run. The
# interpreter is that of `kprune.export.runtime`, without the time to import kprune.
_RUN_ONCE = f"""
import sys
try:
    import numpy as np
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf
        Interpreter = tf.lite.Interpreter
    interpreter = Interpreter(model_path=sys.argv[1])
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        zeros = np.zeros(detail["shape"], detail["dtype"])
        interpreter.set_tensor(detail["index"], zeros)
    interpreter.invoke()
except Exception:
    pass
print({_SURVIVED!r})
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
        # Exit codes of a crash differ between systems.
        if _SURVIVED.encode() in done.stdout:
            return
        what = "crashes the process"
    raise ValueError(
        f"{name!r} is damaged: running it {what}. Export or copy it again."
    )
