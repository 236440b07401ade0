"""Import tf_keras and TF-MOT without changing the rest of the process."""

from __future__ import annotations

import contextlib
import functools
import os
import warnings
from collections.abc import Iterator
from typing import Any
from typing import NamedTuple

_LEGACY = "TF_USE_LEGACY_KERAS"


class Packages(NamedTuple):
    """The optional packages.

    Args:
        tf_keras: Keras 2, the only Keras that TF-MOT accepts.
        tfmot: `tensorflow_model_optimization`.
    """

    tf_keras: Any
    tfmot: Any


@functools.cache
def packages() -> Packages:
    """Import tf_keras and TF-MOT.

    `tf.keras` remains unchanged for the rest of the process.

    Returns:
        The two modules.

    Raises:
        ImportError: One is not installed. The message names the extra.
    """
    with _same_keras(), warnings.catch_warnings():
        # TF-MOT compares versions with the deprecated distutils.
        warnings.simplefilter("ignore", DeprecationWarning)
        try:
            import tensorflow_model_optimization as tfmot
            import tf_keras
        except ImportError as error:
            raise ImportError(
                'quantize="qat" and `clusters` need TensorFlow Model '
                "Optimization and tf_keras. Install them with "
                f'`pip install "kprune[tfmot]"`. ({error})'
            ) from error
    return Packages(tf_keras, tfmot)


@contextlib.contextmanager
def _same_keras() -> Iterator[None]:
    """Prevent TF-MOT from switching `tf.keras` to tf_keras.

    It sets an environment variable that `tf.keras` reads on first use, in this
    process and in its subprocesses.
    """
    import tensorflow as tf

    tf.keras.Model  # noqa: B018  resolves the lazy module
    before = os.environ.get(_LEGACY)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(_LEGACY, None)
        else:
            os.environ[_LEGACY] = before
