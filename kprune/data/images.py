"""Read images from folders, and data sets prepared by TensorFlow Datasets."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kprune.data.classes import check_classes
from kprune.data.inputs import Input
from kprune.data.places import PICTURES
from kprune.data.places import class_folders
from kprune.data.places import subfolders

_MODES = {1: "grayscale", 3: "rgb", 4: "rgba"}
_BATCH = 64


@dataclasses.dataclass(frozen=True)
class Frame:
    """Size and layout of the images that a model takes.

    Args:
        height: Height in pixels.
        width: Width in pixels.
        channels: 1 for grayscale, 3 for RGB, 4 for RGBA.
        first: Whether the channel axis comes first.
    """

    height: int
    width: int
    channels: int
    first: bool = False

    def arranged(self, images: np.ndarray) -> np.ndarray:
        """Return images `(n, height, width, channels)` in the model's axis order."""
        return np.moveaxis(images, -1, 1) if self.first else images


def frame_of(
    inputs: Sequence[Input], size: tuple[int, int] | None, given: str
) -> Frame:
    """Return the size and layout of the images that a model takes.

    Args:
        inputs: The model's inputs.
        size: Height and width, for a model that takes any size.
        given: Where the images are, for messages.

    Raises:
        ValueError: The model does not take images, or not of this size, or their
            size is not known.
    """
    shape = inputs[0].shape if len(inputs) == 1 else ()
    if len(shape) != 3 or not {shape[0], shape[-1]} & set(_MODES):
        taken = ", ".join(f"{each.name} {each.shape}" for each in inputs)
        raise ValueError(
            f"{given!r} holds images, which this model does not take: its inputs are "
            f"{taken}. Give arrays instead: np.savez('data.npz', x=x, y=y)."
        )
    first = shape[-1] not in _MODES
    channels = int((shape[0] if first else shape[-1]) or 0)
    height, width = shape[1:] if first else shape[:2]
    if size is not None:
        for asked, wanted in zip(size, (height, width), strict=True):
            if wanted not in (None, asked):
                raise ValueError(
                    f"The model takes images of {height}x{width} pixels. Leave "
                    f"--image-size {size[0]}x{size[1]} out."
                )
        height, width = size
    if height is None or width is None:
        raise ValueError(
            f"The model takes images of any size. Name the size to scale those of "
            f"{given!r} to, for example --image-size 224x224."
        )
    return Frame(int(height), int(width), channels, first)


def load_folder(
    folder: Path, frame: Frame, known: Sequence[str] = ()
) -> tuple[
    np.ndarray, np.ndarray | None, tuple[str, ...] | None, tuple[str, ...]
]:
    """Read the images of a folder, as `keras.utils.image_dataset_from_directory` does.

    Args:
        folder: Folder with one folder per class, or with images alone. A single
            folder in it is no class, unless it is among `known`.
        frame: The size that images are scaled to.
        known: Classes of the samples to train on, whose numbers hold here too.

    Returns:
        Images, float32 from 0 to 255; class indices `(n,)` or None; the names of
        the classes, in alphabetical order, or None; and notes for the user.

    Raises:
        ValueError: A file cannot be read as an image, or there is a class that is
            not known. The message names it.
    """
    import keras

    classes, names = _classes(folder, known)
    dataset = keras.utils.image_dataset_from_directory(
        str(folder),
        labels="inferred" if classes else None,
        label_mode="int" if classes else None,
        color_mode=_MODES[frame.channels],
        batch_size=_BATCH,
        image_size=(frame.height, frame.width),
        shuffle=False,
        # As it follows the links of class folders.
        follow_links=not classes and bool(subfolders(folder)),
        verbose=False,
    )
    files = list(dataset.file_paths)
    shape = (len(files), frame.height, frame.width, frame.channels)
    images = np.empty(shape, "float32")
    labels = np.empty(len(files), "int64")
    start = 0
    try:
        for batch in dataset.as_numpy_iterator():
            x, y = batch if classes else (batch, 0)
            images[start : start + len(x)] = x
            labels[start : start + len(x)] = y
            start += len(x)
    except Exception as error:
        named = _damaged(files, frame.channels) or str(folder)
        raise ValueError(
            f"{named!r} is not an image that can be read as "
            f"{_MODES[frame.channels]}. Leave it out, or save it again as .png."
        ) from error
    return (
        frame.arranged(images),
        np.array([names.index(c) for c in classes])[labels]
        if classes
        else None,
        names or None,
        _notes(folder, classes),
    )


def _classes(
    folder: Path, known: Sequence[str]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the classes of a folder, and those that the numbers stand for."""
    if not known:
        own = tuple(class_folders(folder))
        return own, own
    # A single folder is a class here if the samples to train on have it.
    own = tuple(subfolders(folder))
    check_classes(str(folder), own, known)
    return own, tuple(known) if own else ()


def _notes(folder: Path, classes: Sequence[str]) -> tuple[str, ...]:
    """Return what the user has to know of images outside class folders."""
    if not classes:
        return tuple(
            f"{str(folder)!r} has one folder, {name!r}, so that its images have no "
            "labels"
            for name in subfolders(folder)
        )
    loose = sum(e.suffix.lower() in PICTURES for e in folder.iterdir())
    if not loose:
        return ()
    return (
        f"{loose} of the images in {str(folder)!r} are in no class folder, and left "
        "out",
    )


def _damaged(files: Sequence[str], channels: int) -> str | None:
    import tensorflow as tf

    for file in files:
        try:
            tf.io.decode_image(tf.io.read_file(file), channels)
        except Exception:
            return file
    return None


def load_dataset(
    folder: Path,
    split: str,
    inputs: Sequence[Input],
    size: tuple[int, int] | None,
) -> tuple[Any, np.ndarray, tuple[str, ...] | None]:
    """Read a split of a data set that TensorFlow Datasets has prepared.

    Args:
        folder: Folder of one version of the data set.
        split: A split, or a slice such as `"test[:500]"`.
        inputs: The model's inputs. Images are scaled to their size.
        size: Height and width, for a model that takes any size.

    Returns:
        Inputs and targets `(n, ...)`, and the names of the classes or None.

    Raises:
        ImportError: TensorFlow Datasets is not installed.
        ValueError: The data set does not name its inputs and targets, or the
            model does not take its images.
    """
    try:
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{str(folder)!r} is read by TensorFlow Datasets, which is not "
            'installed. Run: pip install "kprune[data]"'
        ) from error
    builder = tfds.builder_from_directory(folder)
    keys = builder.info.supervised_keys
    if keys is None:
        raise ValueError(
            f"Data set {builder.name!r} does not say what its inputs and targets "
            "are. Read it in Python, and give arrays: np.savez('data.npz', x=x, y=y)."
        )
    pictures = isinstance(builder.info.features[keys[0]], tfds.features.Image)
    frame = frame_of(inputs, size, builder.name) if pictures else None
    examples = builder.as_dataset(
        split=split,
        shuffle_files=False,
        as_supervised=True,
        # Order matters: figures are reported on slices of a split.
        read_config=tfds.ReadConfig(interleave_cycle_length=1),
    )
    xs, ys = [], []
    for x, y in examples:
        xs.append(x.numpy() if frame is None else _resized(x, frame))
        ys.append(y.numpy())
    names = getattr(builder.info.features[keys[1]], "names", None)
    images = np.stack(xs)
    if frame is not None:
        images = frame.arranged(images)
    return images, np.stack(ys), tuple(names) if names else None


def _resized(image: Any, frame: Frame) -> np.ndarray:
    import tensorflow as tf

    if image.shape[-1] != frame.channels and frame.channels == 1:
        image = tf.image.rgb_to_grayscale(image)
    elif image.shape[-1] == 1 and frame.channels == 3:
        image = tf.image.grayscale_to_rgb(image)
    if tuple(image.shape[:2]) != (frame.height, frame.width):
        image = tf.image.resize(image, (frame.height, frame.width))
    found: np.ndarray = tf.cast(image, tf.float32).numpy()
    return found
