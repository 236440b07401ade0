"""The networks of MLPerf Tiny, and the estimated costs of their int8 files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
from keras import layers

import kprune
from kprune.export.micro.arena import estimate_arena
from kprune.latency import runtimes

NPU = "ethos-u55-128"


def ds_cnn() -> keras.Model:
    """Build the network for keyword spotting from the description of the suite."""
    x = inputs = keras.Input((49, 10, 1))
    x = layers.Conv2D(64, (10, 4), 2, "same")(x)
    x = layers.BatchNormalization()(x)
    x = layers.ReLU()(x)
    x = layers.Dropout(0.2)(x)
    for _ in range(4):
        x = layers.DepthwiseConv2D(3, padding="same")(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
        x = layers.Conv2D(64, 1)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    x = layers.Dropout(0.4)(x)
    x = layers.AveragePooling2D((25, 5))(x)
    x = layers.Flatten()(x)
    outputs = layers.Dense(12, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="ds_cnn")


def _published(name: str) -> Callable[[Path], keras.Model]:
    def load(folder: Path) -> keras.Model:
        return kprune.load(folder / f"mlperf_tiny_{name}.h5", compile=False)

    return load


NETWORKS: dict[str, tuple[str, Callable[[Path], keras.Model]]] = {
    "ic": ("image classification, ResNet-8", _published("ic_resnet8")),
    "vww": ("visual wake words, MobileNetV1 0.25", _published("vww")),
    "ad": ("anomaly detection, autoencoder", _published("ad")),
    "sww": ("streaming wake word, 1-D DS-CNN", _published("sww")),
    "kws": ("keyword spotting, DS-CNN (untrained)", lambda folder: ds_cnn()),
}
"""Title and loader of each network, by the suite's short names.

A loader takes the folder of files and returns the model.
"""


def build(name: str, folder: Path) -> keras.Model:
    """Return a network of `NETWORKS`."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    return NETWORKS[name][1](folder)


def figures(content: bytes) -> dict[str, Any]:
    """Return the costs of a file by Vela and by the plan of TensorFlow Lite Micro."""
    said = runtimes.get(NPU).compile(content)
    arena = estimate_arena(content)
    return {
        "vela_milliseconds": round(said.milliseconds, 6),
        "vela_sram": said.sram,
        "arena": arena.planned,
        "flash": len(content),
    }
