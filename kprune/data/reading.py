"""Read samples from a place into arrays that a model takes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from kprune.data import images
from kprune.data import places
from kprune.data.classes import number_words
from kprune.data.files import load_arrays
from kprune.data.files import load_table
from kprune.data.inputs import Input
from kprune.data.places import Place


@dataclasses.dataclass(frozen=True)
class Samples:
    """Samples in memory.

    Args:
        x: Inputs `(n, ...)`, or a dictionary of these by the input's name.
        y: Targets `(n, ...)` or None.
        name: Where they come from, for messages.
        classes: Names of the classes, in the order of their numbers, or None.
        pixels: Whether `x` was read from images.
        mode: The range of their pixels. See `kprune.data.pixels.MODES`.
        notes: What the user has to know of how they were read.
    """

    x: Any
    y: np.ndarray | None
    name: str
    classes: tuple[str, ...] | None = None
    pixels: bool = False
    mode: str = "raw"
    notes: tuple[str, ...] = ()

    @property
    def data(self) -> Any:
        """Inputs, with targets if there are any: `x` or `(x, y)`."""
        return self.x if self.y is None else (self.x, self.y)

    @property
    def size(self) -> int:
        """Number of samples."""
        first = (
            next(iter(self.x.values())) if isinstance(self.x, dict) else self.x
        )
        return len(first)


def read_samples(
    place: Place,
    inputs: Sequence[Input],
    part: str = places.TRAIN,
    image_size: tuple[int, int] | None = None,
    known: Sequence[str] = (),
) -> Samples:
    """Read samples into memory.

    Args:
        place: Where the samples are.
        inputs: The model's inputs.
        part: `"train"` or `"validation"`, if the place has both.
        image_size: Height and width that images are scaled to, for a model
            that takes any size.
        known: Classes of the samples to train on, whose numbers hold here too.
            Folders of images, and labels that are words, name their classes.

    Returns:
        The samples. Pixels are as in the image files, from 0 to 255.

    Raises:
        ValueError: They do not fit the model, a file is damaged, or there is a
            class that is not known.

    Example:

    ```python
    inputs = ModelInputs(model).inputs
    samples = read_samples(find_place("photos"), inputs)
    ```
    """
    own = place.own_name(part)
    name = f"{place.given} ({own})" if own and not place.split else place.given
    if place.kind == places.ARRAYS:
        x, y = load_arrays(place.path, own, inputs)
        if y is None or y.dtype.kind != "U" or y.size != len(y):
            return Samples(x, y, name)
        words = y.ravel().tolist()
        y, classes, notes = number_words(name, words, known)
        return Samples(x, y, name, classes, notes=notes)
    if place.kind == places.TABLE:
        x, y, classes, notes = load_table(place.path, inputs, known)
        return Samples(x, y, name, classes, notes=notes)
    if place.kind == places.IMAGES:
        frame = images.frame_of(inputs, image_size, place.given)
        folder = place.folder(part)
        known = known or places.class_folders(place.folder(places.TRAIN))
        x, y, classes, notes = images.load_folder(folder, frame, known)
        return Samples(x, y, name, classes, pixels=True, notes=notes)
    split = place.split or own or "all"
    x, y, classes = images.load_dataset(place.path, split, inputs, image_size)
    return Samples(x, y, name, classes, pixels=np.ndim(x) == 4)
