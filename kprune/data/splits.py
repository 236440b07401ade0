"""The container that data loaders return."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


class Splits(NamedTuple):
    """Training, validation and test arrays, each a pair `(x, y)`.

    Use `validation` for choices (architecture, epochs, reduction), and `test`
    only for the figures that you report.

    Example:

    ```python
    (x_train, y_train), (x_val, y_val), (x_test, y_test) = load_digits()
    ```
    """

    train: Arrays
    validation: Arrays
    test: Arrays
