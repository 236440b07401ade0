"""A masked student is pruned while keras.distillation.Distiller trains it."""

import keras
import models
import numpy as np
import pytest
from harness import difference
from harness import outputs

import kprune


def distiller(student):
    teacher = models.convolutions([8])
    losses = keras.distillation.LogitsDistillation(temperature=2.0)
    new = keras.distillation.Distiller(teacher, student, losses)
    new.compile(optimizer="adam", loss="mse")
    return new


def test_a_student_is_pruned():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 8, 8, 3)), rng.normal(size=(8, 3))
    masked = kprune.wrap(models.convolutions([8, 8]))
    callback = kprune.callbacks.PruneCallback("l1", reduce={"macs": 0.5})
    training = distiller(masked)
    callback.set_model(training)
    callback.set_params({"epochs": 1})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    training.train_on_batch(x, y)
    logs = {}
    callback.on_epoch_end(0, logs)
    callback.on_train_end()
    assert logs["pruned_macs"] >= 0.5
    compact = kprune.rebuild(training.student)
    assert compact.count_params() < masked.count_params() / 1.3
    x = x.astype("float32")
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


def test_a_plain_student_is_told_how_to_wrap():
    callback = kprune.callbacks.PruneCallback("l1", reduce={"macs": 0.5})
    callback.set_params({"epochs": 1, "steps": 1, "verbose": 0})
    callback.set_model(distiller(models.convolutions([8, 8])))
    with pytest.raises(ValueError, match=r"kprune.wrap\(model\)"):
        callback.on_train_begin()
