"""Removed weights stay exactly 0 and the others keep learning."""

from __future__ import annotations

import keras
import numpy as np
import pytest
from fitting import dataset
from fitting import loss
from fitting import small_net

import kprune
from kprune.callbacks import PruneCallback

OPTIMIZERS = {
    "momentum": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "decay": lambda: keras.optimizers.SGD(
        0.05, momentum=0.9, weight_decay=0.01
    ),
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "ema": lambda: keras.optimizers.Adam(
        0.01, use_ema=True, ema_overwrite_frequency=4
    ),
    "accumulation": lambda: keras.optimizers.Adam(
        0.01, gradient_accumulation_steps=2
    ),
    "rmsprop": lambda: keras.optimizers.RMSprop(
        0.01, momentum=0.9, centered=True
    ),
}
if hasattr(keras.optimizers, "MultiOptimizer"):
    OPTIMIZERS["several"] = lambda: keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.Adam(0.01), {"head/.*": keras.optimizers.Nadam()}
        )
    )


# How many values of each weight an optimizer keeps.
SLOTS = {
    "momentum": 1,
    "decay": 1,
    "adam": 3,  # with amsgrad
    "adamw": 2,
    "ema": 3,  # with the average of the weight
    "accumulation": 3,  # with the gradients of the step before
    "rmsprop": 3,  # centered, with momentum
    "several": 2,
}


def slots_of(optimizer, variable):
    """The optimizer's variables that are named after a weight."""
    name = variable.path.replace("/", "_")
    return [slot for slot in optimizer.variables if name in slot.path]


def dead_and_live(masked):
    """For each trainable weight, which of its entries are removed."""
    graph = kprune.trace(masked)
    masks = kprune.masks(masked)
    dead = {id(v): np.zeros(v.shape, bool) for v in masked.trainable_variables}
    for group in graph.prunable:
        gone = masks[group.name] == 0
        for member in group.members:
            if id(member.variable) in dead:
                view = np.moveaxis(dead[id(member.variable)], member.axis, 0)
                view[member.index[gone].ravel()] = True
    return [dead[id(v)] for v in masked.trainable_variables]


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_removed_weights_and_their_slots_stay_zero(name):
    masked = kprune.wrap(small_net())
    masked.compile(OPTIMIZERS[name](), loss(), jit_compile=False)
    # Momentum builds up for an epoch before anything goes.
    schedule = kprune.OneShot(epoch=1)
    callback = PruneCallback(schedule=schedule)
    masked.fit(dataset(), epochs=2, verbose=0, callbacks=[callback])
    before = [v.numpy() for v in masked.trainable_variables]
    masked.fit(dataset(), epochs=2, verbose=0)
    dead = dead_and_live(masked)
    assert sum(d.sum() for d in dead) > 100
    checked = 0
    for variable, old, gone in zip(
        masked.trainable_variables, before, dead, strict=True
    ):
        value = variable.numpy()
        assert (value[gone] == 0).all(), variable.path
        # The few entries behind a ReLU that never fires stand still.
        assert (value[~gone] != old[~gone]).mean() > 0.7, variable.path
        slots = slots_of(masked.optimizer, variable)
        assert len(slots) == SLOTS[name], variable.path
        for slot in slots:
            assert (slot.numpy()[gone] == 0).all(), slot.path
        checked += len(slots)
    # Every slot belongs to one variable.
    arrays = [v for v in masked.optimizer.variables if len(v.shape)]
    assert checked == len(arrays)


def test_weight_penalties_do_not_see_removed_filters():
    inputs = keras.Input((4,))
    x = keras.layers.Dense(
        8, kernel_regularizer=keras.regularizers.L2(1.0), name="hidden"
    )(inputs)
    model = keras.Model(inputs, keras.layers.Dense(1)(x))
    masked = kprune.prune(model, allocation={"hidden": 0.5})
    kernel = kprune.rebuild(masked).get_layer("hidden").kernel.numpy()
    masked(np.zeros((1, 4)))
    penalty = keras.ops.convert_to_numpy(masked.losses[0])
    assert penalty == pytest.approx((kernel**2).sum(), rel=1e-5)


def test_penalties_do_not_revive_removed_filters():
    model = small_net()
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            layer.kernel_regularizer = keras.regularizers.L1L2(0.01, 0.01)
    model = keras.models.clone_model(model)
    masked = kprune.wrap(model)
    masked.compile(
        keras.optimizers.SGD(0.05, momentum=0.9), loss(), jit_compile=False
    )
    callback = PruneCallback(schedule="one_shot")
    masked.fit(dataset(), epochs=2, verbose=0, callbacks=[callback])
    dead = dead_and_live(masked)
    assert sum(d.sum() for d in dead) > 100
    for variable, gone in zip(masked.trainable_variables, dead, strict=True):
        assert (variable.numpy()[gone] == 0).all(), variable.path


def test_weights_put_in_by_hand_under_a_mask_are_cleared_too():
    """Masks set before `fit` count as removed filters, weights and all."""
    masked = kprune.wrap(small_net())
    mask = np.arange(16) >= 8
    kprune.set_masks(masked, {"conv3": mask})
    masked.compile("adam", loss(), jit_compile=False)
    callback = PruneCallback(reduce={"macs": 0.4}, schedule="one_shot")
    masked.fit(dataset(), epochs=1, verbose=0, callbacks=[callback])
    assert (kprune.masks(masked)["conv3"] <= mask).all()
    kernel = masked.get_layer("conv3").layer.kernel.numpy()
    assert (kernel[..., ~mask] == 0).all()


def factored(**options):
    masked = kprune.wrap(small_net())
    optimizer = keras.optimizers.Adafactor(0.01, **options)
    masked.compile(optimizer, loss(), jit_compile=False)
    return masked


def test_adafactor_that_would_divide_0_by_0_is_refused_with_one_that_does_not():
    callback = PruneCallback(schedule=kprune.OneShot(epoch=1))
    with pytest.raises(ValueError, match="epsilon_1=1e-16"):
        factored().fit(dataset(), epochs=3, verbose=0, callbacks=[callback])
    masked = factored(epsilon_1=1e-16)
    masked.fit(dataset(), epochs=4, verbose=0, callbacks=[callback])
    for variable, gone in zip(
        masked.trainable_variables, dead_and_live(masked), strict=True
    ):
        value = variable.numpy()
        assert (value[gone] == 0).all(), variable.path
        assert np.isfinite(value).all(), variable.path


def test_adafactor_divides_0_by_0_without_that_refusal():
    masked = kprune.prune(small_net(), reduce={"macs": 0.5})
    masked.compile(keras.optimizers.Adafactor(0.01), loss())
    masked.fit(dataset(), epochs=2, verbose=0)
    values = [v.numpy() for v in masked.trainable_variables]
    assert not all(np.isfinite(value).all() for value in values)
