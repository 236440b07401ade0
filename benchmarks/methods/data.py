"""Images for the comparison: CIFAR-10 from TensorFlow Datasets or `.npz` files."""

from __future__ import annotations

import functools
from collections.abc import Callable
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from typing import NamedTuple

import keras
import numpy as np

from kprune.data import batches
from kprune.data import flip_and_crop
from kprune.data import load_cifar10

PADDING = 4
CHOICE = slice(None, 5000)
"""Slice of the test images on which choices may be made."""
REPORT = slice(5000, None)
"""Slice of the test images on which no choice is made."""


class Images(NamedTuple):
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray


def load(
    data_dir: str | None = None, files: Iterable[str | Path] = ()
) -> Images:
    """Return all 60,000 images as uint8, in the order of the record files."""
    files = list(files)
    if not files:
        return Images(
            *load_cifar10("train", data_dir), *load_cifar10("test", data_dir)
        )
    parts: dict[str, list[np.ndarray]] = {name: [] for name in Images._fields}
    for file in files:
        with np.load(file, allow_pickle=False) as arrays:
            for name in set(parts) & set(arrays.files):
                parts[name].append(arrays[name])
    missing = sorted(name for name, found in parts.items() if not found)
    if missing:
        raise ValueError(
            f"The arrays {', '.join(missing)} are missing from "
            f"{', '.join(map(str, files))}. Write all of them with --save-images."
        )
    return Images(*(np.concatenate(parts[name]) for name in Images._fields))


def save(images: Images, folder: Path, count: int = 4) -> list[Path]:
    """Write the images to `count` files, and return them in the order for `load`."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for part in range(count):
        arrays = {}
        for name, array in images._asdict().items():
            first, last = (len(array) * n // count for n in (part, part + 1))
            arrays[name] = array[first:last]
        paths.append(folder / f"images_{part}.npz")
        np.savez(paths[-1], **arrays)
    return paths


def augmentation(padding: int) -> str:
    """Return what is done to images, for the result file."""
    return f"left-right flip; crop after padding {padding} zeros on every side"


def raw(images: Any) -> Any:
    """Return images as float32 from 0 to 255, as an array or a tensor."""
    if isinstance(images, np.ndarray):
        return images.astype("float32")
    import tensorflow as tf

    return tf.cast(images, "float32")


def training(images: Images, setting: Any, seed: int) -> Any:
    """Return batches for `fit`, with other images in another order in every epoch.

    The result is a `tf.data.Dataset` on TensorFlow and a `keras.utils.PyDataset`
    elsewhere. The choice of images and their augmentation depend on the seed and the
    epoch.
    """
    epoch_images, batch_size = setting.images, setting.batch_size
    steps = setting.steps
    if not 0 < epoch_images <= len(images.x_train) or not steps:
        raise ValueError(
            f"An epoch needs at least {batch_size} (one batch) and at most "
            f"{len(images.x_train)} images (all). Received: {epoch_images}."
        )
    if keras.config.backend() != "tensorflow":
        return Augmented(images, setting, seed)
    return batches(
        images.x_train,
        images.y_train,
        batch_size,
        shuffle=True,
        seed=seed,
        augment=functools.partial(flip_and_crop, padding=setting.padding),
        preprocess=setting.prepare,
    ).take(steps)


class Augmented(keras.utils.PyDataset):
    """The NumPy counterpart of `kprune.data.batches`.

    Args:
        images: CIFAR-10.
        setting: An `experiment.Setting`.
        seed: Seed of the run.
        prepare: Function that turns images into inputs of the network. Defaults to
            that of the setting.
    """

    def __init__(
        self,
        images: Images,
        setting: Any,
        seed: int,
        prepare: Callable[[np.ndarray], np.ndarray] | None = None,
    ) -> None:
        super().__init__(workers=4)
        self._images = images
        self._steps = setting.steps
        self._batch_size = setting.batch_size
        self._padding = setting.padding
        self._prepare = prepare or setting.prepare
        self._seed = seed
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        rng = np.random.default_rng([self._seed, epoch])
        self._epoch = epoch
        self._order = rng.permutation(len(self._images.x_train))

    def on_epoch_end(self) -> None:
        self._begin(self._epoch + 1)

    @property
    def num_batches(self) -> int:
        return self._steps

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        first = index * self._batch_size
        chosen = self._order[first : first + self._batch_size]
        rng = np.random.default_rng([self._seed, self._epoch, 1 + index])
        x = self._images.x_train[chosen]
        x = flip_and_crop_numpy(x, rng, self._padding)
        return self._prepare(x), self._images.y_train[chosen]


def flip_and_crop_numpy(
    images: np.ndarray, rng: np.random.Generator, padding: int = PADDING
) -> np.ndarray:
    """Flip and crop images at random like `kprune.data.flip_and_crop`, in NumPy."""
    count, height, width = images.shape[:3]
    sides = (padding, padding)
    padded = np.pad(images, ((0, 0), sides, sides, (0, 0)))
    top, left = rng.integers(0, 2 * padding + 1, (2, count, 1))
    rows = top + np.arange(height)
    columns = left + np.arange(width)
    flipped = rng.random((count, 1)) < 0.5
    columns = np.where(flipped, columns[:, ::-1], columns)
    every = np.arange(count)[:, None, None]
    return padded[every, rows[:, :, None], columns[:, None, :]]
