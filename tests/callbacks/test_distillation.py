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


@pytest.mark.parametrize(
    "callback",
    [
        kprune.callbacks.DuplicateCallback(
            reduce={"macs": 0.4}, allocation="global"
        ),
        kprune.callbacks.ClusterCallback(
            reduce={"macs": 0.4}, schedule=kprune.schedules.Constant(end=2)
        ),
        kprune.callbacks.SoftPruneCallback(
            reduce={"macs": 0.4},
            target="kernel",
            scale_slots=True,
            schedule=kprune.schedules.Constant(end=2),
        ),
    ],
    ids=lambda callback: type(callback).__name__,
)
def test_equal_filters_of_a_student_have_equal_slots(callback):
    masked = kprune.wrap(models.convolutions([8]))
    training = distiller(masked)
    training.optimizer.build(training.trainable_variables)
    rng = np.random.default_rng(0)
    for slot in training.optimizer.variables[2:]:
        slot.assign(rng.uniform(1, 2, slot.shape))
    callback.set_model(training)
    callback.set_params({"epochs": 3})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    kernel = masked.get_layer("conv1").layer.kernel
    filters = keras.ops.convert_to_numpy(kernel).reshape(-1, 8).T
    equal = np.array([[(a == b).all() for b in filters] for a in filters])
    assert equal.sum() > 8
    slots = kprune.masking.slots.slots_by_variable(masked, training.optimizer)
    for slot in slots[id(kernel)].values():
        rows = keras.ops.convert_to_numpy(slot).reshape(-1, 8).T
        same = np.array([[(a == b).all() for b in rows] for a in rows])
        np.testing.assert_array_equal(same, equal)


def test_a_penalty_on_a_student_is_part_of_the_loss():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 8, 8, 3)), rng.normal(size=(8, 3))
    training = distiller(kprune.wrap(models.convolutions([8, 8])))
    training(x)
    (kernel, _), (other, _) = (
        training.student.get_layer(n).layer.get_weights()
        for n in ("conv1", "conv2")
    )
    callback = kprune.callbacks.RegularizeCallback(
        keras.regularizers.L2(0.5), until=1
    )
    callback.set_model(training)
    callback.set_params({"epochs": 2})
    callback.on_train_begin()

    def loss():
        value = training.compute_loss(x, y, training(x, training=True))
        return float(keras.ops.convert_to_numpy(value))

    before = loss()
    callback.on_epoch_begin(0)
    penalty = 0.5 * (np.square(kernel).sum() + np.square(other).sum())
    assert loss() - before == pytest.approx(penalty, rel=1e-3)
    callback.on_epoch_end(0)
    callback.on_epoch_begin(1)
    assert loss() == pytest.approx(before, rel=1e-5)


def test_dynamic_gates_of_a_student_train_by_its_loss():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 8, 8, 3)), rng.normal(size=(8, 3))
    recipe = kprune.recipe("manidp", {"macs": 0.3}, epochs=2)
    student = recipe.prepare(models.convolutions([8, 8]))
    training = distiller(student)
    with pytest.raises(ValueError, match="Distiller's student"):
        training.fit(x, y, epochs=2, callbacks=recipe.callbacks, verbose=0)
    student.compile("sgd", "mse")
    branch = next(iter(kprune.masking.gates(student).values())).squeeze
    before = np.array(branch.get_weights()[0])
    training.fit(x, y, epochs=2, callbacks=recipe.callbacks, verbose=0)
    assert (branch.get_weights()[0] != before).any()


def test_a_plain_student_is_told_how_to_wrap():
    callback = kprune.callbacks.PruneCallback("l1", reduce={"macs": 0.5})
    callback.set_params({"epochs": 1, "steps": 1, "verbose": 0})
    callback.set_model(distiller(models.convolutions([8, 8])))
    with pytest.raises(ValueError, match=r"kprune.wrap\(model\)"):
        callback.on_train_begin()
