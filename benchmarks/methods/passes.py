"""Count the passes over samples that recipes compute outside of training.

    python benchmarks/methods/passes.py            # what is missing
    python benchmarks/methods/passes.py hgs msvfp  # measure these again

Every convolution and dense layer counts the samples that it is called with, weighted by
its MACs. A pass that starts in the middle of the model, or that masks filters, thus
counts only in part. The count is part of the computation, so it also works in compiled
functions. The model is small: four convolutions in a row, each with a batch
normalisation.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import keras
import numpy as np
import tensorflow as tf
from keras.src.layers.convolutional.base_conv import BaseConv
from tensorflow.python.eager import record

import kprune

PATH = Path(__file__).parents[2] / "docs" / "methods" / "passes.json"
WIDTHS = (8, 16)
SAMPLES, BATCH, EPOCHS = 64, 32, 6
REDUCE = {"macs": 0.5}
KINDS = ("forward", "gradients", "training")


def network(width: int) -> keras.Model:
    """Return the compiled model that all recipes are measured on."""
    x = inputs = keras.Input((8, 8, 1))
    for number in range(4):
        x = keras.layers.Conv2D(
            width, 3, padding="same", use_bias=False, name=f"conv{number}"
        )(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(inputs, keras.layers.Dense(4, name="head")(x))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01), loss, jit_compile=False)
    return model


class Counter:
    """Counts computed MACs, in passes of one sample through the whole model.

    Args:
        model: The model before it is pruned.
    """

    def __init__(self, model: keras.Model) -> None:
        cost = kprune.cost(model)
        self._shares = {
            layer.name: layer.macs / cost.macs for layer in cost.table
        }
        self.training = tf.Variable(False, trainable=False)
        self._counts = tf.Variable(np.zeros(len(KINDS)), trainable=False)

    @property
    def counts(self) -> dict[str, float]:
        """Return the passes by kind."""
        values = self._counts.numpy().tolist()
        return dict(zip(KINDS, values, strict=True))

    def see(self, layer: Any, inputs: Any) -> None:
        """Make a call of a layer count whenever it is computed."""
        if not tf.is_tensor(inputs):
            return
        kind = KINDS.index(
            "gradients" if record.could_possibly_record() else "forward"
        )
        kind = tf.where(self.training, KINDS.index("training"), kind)
        share = self._shares.get(layer.name, 0.0)
        passes = share * tf.cast(tf.shape(inputs)[0], "float64")
        counted = tf.one_hot(kind, len(KINDS), dtype="float64")
        self._counts.assign_add(passes * counted)

    @contextlib.contextmanager
    def counting(self) -> Iterator[None]:
        """Return a context in which calls of layers count."""
        with contextlib.ExitStack() as stack:
            for cls in (BaseConv, keras.layers.Dense):
                stack.enter_context(
                    mock.patch.object(cls, "call", _seen(self, cls.call))
                )
            yield


def _seen(counter: Counter, call: Any) -> Any:
    def seen(layer: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        counter.see(layer, inputs)
        return call(layer, inputs, *args, **kwargs)

    return seen


class Switch(keras.callbacks.Callback):
    """Tells a counter when a training step begins or ends.

    The one for the beginning must be the last callback, the one for the end the first.
    """

    def __init__(self, counter: Counter, begins: bool) -> None:
        super().__init__()
        self._counter = counter
        self._begins = begins

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if self._begins:
            self._counter.training.assign(True)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._begins:
            self._counter.training.assign(False)


def measure(name: str, width: int) -> dict[str, float]:
    """Return the passes that a recipe takes.

    Args:
        name: Name of the recipe.
        width: Number of filters in each layer.

    Returns:
        `forward` and `gradients`, passes over the samples outside of training, and
        `training`, forward passes for each sample of a training step.
    """
    keras.utils.set_random_seed(0)
    model = network(width)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(SAMPLES, 8, 8, 1)).astype("float32")
    y = rng.integers(0, 4, SAMPLES)
    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(BATCH)
    options = tf.data.Options()
    options.autotune.enabled = False
    counter = Counter(model)
    recipe = kprune.recipe(name, REDUCE, (x, y), EPOCHS)
    with counter.counting():
        masked = recipe.prepare(model)
        switches = Switch(counter, False), Switch(counter, True)
        masked.fit(
            data.with_options(options),
            epochs=EPOCHS,
            callbacks=[switches[0], *recipe.callbacks, switches[1]],
            shuffle=False,
            verbose=0,
        )
    counts = counter.counts
    return {
        "forward": round(counts["forward"] / SAMPLES, 3),
        "gradients": round(counts["gradients"] / SAMPLES, 3),
        "training": round(counts["training"] / SAMPLES / EPOCHS, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*")
    names = parser.parse_args().names
    known = json.loads(PATH.read_text()) if PATH.exists() else {"recipes": {}}
    recipes = known["recipes"]
    for name in names or [
        n for n in kprune.recipes.names() if n not in recipes
    ]:
        recipes[name] = {str(w): measure(name, w) for w in WIDTHS}
        print(name, recipes[name], flush=True)
        written = {
            "model": "4 convolutions in a row, 8 x 8 images",
            "reduce": REDUCE,
            "samples": SAMPLES,
            "epochs": EPOCHS,
            "recipes": dict(sorted(recipes.items())),
        }
        PATH.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
