"""A U-Net that finds discs and squares, pruned while it trains on.

    python examples/segmentation_unet.py --epochs 5 --reduce 0.5

Skip connections need no care: channels that meet in a `Concatenate` are found and
removed on both of its sides. The images are drawn by the script.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
from common import print_result
from keras import layers

import kprune
from kprune.callbacks import PruneCallback

SIZE = 32
CLASSES = 3  # background, disc, square


def draw(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return noisy images with a disc and a square, and the class of each pixel."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    labels = np.zeros((count, SIZE, SIZE), "int32")
    for image in labels:
        y, x = rng.integers(7, SIZE - 7, 2)
        radius = rng.integers(4, 7)
        image[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] = 1
        y, x = rng.integers(6, SIZE - 6, 2)
        half = rng.integers(3, 6)
        image[y - half : y + half + 1, x - half : x + half + 1] = 2
    brightness = rng.uniform(0.4, 0.9, (count, 1, 1))
    images = np.where(labels > 0, brightness, 0.2)
    images = images + rng.normal(0, 0.1, images.shape)
    return images[..., None].astype("float32"), labels


def build_unet(filters: int = 8) -> keras.Model:
    def block(x, width):
        for _ in range(2):
            x = layers.Conv2D(width, 3, padding="same", use_bias=False)(x)
            x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
        return x

    inputs = keras.Input((SIZE, SIZE, 1))
    skips, x = [], inputs
    for level in range(2):
        x = block(x, filters * 2**level)
        skips.append(x)
        x = layers.MaxPooling2D()(x)
    x = block(x, filters * 4)
    for level in (1, 0):
        x = layers.Conv2DTranspose(filters * 2**level, 2, strides=2)(x)
        x = block(layers.Concatenate()([skips[level], x]), filters * 2**level)
    outputs = layers.Conv2D(CLASSES, 1, name="classes")(x)
    return keras.Model(inputs, outputs, name="unet")


def compile_model(model: keras.Model) -> None:
    model.compile(
        keras.optimizers.Adam(0.003),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=[
            keras.metrics.MeanIoU(CLASSES, sparse_y_pred=False, name="iou")
        ],
    )


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=5)
parser.add_argument("--reduce", type=float, default=0.5)
options = parser.parse_args()

keras.utils.set_random_seed(0)
x, y = draw(320, seed=0)
x_test, y_test = draw(128, seed=1)
model = build_unet()
compile_model(model)
model.fit(x, y, 16, epochs=options.epochs, verbose=2)

masked = kprune.wrap(model)
compile_model(masked)
# Filters go before the first epoch; `data` repairs the layers that stay, so that
# training goes on from a good place. It needs no labels.
prune = PruneCallback(
    reduce={"macs": options.reduce}, schedule="one_shot", data=x[:128]
)
masked.fit(x, y, 16, epochs=options.epochs, verbose=2, callbacks=[prune])

compact = kprune.rebuild(masked)
print_result(model, compact, x_test, y_test)
compact.save("unet.keras")
