"""The container the loaders return."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

Arrays = tuple[np.ndarray, np.ndarray]


class Splits(NamedTuple):
    """Training, validation and test arrays, each a pair `(x, y)`.

    Choices (architecture, epochs, reduction) belong on `validation`; `test`
    is for the figure that is reported.

    Example:

    ```python
    (x_train, y_train), (x_val, y_val), (x_test, y_test) = load_digits()
    ```
    """

    train: Arrays
    validation: Arrays
    test: Arrays
