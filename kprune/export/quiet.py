"""Keep converters from flooding the user's terminal."""

from __future__ import annotations

import contextlib
import logging
import os
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator
from typing import TextIO

from kprune.session.muting import muted

logger = logging.getLogger("kprune")

# Two threads swapping descriptor 2 could leave it on a closed file.
_lock = threading.RLock()

_CONVERTER_WARNINGS = (
    # The converter itself calibrates with the interpreter that it deprecates.
    r"\s*Warning: tf\.lite\.Interpreter is deprecated",
    # Raised in every full-integer conversion, although the representative data
    # supplies the statistics afterwards.
    r"Statistics for quantized inputs were expected",
)


@contextlib.contextmanager
def quiet(stdout: bool = False) -> Iterator[None]:
    """Suppress the output of TensorFlow's C++ code and converters.

    The converters write to file descriptor 2 from C++, which no Python logger
    can stop. Nothing is suppressed if the logger `kprune` is at level DEBUG.

    Args:
        stdout: Suppress output to file descriptor 1 too.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        for message in _CONVERTER_WARNINGS:
            warnings.filterwarnings(
                "ignore", message=message, category=UserWarning
            )
        for name in ("tensorflow", "absl", "tf2onnx"):
            stack.enter_context(muted(logging.getLogger(name), logging.ERROR))
        if not logger.isEnabledFor(logging.DEBUG):
            stack.enter_context(_held_back(sys.stderr, 2))
            if stdout:
                stack.enter_context(_held_back(sys.stdout, 1))
        yield


@contextlib.contextmanager
def _held_back(stream: TextIO | None, descriptor: int) -> Iterator[None]:
    # A process may run without a standard error, as a stream or as a descriptor.
    flush = getattr(stream, "flush", lambda: None)
    with _lock, tempfile.TemporaryFile() as sink:
        flush()
        try:
            saved = os.dup(descriptor)
        except OSError:
            yield
            return
        os.dup2(sink.fileno(), descriptor)
        try:
            yield
        finally:
            flush()
            os.dup2(saved, descriptor)
            os.close(saved)
