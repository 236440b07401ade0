"""Import Keras silently."""

from __future__ import annotations

import os
import sys
import tempfile


def start_keras() -> None:
    """Import Keras and its backend, and suppress what they print.

    TensorFlow's C++ code writes a dozen lines about the machine to standard error,
    bypassing Python's logging, before the first line of a report.

    Example:

    ```python
    start_keras()
    import kprune.report.inspection
    ```
    """
    if "keras" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as sink:
        saved = os.dup(2)
        os.dup2(sink.fileno(), 2)
        try:
            import keras

            # The first tensor makes the backend look for devices.
            keras.ops.zeros(1)
        finally:
            os.dup2(saved, 2)
            os.close(saved)
