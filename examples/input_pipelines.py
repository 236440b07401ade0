"""The same pruning from `tf.data` and from a `keras.utils.PyDataset`.

    python examples/input_pipelines.py --epochs 6 --reduce 0.5

What `fit` takes, `PruneCallback(data=...)` and `kprune.prune(data=...)` take too, so
that a pipeline is written once.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
import tensorflow as tf
from common import build_model
from common import print_result
from common import x_test
from common import x_train
from common import y_test
from common import y_train

import kprune
from kprune.callbacks import PruneCallback

BATCH = 64


def from_tf_data() -> tf.data.Dataset:
    data = tf.data.Dataset.from_tensor_slices((x_train, y_train))
    data = data.shuffle(len(x_train), seed=0).batch(BATCH)
    return data.prefetch(tf.data.AUTOTUNE)


class Digits(keras.utils.PyDataset):
    """Batches of digits; `__getitem__` could as well read files."""

    def __init__(self, **options):
        super().__init__(**options)
        self.on_epoch_end()

    def __len__(self):
        return -(-len(x_train) // BATCH)

    def __getitem__(self, index):
        chosen = self.order[index * BATCH : (index + 1) * BATCH]
        return x_train[chosen], y_train[chosen]

    def on_epoch_end(self):
        self.order = np.random.permutation(len(x_train))


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=6)
parser.add_argument("--reduce", type=float, default=0.5)
options = parser.parse_args()

for name, make in (("tf.data", from_tf_data), ("PyDataset", Digits)):
    keras.utils.set_random_seed(0)
    model = build_model()
    # Keras warns of its own default, shuffle=True, for both kinds of input.
    settings = {"epochs": options.epochs, "verbose": 2, "shuffle": False}
    model.fit(make(), **settings)
    masked = kprune.wrap(model)
    prune = PruneCallback(
        reduce={"macs": options.reduce}, schedule="one_shot", data=make()
    )
    masked.fit(make(), callbacks=[prune], **settings)
    print(name)
    print_result(model, kprune.rebuild(masked), x_test, y_test)
