"""A session alone: what a training loop of one's own does with it."""

from __future__ import annotations

import keras
import numpy as np
import pages
import pytest
from fitting import small_net
from harness import difference
from harness import outputs
from harness import randomise

import kprune
from kprune import Session

PAGE = pages.DOCS / "custom_loops.md"
BLOCKS = {"tensorflow": 1, "jax": 2, "torch": 3}
"""Which block of the page is for which backend; the first is for all."""


def value(variable):
    return np.array(keras.ops.convert_to_numpy(variable))


def run_page():
    """Run the code of the page for the present backend."""
    context: dict = {}
    blocks = pages.blocks(PAGE, "python")
    assert len(blocks) == 4
    for block in (blocks[0], blocks[BLOCKS[keras.config.backend()]]):
        block.run(context)
    return context


@pytest.fixture(scope="module")
def trained():
    keras.utils.set_random_seed(0)
    context = run_page()
    return context["model"], context["x"], context


def test_the_loop_meets_the_target_and_the_compact_model_agrees(trained):
    model, x, context = trained
    masked, compact = context["masked"], context["compact"]
    full = kprune.cost(model)
    assert kprune.cost(compact).macs <= 0.5 * full.macs
    assert kprune.cost(masked).macs == kprune.cost(compact).macs
    assert difference(outputs(masked, x), outputs(compact, x)) < 1e-5


def test_the_loop_learns_and_leaves_nothing_behind_the_masks(trained):
    model, _, context = trained
    masked, session = context["masked"], context["session"]
    slots = kprune.masking.slots.slots_by_variable(masked, context["optimizer"])
    checked = learned = 0
    for name, alive in session.alive().items():
        for member in session.graph[name].producers:
            for variable in [
                member.variable,
                *slots[id(member.variable)].values(),
            ]:
                rows = np.moveaxis(value(variable), member.axis, 0)
                gone = rows[member.index[~alive].ravel()]
                assert not gone.any()
                checked += gone.size
                learned += int((rows[member.index[alive].ravel()] != 0).sum())
    assert checked and learned
    before = model.get_layer("head").kernel
    assert not np.allclose(
        value(masked.get_layer("head").layer.kernel), value(before)
    )


def test_slots_of_the_given_optimizer_are_cleared_and_no_others():
    masked = kprune.wrap(small_net(6))
    masked.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    own = keras.optimizers.Adam(0.1)
    for optimizer in (own, masked.optimizer):
        optimizer.build(masked.trainable_variables)
        for slot in optimizer.variables[2:]:
            slot.assign(np.ones(slot.shape))
    mask = np.array([1, 0, 1, 1, 1, 1])
    Session(masked, optimizer=own).remove({"conv3": mask})
    place = [v.path for v in masked.trainable_variables]
    (number,) = [n for n, p in enumerate(place) if p.endswith("conv3/kernel")]
    for slots in (own._momentums, own._velocities):
        assert not value(slots[number])[..., 1].any()
        assert value(slots[number])[..., 0].all()
    assert value(masked.optimizer.momentums[number]).all()


def test_a_trial_puts_back_masks_and_weights_after_an_error():
    model = small_net(6)
    randomise(model)
    masked = kprune.wrap(model)
    session = Session(masked)
    before = [value(v) for v in masked.variables]
    kernel = masked.get_layer("conv3").layer.kernel
    with pytest.raises(ZeroDivisionError):
        with session.trial(
            {"conv3": [1, 0, 1, 1, 1, 1]}, [(kernel, 0 * value(kernel))]
        ):
            assert not value(kernel).any()
            assert session.alive()["conv3"].sum() == 5
            raise ZeroDivisionError
    for variable, expected in zip(masked.variables, before, strict=True):
        np.testing.assert_array_equal(value(variable), expected)


def test_scoring_as_if_is_scoring_what_removal_leaves():
    model = small_net(6)
    randomise(model)
    alive = {"conv1": np.array([1, 1, 0, 1, 0, 1], bool)}
    session = Session(kprune.wrap(model))
    alive = {**session.alive(), **alive}
    supposed = session.rescore("l2", alive)
    assert session.alive()["conv1"].all()
    session.remove(alive)
    real = session.score("l2")
    for name, scores in real.items():
        np.testing.assert_array_equal(supposed[name], scores)
    assert not supposed["conv1"][~alive["conv1"]].any()


@pytest.mark.parametrize("after", [0, 3])
def test_a_repair_that_fails_leaves_the_model_as_it_was(after):
    model = small_net(6)
    model.compile(keras.optimizers.SGD(0.1, momentum=0.9), "mse")
    masked = kprune.wrap(model)
    masked.optimizer.build(masked.trainable_variables)
    for slot in masked.optimizer.momentums:
        slot.assign(np.ones(slot.shape))
    variables = [*masked.variables, *masked.optimizer.variables]
    before = [value(v) for v in variables]

    def breaks(session, past):
        for variable in masked.variables[:after]:
            variable.assign(np.zeros(variable.shape))
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        kprune.prune(masked, reduce={"macs": 0.5}, recover=breaks)
    for variable, expected in zip(variables, before, strict=True):
        np.testing.assert_array_equal(value(variable), expected)


def test_what_is_missing_is_said():
    with pytest.raises(ValueError, match=r"kprune\.wrap"):
        Session(small_net(4))
    session = Session(kprune.wrap(small_net(4)))
    with pytest.raises(ValueError, match="as `data=`"):
        len(session.samples.inputs(1))
    with pytest.raises(ValueError, match="as `data=`"):
        session.loss()


@pytest.mark.parametrize("size", [4, -1])
def test_a_model_of_one_batch_size_says_so_when_samples_are_needed(size):
    inputs = keras.Input(batch_shape=(4, 6))
    x = keras.layers.Dense(6)(inputs)
    x = keras.ops.reshape(x, (size, 3, 2))
    model = keras.Model(inputs, keras.layers.Conv1D(2, 1)(x))
    session = Session(kprune.wrap(model), np.ones((9, 6), "float32"))
    if size == -1:
        assert session.samples.size == 9
        return
    with pytest.raises(ValueError, match=r"only batches of 4 samples.*-1"):
        len(session.samples.inputs(1))
