"""The networks to prune and time, with random weights.

The time of a network does not depend on its weights. Where accuracy is measured,
ResNet-20 has its published weights.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
from keras import layers

import kprune
from kprune.latency import runtimes
from kprune.latency.conversion import file_of

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"
apps = keras.applications


def resnet20() -> keras.Model:
    if str(EXAMPLES) not in sys.path:
        sys.path.append(str(EXAMPLES))
    import cifar10_resnet as example

    return example.build_resnet(20)


def vgg16() -> keras.Model:
    """Return VGG-16 for CIFAR-10, with batch normalisation and one dense layer."""
    x = inputs = keras.Input((32, 32, 3))
    for block in ((64, 64), (128, 128), (256,) * 3, (512,) * 3, (512,) * 3):
        for width in block:
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.BatchNormalization()(x)
            x = layers.ReLU()(x)
        x = layers.MaxPooling2D(2)(x)
    x = layers.Flatten()(x)
    return keras.Model(inputs, layers.Dense(10)(x), name="vgg16")


SUBJECTS = {
    "VGG-16, 32 px": vgg16,
    "ResNet-20, 32 px": resnet20,
    "ResNet50, 96 px": lambda: apps.ResNet50(
        weights=None, input_shape=(96, 96, 3)
    ),
    "MobileNetV2, 96 px": lambda: apps.MobileNetV2(
        weights=None, input_shape=(96, 96, 3)
    ),
    "EfficientNetB0, 96 px": lambda: apps.EfficientNetB0(
        weights=None, input_shape=(96, 96, 3)
    ),
    "DenseNet121, 96 px": lambda: apps.DenseNet121(
        weights=None, input_shape=(96, 96, 3)
    ),
}


PUBLISHED = {
    "ResNet-8, 32 px": "mlperf_tiny_ic_resnet8.h5",
    "MobileNetV1 0.25, 96 px": "mlperf_tiny_vww.h5",
}
"""Files of trained networks of MLPerf Tiny."""


def build(name: str, seed: int = 0, folder: Path | None = None) -> keras.Model:
    """Return the network of `SUBJECTS` or `PUBLISHED` with the given name.

    Args:
        name: The name.
        seed: Seed of the weights.
        folder: Folder of the files in `PUBLISHED`.
    """
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    if name in SUBJECTS:
        return SUBJECTS[name]()
    if folder is None:
        raise ValueError(
            f"{name}: pass --models, the folder of {PUBLISHED[name]}."
        )
    return kprune.load(folder / PUBLISHED[name], compile=False)


def write(model: keras.Model, path: Path, dtype: str) -> None:
    """Write a compact model as `.tflite`, unverified: only its time is measured."""
    path.write_bytes(file_of(model, dtype, "float32"))


def with_counts(masked: keras.Model, kept: np.ndarray) -> keras.Model:
    """Return the compact model that keeps the first channels of each group."""
    graph = kprune.trace(masked)
    kprune.set_masks(
        masked,
        {
            group.name: np.arange(group.size) < count
            for group, count in zip(graph.prunable, kept, strict=True)
        },
    )
    return kprune.rebuild(masked, merge=None)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Run with priority over all other work on this core, where that is allowed."""
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
    except (AttributeError, PermissionError):
        yield  # Not Linux, or not permitted: the machine must be idle.
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def timer_of(name: str) -> Callable[[bytes, int, int, float], float]:
    """Return a function that times a `.tflite` file on a runtime, in milliseconds."""
    measure = runtimes.get(name).measure

    def timer(content: bytes, threads: int, runs: int, seconds: float) -> float:
        with undisturbed():
            return measure(content, threads, runs, seconds)

    return timer


timer = timer_of("litert")
