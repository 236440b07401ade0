"""CIFAR-10 through TensorFlow Datasets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

# The ImageNet statistics, not CIFAR's own: the widely used pretrained CIFAR
# ResNets were trained with these.
MEAN = np.array([0.485, 0.456, 0.406], "float32")
STD = np.array([0.229, 0.224, 0.225], "float32")


def load_cifar10(
    split: str = "train",
    data_dir: str | Path | None = None,
    download: bool = False,
) -> tuple[np.ndarray, np.ndarray]:
    """Load one split of CIFAR-10 into memory.

    Args:
        split: A TensorFlow Datasets split: `"train"` (50,000 images),
            `"test"` (10,000) or a slice such as `"test[:5000]"`.
        data_dir: Folder of TensorFlow Datasets that holds `cifar10/`.
            Defaults to its own choice (`TFDS_DATA_DIR` or
            `~/tensorflow_datasets`).
        download: Whether to fetch (162 MiB) and prepare what is missing.

    Returns:
        Images `(n, 32, 32, 3)` uint8 and labels `(n,)` int64.

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        FileNotFoundError: The data set is not in `data_dir` and `download`
            is False.

    Example:

    ```python
    x_test, y_test = load_cifar10("test", data_dir="data/tfds")
    ```

    Source: A. Krizhevsky, "Learning Multiple Layers of Features from Tiny
    Images", 2009.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            "load_cifar10() needs TensorFlow Datasets, which is not "
            'installed. Run: pip install "kprune[data]"'
        ) from error
    builder = tfds.builder("cifar10", data_dir=data_dir)
    if download:
        builder.download_and_prepare()
    elif not builder.is_prepared():
        raise FileNotFoundError(
            f"CIFAR-10 was expected in {builder.data_dir!r} and is not there. "
            "Pass the data_dir that holds the folder `cifar10`, or "
            "download=True to fetch it."
        )
    # Order matters: figures are reported on slices of the test split.
    config = tfds.ReadConfig(interleave_cycle_length=1)
    examples = builder.as_dataset(
        split=split,
        batch_size=-1,
        shuffle_files=False,
        as_supervised=True,
        read_config=config,
    )
    images, labels = tfds.as_numpy(examples)
    return images, labels


def normalize_cifar10(images: Any) -> Any:
    """Scale CIFAR-10 images as the pretrained ResNets expect them.

    Args:
        images: NumPy array or TensorFlow tensor `(..., 3)` of RGB values in 0..255.

    Returns:
        Array or tensor like `images`, float32: `(images / 255 - mean) / std`
        with the ImageNet mean and standard deviation.

    Example:

    ```python
    x_test = normalize_cifar10(x_test)
    ```
    """
    if isinstance(images, np.ndarray):
        images = images.astype("float32")
    else:
        import tensorflow as tf

        images = tf.cast(images, "float32")
    return (images / 255.0 - MEAN) / STD
