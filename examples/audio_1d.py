"""A 1-D network on raw sound, pruned in one call without labels or training.

    python examples/audio_1d.py --epochs 8 --reduce 0.5

`Conv1D` is pruned as `Conv2D` is. The sounds, a quarter of a second each at 8 kHz,
are made by the script: a tone, two tones, a tone that rises or falls, beats, noise.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
from common import LOSS
from common import print_result
from keras import layers

import kprune

RATE, SAMPLES = 8000, 2000


def sounds(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return waves `(count, SAMPLES, 1)` and the number of their kind."""
    rng = np.random.default_rng(seed)
    time = np.arange(SAMPLES) / RATE
    kind = rng.integers(0, 6, count)
    low = rng.uniform(300, 900, (count, 1))
    tone = np.sin(2 * np.pi * low * time)
    second = np.sin(2 * np.pi * 2.7 * low * time)
    # Over the quarter of a second, the frequency doubles or halves.
    rise = np.sin(2 * np.pi * low * (time + 2 * time**2))
    fall = np.sin(2 * np.pi * low * (time - time**2))
    beats = tone * (np.sin(2 * np.pi * 20 * time) > 0)
    noise = rng.normal(0, 0.7, (count, SAMPLES))
    choices = [tone, tone + second, rise, fall, beats, noise]
    waves = np.choose(kind[:, None], choices)
    waves = waves * rng.uniform(0.3, 1, (count, 1))
    waves = waves + rng.normal(0, 0.1, waves.shape)
    return waves[..., None].astype("float32"), kind


def build_model() -> keras.Model:
    x = inputs = keras.Input((SAMPLES, 1))
    for filters, size, strides in (
        (16, 32, 4),
        (24, 8, 4),
        (32, 8, 4),
        (48, 8, 2),
    ):
        x = layers.Conv1D(
            filters, size, strides, padding="same", use_bias=False
        )(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(6)(x), name="sounds")


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=8)
parser.add_argument("--reduce", type=float, default=0.5)
options = parser.parse_args()

keras.utils.set_random_seed(0)
x, y = sounds(1024, seed=0)
x_test, y_test = sounds(512, seed=1)
model = build_model()
model.compile(keras.optimizers.Adam(0.003), LOSS, metrics=["accuracy"])
model.fit(x, y, 32, epochs=options.epochs, verbose=2)

# Filters go where the outputs notice least, and the layers that stay are refitted.
masked = kprune.prune(model, reduce={"macs": options.reduce}, data=x)
compact = kprune.rebuild(masked)
print_result(model, compact, x_test, y_test)
report = kprune.export(
    compact, "sounds.tflite", "int8", calibration=x[:256], original=model
)
print(report)
