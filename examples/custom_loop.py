"""Pruning in a training loop of one's own, on TensorFlow, JAX or PyTorch.

    KERAS_BACKEND=jax python examples/custom_loop.py --epochs 6 --reduce 0.5

`kprune.Session` is what callbacks use inside `fit`. A loop needs three lines of it:
score, allocate, remove. All that differs between the backends is the step.
"""

from __future__ import annotations

import argparse

import keras
import numpy as np
from common import LOSS
from common import build_model
from common import print_result
from common import x_test
from common import x_train
from common import y_test
from common import y_train

import kprune

BATCH = 64


def tensorflow_step():
    import tensorflow as tf

    @tf.function
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = LOSS(y, masked(x, training=True))
        gradients = tape.gradient(loss, masked.trainable_variables)
        optimizer.apply(gradients, masked.trainable_variables)

    return step


def torch_step():
    import torch

    def step(x, y):
        loss = LOSS(torch.as_tensor(y), masked(x, training=True))
        masked.zero_grad()
        loss.backward()
        gradients = [v.value.grad for v in masked.trainable_variables]
        with torch.no_grad():
            optimizer.apply(gradients, masked.trainable_variables)

    return step


def jax_step():
    import jax

    def loss_of(trainable, fixed, x, y):
        outputs, fixed = masked.stateless_call(
            trainable, fixed, x, training=True
        )
        return LOSS(y, outputs), fixed

    @jax.jit
    def update(trainable, fixed, slots, x, y):
        gradient = jax.value_and_grad(loss_of, has_aux=True)
        (_, fixed), gradients = gradient(trainable, fixed, x, y)
        trainable, slots = optimizer.stateless_apply(
            slots, gradients, trainable
        )
        return trainable, fixed, slots

    def step(x, y):
        # JAX works on values; the session looks at variables. To read and write
        # them at every step is simple; at every epoch is enough, and faster.
        parts = (
            masked.trainable_variables,
            masked.non_trainable_variables,
            optimizer.variables,
        )
        values = ([v.value for v in part] for part in parts)
        for part, new in zip(parts, update(*values, x, y), strict=True):
            for variable, value in zip(part, new, strict=True):
                variable.assign(value)

    return step


STEPS = {"tensorflow": tensorflow_step, "torch": torch_step, "jax": jax_step}


def train(epoch: int) -> None:
    order = np.random.default_rng(epoch).permutation(len(x_train))
    for start in range(0, len(order) - BATCH + 1, BATCH):
        chosen = order[start : start + BATCH]
        step(x_train[chosen], y_train[chosen])


parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--epochs", type=int, default=6, help="before and after")
parser.add_argument("--reduce", type=float, default=0.5)
options = parser.parse_args()

keras.utils.set_random_seed(0)
masked = kprune.wrap(build_model())  # Masks of ones: nothing is removed yet.
optimizer = keras.optimizers.Adam(0.003)
optimizer.build(masked.trainable_variables)
step = STEPS[keras.backend.backend()]()
for epoch in range(options.epochs):
    train(epoch)
original = kprune.rebuild(masked)

# The session clears the optimizer's slots where filters go.
session = kprune.Session(masked, (x_train[:512], y_train[:512]), optimizer)
schedule = kprune.Linear(begin=0, end=2)
for epoch in range(options.epochs):
    masks = kprune.allocation.allocate(
        session,
        session.score("l1"),
        reduce={"macs": options.reduce},
        fraction=schedule.fraction(epoch, options.epochs),
    )
    session.remove(masks)
    train(options.epochs + epoch)
session.settle()  # What training moved behind the masks is 0 again.

compact = kprune.rebuild(masked)
for model in (original, compact):
    model.compile(loss=LOSS, metrics=["accuracy"])
print_result(original, compact, x_test, y_test)
compact.save("digits.keras")
