"""A small object detector with two heads, pruned while it trains on.

    python examples/detector.py --epochs 6 --reduce 0.5

Detectors have several outputs and losses of their own. Neither matters here: what
feeds an output stays, everything before it can go. The images, each with a disc or
a square, are drawn by the script.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
from keras import layers
from keras import ops

import kprune
from kprune.callbacks import PruneCallback

SIZE, CELL = 32, 4
GRID = SIZE // CELL


def draw(count: int, seed: int):
    """Return images, and for each the object's class and box (y, x, half size)."""
    rng = np.random.default_rng(seed)
    half = rng.integers(3, 8, count)
    y, x = (rng.integers(half, SIZE - half) for _ in range(2))
    kind = rng.integers(0, 2, count)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    down, across = (
        rows - y[:, None, None],
        columns - x[:, None, None],
    )
    size = half[:, None, None]
    disc = down**2 + across**2 <= size**2
    square = np.maximum(abs(down), abs(across)) <= size
    images = np.where(kind[:, None, None] == 0, disc, square) * 0.6
    images = images + rng.normal(0.2, 0.1, images.shape)
    return images[..., None].astype("float32"), kind, np.stack([y, x, half], 1)


def targets(kind: np.ndarray, boxes: np.ndarray) -> dict[str, np.ndarray]:
    """Return what the heads should say: only the cell of the center speaks."""
    index = np.arange(len(kind))
    row, column = boxes[:, 0] // CELL, boxes[:, 1] // CELL
    classes = np.zeros((len(kind), GRID, GRID, 2), "float32")
    classes[index, row, column, kind] = 1
    # Offset of the center in its cell, half the size, and whether that counts.
    found = np.zeros((len(kind), GRID, GRID, 4), "float32")
    offsets = boxes[:, :2] / CELL - np.stack([row, column], 1)
    values = [*offsets.T, boxes[:, 2] / CELL, np.ones(len(kind))]
    found[index, row, column] = np.stack(values, 1)
    return {"classes": classes, "boxes": found}


def box_loss(y_true, y_pred):
    error = ops.abs(y_true[..., :3] - y_pred) * y_true[..., 3:]
    return ops.sum(error, axis=(1, 2, 3))


def class_loss(y_true, y_pred):
    # Nearly all cells are empty: those with an object weigh more.
    weight = 1 + 20 * y_true
    entropy = ops.binary_crossentropy(y_true, y_pred, from_logits=True)
    return ops.sum(weight * entropy, axis=(1, 2, 3)) / 8


def build_detector(width: int = 16) -> keras.Model:
    x = inputs = keras.Input((SIZE, SIZE, 1))
    for filters, strides in ((1, 1), (1, 2), (2, 2), (2, 1)):
        x = layers.Conv2D(
            width * filters, 3, strides, padding="same", use_bias=False
        )(x)
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9)(x))
    heads = {}
    for name, channels in (("classes", 2), ("boxes", 3)):
        y = layers.Conv2D(2 * width, 3, padding="same", activation="relu")(x)
        heads[name] = layers.Conv2D(channels, 1, name=name)(y)
    return keras.Model(inputs, heads, name="detector")


def compile_model(model: keras.Model) -> None:
    model.compile(
        keras.optimizers.Adam(0.003),
        {"classes": class_loss, "boxes": box_loss},
    )


def hits(model: keras.Model, images, kind, boxes) -> float:
    """Return the share of objects with the right class and a box that overlaps.

    That is, by more than half: intersection over union above 0.5.
    """
    found = model.predict(images, verbose=0)
    best = found["classes"].reshape(len(kind), -1).argmax(1)
    row, column, chosen = np.unravel_index(best, (GRID, GRID, 2))
    box = found["boxes"][np.arange(len(kind)), row, column]
    center = (box[:, :2] + np.stack([row, column], 1)) * CELL
    half = np.maximum(box[:, 2:] * CELL, 0)
    low = np.maximum(center - half, boxes[:, :2] - boxes[:, 2:])
    high = np.minimum(center + half, boxes[:, :2] + boxes[:, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=1)
    union = (2 * half[:, 0]) ** 2 + (2 * boxes[:, 2]) ** 2 - common
    return float(np.mean((chosen == kind) & (common / union > 0.5)))


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--reduce", type=float, default=0.5)
options = parser.parse_args()

keras.utils.set_random_seed(0)
x, *truth = draw(768, seed=0)
y = targets(*truth)
test = draw(256, seed=1)
model = build_detector()
compile_model(model)
model.fit(x, y, 32, epochs=options.epochs, verbose=2)

masked = kprune.wrap(model)
compile_model(masked)
prune = PruneCallback(
    reduce={"macs": options.reduce}, schedule="one_shot", data=x[:256]
)
masked.fit(x, y, 32, epochs=options.epochs, verbose=2, callbacks=[prune])

compact = kprune.rebuild(masked)
before, after = kprune.cost(model), kprune.cost(compact)
print(f"MACs: {before.macs:,} -> {after.macs:,}")
print(f"found: {hits(model, *test):.4f} -> {hits(compact, *test):.4f}")
print(
    kprune.export(
        compact, "detector.tflite", calibration=x[:64], original=model
    )
)
