"""Import Keras silently."""

from __future__ import annotations

import logging
import os
import sys
import tempfile


def start_keras() -> None:
    """Import Keras and its backend, and suppress what they print.

    TensorFlow's warning that functions are compiled again and again is suppressed too.

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
    # Repairs compile one function for each model and layer, as they have to.
    logging.getLogger("tensorflow").addFilter(
        lambda record: "tf.function retracing" not in str(record.msg)
    )
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
