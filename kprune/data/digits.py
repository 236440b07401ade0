"""Handwritten digits that need no download."""

from __future__ import annotations

import numpy as np

from kprune.data.splits import Splits

NUM_VALIDATION = 297
NUM_TEST = 500


def load_digits(seed: int = 0) -> Splits:
    """Load scikit-learn's 8x8 handwritten digits, split three ways.

    1000 images are for training, 297 for validation and 500 for test, each with
    the same share of every class. They come with scikit-learn, so nothing is
    downloaded.

    Args:
        seed: Integer that decides which image goes into which split.

    Returns:
        `Splits`: images `(n, 8, 8, 1)` float32 in [0, 1], labels `(n,)`
        int32 in 0..9.

    Raises:
        ImportError: scikit-learn is not installed.

    Example:

    ```python
    (x_train, y_train), (x_val, y_val), (x_test, y_test) = load_digits()
    ```

    Source: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
    Digits", UCI Machine Learning Repository, 1998 (its test part).
    """
    try:
        from sklearn import datasets
        from sklearn import model_selection
    except ImportError as error:
        raise ImportError(
            "load_digits() takes the images from scikit-learn, which is not "
            'installed. Run: pip install "kprune[data]"'
        ) from error
    digits = datasets.load_digits()
    images = (digits.images / 16.0).astype("float32")[..., None]
    labels = digits.target.astype("int32")

    def split(x: np.ndarray, y: np.ndarray, size: int) -> list[np.ndarray]:
        return model_selection.train_test_split(
            x, y, test_size=size, random_state=seed, stratify=y
        )

    images, x_test, labels, y_test = split(images, labels, NUM_TEST)
    x_train, x_val, y_train, y_val = split(images, labels, NUM_VALIDATION)
    return Splits((x_train, y_train), (x_val, y_val), (x_test, y_test))
