"""Two processes of PyTorch's DistributedDataParallel; see `test_ddp.py`."""

from __future__ import annotations

import os
import socket
import sys

os.environ["KERAS_BACKEND"] = "torch"

import keras
import numpy as np
import torch
from fitting import arrays
from fitting import loss
from models import convolutions
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

import kprune

X, Y = arrays()
EPOCHS, BATCH, RANKS = 3, 16, 2
LOSS = loss()


def values(variables):
    return [keras.ops.convert_to_numpy(v).copy() for v in variables]


class Training:
    """The training loop of docs/distribution.md, on this rank's part of batches."""

    def __init__(self, rank=0, ranks=1):
        keras.utils.set_random_seed(0)
        self.rank, self.ranks = rank, ranks
        self.masked = kprune.wrap(convolutions([8, 8], shape=(8, 8, 1)))
        self.masked.compile(loss=LOSS)
        self.optimizer = keras.optimizers.SGD(0.1, 0.9)
        self.optimizer.build(self.masked.trainable_variables)
        self.session = kprune.Session(self.masked, (X, Y), self.optimizer)
        self.network = self.masked
        if ranks > 1:
            self.network = DistributedDataParallel(self.masked)

    def step(self, x, y):
        part = slice(self.rank, None, self.ranks)
        outputs = self.network(x[part], training=True)
        error = LOSS(torch.as_tensor(y[part]), outputs)
        self.masked.zero_grad()
        error.backward()
        weights = self.masked.trainable_variables
        gradients = [v.value.grad for v in weights]
        with torch.no_grad():
            self.optimizer.apply(gradients, weights)

    def run(self, broadcast):
        schedule = kprune.Linear(begin=0, end=2)
        for epoch in range(EPOCHS):
            masks = None
            if self.rank == 0 or not broadcast:
                masks = kprune.allocation.allocate(
                    self.session,
                    self.session.score("taylor"),
                    reduce={"macs": 0.4},
                    fraction=schedule.fraction(epoch, EPOCHS),
                )
            if broadcast:
                shared = [masks]
                distributed.broadcast_object_list(shared, src=0)
                (masks,) = shared
            self.session.remove(masks)
            for start in range(0, len(X), BATCH):
                self.step(X[start : start + BATCH], Y[start : start + BATCH])
        self.session.settle()
        return kprune.masks(self.masked), values(self.masked.weights)


def on_rank(rank, port):
    address = f"tcp://127.0.0.1:{port}"
    distributed.init_process_group("gloo", address, None, RANKS, rank)
    expected = Training().run(broadcast=False)
    assert min(np.mean(m) for m in expected[0].values()) < 1
    for broadcast in (False, True):
        training = Training(rank, RANKS)
        masks, weights = training.run(broadcast)
        np.testing.assert_equal(masks, expected[0])
        for one, other in zip(weights, expected[1], strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
    compact = kprune.rebuild(training.masked)
    np.testing.assert_allclose(
        *values([compact(X), training.masked(X)]), atol=1e-5
    )
    statistics_are_averaged(rank)
    the_first_rank_is_copied(rank)
    distributed.destroy_process_group()


def statistics_are_averaged(rank):
    """The way of docs/distribution.md: each rank has statistics of its own."""
    masked = kprune.wrap(convolutions([8, 8], shape=(8, 8, 1), norms=2))
    network = DistributedDataParallel(masked)
    network(X[rank::RANKS], training=True)
    moving = [v for v in masked.weights if "moving_" in v.path]
    before = [None] * RANKS
    distributed.all_gather_object(before, values(moving))
    for variable in moving:
        total = variable.value.detach().clone()
        distributed.all_reduce(total)
        variable.assign(total / RANKS)
    for one, other, mean in zip(*before, values(moving), strict=True):
        assert (one != other).any()
        np.testing.assert_allclose(mean, (one + other) / 2, rtol=1e-6)


def the_first_rank_is_copied(rank):
    """What one rank has pruned before DDP is made, all have pruned then."""
    keras.utils.set_random_seed(rank)
    plain = convolutions([8, 8], shape=(8, 8, 1))
    dropped = keras.layers.Dropout(0.5)(plain.output)
    masked = kprune.wrap(keras.Model(plain.input, dropped))
    if rank == 0:
        kprune.prune(masked, reduce={"macs": 0.4})
    DistributedDataParallel(masked)
    found = [None] * RANKS
    distributed.all_gather_object(
        found, (kprune.masks(masked), values(masked.variables))
    )
    np.testing.assert_equal(found[0], found[1])
    assert min(np.mean(m) for m in found[1][0].values()) < 1


if __name__ == "__main__":
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(on_rank, (port,), RANKS)
    sys.exit(0)
