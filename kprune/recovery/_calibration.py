"""Synthetic inputs, with batch statistics calibrated to them."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from kprune.data.source import as_source
from kprune.graph import walk
from kprune.graph.registry import is_batch_norm
from kprune.graph.sizes import open_size
from kprune.graph.sizes import sizes_of
from kprune.graph.values import read
from kprune.masking.state import no_gradients
from kprune.session import Session
from kprune.session.program import Program

PLACES = 2**22
"""Largest number of positions of all inputs together."""


class Calibration:
    """Calibration of batch normalisation to noise inputs.

    With the moving statistics of noise, each batch normalisation outputs
    channels of mean `beta` and standard deviation `gamma`, as on the training
    data. So the following layers see inputs of the usual mean and deviation.

    Args:
        session: The masked model. Its samples are noise until `end`.
        samples: Number of samples.
        seed: Seed of the noise.
    """

    def __init__(self, session: Session, samples: int, seed: int = 0) -> None:
        self._session = session
        self._norms = norms(session.masked)
        self._real = self._statistics()
        x = noise(session.masked, samples, seed)
        self._measure(x)
        self._measured = self._statistics()
        self._source = session.source
        session.source = as_source(x, session.masked)

    def hold(self) -> None:
        """Set the statistics of the noise again."""
        for norm, (mean, variance) in zip(
            self._norms, self._measured, strict=True
        ):
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)

    def end(self) -> None:
        """Restore the model's own statistics, adjusted by changes made meanwhile.

        The change of a mean is a constant, that of a variance a factor.
        """
        self._session.source = self._source
        for norm, real, measured, now in zip(
            self._norms,
            self._real,
            self._measured,
            self._statistics(),
            strict=True,
        ):
            norm.moving_mean.assign(real[0] + now[0] - measured[0])
            factor = now[1] / np.maximum(measured[1], 1e-12)
            norm.moving_variance.assign(
                real[1] * np.where(measured[1] > 1e-12, factor, 1.0)
            )

    def _statistics(self) -> list[tuple[np.ndarray, np.ndarray]]:
        return [
            (
                read(norm.moving_mean).astype("float64"),
                read(norm.moving_variance).astype("float64"),
            )
            for norm in self._norms
        ]

    def _measure(self, x: Any) -> None:
        """Set the statistics of every normalisation to those of its input."""
        held = [(n, n.momentum, n.trainable) for n in self._norms]
        try:
            for norm, *_ in held:
                norm.momentum, norm.trainable = 0.0, True
            with no_gradients():
                _run_training(self._session.masked, x)
        finally:
            for norm, momentum, trainable in held:
                norm.momentum, norm.trainable = momentum, trainable


@contextlib.contextmanager
def calibrated(
    session: Session, samples: int, seed: int = 0
) -> Iterator[Calibration]:
    """Return a context with a calibration, which ends with it."""
    calibration = Calibration(session, samples, seed)
    try:
        yield calibration
    finally:
        calibration.end()


def norms(model: keras.Model) -> list[Any]:
    """Return the batch normalisations of a model, wrapped or not."""
    layers = (walk.unwrap(layer) for layer in walk.layers_of(model))
    return [layer for layer in layers if is_batch_norm(layer)]


def _run_training(model: keras.Model, x: Any) -> None:
    """Run a model with only its batch normalisation in training mode."""
    program = Program(model)
    inputs = walk.flat_inputs(program.functional, x)
    tensors = dict(
        zip(
            program.inputs,
            map(keras.ops.convert_to_tensor, inputs),
            strict=True,
        )
    )
    for index, call in enumerate(program.calls):
        outputs = call.run_training([tensors[slot] for slot in call.given])
        tensors.update(zip(call.outputs, outputs, strict=True))
        for slot in call.given:
            if program.last[slot] == index:
                tensors.pop(slot, None)


def noise(masked: keras.Model, samples: int, seed: int = 0) -> Any:
    """Return inputs of Gaussian noise, in the structure of the model's inputs.

    Noise images have the spectrum of natural images, whose amplitude falls with
    the frequency ("Relations between the statistics of natural images", Field,
    1987), and strongly correlated channels.

    Args:
        masked: The model, whose inputs are floats.
        samples: Largest number of samples.
        seed: Seed of the noise.
    """
    functional = walk.require_functional(masked)
    rng = np.random.default_rng(seed)
    size = open_size(functional)
    places = max(math.prod(sizes_of(t, size)[:-1]) for t in functional.inputs)
    count = max(min(samples, PLACES // places), 32)
    return keras.tree.map_structure(
        lambda tensor: _noise(sizes_of(tensor, size), count, rng),
        functional.input,
    )


def _noise(
    sizes: list[int], count: int, rng: np.random.Generator
) -> np.ndarray:
    values = rng.normal(size=(count, *sizes))
    if len(sizes) == 3:
        first = keras.config.image_data_format() == "channels_first"
        axes = (2, 3) if first else (1, 2)
        common = rng.normal(size=(count, *sizes)).mean(
            axis=1 if first else -1, keepdims=True
        )
        common *= math.sqrt(sizes[0 if first else -1])
        values = 0.95 * common + math.sqrt(1 - 0.95**2) * values
        values = _coloured(values, axes)
    return values.astype("float32")


def _coloured(values: np.ndarray, axes: tuple[int, int]) -> np.ndarray:
    """Return noise of variance 1 whose amplitude falls with the frequency."""
    height, width = (values.shape[axis] for axis in axes)
    down = np.fft.fftfreq(height)[:, None]
    across = np.fft.fftfreq(width)[None, :]
    frequency = np.sqrt(down**2 + across**2)
    frequency[0, 0] = 1 / max(height, width)
    shape = [1] * values.ndim
    shape[axes[0]], shape[axes[1]] = height, width
    spectrum = np.fft.fft2(values, axes=axes) / frequency.reshape(shape)
    coloured = np.fft.ifft2(spectrum, axes=axes).real
    return coloured / coloured.std()
