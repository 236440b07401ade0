"""Synthetic inputs, on which batch normalisation gives what it is known to give."""

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
from kprune.graph.values import read
from kprune.masking.state import no_gradients
from kprune.session import Session

PLACES = 2**22
"""Places of the inputs together that are computed at most."""


class Calibration:
    """Batch normalisation whose moving statistics are those of noise.

    Then each of them gives channels of mean `beta` and deviation `gamma`, as
    it does on the data that the model was trained on, and activations and
    what reads them see what they are used to, as far as means and deviations
    tell.

    Args:
        session: The masked model. Its samples are noise meanwhile.
        samples: How many samples.
        seed: Of the noise.
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
        """Let the statistics of the noise hold once more."""
        for norm, (mean, variance) in zip(
            self._norms, self._measured, strict=True
        ):
            norm.moving_mean.assign(mean)
            norm.moving_variance.assign(variance)

    def end(self) -> None:
        """Put the model's own statistics back, with what has changed since.

        A mean has changed by a constant, a variance by a factor.
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
        """Give every normalisation the statistics of what reaches it."""
        held = [(n, n.momentum, n.trainable) for n in self._norms]
        try:
            for norm, *_ in held:
                norm.momentum, norm.trainable = 0.0, True
            with no_gradients():
                self._session.masked(x, training=True)
        finally:
            for norm, momentum, trainable in held:
                norm.momentum, norm.trainable = momentum, trainable


@contextlib.contextmanager
def calibrated(
    session: Session, samples: int, seed: int = 0
) -> Iterator[Calibration]:
    """Yield a calibration, and end it. See `Calibration`."""
    calibration = Calibration(session, samples, seed)
    try:
        yield calibration
    finally:
        calibration.end()


def norms(model: keras.Model) -> list[Any]:
    """Return the batch normalisations of a model, wrapped or not."""
    layers = (walk.unwrap(layer) for layer in walk.layers_of(model))
    return [layer for layer in layers if is_batch_norm(layer)]


def noise(masked: keras.Model, samples: int, seed: int = 0) -> Any:
    """Return inputs of Gaussian noise, in the structure of the model's inputs.

    That of images has the spectrum of natural ones, whose amplitude falls with
    the frequency ("Relations between the statistics of natural images", Field,
    1987), and channels that go mostly together.

    Args:
        masked: The model, whose inputs are real numbers.
        samples: How many, at most.
        seed: Of the draws.
    """
    functional = walk.require_functional(masked)
    rng = np.random.default_rng(seed)
    places = max(
        math.prod(n or 1 for n in t.shape[1:-1]) for t in functional.inputs
    )
    count = max(min(samples, PLACES // places), 32)
    return keras.tree.map_structure(
        lambda tensor: _noise(tensor, count, rng), functional.input
    )


def _noise(tensor: Any, count: int, rng: np.random.Generator) -> np.ndarray:
    sizes = [n or 32 for n in tensor.shape[1:]]
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
    """Return noise whose amplitude falls with the frequency, of variance 1."""
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
