"""Find the samples that the user names, and read them once a model is loaded."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import typer

from kprune.arguments import did_you_mean
from kprune.data import places

if TYPE_CHECKING:
    from collections.abc import Sequence

    import keras

    from kprune.data.inputs import Input
    from kprune.data.places import Place
    from kprune.data.reading import Samples


@dataclasses.dataclass(frozen=True)
class Data:
    """The data that the options `--data`, `--validation` and so on ask for.

    Args:
        train: Place of the samples of `--data`, or None.
        validation: Place of the samples to measure accuracy on, or None.
        apart: Whether the latter differ from the samples of `--data`.
        image_size: Height and width, or None.
        pixels: Range of pixels, or None to infer it from the model.
    """

    train: Place | None = None
    validation: Place | None = None
    apart: bool = False
    image_size: tuple[int, int] | None = None
    pixels: str | None = None

    @property
    def files(self) -> tuple[Path | None, ...]:
        """Paths of `train` and `validation`, or None for each."""
        found = (self.train, self.validation)
        return tuple(None if place is None else place.path for place in found)

    @property
    def checked_by(self) -> str:
        """The option that names the samples to measure accuracy on."""
        return "--data" if self.validation is self.train else "--validation"

    def samples(self, model: keras.Model) -> Samples | None:
        """Read the samples of `--data` for a model."""
        if self.train is None:
            return None
        return self._read(self.train, places.TRAIN, model)

    def checked(
        self, model: keras.Model, samples: Samples | None = None
    ) -> Samples | None:
        """Read the samples to measure accuracy on.

        Args:
            model: The model that takes them.
            samples: The samples of `--data`, if they have been read. The numbers
                of their classes hold here too.
        """
        if self.validation is None:
            return None
        if not self.apart and samples is not None:
            return samples
        part = places.VALIDATION if self.apart else places.TRAIN
        known = () if samples is None else samples.classes or ()
        return self._read(self.validation, part, model, known)

    def _read(
        self,
        place: Place,
        part: str,
        model: keras.Model,
        known: Sequence[str] = (),
    ) -> Samples:
        from kprune.data.inputs import ModelInputs
        from kprune.data.targets import as_loss_wants

        inputs = ModelInputs(model).inputs
        samples = self.read(place, part, inputs, predictor(model), model, known)
        if samples.y is None:
            return samples
        return dataclasses.replace(samples, y=as_loss_wants(samples.y, model))

    def read(
        self,
        place: Place,
        part: str,
        inputs: Sequence[Input],
        predict: Callable[[np.ndarray], np.ndarray],
        model: keras.Model | None = None,
        known: Sequence[str] = (),
    ) -> Samples:
        """Read samples and scale their pixels to the range that a model takes.

        Arrays of fractions are scaled if a range is requested: from 0 to 1, or from
        -1 to 1, if all of them are within it, or else from 0 to 255.

        Args:
            place: Where the samples are.
            part: `"train"` or `"validation"`.
            inputs: The model's inputs.
            predict: Function that maps inputs to outputs.
            model: The model, or None for an exported file.
            known: Classes of the samples to train on.
        """
        from kprune.data import pixels
        from kprune.data.reading import read_samples

        samples = read_samples(place, inputs, part, self.image_size, known)
        for text in samples.notes:
            note(text)
        raw = samples.pixels or getattr(samples.x, "dtype", None) == np.uint8
        images = pixels.as_images(samples.x, inputs)
        if images is None and self.pixels:
            raise typer.BadParameter(
                f"has no effect: {samples.name} holds no images that the model "
                "takes. Leave it out.",
                param_hint="--pixels",
            )
        if images is None or not (raw or self.pixels):
            return samples
        given, held = images, "raw"
        if self.pixels and not raw:
            # Arrays of fractions are scaled already, and can be scaled back.
            held = pixels.guess_range(images) or "raw"
            back = pixels.unscaled(images, held)
            images = images if back is None else back
        first = pixels.channels_first(images)
        modes = pixels.candidates(images, first)
        if self.pixels not in (None, *modes):
            raise typer.BadParameter(
                f"received {self.pixels!r}, which is for images of three colours. "
                f"{did_you_mean(self.pixels, modes)}",
                param_hint="--pixels",
            )
        mode, why = pixels.choose_range(images, samples.y, predict, model)
        advice = ": --pixels sets another" if why == pixels.GUESS else ""
        if self.pixels:
            if why != pixels.GUESS and mode != self.pixels:
                advice = f", although {pixels.MODES[mode]} fits better: {why}"
            mode, why = self.pixels, "as requested"
            if mode != held != "raw":
                why += f" (in the file they are {pixels.MODES[held]})"
        if why == pixels.GUESS and not samples.pixels:
            return samples
        note(f"{describe(samples)}; pixels {pixels.MODES[mode]}, {why}{advice}")
        same = mode == held != "raw"
        x = given if same else pixels.scaled(images, mode, first)
        return dataclasses.replace(samples, x=x, mode=mode)


def describe(samples: Samples) -> str:
    """Describe samples in words."""
    kind = "images" if samples.pixels else "samples"
    text = f"{samples.size} {kind} of {samples.name}"
    if samples.classes:
        text += f" in {len(samples.classes)} classes"
    return text


def note(text: str) -> None:
    """Print a note to standard error."""
    print(f"kprune: note: {text}", file=sys.stderr)


def predictor(model: keras.Model) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that maps inputs to the first output of a model."""
    from kprune.export.signature import ModelSignature

    signature = ModelSignature(model)
    return lambda x: signature.predict([x])[0]


def find_data(
    data: Path | None,
    validation: Path | None = None,
    data_dir: Path | None = None,
    image_size: str | None = None,
    pixels: str | None = None,
) -> Data:
    """Find the data that options name, before anything heavy is imported.

    Args:
        data: Option `--data`.
        validation: Option `--validation`. Defaults to the validation part of
            `data`, or else to `data` itself.
        data_dir: Option `--data-dir`.
        image_size: Option `--image-size`.
        pixels: Option `--pixels`.

    Raises:
        FileNotFoundError: There is no such file, folder or data set.
        ValueError: The file or folder is of an unsupported kind.
        typer.BadParameter: An option is wrong, or has no effect.
    """
    given = {
        "--image-size": image_size,
        "--pixels": pixels,
        "--data-dir": data_dir,
    }
    for option, value in given.items():
        if value is not None and data is None and validation is None:
            raise typer.BadParameter(
                "says how to read --data or --validation; give one of them.",
                param_hint=option,
            )
    train, other = (
        None if given is None else places.find_place(given, data_dir)
        for given in (data, validation)
    )
    apart = other is not None or (train is not None and train.has_validation)
    return Data(
        train, other or train, apart, parse_image_size(image_size), pixels
    )


def parse_image_size(text: str | None) -> tuple[int, int] | None:
    """Parse `"224"` or `"224x160"` (height first).

    Raises:
        typer.BadParameter: The text has another form.
    """
    if text is None:
        return None
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(p.isdigit() and int(p) for p in parts):
        raise typer.BadParameter(
            f"received {text!r}, expected height and width: 224x160, or 224 for both.",
            param_hint="--image-size",
        )
    return int(parts[0]), int(parts[-1])


def check_pixels(value: str | None) -> str | None:
    """Raise typer.BadParameter unless `--pixels` is the name of a range."""
    if value is not None and value not in PIXELS:
        raise typer.BadParameter(
            f"received {value!r}. {did_you_mean(value, PIXELS)}"
        )
    return value


def offer_pixels(incomplete: str) -> list[str]:
    """Return the shell completions of `--pixels`."""
    return [name for name in PIXELS if name.startswith(incomplete)]


PIXELS = ("raw", "unit", "tf", "torch", "caffe")
"""Names in `kprune.data.pixels.MODES`, which needs Keras."""
