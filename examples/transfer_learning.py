"""A backbone inside a new model: train the head, prune both, export.

    python examples/transfer_learning.py --weights imagenet

The backbone stays one nested layer; its channels are found, pruned and removed
like those of the head. Without `--weights imagenet` it starts from random
weights, so that nothing is downloaded; the digits (scikit-learn's, enlarged)
stand for a data set of one's own.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import keras
import numpy as np
from keras import layers
from rich.console import Console

import kprune
from kprune.callbacks import PruneCallback
from kprune.data import batches
from kprune.data import load_digits
from kprune.report.deployment import deploy
from kprune.report.deployment import print_result
from kprune.report.evaluation import Evaluation

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def build_model(weights: str | None = None) -> keras.Model:
    """Puts the first seven blocks of MobileNetV2 under a head for 10 classes."""
    whole = keras.applications.MobileNetV2(
        (32, 32, 3), alpha=0.35, include_top=False, weights=weights
    )
    # Small images leave nothing for the blocks behind to look at.
    features = whole.get_layer("block_6_expand_relu").output
    backbone = keras.Model(whole.input, features, name="backbone")
    for layer in backbone.layers:
        if isinstance(layer, layers.BatchNormalization):
            # A few hundred steps are too few for the default of 0.999.
            layer.momentum = 0.9
    image = keras.Input((32, 32, 3), name="image")
    x = layers.GlobalAveragePooling2D(name="pool")(backbone(image))
    x = layers.Dense(64, activation="relu", name="hidden")(x)
    return keras.Model(
        image, layers.Dense(10, name="scores")(x), name="transfer"
    )


def enlarge(images: np.ndarray) -> np.ndarray:
    """Digits (n, 8, 8, 1) in [0, 1] to colour images (n, 32, 32, 3) in [-1, 1]."""
    large = images.repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    return 2 * large - 1


def fit(
    model: keras.Model, data, epochs: int, rate: float, callbacks=()
) -> None:
    train = batches(*data, 64, shuffle=True)
    model.compile(keras.optimizers.Adam(rate), LOSS, metrics=["accuracy"])
    model.fit(
        train,
        epochs=epochs,
        verbose=2,
        shuffle=False,
        callbacks=list(callbacks),
    )


def main(arguments: list[str] | None = None) -> Evaluation:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--weights", choices=["imagenet"])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--reduce", type=float, default=0.5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("transfer-learning"))
    options = parser.parse_args(arguments)

    keras.utils.set_random_seed(options.seed)
    data = load_digits(options.seed)
    train = enlarge(data.train[0]), data.train[1]
    evaluation = Evaluation(enlarge(data.test[0]), data.test[1], options.out)

    model = build_model(options.weights)
    backbone = model.get_layer("backbone")
    if options.weights:
        backbone.trainable = False
        fit(model, train, 2, 1e-3)
        backbone.trainable = True
    fit(model, train, options.epochs, 1e-3)
    evaluation.add_model("original", model, "original.tflite")

    masked = kprune.wrap(model)
    prune = PruneCallback(criterion="bn_scale", reduce={"macs": options.reduce})
    fit(masked, train, options.epochs, 1e-3, [prune])
    deployment = deploy(evaluation, masked, train[0][:256])
    print_result(Console(), evaluation, deployment)
    return evaluation


if __name__ == "__main__":
    main()
