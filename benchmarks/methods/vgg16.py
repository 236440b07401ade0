"""A VGG-16 that is trained on CIFAR-10 once and stored."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

# Appended, not inserted: that folder has a module `run`, too.
sys.path.append(str(Path(__file__).resolve().parents[1] / "latency"))

import common
import data
import experiment
import keras
import subjects


def trained(
    path: Path,
    images: data.Images,
    epochs: int,
    build: Callable[[], keras.Model] = subjects.vgg16,
) -> keras.Model:
    """Return the stored network, and train and store it first if there is none.

    Args:
        path: Its `.keras` file.
        images: The training images.
        epochs: Number of epochs. The rate rises in the first.
        build: Function that returns the untrained network.
    """
    if path.exists():
        return keras.saving.load_model(path, compile=False)
    setting = experiment.Setting(
        epochs=epochs,
        images=len(images.x_train),
        learning_rate=0.05,
        weight_decay=5e-3,
    )
    keras.utils.set_random_seed(0)
    model = build()
    common.quicken(model)
    experiment.compile_model(model, setting, experiment.sgd(setting, warmup=1))
    model.fit(data.training(images, setting, 0), epochs=epochs, verbose=2)
    with common.replacing(path) as new:
        model.save(new, include_optimizer=False)
    return model
